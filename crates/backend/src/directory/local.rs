//! The sessions of this process, by id.

use std::{collections::HashMap, sync::Arc};

use parking_lot::{Mutex, MutexGuard};
use shellbridge_protocol::ids::{SessionId, UserId};
use tokio::sync::watch;

use crate::{
    launcher::Sandbox,
    sessions::{Handle, Status},
};

/// Most sessions of a process: far more than its memory and descriptors allow.
const MAX_SESSIONS: usize = 10_000;

/// All sessions of this process. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Local(Arc<Mutex<Sessions>>);

#[derive(Default)]
struct Sessions {
    by_id: HashMap<SessionId, Place>,
    /// Owners of the same sessions, reservations included, as far as known.
    owners: HashMap<SessionId, UserId>,
    /// Number of sessions that have not ended, without reservations.
    living: watch::Sender<usize>,
    /// The backend is stopping.
    closed: bool,
}

/// What an id stands for.
enum Place {
    /// A session that is being created.
    Reserved,
    Here(Handle),
    /// A session that lives, but cannot be reached from here.
    Unusable,
}

impl Sessions {
    fn remove(&mut self, id: &SessionId) {
        self.by_id.remove(id);
        self.owners.remove(id);
    }
}

impl Place {
    const fn handle(&self) -> Option<&Handle> {
        match self {
            Self::Here(handle) => Some(handle),
            Self::Reserved | Self::Unusable => None,
        }
    }
}

/// Why a session is not found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Missing {
    /// There is none.
    Nowhere,
    /// It lives, but cannot be reached from here.
    Unusable,
}

/// Why a session cannot be created.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    /// The id is in use.
    #[error("a session with this id exists")]
    Taken,
    /// The limit on sessions is reached.
    #[error("too many sessions")]
    Full,
    /// Its owner's limit on sessions is reached.
    #[error("this user has {0} sessions, the most allowed: end one first")]
    Quota(usize),
    /// The backend is stopping.
    #[error("the backend is stopping")]
    Closed,
    /// With several instances: the registry cannot be reached.
    #[error("the registry of sessions is not reachable")]
    NoRegistry,
}

/// An id reserved for a session that is being created. Released on drop.
pub(crate) struct Reservation {
    local: Local,
    id: Option<SessionId>,
}

impl Local {
    /// Returns the session with this id.
    pub(crate) fn find(&self, id: &SessionId) -> Result<Handle, Missing> {
        match self.lock().by_id.get(id) {
            Some(Place::Here(handle)) => Ok(handle.clone()),
            Some(Place::Unusable) => Err(Missing::Unusable),
            Some(Place::Reserved) | None => Err(Missing::Nowhere),
        }
    }

    /// Whether the id stands for anything.
    pub(crate) fn has(&self, id: &SessionId) -> bool {
        self.lock().by_id.contains_key(id)
    }

    /// All sessions.
    pub(crate) fn all(&self) -> Vec<Handle> {
        self.lock().by_id.values().filter_map(Place::handle).cloned().collect()
    }

    /// Reserves an id for a session of `owner` that is being created, if that makes at most `most` of theirs.
    pub(crate) fn reserve_for(
        &self,
        id: &SessionId,
        owner: &UserId,
        most: usize,
    ) -> Result<Reservation, Refused> {
        let reservation = self.reserve(id)?;
        let mut sessions = self.lock();
        let owned = sessions.owners.values().filter(|other| *other == owner).count();
        if owned >= most {
            // Dropping the reservation locks again.
            drop(sessions);
            return Err(Refused::Quota(most));
        }
        sessions.owners.insert(id.clone(), owner.clone());
        Ok(reservation)
    }

    /// Reserves an id for a session that exists already, or whose owner has no limit.
    pub(crate) fn reserve(&self, id: &SessionId) -> Result<Reservation, Refused> {
        let mut sessions = self.lock();
        if sessions.closed {
            return Err(Refused::Closed);
        }
        if sessions.by_id.contains_key(id) {
            return Err(Refused::Taken);
        }
        if sessions.by_id.len() >= MAX_SESSIONS {
            return Err(Refused::Full);
        }
        sessions.by_id.insert(id.clone(), Place::Reserved);
        Ok(Reservation { local: self.clone(), id: Some(id.clone()) })
    }

    /// Removes a session that has ended.
    pub(crate) fn ended(&self, status: &Status) {
        let mut sessions = self.lock();
        let same =
            |place: &Place| place.handle().is_some_and(|h| std::ptr::eq(&raw const **h.status(), status));
        if sessions.by_id.get(&status.id).is_some_and(same) {
            sessions.remove(&status.id);
            sessions.living.send_modify(|living| *living = living.saturating_sub(1));
        }
    }

