//! The state machine.

mod lease;
mod lookups;
mod reaper;
mod registry;
mod replies;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use shellbridge_protocol::{
    ids::{ConnectionId, SessionId},
    times::UnixMs,
};

pub use self::registry::NewSession;
use self::{
    lease::{Lease, Sent},
    lookups::Lookups,
    reaper::Reaper,
    registry::Registry,
};
use crate::{
    effect::{Effect, Place, Refused},
    limits::MAX_IN_FLIGHT,
    store::{Member, Request, RequestId},
};

/// An instance's part in a fleet. See the crate's documentation for the order of calls. All times are durations since
/// one arbitrary start, by a clock that never goes back.
#[derive(Debug)]
pub struct Fleet {
    me: Member,
    lease: Lease,
    registry: Registry,
    lookups: Lookups,
    reaper: Reaper,
    in_flight: BTreeMap<RequestId, (Request, Sent)>,
    next: u64,
    /// The store has failed: no requests but renewals until then.
    paused_until: Duration,
    effects: VecDeque<Effect>,
    /// All sessions of earlier processes are registered.
    taken_over: bool,
    wants_peer: bool,
    leave: Leave,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leave {
    No,
    Soon,
    Leaving,
    Left,
}

impl Fleet {
    /// An instance without a lease and without sessions.
    pub fn new(me: Member) -> Self {
        Self {
            me,
            lease: Lease::default(),
            registry: Registry::default(),
            lookups: Lookups::default(),
            reaper: Reaper::default(),
            in_flight: BTreeMap::new(),
            next: 0,
            paused_until: Duration::ZERO,
            effects: VecDeque::new(),
            taken_over: false,
            wants_peer: false,
            leave: Leave::No,
        }
    }

    /// This instance's identity.
    pub const fn me(&self) -> &Member {
        &self.me
    }

    /// Whether the lease lasts. Without it, nothing is served.
    pub fn leased(&self, now: Duration) -> bool {
        self.lease.held(now)
    }

    /// Whether the absence of a session from the store counts.
    pub fn settled(&self, now: Duration) -> bool {
        self.lease.settled(now)
    }

    /// Whether this instance may push to, type into and read from this session.
    pub fn serves(&self, session: &SessionId, now: Duration) -> bool {
        self.leased(now) && self.registry.confirmed(session)
    }

    /// Whether this instance has, or is about to have, this session.
    pub fn has(&self, session: &SessionId) -> bool {
        self.registry.has(session)
    }

    /// Number of sessions, with those about to be claimed.
    pub fn sessions(&self) -> usize {
        self.registry.len()
    }

    /// Whether an instance of a newer release is present.
    pub fn draining(&self) -> bool {
        self.lease.newest.as_ref().is_some_and(|(rank, _)| *rank > self.lease.rank)
    }

    /// Claims an id for a new session. [`Effect::Claimed`] tells the outcome: at once if the id is `fresh`, which means
    /// that no one else can know it; otherwise once absence counts.
    ///
    /// # Errors
    /// [`Refused::Taken`] if this instance has it, [`Refused::NoStore`] without a lease.
    pub fn claim(&mut self, new: NewSession, fresh: bool, now: Duration) -> Result<(), Refused> {
        if self.registry.has(&new.session) {
            return Err(Refused::Taken);
        }
        if !self.leased(now) || self.leave != Leave::No {
            return Err(Refused::NoStore);
        }
        self.lookups.forget(&new.session);
        self.registry.want(new, fresh);
        Ok(())
    }

    /// A session of an earlier process of this instance was found. It is served once the store has confirmed it.
    pub fn handle_taken_over(&mut self, session: NewSession) {
        if !self.registry.has(&session.session) {
            self.registry.take_over(session);
        }
    }

    /// All sessions of earlier processes were found: the store's other entries of this instance are gone.
    pub fn handle_all_taken_over(&mut self) {
        self.taken_over = true;
        self.reaper.dead(&self.me.uuid);
    }

    /// A session has ended, or its claim was given up.
    pub fn handle_ended(&mut self, session: &SessionId) {
        if self.registry.end(session) {
            // Its entry, which no one has seen yet, is found and buried by epoch.
            self.lookups.ask(session);
        }
    }

    /// The end of a session has changed.
    pub fn handle_extended(&mut self, session: &SessionId, expires_at: UnixMs) {
        self.registry.extend(session, expires_at);
    }

    /// The connections of a session have changed. The first
    /// [`limits::MAX_CONNECTIONS`](crate::limits::MAX_CONNECTIONS) are told when its instance dies.
    pub fn handle_connections(&mut self, session: &SessionId, connections: Vec<(ConnectionId, Arc<str>)>) {
        self.registry.connections(session, connections);
    }

