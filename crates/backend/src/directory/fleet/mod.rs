//! Several instances: the registry in Redis. The state machine decides (`shellbridge_fleet`), `store` asks Redis, and
//! `driver` connects both to the sessions of this process.

mod driver;
#[cfg(test)]
mod redis_tests;
mod scripts;
mod store;

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use shellbridge_fleet::{Fleet as Machine, Member, NewSession, Place, Refused};
use shellbridge_protocol::{ids::SessionId, times::UnixMs};
use tokio::{
    sync::{Notify, oneshot, watch},
    time::{Instant, timeout},
};

use self::driver::Driver;
pub(crate) use self::store::Redis;
use crate::sessions::{Change, Claim, Roster, Standing, outlet::FindRoute};

/// Longest wait for a claim: an id that a client chose waits until absence counts.
const CLAIM_WITHIN: Duration = Duration::from_secs(25);
/// Longest wait for a look-up.
const LOOK_WITHIN: Duration = Duration::from_secs(3);
/// Longest wait for the release of all sessions and of the lease.
const LEAVE_WITHIN: Duration = Duration::from_secs(8);

/// This instance's part in the fleet. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Fleet(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// The driver has something to do.
    wake: Notify,
    lease: watch::Sender<Option<Instant>>,
    started: Instant,
    me: Arc<Member>,
    redis: Redis,
}

struct State {
    machine: Machine,
    latches: HashMap<SessionId, Latch>,
    /// Numbers claims, so that the end of one does not end its successor.
    serial: u64,
    claims: HashMap<SessionId, oneshot::Sender<Result<(), Refused>>>,
    looks: HashMap<SessionId, Vec<oneshot::Sender<Place>>>,
    peers: Vec<oneshot::Sender<Option<Arc<str>>>>,
    /// Why Redis does not answer.
    error: Option<String>,
    /// Without a lease so far, and since.
    fenced: Duration,
    fenced_since: Option<Instant>,
}

/// The registry's side of a session's [`Claim`].
struct Latch {
    serial: u64,
    standing: watch::Sender<Standing>,
    roster: Arc<Mutex<Roster>>,
}

/// State of the instance, for operators.
pub(crate) struct Report {
    pub(crate) leased: bool,
    pub(crate) draining: bool,
    pub(crate) fenced: Duration,
    /// Why Redis does not answer; without secrets.
    pub(crate) error: Option<String>,
}

impl Fleet {
    /// An instance that has no lease yet.
    pub(crate) fn new(redis: Redis, me: Member) -> Self {
        let started = Instant::now();
        let state = State {
            machine: Machine::new(me.clone()),
            latches: HashMap::new(),
            serial: 0,
            claims: HashMap::new(),
            looks: HashMap::new(),
            peers: Vec::new(),
            error: None,
            fenced: Duration::ZERO,
            fenced_since: Some(started),
        };
        Self(Arc::new(Shared {
            state: Mutex::new(state),
            wake: Notify::new(),
            lease: watch::Sender::new(None),
            started,
            me: Arc::new(me),
            redis,
        }))
    }

    /// Does the fleet's work, until dropped. `routes` finds ways to the connections of dead instances.
    pub(crate) async fn run(self, routes: FindRoute) {
        Driver::new(self, routes).run().await;
    }

    /// Claims an id for a new session. `fresh`: no one else can know the id.
    pub(crate) async fn claim(&self, new: NewSession, fresh: bool) -> Result<Claim, Refused> {
        let id = new.session.clone();
        let (sender, outcome) = oneshot::channel();
        let claim = {
            let mut state = self.0.state.lock();
            let now = self.now();
            state.machine.claim(new, fresh, now)?;
            state.claims.insert(id.clone(), sender);
            // From here on, dropping this gives the id up.
            self.latch(&mut state, &id)
        };
        self.0.wake.notify_one();
        match timeout(CLAIM_WITHIN, outcome).await {
            Ok(Ok(Ok(()))) => Ok(claim),
            Ok(Ok(Err(refused))) => Err(refused),
            Ok(Err(_)) | Err(_) => Err(Refused::NoStore),
        }
    }

    /// Registers a session of an earlier process of this instance.
    pub(crate) fn taken_over(&self, session: NewSession) -> Claim {
        let mut state = self.0.state.lock();
        let claim = self.latch(&mut state, &session.session);
        state.machine.handle_taken_over(session);
        self.0.wake.notify_one();
        claim
    }

