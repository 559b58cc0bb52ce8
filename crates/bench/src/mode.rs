//! The latency modes, of a stack and of its floors.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, ensure};

use crate::{
    exchange::{ConnectClient, FrameClient, HttpClient, Kind, Typist},
    floor::Floor,
    load::{self, Exchange, Latencies, Plan},
    process,
    report::{Cpu, Row},
    socket::Socket,
    stack::{Role, Stack},
    target::{Session, Target},
    terminal::Terminal,
};

/// The system under test.
#[derive(Clone, Copy)]
pub struct Subject<'a> {
    /// Where to connect to.
    pub target: &'a Target,
    /// The stack's processes, if local.
    pub stack: Option<&'a Stack>,
}

/// A latency mode.
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
    /// The name in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ping => "ping",
            Self::Command => "command",
            Self::Echo => "echo",
            Self::Connect => "connect",
        }
    }

    /// Measures the mode over `connections`, with one session each.
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
                let mut clients = Vec::with_capacity(connections);
                for (session, _) in named {
                    clients.push(FrameClient::connect(&session, kind).await?);
                }
                exchanges(name, subject.stack, clients, plan).await
            }
            Self::Echo => {
                let mut typists = Vec::with_capacity(connections);
                for (session, name) in named {
                    typists.push(Typist::new(Terminal::attached(session, &name).await?));
                }
                exchanges(name, subject.stack, typists, plan).await
            }
            Self::Connect => {
                let clients = named.map(|(session, name)| ConnectClient::new(session, name)).collect();
                exchanges(name, subject.stack, clients, plan).await
            }
        }
    }
}

/// Runs exchanges and measures the processes' CPU time.
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
    ensure!(latencies.count() > 0, "{name}: no answer within {:?}", plan.measure);
    let mut edges = edges.into_iter().flatten();
    let cpu = edges.next().zip(edges.next()).map(|(before, after)| {
        #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
        let exchanges = latencies.count() as f64;
        spent(&before, &after, 1e6 / exchanges)
    });
    Ok(Row::new(name, count, &latencies, cpu))
}

/// CPU time so far, by program.
pub fn times(processes: &[(Role, u32)]) -> BTreeMap<Role, Duration> {
    let mut times = BTreeMap::new();
    for (role, pid) in processes {
        *times.entry(*role).or_default() += process::cpu(*pid);
    }
    times
}

/// CPU time between two samples, in seconds times `scale`.
pub fn spent(before: &BTreeMap<Role, Duration>, after: &BTreeMap<Role, Duration>, scale: f64) -> Cpu {
    let of = |role| {
        let at = |times: &BTreeMap<Role, Duration>| times.get(&role).copied().unwrap_or_default();
        at(after).saturating_sub(at(before)).as_secs_f64() * scale
    };
    Cpu {
        function: of(Role::Function),
        backend: of(Role::Backend) + of(Role::Init) + of(Role::Host),
        gateway: of(Role::Gateway),
    }
}

/// Measures the raw WebSocket echo over `connections`.
pub async fn floor_websocket(floor: &Floor, connections: usize, plan: Plan) -> anyhow::Result<Latencies> {
    let mut clients = Vec::with_capacity(connections);
    for _ in 0..connections {
        let socket = Socket::connect(&format!("ws://{}/", floor.address), false).await?;
        clients.push(FrameClient::new(socket, Kind::Ping));
    }
    Ok(load::run(clients, plan, || ()).await?.0)
}

/// Measures bare axum over `connections`.
pub async fn floor_http(floor: &Floor, connections: usize, plan: Plan) -> anyhow::Result<Latencies> {
    let mut clients = Vec::with_capacity(connections);
    for _ in 0..connections {
        clients.push(HttpClient::connect(&floor.address).await?);
    }
    Ok(load::run(clients, plan, || ()).await?.0)
}

/// Name of the raw echo on cores of the scheduler's choice.
pub const FLOOR: &str = "floor: raw WebSocket echo";
/// Name of the raw echo with client and server pinned to a core each.
pub const FLOOR_PINNED: &str = "floor: raw echo, a core each";

/// Measures the raw echo repeatedly between other measurements, so that noise affects both.
pub struct FloorSampler<'a> {
    floor: &'a Floor,
    name: &'static str,
    /// The client's core, if the floor is pinned to another.
    core: Option<usize>,
    connections: usize,
    plan: Plan,
    all: Option<Latencies>,
}

impl<'a> FloorSampler<'a> {
    /// Samples a floor over `connections`, each time according to `plan`.
    pub const fn new(floor: &'a Floor, connections: usize, plan: Plan) -> Self {
        Self { floor, name: FLOOR, core: None, connections, plan, all: None }
    }

    /// Samples a floor pinned to core 0, with the client pinned to core 1.
    ///
    /// The scheduler may place a client and a server that only wait for each other on one core or on two, which makes a
    /// round trip of 0.016 or 0.06 ms on the same machine. Across a network they never share a core.
    pub const fn pinned(floor: &'a Floor, connections: usize, plan: Plan) -> Self {
        Self { floor, name: FLOOR_PINNED, core: Some(1), connections, plan, all: None }
    }

    /// Measures the floor once.
    pub async fn sample(&mut self) -> anyhow::Result<()> {
        if self.core.is_some() {
            process::pin_to_core(self.core);
        }
        let latencies = floor_websocket(self.floor, self.connections, self.plan).await;
        if self.core.is_some() {
            process::pin_to_core(None);
        }
        let latencies = latencies?;
        match &mut self.all {
            Some(all) => all.add(&latencies)?,
            all => *all = Some(latencies),
        }
        Ok(())
    }

    /// All samples as one row.
    pub fn row(&self) -> anyhow::Result<Row> {
        let all = self.all.as_ref().context("the floor was not measured")?;
        Ok(Row::new(self.name, self.connections, all, None))
    }
}
