//! The modes: what is measured, of a stack and of the floor below it.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, ensure};

use crate::{
    exchange::{Asker, Kind, Poster, Typist, Visitor},
    floor::Floor,
    load::{self, Exchange, Latencies, Plan},
    process,
    report::{Cpu, Row},
    socket::Socket,
    stack::{Role, Stack},
    target::{Session, Target},
    terminal::Terminal,
};

/// What is looked at from outside while it is measured.
#[derive(Clone, Copy)]
pub struct Subject<'a> {
    /// Where to connect to.
    pub target: &'a Target,
    /// Its processes, if they run here.
    pub stack: Option<&'a Stack>,
}

/// The modes that are latencies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// `ping` to `pong`.
    Ping,
    /// `command` `true` to its result.
    Command,
    /// A key to its echo through `cat`.
    Echo,
    /// Handshake to `attached`.
    Connect,
}

impl Mode {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ping => "ping",
            Self::Command => "command",
            Self::Echo => "echo",
            Self::Connect => "connect",
        }
    }

    /// Measures it over so many connections, each with a session of its own.
    pub async fn measure(self, subject: Subject<'_>, connections: usize, plan: Plan) -> anyhow::Result<Row> {
        let target = subject.target;
        let one_only = self == Self::Echo && target.has_one_session();
        ensure!(
            !one_only || connections == 1,
            "all connections would type into the one session of the token"
        );
        let sessions = target.sessions("/bin/cat", connections).await?;
        let row = self.over(subject, sessions.clone(), plan).await?;
        target.end(&sessions).await?;
        Ok(row)
    }

    async fn over(self, subject: Subject<'_>, sessions: Vec<Session>, plan: Plan) -> anyhow::Result<Row> {
        let connections = sessions.len();
        let named =
            sessions.into_iter().enumerate().map(|(index, session)| (session, format!("bench-{index}")));
        let name = self.name();
        match self {
            Self::Ping | Self::Command => {
                let kind = if self == Self::Ping { Kind::Ping } else { Kind::Command };
                let mut askers = Vec::with_capacity(connections);
                for (session, _) in named {
                    askers.push(Asker::connect(&session, kind).await?);
                }
                exchanges(name, subject.stack, askers, plan).await
            }
            Self::Echo => {
                let mut typists = Vec::with_capacity(connections);
                for (session, name) in named {
                    typists.push(Typist::new(Terminal::attached(session, &name).await?));
                }
                exchanges(name, subject.stack, typists, plan).await
            }
            Self::Connect => {
                let visitors = named.map(|(session, name)| Visitor::new(session, name)).collect();
                exchanges(name, subject.stack, visitors, plan).await
            }
        }
    }
}

/// Runs exchanges and looks at the processes meanwhile.
pub(crate) async fn exchanges<E: Exchange>(
    name: &str,
    stack: Option<&Stack>,
    connections: Vec<E>,
    plan: Plan,
) -> anyhow::Result<Row> {
    let count = connections.len();
    let processes = stack.map(Stack::processes);
    let mut edges = Vec::with_capacity(2);
    let edge = || edges.push(processes.as_deref().map(times));
    let (latencies, connections) = load::run(connections, plan, edge).await?;
    drop(connections);
    ensure!(latencies.count() > 0, "{name}: nothing was answered in {:?}", plan.measure);
    let mut edges = edges.into_iter().flatten();
    let cpu = edges.next().zip(edges.next()).map(|(before, after)| {
        #[allow(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
        let exchanges = latencies.count() as f64;
        spent(&before, &after, 1e6 / exchanges)
    });
    Ok(Row::new(name, count, &latencies, cpu))
}

/// Processor time so far, by program.
pub fn times(processes: &[(Role, u32)]) -> BTreeMap<Role, Duration> {
    let mut times = BTreeMap::new();
    for (role, pid) in processes {
        *times.entry(*role).or_default() += process::cpu(*pid);
    }
    times
}

/// Processor time between two looks, seconds times `scale`.
pub fn spent(before: &BTreeMap<Role, Duration>, after: &BTreeMap<Role, Duration>, scale: f64) -> Cpu {
    let of = |role| {
        let at = |times: &BTreeMap<Role, Duration>| times.get(&role).copied().unwrap_or_default();
        at(after).saturating_sub(at(before)).as_secs_f64() * scale
    };
    Cpu { function: of(Role::Function), backend: of(Role::Backend), gateway: of(Role::Gateway) }
}

/// The raw WebSocket echo over so many connections.
pub async fn floor_websocket(floor: &Floor, connections: usize, plan: Plan) -> anyhow::Result<Latencies> {
    let mut askers = Vec::with_capacity(connections);
    for _ in 0..connections {
        let socket = Socket::connect(&format!("ws://{}/", floor.address), false).await?;
        askers.push(Asker::new(socket, Kind::Ping));
    }
    Ok(load::run(askers, plan, || ()).await?.0)
}

/// Bare axum over so many connections.
pub async fn floor_http(floor: &Floor, connections: usize, plan: Plan) -> anyhow::Result<Latencies> {
    let mut posters = Vec::with_capacity(connections);
    for _ in 0..connections {
        posters.push(Poster::connect(&floor.address).await?);
    }
    Ok(load::run(posters, plan, || ()).await?.0)
}

/// The raw echo, on cores as the scheduler likes.
pub const FLOOR: &str = "floor: raw WebSocket echo";
/// The raw echo, client and server on a core each.
pub const FLOOR_APART: &str = "floor: raw echo, a core each";

/// The raw echo measured again and again between other things, so that noise meets both.
pub struct Beside<'a> {
    floor: &'a Floor,
    name: &'static str,
    /// The client's core, when the floor has one of its own.
    core: Option<usize>,
    connections: usize,
    plan: Plan,
    all: Option<Latencies>,
}

impl<'a> Beside<'a> {
    /// A floor over so many connections, each time for so long.
    pub const fn new(floor: &'a Floor, connections: usize, plan: Plan) -> Self {
        Self { floor, name: FLOOR, core: None, connections, plan, all: None }
    }

    /// A floor that was started on core 0; its client runs on core 1 meanwhile.
    ///
    /// A client and a server that do nothing but wait for each other are put on one core by the scheduler, or not, as
    /// it likes, and the round trip is 0.016 or 0.06 ms on one and the same machine. Across a network they never share
    /// one.
    pub const fn apart(floor: &'a Floor, connections: usize, plan: Plan) -> Self {
        Self { floor, name: FLOOR_APART, core: Some(1), connections, plan, all: None }
    }

    /// Measures the floor once more.
    pub async fn again(&mut self) -> anyhow::Result<()> {
        if self.core.is_some() {
            process::keep_to(self.core);
        }
        let latencies = floor_websocket(self.floor, self.connections, self.plan).await;
        if self.core.is_some() {
            process::keep_to(None);
        }
        let latencies = latencies?;
        match &mut self.all {
            Some(all) => all.add(&latencies)?,
            all => *all = Some(latencies),
        }
        Ok(())
    }

    /// All of it.
    pub fn row(&self) -> anyhow::Result<Row> {
        let all = self.all.as_ref().context("the floor was not measured")?;
        Ok(Row::new(self.name, self.connections, all, None))
    }
}
