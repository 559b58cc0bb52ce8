//! Three machines, each with a process at a time and its session hosts, and the store, in simulated time.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use shellbridge_protocol::{ids::SessionId, times::UnixMs};

use super::store::Store;
use crate::{
    effect::{Effect, Place},
    machine::{Fleet, NewSession},
    store::{Failed, Member, Reply, Request, RequestId},
};

const MACHINES: usize = 3;
/// The driver's timeout of a request.
const TIMEOUT: u64 = 2_000;

#[derive(Debug, Clone, Copy)]
pub(super) enum Action {
    Create { at: usize, session: u8 },
    CreateFresh { at: usize },
    End { at: usize, session: u8 },
    Look { at: usize, session: u8 },
    Pause { at: usize, ms: u64 },
    Crash { at: usize },
    Start { at: usize },
    Failover { lost: usize },
    Flush,
    StorePaused { ms: u64 },
    StoreDown { ms: u64 },
    Wait { ms: u64 },
}

/// A shell, by the time of its start and a number. It outlives its machine's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Shell(u64, u64);

#[derive(Debug, Default)]
struct Machine {
    process: Option<Process>,
    generation: u64,
    shells: BTreeMap<SessionId, Shell>,
    paused_until: u64,
    /// When its next wake arrives.
    wakes_at: u64,
    /// What arrived during the pause.
    held: VecDeque<Event>,
}

#[derive(Debug)]
struct Process {
    fleet: Fleet,
    /// Number of its connection to the store; that of the store, or it is broken.
    connection: u64,
    in_flight: BTreeSet<RequestId>,
}

#[derive(Debug, Clone)]
enum Event {
    Request { at: usize, generation: u64, connection: u64, id: RequestId, request: Request },
    Reply { at: usize, generation: u64, connection: u64, id: RequestId, reply: Reply },
    Timeout { at: usize, generation: u64, id: RequestId },
    Wake { at: usize },
    Broken { at: usize, generation: u64 },
    Told { at: usize, generation: u64, instance: Arc<str>, session: SessionId },
}

#[derive(Debug)]
pub(super) struct World {
    now: u64,
    random: u64,
    events: BTreeMap<(u64, u64), Event>,
    numbers: u64,
    store: Store,
    /// Raised when all connections break.
    connection: u64,
    store_paused_until: u64,
    store_down_until: u64,
    machines: [Machine; MACHINES],
    /// Shells reported as gone. Void once the store loses writes, which may be the marks.
    told: BTreeSet<Shell>,
}

