//! A session around a real shell: how it ends, and that nobody is left waiting.

use std::{future::pending, sync::Arc, time::Duration};

use bytes::Bytes;
use shellbridge_protocol::{
    ErrorCode,
    frame::{ClientFrame, ServerFrame},
    ids::ConnectionId,
    limits::MAX_FRAME,
    times::UnixMs,
};
use shellbridge_session::{ConnectionInfo, Limits, OutletLimits, PushKind, Reply, Sent, Settings};
use tokio::{
    sync::{
        mpsc::{self, UnboundedSender},
        oneshot,
    },
    time::timeout,
};

use super::{task::push, *};
use crate::{
    clock::unix_ms,
    launcher::{ShellRequest, ShellSpec},
    sessions::outlet::{Boxed, Outlet, Route, Transport},
};

/// A busy machine, debug builds.
const PATIENCE: Duration = Duration::from_secs(30);

/// Takes notes of what is sent; "closed" is the end.
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

/// Nothing that is sent arrives, and no connection closes.
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

/// Panics in pushes.
struct Faulty;

impl Outlet for Faulty {
    fn send(&self, _: Bytes) -> Boxed<Sent> {
        panic!("a push that panics");
    }

    fn close(&self, _: Option<ErrorCode>) -> Boxed<()> {
        Box::pin(async {})
    }

    fn exists(&self) -> Boxed<bool> {
        Box::pin(async { true })
    }
}

/// Gives every connection the same outlet.
struct Always<T>(Arc<T>);

impl<T: Outlet + 'static> Transport for Always<T> {
    fn limits(&self) -> OutletLimits {
        OutletLimits { max_frame: MAX_FRAME, in_flight: 4 }
    }

    fn outlet(self: Arc<Self>, _: ConnectionId, _: Option<UnixMs>) -> Arc<dyn Outlet> {
        self.0.clone()
    }
}

/// Panics in the session's own task, when it adopts a connection.
struct Fault;

impl Transport for Fault {
    fn limits(&self) -> OutletLimits {
        OutletLimits { max_frame: MAX_FRAME, in_flight: 4 }
    }

    fn outlet(self: Arc<Self>, _: ConnectionId, _: Option<UnixMs>) -> Arc<dyn Outlet> {
        panic!("a fault of the session");
    }
}

pub(super) fn route(outlet: impl Outlet + 'static) -> Route {
    shared(&Arc::new(outlet))
}

fn shared(outlet: &Arc<impl Outlet + 'static>) -> Route {
    Route { transport: Arc::new(Always(outlet.clone())), made_at: None }
}

fn start() -> (Handle, oneshot::Receiver<()>) {
    let limits =
        Limits { output_buffer: 65_536, output_window: 32_768, resume_grace: Duration::from_mins(1) };
    let settings = Settings { limits, detached_ttl: PATIENCE * 10, shell_restart: false };
    let request = ShellRequest { shell: Some("/bin/sh".into()), ..ShellRequest::default() };
    let start = Start {
        id: "s".into(),
        owner: "alice".into(),
        spec: ShellSpec::new(request).unwrap(),
        expires_at: unix_ms().saturating_add(Duration::from_mins(10)),
    };
    let (ended, told) = oneshot::channel();
    let handle = spawn(settings, start, move |_| ended.send(()).unwrap()).unwrap();
    (handle, told)
}

