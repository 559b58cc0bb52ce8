//! Tests the real `session-host` with real shells; the tests act as its backend.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

#[path = "host/setup.rs"]
mod setup;

use std::{
    collections::BTreeMap,
    os::{fd::OwnedFd, unix::net::UnixListener},
    path::PathBuf,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use bytes::Bytes;
use serde_json::{Value, json};
use shellbridge_protocol::times::{Epoch, UnixMs};
use shellbridge_session::{
    Limits, Sent, Settings,
    link::{
        Channel, Connect, End, Frame, FromHost, Gone, Hello, Keep, Peer, Pushed, Reply, ShellSpec, Start,
        ToHost,
    },
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    process::{Child, Command},
    time::timeout,
};

/// Generous, for debug builds on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);
const LONG: Duration = Duration::from_hours(1);

/// A host and its socket.
struct Host {
    child: Child,
    socket: PathBuf,
    _home: TempDir,
}

impl Host {
    fn start() -> Self {
        Self::start_by(env!("CARGO_BIN_EXE_session-host"), &[])
    }

    /// Starts a host through another program.
    fn start_by(program: &str, arguments: &[&str]) -> Self {
        let home = TempDir::new().unwrap();
        let socket = home.path().join("host.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let child = Command::new(program)
            .args(arguments)
            .env_clear()
            .stdin(OwnedFd::from(listener))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Self { child, socket, _home: home }
    }

    async fn connect(&self) -> Backend {
        let stream = UnixStream::connect(&self.socket).await.unwrap();
        Backend { stream, channel: Channel::new("".into()), requests: 0 }
    }

    /// Starts a host with a session.
    async fn with(start: Start) -> (Self, Backend) {
        let host = Self::start();
        let mut backend = host.connect().await;
        backend.say(Hello { start: Some(start) }).await;
        backend.until("Here", |said| matches!(said, FromHost::Here(_))).await;
        (host, backend)
    }

    fn pid(&self) -> u32 {
        self.child.id().expect("the host is running")
    }

    async fn ended(mut self) -> ExitStatus {
        timeout(PATIENCE, self.child.wait()).await.expect("the host exits").unwrap()
    }
}

/// The backend's side of a link.
struct Backend {
    stream: UnixStream,
    channel: Channel,
    requests: u64,
}

impl Backend {
    async fn say(&mut self, message: impl Into<ToHost>) {
        self.channel.say(&message.into()).unwrap();
        while !self.channel.to_write().is_empty() {
            let count = self.stream.write(self.channel.to_write()).await.unwrap();
            self.channel.wrote(count);
        }
    }

    /// The host's next message; `None` when the link has ended.
    async fn hears(&mut self) -> Option<FromHost> {
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

    async fn until(&mut self, what: &str, wanted: impl Fn(&FromHost) -> bool) -> FromHost {
        loop {
            let said = self.hears().await.unwrap_or_else(|| panic!("no {what}"));
            if wanted(&said) {
                return said;
            }
        }
    }

    async fn connect(&mut self, id: &str) {
        self.requests += 1;
        self.say(Connect { request: self.requests, peer: peer(id) }).await;
        self.until("Taken", |said| matches!(said, FromHost::Taken(taken) if taken.taken)).await;
    }

    async fn asks(&mut self, frame: Value) -> u64 {
        self.requests += 1;
        let (request, body) = (self.requests, Bytes::from(frame.to_string()));
        let bytes = u32::try_from(body.len()).unwrap();
        let message_id = request.to_string();
        self.say(Frame { request, peer: peer("c"), body, bytes, timestamp: None, message_id }).await;
        request
    }

    async fn answer(&mut self, request: u64) -> Value {
        let mine = |said: &FromHost| matches!(said, FromHost::Answer(a) if a.request == request && a.reply != Reply::Later);
        match self.until("an answer", mine).await {
            FromHost::Answer(answer) => match answer.reply {
                Reply::Frame(json) | Reply::Error(json) => serde_json::from_slice(&json).unwrap(),
                other => panic!("{other:?}"),
            },
            _ => unreachable!(),
        }
    }

    /// Runs a command and returns its output.
    async fn runs(&mut self, command: &str) -> String {
        let request = self.asks(json!({"type": "command", "command": command})).await;
        let result = self.answer(request).await;
        result["result"].as_str().unwrap_or_else(|| panic!("{result}")).trim().to_owned()
    }

    async fn attach(&mut self) {
        let frame = json!({"type": "attach", "clientId": "client-0123456789", "cols": 80, "rows": 24});
        let request = self.asks(frame).await;
        assert_eq!(self.answer(request).await["type"], "attached");
    }

    /// Reads output from its start until it contains `wanted`. Also returns the push that completed it, whose outcome
    /// is yet to be reported.
    async fn output(&mut self, wanted: &str) -> (u64, String) {
        let mut text = String::new();
        loop {
            let FromHost::Push(push) = self.until("output", |said| matches!(said, FromHost::Push(_))).await
            else {
                unreachable!()
            };
            let frame: Value = serde_json::from_slice(&push.frame).unwrap();
            if frame["type"] == "output" {
                assert_eq!(frame["offset"].as_u64().unwrap(), text.len() as u64);
                text.push_str(frame["data"].as_str().unwrap_or_default());
            }
            if text.contains(wanted) {
                return (push.push, text);
            }
            self.say(Pushed { push: push.push, sent: Sent::Delivered }).await;
        }
    }
}

fn peer(id: &str) -> Peer {
    Peer {
        id: id.into(),
        read_only: false,
        user: "alice".into(),
        token_id: Some("t".to_owned()),
        connected_at: UnixMs(1),
        token_lasts: 3_600_000,
        max_frame: 32_768,
        in_flight: 4,
        address: format!("https://api/{id}"),
    }
}

fn start() -> Start {
    let limits = Limits { output_buffer: 65_536, output_window: 32_768, resume_grace: LONG };
    let env: BTreeMap<_, _> = [("PATH", "/usr/bin:/bin"), ("HOME", "/"), ("PS1", "$ ")]
        .map(|(a, b)| (a.to_owned(), b.to_owned()))
        .into();
    Start {
        id: "s".into(),
        owner: "alice".into(),
        created_at: UnixMs(1_000),
        expires_at: UnixMs(1_000_000_000),
        settings: Settings { limits, detached_ttl: LONG, shell_restart: false },
        shell: ShellSpec { shell: "/bin/sh".to_owned(), cwd: "/".to_owned(), env },
        notes: Bytes::from_static(b"first"),
        files: Vec::new(),
        init: None,
    }
}

fn lives(pid: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

/// Leaves background processes of every kind and prints their PIDs.
const LEAVES: &str = "sleep 1000 & echo $!; nohup sleep 1001 >/dev/null 2>&1 & echo $!; \
    (trap '' HUP TERM; exec sleep 1002) & echo $!; setsid -f setsid -f sleep 1003; \
    for n in 1 2 3 4 5 6 7 8 9; do pgrep -n -x -f 'sleep 1003' && break; sleep 0.1; done";

#[tokio::test]
async fn ending_a_session_leaves_no_process() {
    let (host, mut backend) = Host::with(start()).await;
    backend.connect("c").await;
    let left = backend.runs(LEAVES).await;
    let left: Vec<_> = left.lines().collect();
    assert!(left.len() == 4 && left.iter().all(|pid| lives(pid)), "{left:?}");
    let orphans = backend
        .runs("for n in 1 2 3; do (sh -c 'exit 8' &); done; ps -o stat= --ppid $PPID | grep -c Z")
        .await;
    assert!(orphans.parse::<u32>().is_ok_and(|zombies| zombies <= 3), "{orphans}");
    backend.say(End {}).await;
    backend.until("Close", |said| matches!(said, FromHost::Close(close) if close.last.is_some())).await;
    backend.until("Ending", |said| matches!(said, FromHost::Ending(_))).await;
    backend.until("Ended", |said| matches!(said, FromHost::Ended(_))).await;
    for pid in left {
        assert!(!lives(pid), "{pid} is still running");
    }
    let socket = host.socket.clone();
    assert!(host.ended().await.success());
    assert!(!socket.exists(), "the socket is removed");
}

#[tokio::test]
async fn a_new_backend_gets_the_whole_state_and_all_unconfirmed_pushes() {
    let (host, mut first) = Host::with(start()).await;
    first.connect("c").await;
    first.connect("d").await;
    first.attach().await;
    first
        .asks(
            json!({"type": "input", "clientId": "client-0123456789", "offset": 0, "data": "echo fir''st\n"}),
        )
        .await;
    let (_, shown) = first.output("first\r\n").await;
    first.say(Keep { notes: Bytes::from_static(b"second") }).await;
    let late = first.asks(json!({"type": "command", "id": "late", "command": "sleep 0.5; echo done"})).await;
    first.until("Later", |said| matches!(said, FromHost::Answer(answer) if answer.request == late)).await;
    drop(first);

    let mut second = host.connect().await;
    second.say(Hello { start: None }).await;
    let mut known = Vec::new();
    let here = loop {
        match second.hears().await.unwrap() {
            FromHost::Known(peer) => {
                known.push((peer.peer.id.to_string(), peer.peer.address, peer.peer.token_id));
            }
            FromHost::Here(here) => break here,
            other => panic!("{other:?}"),
        }
    };
    let token = Some("t".to_owned());
    assert_eq!(
        known,
        [("c", "https://api/c"), ("d", "https://api/d")].map(|(id, at)| (
            id.into(),
            at.into(),
            token.clone()
        ))
    );
    assert_eq!(
        (&*here.id, &*here.owner, here.created_at, here.epoch),
        ("s", "alice", UnixMs(1_000), Epoch(1_000))
    );
    assert_eq!((&here.notes[..], here.exited), (&b"second"[..], false));
    assert!(here.output >= shown.len() as u64);
    let (_, again) = second.output("first\r\n").await;
    assert!(again.starts_with(&shown), "{again:?}");
    // The second backend does not know the first one's request, so the result is pushed.
    let pushed = |said: &FromHost| matches!(said, FromHost::Push(push) if push.frame.windows(4).any(|text| text == b"done"));
    second.until("the result by push", pushed).await;
    second.say(Gone { connection: "d".into() }).await;
    // A third backend replaces the second.
    let mut third = host.connect().await;
    third.say(Hello { start: None }).await;
    third.until("Here", |said| matches!(said, FromHost::Here(_))).await;
    while second.hears().await.is_some() {}
}

/// A failed write to a backend that died must not discard what it sent before.
#[tokio::test]
async fn regression_messages_of_a_dead_backend_are_read_after_a_write_fails() {
    let (host, mut backend) = Host::with(start()).await;
    backend.connect("c").await;
    // More than one read, so that the host answers before it has read all.
    for _ in 0..1_000 {
        backend.requests += 1;
        let (request, body) = (backend.requests, Bytes::from_static(br#"{"type":"ping"}"#));
        let message_id = request.to_string();
        let frame = Frame { request, peer: peer("c"), body, bytes: 15, timestamp: None, message_id };
        backend.channel.say(&ToHost::from(frame)).unwrap();
    }
    backend.say(Keep { notes: Bytes::from_static(b"last") }).await;
    drop(backend);
    let mut next = host.connect().await;
    next.say(Hello { start: None }).await;
    let here = next.until("Here", |said| matches!(said, FromHost::Here(_))).await;
    let FromHost::Here(here) = here else { unreachable!() };
    assert_eq!(&here.notes[..], b"last");
}

#[tokio::test]
async fn without_a_backend_a_host_ends_after_its_ttl_or_with_its_socket() {
    let mut brief = start();
    brief.settings.detached_ttl = Duration::from_secs(1);
    let (host, mut backend) = Host::with(brief).await;
    // A connected but unreachable client holds back the shell.
    backend.connect("c").await;
    let left = backend.runs("sleep 1000 & echo $!").await;
    drop(backend);
    assert!(host.ended().await.success());
    assert!(!lives(&left), "{left} is still running");

    let (host, backend) = Host::with(start()).await;
    std::fs::remove_file(&host.socket).unwrap();
    drop(backend);
    assert!(host.ended().await.success());
}

#[tokio::test]
async fn an_idle_host_does_not_spin_with_or_without_a_backend() {
    let (host, mut backend) = Host::with(start()).await;
    backend.connect("c").await;
    backend.attach().await;
    let ticks = |host: &Host| {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", host.pid())).unwrap();
        let times = stat.rsplit_once(')').unwrap().1.split_ascii_whitespace().skip(11).take(2);
        times.map(|ticks| ticks.parse::<u64>().unwrap()).sum::<u64>()
    };
    for linked in [true, false] {
        if !linked {
            backend.asks(json!({"type": "input", "clientId": "client-0123456789", "offset": 0, "data": "ls -l /\n"})).await;
            backend = host.connect().await;
        }
        let before = ticks(&host);
        let waited =
            timeout(Duration::from_secs(1), async { while backend.hears().await.is_some() {} }).await;
        assert!(waited.is_err(), "the link ended");
        assert!(ticks(&host) - before < 20, "the idle host spins, linked: {linked}");
    }
}

#[tokio::test]
async fn invalid_peers_are_disconnected_and_the_session_survives() {
    let (host, mut backend) = Host::with(start()).await;
    for nonsense in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"SBL1\x01\0\0\0\0\xff\xff\xff\xff", b"SBL1\x02\0\0\0\0"]
    {
        let mut stranger = UnixStream::connect(&host.socket).await.unwrap();
        stranger.write_all(nonsense).await.unwrap();
        let mut said = Vec::new();
        let _ = timeout(PATIENCE, stranger.read_to_end(&mut said)).await.expect("the host hangs up");
        // The preface: version and session.
        assert_eq!(said, b"SBL1\x01\x00\x01\x00\x01s");
    }
    // Each replaced the backend; the session survives.
    while backend.hears().await.is_some() {}
    let mut backend = host.connect().await;
    backend.say(Hello { start: None }).await;
    backend.until("Here", |said| matches!(said, FromHost::Here(_))).await;
}

#[tokio::test]
async fn a_shell_that_cannot_start_ends_the_session_with_the_reason() {
    let host = Host::start();
    let mut backend = host.connect().await;
    let mut nowhere = start();
    nowhere.shell.shell = "/no/such/shell".to_owned();
    backend.say(Hello { start: Some(nowhere) }).await;
    let FromHost::Ending(ending) = backend.hears().await.unwrap() else { panic!("no Ending") };
    assert!(ending.why.contains("cannot be started"), "{}", ending.why);
    backend.until("Ended", |said| matches!(said, FromHost::Ended(_))).await;
    host.ended().await;
}

#[tokio::test]
async fn a_shell_restart_ends_the_old_shells_background_processes() {
    let mut again = start();
    again.settings.shell_restart = true;
    let (host, mut backend) = Host::with(again).await;
    backend.connect("c").await;
    // Before the shell: waiting for a command discards pushes, such as the shell's exit.
    let command = backend.runs("sleep 1000 >/dev/null 2>&1 & echo $!").await;
    backend.attach().await;
    let line = "(trap '' HUP; exec sleep 1000) & echo pi''d $! po''int; exit\n";
    backend.asks(json!({"type": "input", "clientId": "client-0123456789", "offset": 0, "data": line})).await;
    let (push, shown) = backend.output("point\r\n").await;
    let left = shown.split_once("pid ").unwrap().1.split_once(" point").unwrap().0.to_owned();
    backend.say(Pushed { push, sent: Sent::Delivered }).await;
    let exit = |said: &FromHost| matches!(said, FromHost::Push(push) if push.frame.windows(4).any(|text| text == b"exit"));
    let FromHost::Push(exit) = backend.until("exit", exit).await else { unreachable!() };
    let ack = json!({"type": "ack", "outputOffset": serde_json::from_slice::<Value>(&exit.frame).unwrap()["offset"]});
    backend.asks(ack).await;
    backend.say(Pushed { push: exit.push, sent: Sent::Delivered }).await;
    let notice = |said: &FromHost| matches!(said, FromHost::Push(push) if push.frame.windows(9).any(|text| text == b"RESTARTED"));
    backend.until("SHELL_RESTARTED", notice).await;
    let ends = async {
        while lives(&left) {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, ends).await.expect("the old shell's process ends");
    assert!(lives(&command), "a command's background process belongs to the session");
    drop(host);
}