fn time(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let mut world = Self {
            now: 1_000,
            random: seed,
            events: BTreeMap::new(),
            numbers: 0,
            store: Store::default(),
            connection: 1,
            store_paused_until: 0,
            store_down_until: 0,
            machines: <[Machine; MACHINES]>::default(),
            told: BTreeSet::new(),
        };
        for at in 0..MACHINES {
            world.start(at);
        }
        world
    }

    /// Splitmix64.
    fn random(&mut self, below: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % below
    }

    /// Of a message: short, now and then long.
    fn delay(&mut self) -> u64 {
        match self.random(20) {
            0 => self.random(4_000),
            1 => self.random(400),
            _ => 1 + self.random(10),
        }
    }

    fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    fn later(&mut self, after: u64, event: Event) {
        let number = self.number();
        self.events.insert((self.now + after, number), event);
    }

    /// Lets time pass.
    pub(super) fn run(&mut self, ms: u64) {
        let end = self.now + ms;
        while let Some(next) = self.events.first_entry().filter(|next| next.key().0 <= end) {
            let ((at, _), event) = next.remove_entry();
            self.now = self.now.max(at);
            self.step(event);
        }
        self.now = end;
        self.check();
    }

    fn step(&mut self, event: Event) {
        match event {
            Event::Request { at, generation, connection, id, request } => {
                if connection != self.connection || self.now < self.store_down_until {
                    return;
                }
                if self.now < self.store_paused_until {
                    let after = self.store_paused_until - self.now;
                    return self.later(after, Event::Request { at, generation, connection, id, request });
                }
                let reply = self.store.apply(&member(at, generation), request, self.now);
                let after = self.delay();
                self.later(after, Event::Reply { at, generation, connection, id, reply });
            }
            other => self.at_machine(other),
        }
        self.check();
    }

    fn at_machine(&mut self, event: Event) {
        let (Event::Reply { at, .. }
        | Event::Timeout { at, .. }
        | Event::Wake { at }
        | Event::Broken { at, .. }
        | Event::Told { at, .. }
        | Event::Request { at, .. }) = event;
        let machine = &mut self.machines[at];
        machine.held.push_back(event);
        while self.now >= self.machines[at].paused_until
            && let Some(event) = self.machines[at].held.pop_front()
        {
            self.arrive(at, event);
            self.check();
        }
    }

    fn arrive(&mut self, at: usize, event: Event) {
        let now = time(self.now);
        let machine = &mut self.machines[at];
        let current = machine.generation;
        let Some(process) = &mut machine.process else { return };
        match event {
            Event::Reply { generation, connection, id, reply, .. } => {
                // A reply that is on its way when the connection breaks may still arrive.
                if generation == current && connection == process.connection && process.in_flight.remove(&id)
                {
                    process.fleet.handle_reply(id, Ok(reply), now);
                }
            }
            Event::Timeout { generation, id, .. } => {
                if generation == current && process.in_flight.remove(&id) {
                    process.fleet.handle_reply(id, Err(Failed), now);
                }
            }
            Event::Broken { generation, .. } => {
                if generation == current {
                    for id in std::mem::take(&mut process.in_flight) {
                        process.fleet.handle_reply(id, Err(Failed), now);
                    }
                    if self.now < self.store_down_until {
                        let after = self.store_down_until - self.now;
                        return self.later(after, Event::Broken { at, generation });
                    }
                    process.connection = self.connection;
                    process.fleet.handle_reconnected(now);
                }
            }
            Event::Told { generation, instance, session, .. } => {
                if generation == current {
                    process.fleet.handle_farewell_done(&instance, session);
                }
            }
            Event::Wake { .. } | Event::Request { .. } => process.fleet.handle_timeout(now),
        }
        self.drive(at);
    }

    /// Does what a driver does after each call.
    fn drive(&mut self, at: usize) {
        let now = time(self.now);
        let generation = self.machines[at].generation;
        let Some(process) = &mut self.machines[at].process else { return };
        let mut effects = Vec::new();
        while let Some(effect) = process.fleet.poll_effect() {
            effects.push(effect);
        }
        let mut requests = Vec::new();
        while let Some((id, request)) = process.fleet.poll_request(now) {
            process.in_flight.insert(id);
            requests.push((id, request));
        }
        let (connection, wake) = (process.connection, process.fleet.poll_timeout(now));
        if let Some(wake) = wake {
            let wake = u64::try_from(wake.as_millis()).unwrap() + 1;
            let machine = &mut self.machines[at];
            if machine.wakes_at <= self.now || wake < machine.wakes_at {
                machine.wakes_at = wake;
                self.later(wake - self.now, Event::Wake { at });
            }
        }
        for (id, request) in requests {
            let after = self.delay();
            self.later(after, Event::Request { at, generation, connection, id, request });
            self.later(TIMEOUT, Event::Timeout { at, generation, id });
        }
        for effect in effects {
            self.effect(at, effect);
        }
    }

    fn effect(&mut self, at: usize, effect: Effect) {
        match effect {
            Effect::Claimed(session, Ok(())) => {
                let shell = Shell(self.now, self.number());
                let machine = &mut self.machines[at];
                machine.shells.insert(session.clone(), shell);
                if let Some(process) = &mut machine.process {
                    process.fleet.handle_connections(&session, vec![("c".into(), "url".into())]);
                }
            }
            Effect::Lost(session) => {
                self.machines[at].shells.remove(&session);
            }
            Effect::Found(session, Place::Nowhere) => {
                let shells = self.machines.iter().filter_map(|machine| machine.shells.get(&session));
                // The answer may be older than a shell.
                let shells: Vec<_> = shells.copied().filter(|shell| shell.0 + TIMEOUT < self.now).collect();
                self.told.extend(shells);
            }
            Effect::Farewell { instance, session, .. } => {
                let owner = (0..MACHINES).find(|at| uuid(*at) == instance).unwrap();
                self.told.extend(self.machines[owner].shells.get(&session).copied());
                let after = self.delay();
                let generation = self.machines[at].generation;
                self.later(after, Event::Told { at, generation, instance, session });
            }
            Effect::Superseded => panic!("two processes of one machine"),
            _ => {}
        }
    }

    fn check(&self) {
        let now = time(self.now);
        let mut owners = BTreeMap::new();
        for (at, machine) in self.machines.iter().enumerate() {
            let Some(process) = machine.process.as_ref().filter(|_| self.now >= machine.paused_until) else {
                continue;
            };
            for (session, shell) in &machine.shells {
                if process.fleet.serves(session, now) {
                    let other = owners.insert(session, at);
                    assert!(other.is_none(), "{session} is served by {other:?} and {at} at {now:?}");
                    assert!(
                        !self.told.contains(shell),
                        "{session} lives at {at} at {now:?}, reported as gone"
                    );
                }
            }
        }
    }

    pub(super) fn act(&mut self, action: Action) {
        match action {
            Action::Create { at, session } => self.create(at, name(session), false),
            Action::CreateFresh { at } => {
                let session = format!("fresh {}", self.number());
                self.create(at, session.as_str().into(), true);
            }
            Action::End { at, session } => {
                let machine = &mut self.machines[at];
                let may = self.now >= machine.paused_until;
                if let Some(process) = machine.process.as_mut().filter(|_| may)
                    && process.fleet.serves(&name(session), time(self.now))
                    && machine.shells.remove(&name(session)).is_some()
                {
                    process.fleet.handle_ended(&name(session));
                    self.drive(at);
                }
            }
            Action::Look { at, session } => {
                let now = time(self.now);
                let machine = &mut self.machines[at];
                let may = self.now >= machine.paused_until;
                if let Some(process) = machine.process.as_mut().filter(|_| may)
                    && !process.fleet.has(&name(session))
                {
                    process.fleet.look(&name(session), now);
                    self.drive(at);
                }
            }
            Action::Pause { at, ms } => {
                self.machines[at].paused_until = self.now + ms;
                self.later(ms, Event::Wake { at });
            }
            Action::Crash { at } => {
                let machine = &mut self.machines[at];
                machine.process = None;
                machine.held.clear();
                machine.paused_until = 0;
            }
            Action::Start { at } => self.start(at),
            Action::Failover { lost } => {
                self.store.fail_over(lost);
                self.break_connections();
            }
            Action::Flush => {
                self.store.flush();
                self.told.clear();
            }
            Action::StorePaused { ms } => self.store_paused_until = self.now + ms,
            Action::StoreDown { ms } => {
                self.store_down_until = self.now + ms;
                self.break_connections();
            }
            Action::Wait { ms } => self.run(ms),
        }
        self.check();
    }

    fn create(&mut self, at: usize, session: SessionId, fresh: bool) {
        let now = time(self.now);
        let machine = &mut self.machines[at];
        if self.now < machine.paused_until || machine.shells.contains_key(&session) {
            return;
        }
        let Some(process) = &mut machine.process else { return };
        let new = NewSession { session, owner: "alice".into(), expires_at: UnixMs(u64::MAX) };
        if process.fleet.claim(new, fresh, now).is_ok() {
            self.drive(at);
        }
    }

    fn start(&mut self, at: usize) {
        let machine = &mut self.machines[at];
        if machine.process.is_some() {
            return;
        }
        machine.generation += 1;
        let mut fleet = Fleet::new(member(at, machine.generation));
        for session in machine.shells.keys() {
            fleet.handle_taken_over(NewSession {
                session: session.clone(),
                owner: "alice".into(),
                expires_at: UnixMs(u64::MAX),
            });
            fleet.handle_connections(session, vec![("c".into(), "url".into())]);
        }
        fleet.handle_all_taken_over();
        machine.process = Some(Process { fleet, connection: 0, in_flight: BTreeSet::new() });
        let generation = machine.generation;
        self.later(1, Event::Broken { at, generation });
    }

    fn break_connections(&mut self) {
        self.told.clear();
        self.connection += 1;
        for at in 0..MACHINES {
            let generation = self.machines[at].generation;
            let after = self.delay();
            self.later(after, Event::Broken { at, generation });
        }
    }

    /// Ends all faults. Crashed machines stay down.
    pub(super) fn heal(&mut self) {
        self.store_paused_until = 0;
        self.store_down_until = self.store_down_until.min(self.now);
        for at in 0..MACHINES {
            if self.machines[at].paused_until > self.now {
                self.machines[at].paused_until = self.now;
                self.later(0, Event::Wake { at });
            }
        }
        self.run(0);
        // One more round, since a reconnection may have been scheduled for the planned end of the outage.
        self.break_connections();
    }

    /// Every live owner serves its sessions and is found.
    pub(super) fn all_found(&self) {
        let now = time(self.now);
        for (at, machine) in self.machines.iter().enumerate() {
            let Some(process) = &machine.process else { continue };
            for session in machine.shells.keys() {
                assert!(process.fleet.serves(session, now), "{session} is not served by {at} again");
                assert_eq!(self.store.owner(session), Some(&uuid(at)), "{session} is not found again");
            }
        }
    }
}

fn uuid(at: usize) -> Arc<str> {
    ["a", "b", "c"][at].into()
}

fn member(at: usize, generation: u64) -> Member {
    Member { uuid: uuid(at), generation, url: format!("http://{at}").into(), release: "1".into() }
}

fn name(session: u8) -> SessionId {
    format!("s{session}").as_str().into()
}
