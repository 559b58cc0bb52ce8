//! Sessions as seen by the rest of the backend. The tests act as the host.

use std::{future::pending, sync::Arc, time::Duration};

use bytes::Bytes;
use shellbridge_protocol::{
    ErrorCode,
    ids::ConnectionId,
    limits::MAX_FRAME,
    times::{Epoch, UnixMs},
};
use shellbridge_session::{
    ConnectionInfo, Limits, OutletLimits, Sent, Settings,
    link::{Answer, Channel, FrameKind, FromHost, Here, Peer, Push, Reply, ShellSpec, Taken, ToHost},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt},
    net::UnixStream,
    sync::{
        mpsc::{self, UnboundedReceiver, UnboundedSender},
        oneshot,
    },
    time::timeout,
};

use super::{
    outlet::{Boxed, Outlet, Route, Transport},
    *,
};
use crate::{
    clock::unix_ms,
    launcher::{Host, Process, Room, Setup},
};

mod answers;
mod ending;
mod failures;
mod floods;
mod takeover;
mod usage;

/// Generous, for debug builds on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Records sent frames, and "closed" for a close.
struct Notes(UnboundedSender<String>);

impl Outlet for Notes {
    fn send(&self, frame: Bytes) -> Boxed<Sent> {
        let _ = self.0.send(String::from_utf8(frame.to_vec()).unwrap());
        Box::pin(async { Sent::Delivered })
    }

    fn close(&self, _: Option<ErrorCode>) -> Boxed<()> {
        let _ = self.0.send("closed".to_owned());
        Box::pin(async {})
    }

    fn exists(&self) -> Boxed<bool> {
        Box::pin(async { true })
    }
}

/// Never finishes a send or a close.
pub(super) struct Stuck;

impl Outlet for Stuck {
    fn send(&self, _: Bytes) -> Boxed<Sent> {
        Box::pin(pending())
    }

    fn close(&self, _: Option<ErrorCode>) -> Boxed<()> {
        Box::pin(pending())
    }

    fn exists(&self) -> Boxed<bool> {
        Box::pin(async { true })
    }
}

/// Panics in sends and checks.
struct Faulty;

impl Outlet for Faulty {
    fn send(&self, _: Bytes) -> Boxed<Sent> {
        panic!("a push that panics");
    }

    fn close(&self, _: Option<ErrorCode>) -> Boxed<()> {
        Box::pin(async {})
    }

    fn exists(&self) -> Boxed<bool> {
        panic!("a check that panics");
    }
}

/// Returns the same outlet for every connection.
struct Always<T>(Arc<T>);

impl<T: Outlet + 'static> Transport for Always<T> {
    fn limits(&self) -> OutletLimits {
        OutletLimits { max_frame: MAX_FRAME, in_flight: 4 }
    }

    fn outlet(self: Arc<Self>, _: ConnectionId, _: Option<UnixMs>) -> Arc<dyn Outlet> {
        self.0.clone()
    }
}

pub(super) fn route(outlet: impl Outlet + 'static) -> Route {
    Route { transport: Arc::new(Always(Arc::new(outlet))), made_at: None, address: "https://api".into() }
}

/// A route, and the frames sent by it.
fn noted() -> (Route, UnboundedReceiver<String>) {
    let (notes, said) = mpsc::unbounded_channel();
    (route(Notes(notes)), said)
}

pub(super) fn info(id: &str) -> ConnectionInfo {
    ConnectionInfo {
        id: id.into(),
        read_only: false,
        user: "alice".into(),
        token_id: None,
        connected_at: UnixMs(1),
        token_lasts: PATIENCE * 10,
        limits: OutletLimits { max_frame: MAX_FRAME, in_flight: 4 },
    }
}

/// A host controlled by the test.
pub(crate) struct Actor {
    stream: UnixStream,
    channel: Channel,
}

impl Actor {
    /// A host that has not sent anything yet, and the backend's end of its stream.
    fn new() -> (Self, Host) {
        let (stream, other) = UnixStream::pair().unwrap();
        let process = Process::of_nobody();
        (Self { stream, channel: Channel::new("s".into()) }, Host { stream: other, process })
    }

    async fn say(&mut self, message: impl Into<FromHost>) {
        self.channel.say(&message.into()).unwrap();
        self.write().await;
    }