    /// Number of sessions, reservations included.
    pub(crate) fn len(&self) -> usize {
        self.lock().by_id.len()
    }

    /// Watches the number of sessions with a shell.
    pub(crate) fn living(&self) -> watch::Receiver<usize> {
        self.lock().living.subscribe()
    }

    /// Number of sessions with this sandbox, without reservations.
    pub(crate) fn count(&self, sandbox: Sandbox) -> usize {
        let sessions = self.lock();
        let handles = sessions.by_id.values().filter_map(Place::handle);
        handles.filter(|session| session.status().room.sandbox == sandbox).count()
    }

    /// Number of connections of all sessions.
    pub(crate) fn connections(&self) -> usize {
        self.lock()
            .by_id
            .values()
            .filter_map(Place::handle)
            .map(|session| session.status().connections())
            .sum()
    }

    /// Refuses new sessions from now on, and returns the existing ones.
    pub(crate) fn close(&self) -> Vec<Handle> {
        self.lock().closed = true;
        self.all()
    }

    /// Whether the backend is stopping.
    pub(crate) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    fn lock(&self) -> MutexGuard<'_, Sessions> {
        self.0.lock()
    }
}

impl Reservation {
    /// The session of this id lives, but cannot be reached from here: until this is dropped.
    pub(crate) fn mark_unusable(&self) {
        if let Some(id) = &self.id {
            self.local.lock().by_id.insert(id.clone(), Place::Unusable);
        }
    }

    /// Stores the session under the reserved id. If the backend is stopping, returns it for the caller to end:
    /// [`Local::close`] did not see it.
    pub(crate) fn fill(mut self, handle: Handle) -> Result<(), Handle> {
        let Some(id) = self.id.take() else { return Ok(()) };
        let mut sessions = self.local.lock();
        if sessions.closed {
            sessions.remove(&id);
            return Err(handle);
        }
        if handle.status().has_ended() {
            // It ended before it was stored, so `ended` could not remove it.
            sessions.remove(&id);
        } else {
            sessions.owners.insert(id.clone(), handle.status().owner.clone());
            sessions.by_id.insert(id, Place::Here(handle));
            sessions.living.send_modify(|living| *living += 1);
        }
        Ok(())
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some(id) = self.id.take() {
            self.local.lock().remove(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sessions::tests::started;

    #[test]
    fn an_id_is_reserved_once_and_released_on_drop() {
        let directory = Local::default();
        let first = directory.reserve(&"a".into()).unwrap();
        assert_eq!(directory.reserve(&"a".into()).err(), Some(Refused::Taken));
        assert_eq!(directory.find(&"a".into()).err(), Some(Missing::Nowhere));
        drop(first);
        assert!(directory.reserve(&"a".into()).is_ok());
    }

    #[test]
    fn reservations_count_against_their_owners_quota_until_dropped() {
        let directory = Local::default();
        let reserve = |id: &str, owner: &str| directory.reserve_for(&id.into(), &owner.into(), 2);
        let (first, _second) = (reserve("a", "alice").unwrap(), reserve("b", "alice").unwrap());
        assert_eq!(reserve("c", "alice").err(), Some(Refused::Quota(2)));
        assert_eq!(reserve("a", "bob").err(), Some(Refused::Taken));
        let _other = reserve("c", "bob").unwrap();
        assert_eq!(directory.len(), 3, "a refused one reserves nothing");
        drop(first);
        assert!(reserve("a", "alice").is_ok());
    }

    #[tokio::test]
    async fn a_session_created_during_shutdown_is_returned_to_be_ended() {
        let (session, host, _) = started().await;
        let directory = Local::default();
        let reservation = directory.reserve(&"a".into()).unwrap();
        assert!(directory.close().is_empty());
        let session = reservation.fill(session).expect_err("the backend is stopping");
        assert_eq!(directory.len(), 0);
        drop(host);
        session.end().await;
        assert!(session.status().has_ended());
    }

    #[test]
    fn sessions_are_bounded() {
        let directory = Local::default();
        let all: Vec<_> =
            (0..MAX_SESSIONS).map(|n| directory.reserve(&n.to_string().into()).unwrap()).collect();
        assert_eq!(directory.reserve(&"one too many".into()).err(), Some(Refused::Full));
        drop(all);
        directory.close();
        assert_eq!(directory.reserve(&"a".into()).err(), Some(Refused::Closed));
    }
}
