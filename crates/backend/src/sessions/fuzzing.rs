//! A lying host, for `fuzz/`: the fuzzer writes what it says and when clients come and go.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use shellbridge_protocol::{ErrorCode, ids::ConnectionId, limits::MAX_FRAME, times::UnixMs};
use shellbridge_session::{
    ConnectionInfo, Limits, OutletLimits, Sent, Settings,
    link::{self, FromHost, Here, Known, Peer, Preface, Push, ShellSpec},
};
use tokio::{net::UnixStream, sync::Semaphore, task::yield_now, time::timeout};

use super::{
    Claim, Handle, Incoming, NotOpened, Seal, Start,
    outlet::{Boxed, Outlet, Route, Transport},
};
use crate::launcher::{Host, Process, Room, Setup};

/// Most that outlets may hold: `MAX_HELD`, and the message that exceeds it.
const MOST_HELD: usize = super::bounds::MAX_HELD + link::MAX_MESSAGE;
/// Turns of the session's task after each step.
const TURNS: usize = 8;
/// Virtual time in which a session ends, whatever its host does.
const ENDS_WITHIN: Duration = Duration::from_secs(60);

/// Clients, some of which receive only when told to.
#[derive(Clone)]
struct Clients(Arc<State>);

struct State {
    /// Connections that asked to join. No other may get an outlet.
    asked: Mutex<HashSet<ConnectionId>>,
    held: AtomicUsize,
    receive: Semaphore,
}

impl Transport for Clients {
    fn limits(&self) -> OutletLimits {
        OutletLimits { max_frame: MAX_FRAME, in_flight: 4 }
    }

    fn outlet(self: Arc<Self>, connection: ConnectionId, _: Option<UnixMs>) -> Arc<dyn Outlet> {
        assert!(self.0.asked.lock().contains(&connection), "{connection:?} never asked to join");
        let slow = connection.as_bytes().last().is_some_and(|last| last % 2 == 1);
        Arc::new(Client { state: self.0.clone(), slow })
    }
}

struct Client {
    state: Arc<State>,
    slow: bool,
}

impl Outlet for Client {
    fn send(&self, frame: Bytes) -> Boxed<Sent> {
        assert!(std::str::from_utf8(&frame).is_ok());
        let (state, slow) = (self.state.clone(), self.slow);
        let held = state.held.fetch_add(frame.len(), Ordering::Relaxed) + frame.len();
        assert!(held <= MOST_HELD, "{held} bytes are held");
        let holds = Holds(state, frame.len());
        Box::pin(async move {
            if slow && let Ok(permit) = holds.0.receive.acquire().await {
                permit.forget();
            }
            Sent::Delivered
        })
    }

    fn close(&self, _: Option<ErrorCode>) -> Boxed<()> {
        Box::pin(async {})
    }

    fn exists(&self) -> Boxed<bool> {
        Box::pin(std::future::ready(!self.slow))
    }
}

struct Holds(Arc<State>, usize);

impl Drop for Holds {
    fn drop(&mut self) {
        self.0.held.fetch_sub(self.1, Ordering::Relaxed);
    }
}

/// Runs a session whose host follows these steps.
///
/// # Panics
/// When the host harms more than its own session.
#[expect(clippy::unwrap_used, reason = "what cannot be made cannot be fuzzed")]
pub fn withstand<'a>(steps: impl Iterator<Item = (u8, &'a [u8])>) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(session(steps));
}

#[expect(clippy::unwrap_used, reason = "what cannot be made cannot be fuzzed")]
async fn session<'a>(mut steps: impl Iterator<Item = (u8, &'a [u8])>) {
    let Some((first, greeting)) = steps.next() else { return };
    let known = first % 2 == 1;
    let clients = Clients(Arc::new(State {
        asked: Mutex::default(),
        held: AtomicUsize::new(0),
        receive: Semaphore::new(0),
    }));
    let (host, stream) = UnixStream::pair().unwrap();
    let mut out = BytesMut::new();
    Preface::new("s".into()).encode(&mut out);
    // A host that greets as the fuzzer likes is taken over; one that greets well is started.
    if known {
        let seal = seal();
        clients.0.asked.lock().extend((0..4).map(id));
        for id in (0..4).map(id) {
            let address = seal.put(&["s", &id], "https://api");
            let peer = Peer::new(info(id), address);
            link::encode(&FromHost::from(Known { peer }), &mut out).unwrap();
        }
        out.extend_from_slice(greeting);
        let owner = "alice".into();
        let notes = seal.put_notes(&"s".into(), &owner, UnixMs(1), &super::tokens::Tokens::new().notes());
        link::encode(&FromHost::from(Here { notes, ..here() }), &mut out).unwrap();
    } else {
        link::encode(&FromHost::from(here()), &mut out).unwrap();
    }
    write(&host, &out).await;
    let Ok(session) = opened(known, stream, &clients).await else { return };
    for (what, bytes) in steps {
        step(&session, &clients, &host, what, bytes).await;
        for _ in 0..TURNS {
            yield_now().await;
        }
    }
    if session.status().owner.len() % 2 == 0 {
        drop(host);
    }
    assert!(timeout(ENDS_WITHIN, session.end()).await.is_ok(), "the session does not end");
    assert!(session.status().has_ended());
}