    /// The connections of a buried session have been told.
    pub fn handle_farewell_done(&mut self, instance: &Arc<str>, session: SessionId) {
        self.reaper.forget(instance, session);
    }

    /// The driver has a new connection to the store. Requests of the old one fail.
    pub fn handle_reconnected(&mut self, now: Duration) {
        self.lease.reconnected(now);
        self.paused_until = now;
    }

    /// Looks up a session that is not here. `None`: [`Effect::Found`] will tell.
    pub fn look(&mut self, session: &SessionId, now: Duration) -> Option<Place> {
        if let Some(url) = self.lookups.known(session, now) {
            return Some(Place::At(url));
        }
        if !self.leased(now) {
            return Some(Place::Unknown);
        }
        self.lookups.ask(session);
        None
    }

    /// An instance did not have a session that a look-up found there.
    pub fn handle_misled(&mut self, session: &SessionId) {
        self.lookups.forget(session);
    }

    /// Asks for an instance of the newest release.
    pub const fn ask_for_peer(&mut self) {
        self.wants_peer = true;
    }

    /// Gives up the lease, after all releases.
    pub fn leave(&mut self, now: Duration) {
        if self.leave == Leave::No {
            self.leave = if self.leased(now) { Leave::Soon } else { Leave::Left };
        }
    }

    /// Whether the store knows that this instance has left, or cannot be told.
    pub fn has_left(&self) -> bool {
        self.leave == Leave::Left
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Duration) {
        if !self.leased(now) {
            for session in self.lookups.waiting() {
                self.effects.push_back(Effect::Found(session, Place::Unknown));
            }
            if std::mem::take(&mut self.wants_peer) {
                self.effects.push_back(Effect::Peer(None));
            }
            if self.leave == Leave::Soon {
                self.leave = Leave::Left;
            }
        }
    }

    /// When [`Fleet::handle_timeout`] is due next, after [`Fleet::poll_request`] has returned `None`.
    pub fn poll_timeout(&self, now: Duration) -> Option<Duration> {
        let renew = (self.lease.renewing.is_none() && !self.lease.superseded && self.leave != Leave::Left)
            .then(|| self.lease.renew_at());
        let settles = self.lease.settles_at().filter(|_| self.registry.waits());
        let times = [renew, settles, self.lease.until(), Some(self.paused_until)];
        times.into_iter().flatten().filter(|at| *at > now).min()
    }

    /// The next request to send.
    pub fn poll_request(&mut self, now: Duration) -> Option<(RequestId, Request)> {
        if self.lease.superseded || self.leave == Leave::Left {
            return None;
        }
        if self.lease.renewing.is_none() && now >= self.lease.renew_at() && self.leave != Leave::Leaving {
            let (id, request) = self.send(Request::Renew(self.lease.known()), now);
            self.lease.renewing = Some(id);
            return Some((id, request));
        }
        let others = self.in_flight.len() - usize::from(self.lease.renewing.is_some());
        if others >= MAX_IN_FLIGHT || now < self.paused_until || !self.leased(now) {
            return None;
        }
        let request = self.next_request(now)?;
        Some(self.send(request, now))
    }

    fn next_request(&mut self, now: Duration) -> Option<Request> {
        if let Some(request) = self.lease.under(now).and_then(|under| self.lookups.request(under)) {
            return Some(request);
        }
        if let Some(request) = self.registry.request(&self.lease, now) {
            return Some(request);
        }
        if self.wants_peer
            && let Some((_, release)) = self.lease.newest.clone()
        {
            self.wants_peer = false;
            return Some(Request::Peer { release });
        }
        if self.leave == Leave::Soon && self.registry.released() && self.in_flight.is_empty() {
            self.leave = Leave::Leaving;
            return Some(Request::Leave);
        }
        while let Some(request) = self.reaper.request() {
            let own = matches!(&request, Request::Reap { instance } | Request::Bury { instance, .. }
                if *instance == self.me.uuid);
            match &request {
                Request::Reap { instance } if !own && !self.lease.settled(now) => {
                    self.reaper.abandon(instance);
                }
                Request::Bury { instance, .. } if !own && !self.lease.settled(now) => {
                    self.reaper.done(instance, true);
                }
                _ => return Some(request),
            }
        }
        None
    }

    fn send(&mut self, request: Request, now: Duration) -> (RequestId, Request) {
        self.next += 1;
        let id = RequestId(self.next);
        self.in_flight.insert(id, (request.clone(), self.lease.sent(now)));
        (id, request)
    }

    /// The next thing to do or report.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }
}