    /// All sessions of earlier processes are registered.
    pub(crate) fn all_taken_over(&self) {
        self.0.state.lock().machine.handle_all_taken_over();
        self.0.wake.notify_one();
    }

    fn latch(&self, state: &mut State, id: &SessionId) -> Claim {
        state.serial += 1;
        let serial = state.serial;
        let (standing, standings) = watch::channel(Standing::Waiting);
        let roster = Arc::<Mutex<Roster>>::default();
        state.latches.insert(id.clone(), Latch { serial, standing, roster: roster.clone() });
        let (shared, id) = (Arc::downgrade(&self.0), id.clone());
        let changed = move |change| {
            let Some(shared) = shared.upgrade() else { return };
            let mut state = shared.state.lock();
            state.changed(&id, serial, change);
            drop(state);
            shared.wake.notify_one();
        };
        Claim::registered(self.0.lease.subscribe(), standings, roster, changed)
    }

    /// The end of a session has changed.
    pub(crate) fn extended(&self, session: &SessionId, expires_at: UnixMs) {
        self.0.state.lock().machine.handle_extended(session, expires_at);
        self.0.wake.notify_one();
    }

    /// Whether this instance may act for a session of this process now.
    pub(crate) fn serves(&self, session: &SessionId) -> bool {
        self.0.state.lock().machine.serves(session, self.now())
    }

    /// Looks up a session that is not in this process.
    pub(crate) async fn look(&self, session: &SessionId) -> Place {
        let (sender, found) = oneshot::channel();
        {
            let mut state = self.0.state.lock();
            if let Some(place) = state.machine.look(session, self.now()) {
                return place;
            }
            state.looks.entry(session.clone()).or_default().push(sender);
        }
        self.0.wake.notify_one();
        timeout(LOOK_WITHIN, found).await.ok().and_then(Result::ok).unwrap_or(Place::Unknown)
    }

    /// An instance did not answer, or did not have a session that was found there.
    pub(crate) fn misled(&self, session: &SessionId) {
        self.0.state.lock().machine.handle_misled(session);
    }

    /// URL of an instance of a newer release that takes new sessions, while one is present.
    pub(crate) async fn successor(&self) -> Option<Arc<str>> {
        let (sender, found) = oneshot::channel();
        {
            let mut state = self.0.state.lock();
            if !state.machine.draining() {
                return None;
            }
            state.machine.ask_for_peer();
            state.peers.push(sender);
        }
        self.0.wake.notify_one();
        timeout(LOOK_WITHIN, found).await.ok()?.ok()?
    }

    /// State of the instance.
    pub(crate) fn report(&self) -> Report {
        let mut state = self.0.state.lock();
        let leased = state.machine.leased(self.now());
        state.count_fenced(leased);
        Report {
            leased,
            draining: state.machine.draining(),
            fenced: state.fenced,
            error: state.error.clone().filter(|_| !leased),
        }
    }

    /// Releases all sessions that have ended, and the lease.
    pub(crate) async fn leave(&self) {
        self.0.state.lock().machine.leave(self.now());
        let left = async {
            while !self.0.state.lock().machine.has_left() {
                self.0.wake.notify_one();
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        if timeout(LEAVE_WITHIN, left).await.is_err() {
            tracing::warn!("could not tell Redis that this instance leaves");
        }
    }

    fn now(&self) -> Duration {
        self.0.started.elapsed()
    }
}

impl State {
    fn changed(&mut self, id: &SessionId, serial: u64, change: Change) {
        let Some(latch) = self.latches.get(id).filter(|latch| latch.serial == serial) else { return };
        match change {
            Change::Connections => {
                let roster = latch.roster.lock();
                let connections = roster.iter().map(|(id, address)| (id.clone(), address.clone())).collect();
                drop(roster);
                self.machine.handle_connections(id, connections);
            }
            Change::Gone => {
                self.latches.remove(id);
                self.claims.remove(id);
                self.machine.handle_ended(id);
            }
        }
    }

    fn count_fenced(&mut self, leased: bool) {
        let now = Instant::now();
        if let Some(since) = self.fenced_since.take() {
            self.fenced += now.saturating_duration_since(since);
        }
        self.fenced_since = (!leased).then_some(now);
    }
}