async fn opened(known: bool, stream: UnixStream, clients: &Clients) -> Result<Handle, NotOpened> {
    let host = Host { stream, process: Process::of_nobody() };
    if known {
        let clients = clients.clone();
        let routes: super::outlet::FindRoute =
            Arc::new(move |address| (address != "forbidden").then(|| route(&clients)));
        return super::take_over(host, seal(), &routes, |_| Claim::alone(), |_| ()).await;
    }
    let limits = Limits { output_buffer: 65_536, output_window: 32_768, resume_grace: ENDS_WITHIN };
    let settings = Settings { limits, detached_ttl: ENDS_WITHIN, shell_restart: false };
    let shell =
        ShellSpec { shell: "/bin/sh".into(), cwd: "/".into(), env: std::collections::BTreeMap::new() };
    let start = Start {
        id: "s".into(),
        owner: "alice".into(),
        shell,
        setup: Setup::default(),
        room: Room::default(),
        expires_at: UnixMs(u64::MAX / 2),
    };
    super::start(host, seal(), settings, start, Claim::alone(), |_| ()).await
}

async fn step(session: &Handle, clients: &Clients, host: &UnixStream, what: u8, bytes: &[u8]) {
    let first = bytes.first().copied().unwrap_or_default();
    match what % 8 {
        0 => write(host, bytes).await,
        1 => {
            if let Some((kind, body)) = bytes.split_first() {
                let length = u32::try_from(body.len() + 2).unwrap_or_default();
                let message = [&length.to_le_bytes()[..], &[kind % 15, 0], body].concat();
                write(host, &message).await;
            }
        }
        2 | 3 => {
            clients.0.asked.lock().insert(id(first));
            let (session, route, info) = (session.clone(), route(clients), info(id(first)));
            let frame = Incoming {
                body: Bytes::copy_from_slice(bytes),
                bytes: bytes.len(),
                timestamp: None,
                message_id: "m".to_owned(),
            };
            tokio::spawn(async move {
                if what % 8 == 2 {
                    let _ = session.connect(info, route).await;
                } else {
                    let _ = session.frame(info, route, frame).await;
                }
            });
        }
        4 => {
            let (session, id) = (session.clone(), id(first));
            tokio::spawn(async move { session.disconnect(id).await });
        }
        5 => {
            let frame = vec![b'x'; usize::from(first) * 1024];
            let push = Push { push: 1, to: id(what / 8), frame: frame.into(), replaceable: false };
            let mut out = BytesMut::new();
            if link::encode(&FromHost::from(push), &mut out).is_ok() {
                write(host, &out).await;
            }
        }
        6 => clients.0.receive.add_permits(first.into()),
        _ => {
            let mut buffer = vec![0; 64 * 1024];
            let _ = host.try_read(&mut buffer);
        }
    }
}

/// Writes what the backend takes within some turns.
async fn write(host: &UnixStream, mut bytes: &[u8]) {
    for _ in 0..TURNS {
        match host.try_write(bytes) {
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
        if bytes.is_empty() {
            return;
        }
        yield_now().await;
    }
}

/// One of four connections.
fn id(number: u8) -> ConnectionId {
    ["0", "1", "2", "3"][usize::from(number % 4)].into()
}

fn route(clients: &Clients) -> Route {
    Route { transport: Arc::new(clients.clone()), made_at: None, address: "https://api".into() }
}

fn info(id: ConnectionId) -> ConnectionInfo {
    ConnectionInfo {
        id,
        read_only: false,
        user: "alice".into(),
        token_id: None,
        connected_at: UnixMs(1),
        token_lasts: ENDS_WITHIN,
        limits: OutletLimits { max_frame: MAX_FRAME, in_flight: 4 },
    }
}

fn seal() -> Seal {
    Seal::new(b"secret")
}

fn here() -> Here {
    Here {
        id: "s".into(),
        owner: "alice".into(),
        created_at: UnixMs(1),
        epoch: shellbridge_protocol::times::Epoch(1),
        expires_at: UnixMs(u64::MAX / 2),
        output: 0,
        exited: false,
        notes: Bytes::new(),
    }
}
