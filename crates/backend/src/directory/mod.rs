//! Looks up sessions: those of this process, and, with several instances, where the others are.

mod fleet;
mod instance;
mod local;

use std::sync::Arc;

use shellbridge_fleet::{NewSession, Place};
use shellbridge_protocol::{
    ids::{SessionId, UserId},
    times::UnixMs,
};
use tokio::sync::watch;

use self::local::Local;
pub(crate) use self::{
    fleet::{Fleet, Redis, Report},
    instance::member,
    local::{Missing, Refused, Reservation},
};
use crate::launcher::Sandbox;
use crate::sessions::{Claim, Handle, Status, outlet::FindRoute};

/// All sessions. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Directory {
    local: Local,
    /// `None`: this is the only instance.
    fleet: Option<Fleet>,
}

/// Where a request about a session belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Located {
    /// In this process.
    Here,
    /// At the instance with this URL.
    At(Arc<str>),
}

impl Directory {
    /// `fleet`: this instance's part in a fleet, if there are several.
    pub(crate) fn new(fleet: Option<Fleet>) -> Self {
        Self { local: Local::default(), fleet }
    }

    /// Does the work of a fleet, if this is one. See [`Fleet::run`].
    pub(crate) async fn run(self, routes: FindRoute) {
        if let Some(fleet) = self.fleet {
            fleet.run(routes).await;
        }
    }

    /// Whether there are several instances.
    pub(crate) const fn is_shared(&self) -> bool {
        self.fleet.is_some()
    }

    /// Returns the session with this id, if this process has it and may act for it. With several instances, absence from
    /// this process says nothing: see [`Directory::locate`].
    pub(crate) fn find(&self, id: &SessionId) -> Result<Handle, Missing> {
        let found = self.local.find(id);
        match &self.fleet {
            None => found,
            Some(fleet) => found.ok().filter(|_| fleet.serves(id)).ok_or(Missing::Unusable),
        }
    }

    /// Whether this process has, or is about to have, a session with this id.
    pub(crate) fn is_here(&self, id: &SessionId) -> bool {
        self.local.has(id)
    }

    /// Finds the instance of a session. `hopped`: another instance found it here, so it is here or unknown.
    pub(crate) async fn locate(&self, id: &SessionId, hopped: bool) -> Result<Located, Missing> {
        let Some(fleet) = &self.fleet else { return Ok(Located::Here) };
        if hopped || self.local.has(id) {
            return Ok(Located::Here);
        }
        match fleet.look(id).await {
            Place::At(url) => Ok(Located::At(url)),
            // It may have come here meanwhile.
            Place::Nowhere if !self.local.has(id) => Err(Missing::Nowhere),
            Place::Nowhere | Place::Unknown => Err(Missing::Unusable),
        }
    }

    /// The instance that [`Directory::locate`] named did not have the session.
    pub(crate) fn misled(&self, id: &SessionId) {
        if let Some(fleet) = &self.fleet {
            fleet.misled(id);
        }
    }

    /// URL of the instance that creates sessions in place of this one, which drains.
    pub(crate) async fn successor(&self) -> Option<Arc<str>> {
        self.fleet.as_ref()?.successor().await
    }

    /// Reserves an id in this process. See [`Local::reserve_for`].
    pub(crate) fn reserve_for(
        &self,
        id: &SessionId,
        owner: &UserId,
        most: usize,
    ) -> Result<Reservation, Refused> {
        self.local.reserve_for(id, owner, most)
    }

    /// Reserves an id in this process.
    pub(crate) fn reserve(&self, id: &SessionId) -> Result<Reservation, Refused> {
        self.local.reserve(id)
    }

    /// Claims a reserved id among all instances. `fresh`: the id was made here, at random.
    pub(crate) async fn claim(
        &self,
        session: SessionId,
        owner: UserId,
        expires_at: UnixMs,
        fresh: bool,
    ) -> Result<Claim, Refused> {
        let Some(fleet) = &self.fleet else { return Ok(Claim::alone()) };
        let claimed = fleet.claim(NewSession { session, owner, expires_at }, fresh).await;
        claimed.map_err(|refused| match refused {
            shellbridge_fleet::Refused::Taken => Refused::Taken,
            shellbridge_fleet::Refused::NoStore => Refused::NoRegistry,
        })
    }

    /// Registers a session of an earlier process of this instance.
    pub(crate) fn taken_over(&self, session: SessionId, owner: UserId, expires_at: UnixMs) -> Claim {
        let new = NewSession { session, owner, expires_at };
        self.fleet.as_ref().map_or_else(Claim::alone, |fleet| fleet.taken_over(new))
    }

    /// All sessions of earlier processes are registered.
    pub(crate) fn all_taken_over(&self) {
        if let Some(fleet) = &self.fleet {
            fleet.all_taken_over();
        }
    }

    /// The end of a session has changed.
    pub(crate) fn extended(&self, status: &Status) {
        if let Some(fleet) = &self.fleet {
            fleet.extended(&status.id, status.expires_at());
        }
    }

    /// Removes a session that has ended.
    pub(crate) fn ended(&self, status: &Status) {
        self.local.ended(status);
    }

    /// State of this instance in its fleet.
    pub(crate) fn report(&self) -> Option<Report> {
        self.fleet.as_ref().map(Fleet::report)
    }

    /// Leaves the fleet, after all sessions have ended.
    pub(crate) async fn leave(&self) {
        if let Some(fleet) = &self.fleet {
            fleet.leave().await;
        }
    }

    /// Number of sessions, reservations included.
    pub(crate) fn len(&self) -> usize {
        self.local.len()
    }

    /// Watches the number of sessions with a shell.
    pub(crate) fn living(&self) -> watch::Receiver<usize> {
        self.local.living()
    }

    /// Number of sessions with this sandbox, without reservations.
    pub(crate) fn count(&self, sandbox: Sandbox) -> usize {
        self.local.count(sandbox)
    }

    /// Number of connections of all sessions.
    pub(crate) fn connections(&self) -> usize {
        self.local.connections()
    }

    /// All sessions of this process.
    pub(crate) fn all(&self) -> Vec<Handle> {
        self.local.all()
    }

    /// Refuses new sessions from now on, and returns the existing ones.
    pub(crate) fn close(&self) -> Vec<Handle> {
        self.local.close()
    }

    /// Whether the backend is stopping.
    pub(crate) fn is_closed(&self) -> bool {
        self.local.is_closed()
    }
}
