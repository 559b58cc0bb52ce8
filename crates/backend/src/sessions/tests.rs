//! Sessions as seen by the rest of the backend. The tests act as the host.

use std::{future::pending, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::FutureExt as _;
use shellbridge_protocol::{
    ErrorCode,
    frame::ServerFrame,
    ids::ConnectionId,
    limits::MAX_FRAME,
    times::{Epoch, UnixMs},
};
use shellbridge_session::{
    ConnectionInfo, Limits, OutletLimits, Sent, Settings,
    link::{
        Answer, Channel, Close, Ended, Ending, FrameKind, FromHost, Here, Known, Log, Peer, Push, Reply,
        ShellSpec, Taken, ToHost,
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    sync::{
        mpsc::{self, UnboundedReceiver, UnboundedSender},
        oneshot,
    },
    time::timeout,
};

use super::{
    outlet::{Boxed, FindRoute, Outlet, Route, Transport, push},
    *,
};
use crate::{
    clock::unix_ms,
    launcher::{Host, Process},
};

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
    let start = Start { id: "s".into(), owner: "alice".into(), shell, expires_at };
    let (ended, told) = oneshot::channel();
    let (mut actor, host) = Actor::new();
    let begins = async {
        let Some(ToHost::Hello(hello)) = actor.heard().await else { panic!("no hello") };
        let start = hello.start.expect("something to start");
        assert_eq!((&*start.id, &*start.owner), ("s", "alice"));
        actor.say(here(start.notes)).await;
    };
    let (session, ()) =
        tokio::join!(super::start(host, settings, start, |_| ended.send(()).unwrap()), begins);
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

#[tokio::test]
async fn a_dead_host_ends_its_session_and_notifies_clients_at_once() {
    let (handle, mut actor, ended) = started().await;
    let (route, mut said) = noted();
    joined(&handle, &mut actor, "c", &route).await;
    let waits = async {
        let waits = frame(&handle, "c", &route).await;
        assert_eq!(waits.err(), Some(Unreachable::Ended), "pending requests fail too");
    };
    let dies = async {
        actor.frame().await;
        drop(actor);
    };
    let died = std::time::Instant::now();
    tokio::join!(waits, dies);
    let words = last_words(&mut said).await;
    assert!(died.elapsed() < Duration::from_secs(1), "{:?}", died.elapsed());
    assert!(words[0].contains("SESSION_INVALID"), "{words:?}");
    timeout(PATIENCE, ended).await.unwrap().expect("the directory is notified");
    timeout(PATIENCE, handle.end()).await.expect("the task ends");
    assert!(handle.status().has_ended());
}

#[tokio::test]
async fn a_host_that_violates_the_protocol_ends_only_its_own_session() {
    let length = |length: u32| length.to_le_bytes().to_vec();
    let lies: [(&str, Vec<u8>); 3] = [
        ("too large", [length(u32::MAX), vec![0; 64]].concat()),
        ("empty", length(0)),
        // A `Push` with a malformed body.
        ("nonsense", [length(14), vec![3, 0], vec![0xff; 12]].concat()),
    ];
    let (other, mut other_actor, _) = started().await;
    let (other_route, mut other_said) = noted();
    joined(&other, &mut other_actor, "victim", &other_route).await;
    for (what, lie) in lies {
        let (handle, mut actor, ended) = started().await;
        let (route, mut said) = noted();
        joined(&handle, &mut actor, "c", &route).await;
        actor.stream.write_all(&lie).await.unwrap();
        let words = last_words(&mut said).await;
        assert!(words[0].contains("SESSION_INVALID"), "{what}: {words:?}");
        timeout(PATIENCE, ended).await.unwrap().unwrap();
    }
    let said: [FromHost; 3] = [
        answer(77, Reply::Nothing).into(),
        here(Bytes::new()).into(),
        Taken { request: 9, connection: "c".into(), taken: true }.into(),
    ];
    for lie in said {
        let (handle, mut actor, ended) = started().await;
        let (route, mut said) = noted();
        joined(&handle, &mut actor, "c", &route).await;
        let what = format!("{lie:?}");
        actor.say(lie).await;
        assert!(last_words(&mut said).await[0].contains("SESSION_INVALID"), "{what}");
        timeout(PATIENCE, ended).await.unwrap().unwrap();
    }
    let (chatty, mut actor, ended) = started().await;
    for _ in 0..100 {
        actor.channel.say(&FromHost::from(Log { warning: false, message: "x".to_owned() })).unwrap();
    }
    actor.write().await;
    timeout(PATIENCE, ended).await.unwrap().unwrap();
    drop(chatty);

    let (foreign, mut actor, _ended) = started().await;
    let (route, _said) = noted();
    joined(&foreign, &mut actor, "c", &route).await;
    actor.push(7, "victim", r#"{"type":"stolen"}"#).await;
    let Some(ToHost::Pushed(pushed)) = actor.heard().await else { panic!() };
    assert_eq!((pushed.push, pushed.sent), (7, Sent::Gone), "another session's connection is unknown");
    other_actor.push(1, "victim", r#"{"type":"own"}"#).await;
    assert_eq!(other_said.recv().await.unwrap(), r#"{"type":"own"}"#, "the victim got only its own frame");
}

#[tokio::test]
async fn a_host_that_pushes_faster_than_clients_receive_is_throttled() {
    let (handle, mut actor, _) = started().await;
    joined(&handle, &mut actor, "c", &route(Stuck)).await;
    let frame = "x".repeat(MAX_FRAME);
    let mut pushed: usize = 0;
    // A second is ample for a backend that reads. A backend too slow for it only ends the loop earlier.
    while timeout(Duration::from_secs(1), actor.push(0, "c", &frame)).await.is_ok() {
        pushed += frame.len();
        assert!(pushed < 8 * 1024 * 1024, "the backend holds {pushed} bytes and keeps reading");
    }
    assert!(pushed > 2 * 1024 * 1024, "the backend read only {pushed} bytes");
}

#[tokio::test]
async fn an_unresponsive_host_can_be_ended() {
    let (handle, mut actor, _) = started().await;
    let route = route(Stuck);
    joined(&handle, &mut actor, "c", &route).await;
    // Reach the limit of open requests, and fill the inbox.
    let mut asked: Vec<_> = (0..1_000).map(|_| Box::pin(frame(&handle, "c", &route))).collect();
    for request in &mut asked {
        assert!(request.as_mut().now_or_never().is_none());
        tokio::task::yield_now().await;
    }
    tokio::time::pause();
    timeout(PATIENCE, handle.end()).await.expect("the host is killed");
}

/// Once all handles were dropped, the task used to poll its closed inbox in a busy loop.
#[tokio::test]
async fn regression_a_session_without_handles_is_read_until_it_ends() {
    let (handle, mut actor, ended) = started().await;
    drop(handle);
    actor.say(Ending { why: "its shell has ended".to_owned() }).await;
    timeout(PATIENCE, ended).await.unwrap().unwrap();
    actor.say(Ended {}).await;
    while actor.heard().await.is_some() {}
}

/// A failed write to a host that has exited must not discard the messages it sent before.
#[tokio::test]
async fn regression_last_messages_are_read_after_a_write_fails() {
    let (handle, mut actor, ended) = started().await;
    let (route, mut said) = noted();
    joined(&handle, &mut actor, "c", &route).await;
    let last = Bytes::from_static(b"last");
    // Sent together, as by a host that then exits: nothing reads the outcome of the push.
    for message in [
        FromHost::from(Push { push: 1, to: "c".into(), frame: last.clone(), replaceable: true }),
        Close { connection: "c".into(), last: Some(last), reason: None }.into(),
        Ending { why: "its shell has ended".to_owned() }.into(),
        Ended {}.into(),
    ] {
        actor.channel.say(&message).unwrap();
    }
    let bytes = actor.channel.to_write().to_vec();
    let (first, rest) = bytes.split_at(60);
    actor.stream.write_all(first).await.unwrap();
    assert_eq!(said.recv().await.unwrap(), "last", "the push");
    actor.stream.write_all(rest).await.unwrap();
    drop(actor);
    timeout(PATIENCE, ended).await.unwrap().unwrap();
    let words = last_words(&mut said).await;
    assert_eq!(words, ["last", "closed"], "no error");
}

#[tokio::test]
async fn a_panic_in_a_push_ends_its_connection_and_not_the_session() {
    let (handle, mut actor, _ended) = started().await;
    joined(&handle, &mut actor, "c", &route(Faulty)).await;
    actor.push(1, "c", "{}").await;
    let Some(ToHost::Pushed(pushed)) = actor.heard().await else { panic!() };
    assert_eq!(pushed.sent, Sent::Gone);
    actor.say(Close { connection: "c".into(), last: None, reason: None }).await;
    let (route, _said) = noted();
    joined(&handle, &mut actor, "d", &route).await;
}

#[tokio::test]
async fn pending_and_new_requests_fail_at_once_when_a_session_ends() {
    let (handle, mut actor, ended) = started().await;
    let stuck = route(Stuck);
    joined(&handle, &mut actor, "c", &stuck).await;
    let waits = frame(&handle, "c", &stuck);
    let ends = async {
        let request = actor.frame().await;
        actor.say(answer(request, Reply::Later)).await;
        let end = tokio::spawn({
            let handle = handle.clone();
            async move { handle.end().await }
        });
        assert!(matches!(actor.heard().await, Some(ToHost::End(_))));
        actor.say(Ending { why: "deleted".to_owned() }).await;
        timeout(PATIENCE, ended).await.unwrap().unwrap();
        // The host is still ending its processes; requests must not wait for that.
        let (late, _said) = noted();
        assert_eq!(handle.connect(info("d"), late).await, Err(Unreachable::Ended));
        assert_eq!(frame(&handle, "c", &route(Stuck)).await.err(), Some(Unreachable::Ended));
        assert!(!end.is_finished(), "requests failed before the session was gone");
        actor.say(Ended {}).await;
        timeout(PATIENCE, end).await.unwrap().unwrap();
    };
    let (waited, ()) = tokio::join!(waits, ends);
    assert_eq!(waited.err(), Some(Unreachable::Ended));
}

#[tokio::test]
async fn a_late_answer_to_an_abandoned_request_is_pushed() {
    let (handle, mut actor, _) = started().await;
    let (route, mut said) = noted();
    let mut asked = Box::pin(frame(&handle, "c", &route));
    let request = tokio::select! {
        request = actor.frame() => request,
        _ = &mut asked => panic!("answered without the host"),
    };
    actor.say(answer(request, Reply::Later)).await;
    // The session learned of this connection only from the frame.
    actor.push(1, "c", "first").await;
    assert_eq!(timeout(PATIENCE, said.recv()).await.unwrap().unwrap(), "first");
    drop(asked);
    actor.say(answer(request, Reply::Frame(Bytes::from_static(b"late")))).await;
    assert_eq!(timeout(PATIENCE, said.recv()).await.unwrap().unwrap(), "late");
}

#[tokio::test]
async fn a_takeover_restores_connections_and_tokens() {
    let tokens = tokens::Tokens::new();
    let (good, bad) = (tokens.new_id(), tokens.new_id());
    tokens.renew(&good, None, unix_ms());
    let (mut actor, host) = Actor::new();
    let (known_route, mut said) = noted();
    let routes: FindRoute = Arc::new(move |address| (address == "https://api").then(|| known_route.clone()));
    let peer = |id: &str, token: Option<&str>, address: &str| Peer {
        id: id.into(),
        read_only: false,
        user: "alice".into(),
        token_id: token.map(str::to_owned),
        connected_at: UnixMs(1),
        token_lasts: 60_000,
        max_frame: 32_768,
        in_flight: 4,
        address: address.to_owned(),
    };
    let (ended, _told) = oneshot::channel();
    let says = async {
        let Some(ToHost::Hello(hello)) = actor.heard().await else { panic!("no hello") };
        assert!(hello.start.is_none());
        for peer in [
            peer("c", Some(&good), "https://api"),
            peer("revoked", Some(&bad), "https://api"),
            peer("elsewhere", None, "https://attacker.example"),
        ] {
            actor.say(Known { peer }).await;
        }
        actor.say(here(tokens.notes())).await;
    };
    let (handle, ()) = tokio::join!(take_over(host, &routes, |_| ended.send(()).unwrap()), says);
    let handle = handle.unwrap();
    let status = handle.status();
    assert_eq!((&*status.id, &*status.owner, status.created_at), ("s", "alice", UnixMs(1)));
    assert_eq!(status.tokens.check(Some(&good), Use::Door, unix_ms()), Ok(()));
    let Some(ToHost::Revoke(revoke)) = actor.heard().await else { panic!("no Revoke of the revoked token") };
    assert_eq!((revoke.wait, &revoke.connections[..]), (0, &["revoked".into()][..]));
    let Some(ToHost::Gone(gone)) = actor.heard().await else {
        panic!("no Gone for the forbidden address")
    };
    assert_eq!(&*gone.connection, "elsewhere");
    actor.push(1, "c", "hello again").await;
    assert_eq!(timeout(PATIENCE, said.recv()).await.unwrap().unwrap(), "hello again");
}

#[tokio::test]
async fn changed_tokens_reach_the_host_before_the_request_is_answered() {
    let (handle, mut actor, _) = started().await;
    let id = handle.status().tokens.new_id();
    handle.status().tokens.renew(&id, None, unix_ms());
    handle.tokens_changed().await.unwrap();
    // From here on, the change survives a crash of the backend.
    let Some(ToHost::Keep(keep)) = actor.heard().await else { panic!() };
    assert_eq!(tokens::Tokens::restored(&keep.notes).check(Some(&id), Use::Door, unix_ms()), Ok(()));
}

#[tokio::test]
async fn a_host_of_another_major_version_is_left_alone() {
    let (mut actor, host) = Actor::new();
    actor.stream.write_all(b"SBL1\x09\x00\x00\x00\x03abc").await.unwrap();
    let routes: FindRoute = Arc::new(|_| None);
    match take_over(host, &routes, |_| ()).await {
        Err(NotOpened::Foreign { session, .. }) => assert_eq!(&*session, "abc"),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("the session was taken over"),
    }
}

/// Accepts only small frames.
struct Narrow(UnboundedSender<String>);

impl Outlet for Narrow {
    fn send(&self, frame: Bytes) -> Boxed<Sent> {
        let fits = frame.len() <= 1000;
        if fits {
            let _ = self.0.send(String::from_utf8(frame.to_vec()).unwrap());
        }
        Box::pin(async move { if fits { Sent::Delivered } else { Sent::TooLarge } })
    }

    fn close(&self, _: Option<ErrorCode>) -> Boxed<()> {
        Box::pin(async {})
    }

    fn exists(&self) -> Boxed<bool> {
        Box::pin(async { true })
    }
}

#[tokio::test]
async fn an_oversized_answer_is_replaced_by_an_error_with_its_id() {
    let (sender, mut said) = mpsc::unbounded_channel();
    let frame = ServerFrame::CommandResult {
        result: "x".repeat(2000),
        exit_code: 0,
        timestamp: UnixMs(1),
        id: "my-command".to_owned(),
        duration_ms: 1,
        signal: None,
        truncated: None,
    };
    let narrow = Narrow(sender);
    assert_eq!(push(&narrow, frame.to_json(), true).await, Sent::Delivered);
    let error: serde_json::Value = serde_json::from_str(&said.recv().await.unwrap()).unwrap();
    assert_eq!((&error["code"], &error["ref"]), (&"TOO_LARGE".into(), &"my-command".into()));
    assert_eq!(push(&narrow, frame.to_json(), false).await, Sent::TooLarge, "output is never replaced");
}