/// Whether a process lives. One that nobody has reaped yet does not.
fn lives(pid: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
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

async fn ping(handle: &Handle, id: &str, route: Route) -> Result<Reply, Unreachable> {
    let frame = ClientFrame::Ping { timestamp: None, output_offset: None };
    handle.frame(info(id), route, frame, "m".into()).await
}

async fn command(handle: &Handle, route: Route, command: &str) -> Result<Reply, Unreachable> {
    let frame = ClientFrame::Command { command: command.to_owned(), id: None, timeout_ms: None };
    handle.frame(info("c"), route, frame, "m".into()).await
}

#[tokio::test]
async fn a_fault_ends_its_session_wholly_and_tells_its_clients() {
    let (handle, ended) = start();
    let (notes, mut said) = mpsc::unbounded_channel();
    let outlet = Arc::new(Notes(notes));
    handle.connect(info("c"), shared(&outlet)).await.unwrap();
    let answer = command(&handle, shared(&outlet), "sleep 600 >/dev/null 2>&1 & echo $!").await.unwrap();
    let Reply::Frame(ServerFrame::CommandResult { result, .. }) = answer else { panic!("{answer:?}") };
    let left = result.trim().to_owned();
    assert!(lives(&left));

    drop(outlet);
    let fault = Route { transport: Arc::new(Fault), made_at: None };
    assert_eq!(ping(&handle, "d", fault).await.err(), Some(Unreachable::Ended));
    timeout(PATIENCE, ended).await.unwrap().expect("the store is told");
    timeout(PATIENCE, handle.end()).await.expect("it comes to its end");
    assert!(handle.status().has_ended());
    assert!(!lives(&left), "{left} lives on");
    let mut all = Vec::new();
    while let Some(word) = said.recv().await {
        all.push(word);
    }
    assert!(all.iter().any(|word| word.contains("SESSION_INVALID")), "{all:?}");
    assert_eq!(all.last().unwrap(), "closed");
}

#[tokio::test]
async fn a_push_that_panics_ends_its_connection_and_not_the_session() {
    let (handle, _ended) = start();
    handle.connect(info("c"), route(Faulty)).await.unwrap();
    let gone = async {
        // Frames of a connection that was dropped are told so.
        while !matches!(ping(&handle, "c", route(Stuck)).await.unwrap(), Reply::Frame(ServerFrame::Error(_)))
        {
        }
    };
    let (notes, _said) = mpsc::unbounded_channel();
    timeout(PATIENCE, gone).await.expect("the connection is dropped");
    handle.connect(info("d"), route(Notes(notes))).await.expect("the session goes on");
    handle.end().await;
}

#[tokio::test]
async fn whoever_waits_for_a_session_that_ends_hears_so_at_once() {
    let (handle, ended) = start();
    handle.connect(info("c"), route(Stuck)).await.unwrap();
    let waits = tokio::spawn({
        let handle = handle.clone();
        async move { command(&handle, route(Stuck), "sleep 600").await }
    });
    let end = tokio::spawn({
        let handle = handle.clone();
        async move { handle.end().await }
    });
    timeout(PATIENCE, ended).await.unwrap().unwrap();
    // It takes its time to tell the connection, which is stuck; meanwhile nobody else waits.
    let (notes, _said) = mpsc::unbounded_channel();
    let late = handle.connect(info("d"), route(Notes(notes))).await;
    assert_eq!(late, Err(Unreachable::Ended));
    assert_eq!(waits.await.unwrap().err(), Some(Unreachable::Ended));
    assert_eq!(ping(&handle, "c", route(Stuck)).await.err(), Some(Unreachable::Ended));
    assert!(!end.is_finished(), "all this before its end");
    timeout(PATIENCE, end).await.unwrap().unwrap();
}

/// A way that takes small frames only.
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
async fn an_answer_that_is_too_large_is_said_to_be_so_under_its_name() {
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
    let narrow = Arc::new(Narrow(sender));
    assert_eq!(push(narrow.clone(), frame.to_json(), PushKind::Other).await, Sent::Delivered);
    let error: serde_json::Value = serde_json::from_str(&said.recv().await.unwrap()).unwrap();
    assert_eq!((&error["code"], &error["ref"]), (&"TOO_LARGE".into(), &"my-command".into()));
    assert_eq!(
        push(narrow, frame.to_json(), PushKind::Output).await,
        Sent::TooLarge,
        "nothing stands for output"
    );
}