    async fn write(&mut self) {
        while !self.channel.to_write().is_empty() {
            let count = self.stream.write(self.channel.to_write()).await.unwrap();
            self.channel.wrote(count);
        }
    }

    /// The backend's next message; `None` when the link has ended.
    async fn heard(&mut self) -> Option<ToHost> {
        loop {
            if let Some(message) = self.channel.message().unwrap() {
                return Some(message);
            }
            let read =
                timeout(PATIENCE, self.stream.read_buf(self.channel.room(1024))).await.expect("a message");
            if read.unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    /// Accepts the connection of the next message.
    async fn take(&mut self) -> Peer {
        let Some(ToHost::Connect(connect)) = self.heard().await else { panic!("no Connect") };
        let connection = connect.peer.id.clone();
        self.say(Taken { request: connect.request, connection, taken: true }).await;
        connect.peer
    }

    /// The request number of the next message, a frame.
    async fn frame(&mut self) -> u64 {
        match self.heard().await {
            Some(ToHost::Frame(frame)) => frame.request,
            other => panic!("{other:?}"),
        }
    }

    async fn push(&mut self, push: u64, to: &str, frame: &str) {
        let frame = Bytes::copy_from_slice(frame.as_bytes());
        self.say(Push { push, to: to.into(), frame, replaceable: true }).await;
    }
}

fn here(notes: Bytes) -> Here {
    Here {
        id: "s".into(),
        owner: "alice".into(),
        created_at: UnixMs(1),
        epoch: Epoch(1),
        expires_at: unix_ms().saturating_add(PATIENCE * 10),
        output: 0,
        exited: false,
        notes,
    }
}

pub(super) fn seal() -> Seal {
    Seal::new(b"secret")
}

/// What a host of session "s" keeps.
fn notes_of(tokens: &tokens::Tokens) -> Bytes {
    seal().put_notes(&"s".into(), &"alice".into(), UnixMs(1), &tokens.notes())
}

fn answer(request: u64, reply: Reply) -> Answer {
    Answer { request, received: FrameKind::MALFORMED, has: true, reply }
}

/// Starts a session. Returns its handle, its host, and a receiver that fires when it has ended.
pub(crate) async fn started() -> (Handle, Actor, oneshot::Receiver<()>) {
    let limits =
        Limits { output_buffer: 65_536, output_window: 32_768, resume_grace: Duration::from_mins(1) };
    let settings = Settings { limits, detached_ttl: PATIENCE * 10, shell_restart: false };
    let shell =
        ShellSpec { shell: "/bin/sh".into(), cwd: "/".into(), env: std::collections::BTreeMap::new() };
    let expires_at = unix_ms().saturating_add(Duration::from_mins(10));
    let (setup, room) = (Setup::default(), Room { image: Some("image".to_owned()), ..Room::default() });
    let start = Start { id: "s".into(), owner: "alice".into(), shell, setup, room, expires_at };
    let (ended, told) = oneshot::channel();
    let (mut actor, host) = Actor::new();
    let begins = async {
        let Some(ToHost::Hello(hello)) = actor.heard().await else { panic!("no hello") };
        let start = hello.start.expect("something to start");
        assert_eq!((&*start.id, &*start.owner), ("s", "alice"));
        actor.say(here(start.notes)).await;
    };
    let (session, ()) = tokio::join!(
        super::start(host, seal(), settings, start, Claim::alone(), |_| ended.send(()).unwrap()),
        begins
    );
    (session.unwrap(), actor, told)
}

async fn frame(handle: &Handle, id: &str, route: &Route) -> Result<Reply, Unreachable> {
    let body = Bytes::from_static(br#"{"type":"ping"}"#);
    let frame = Incoming { body, bytes: 15, timestamp: None, message_id: "m".to_owned() };
    handle.frame(info(id), route.clone(), frame).await
}

/// Connects to a session.
async fn joined(handle: &Handle, actor: &mut Actor, id: &str, route: &Route) {
    let (taken, _) = tokio::join!(handle.connect(info(id), route.clone()), actor.take());
    taken.unwrap();
}

/// All frames of a connection until it is closed.
async fn last_words(said: &mut UnboundedReceiver<String>) -> Vec<String> {
    let mut all = Vec::new();
    while all.last().is_none_or(|word| word != "closed") {
        all.push(timeout(PATIENCE, said.recv()).await.expect("a close").unwrap());
    }
    all
}
