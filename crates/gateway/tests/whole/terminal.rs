//! A terminal over the whole stack: the reference client on a real socket, which reconnects whenever it breaks.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use shellbridge_protocol::{
    ErrorCode,
    client::{Client, Event},
    frame::ServerFrame,
    limits::{MAX_FRAME, MAX_MESSAGE},
};
use tokio::sync::Notify;
use tokio_tungstenite::tungstenite::Message;

use super::support::{self, Stack, http, until};

/// A session created with `/api/dev/sessions`.
pub(crate) struct Session {
    pub(crate) id: String,
    pub(crate) token: String,
    page: String,
}

impl Session {
    pub(crate) async fn new(stack: &Stack) -> Self {
        Self::with(stack, json!({})).await
    }

    pub(crate) async fn with(stack: &Stack, mut body: Value) -> Self {
        // An empty home, so that no user's start-up files affect the test.
        body["env"]["HOME"] = stack.directory().to_str().unwrap().into();
        let page = stack.page.clone().unwrap();
        let url = format!("{page}api/dev/sessions");
        let answer = until("a session", || async {
            let answer = http("POST", &url, &[], body.to_string()).await;
            // One of several instances may be starting, or without Redis for a moment.
            (answer.status < 500).then_some(answer)
        })
        .await;
        assert_eq!(answer.status, 201, "{answer:?}");
        let made = answer.json();
        let text = |name: &str| made[name].as_str().unwrap().to_owned();
        Self { id: text("sessionId"), token: text("token"), page }
    }

    pub(crate) fn query(&self) -> String {
        format!("sessionId={}&token={}", self.id, self.token)
    }

    pub(crate) fn bearer(&self) -> String {
        format!("Bearer {}", self.token)
    }

    /// Ends a session of one of several instances. One that is just back answers 503 or 404 until it has its sessions.
    pub(crate) async fn end_somewhere(&self) {
        let url = format!("{}api/sessions/{}", self.page, self.id);
        let bearer = self.bearer();
        let lost = AtomicBool::new(false);
        until("the session's end", || async {
            let status = http("DELETE", &url, &[("authorization", &bearer)], "").await.status;
            // After a lost answer, 404 means that the session has ended.
            if matches!(status, 500 | 502 | 504) {
                lost.store(true, Ordering::Relaxed);
            }
            (status == 204 || (status == 404 && lost.load(Ordering::Relaxed))).then_some(())
        })
        .await;
    }

    /// Ends the session; the response comes once nothing of it is left.
    pub(crate) async fn end(&self) {
        let url = format!("{}api/sessions/{}", self.page, self.id);
        let answer = http("DELETE", &url, &[("authorization", &self.bearer())], "").await;
        assert_eq!(answer.status, 204, "{answer:?}");
    }
}

/// Whether a frame says that the session has ended.
fn is_the_end(text: &str) -> bool {
    let frame: ServerFrame = serde_json::from_str(text).unwrap_or(ServerFrame::Unknown);
    matches!(frame, ServerFrame::Error(error) if error.code == ErrorCode::SessionInvalid && !error.retryable)
}

/// Keys typed at once and ahead of their acknowledgement: far more than a fast typist's.
const KEYS_AT_ONCE: usize = 10;
const KEYS_AHEAD: usize = 500;

/// A client that reconnects after every cut.
pub(crate) struct Terminal {
    url: String,
    pub(crate) client: Client,
    socket: Option<support::Client>,
    /// Bytes left to type, each in its own frame.
    pub(crate) keys: VecDeque<u8>,
    started: Instant,
    pub(crate) cuts: u64,
    /// Codes of the close frames received.
    pub(crate) closed: Vec<u16>,
    pub(crate) refusals: u64,
    pub(crate) largest: usize,
    pub(crate) output: Vec<u8>,
    pub(crate) snapshots: Vec<Vec<u8>>,
    /// Output bytes replaced by snapshots.
    pub(crate) gap: u64,
    /// Position of the newest snapshot in `output`.
    pub(crate) after_snapshot: usize,
    pub(crate) others: Vec<ServerFrame>,
    /// Told when the session has ended with its instance; without it, that fails the test.
    pub(crate) ended: Option<Arc<Notify>>,
}

impl Terminal {
    /// A client that connects once it is driven. Its client id is derived from `name`.
    pub(crate) fn new(stack: &Stack, session: &Session, name: &str) -> Self {
        Self {
            url: format!("{}?{}", stack.websocket, session.query()),
            client: Client::new(format!("{name:->16}"), 80, 24),
            socket: None,
            keys: VecDeque::new(),
            started: Instant::now(),
            cuts: 0,
            closed: Vec::new(),
            refusals: 0,
            largest: 0,
            output: Vec::new(),
            snapshots: Vec::new(),
            gap: 0,
            after_snapshot: 0,
            others: Vec::new(),
            ended: None,
        }
    }

    /// Runs, reconnecting as needed, until `done`, which may also type.
    pub(crate) async fn drive(&mut self, within: Duration, mut done: impl FnMut(&mut Self) -> bool) {
        let until = Instant::now() + within;
        while !done(self) {
            assert!(
                Instant::now() < until,
                "not done in time: {} bytes out, {} unacknowledged, {:?}, last frames {:?}",
                self.output.len(),
                self.client.unacknowledged(),
                self.client.counts,
                self.others.last(),
            );
            self.step(until).await;
        }
    }

    /// Types a command line and waits for the output `said`.
    pub(crate) async fn run(&mut self, line: &str, said: &str) {
        self.client.write(line.as_bytes());
        self.client.write(b"\n");
        let from = self.output.len();
        self.drive(support::DEADLINE, |terminal| {
            String::from_utf8_lossy(&terminal.output[from..]).contains(said)
        })
        .await;
    }

    /// Drops the connection without a close frame.
    pub(crate) fn drop_connection(&mut self) {
        self.socket = None;
        self.client.disconnected();
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    async fn step(&mut self, until: Instant) {
        let Some(socket) = &mut self.socket else {
            match support::Client::try_connect(&self.url, &[]).await {
                Ok(socket) => {
                    self.socket = Some(socket);
                    self.client.connected(self.started.elapsed());
                }
                Err(refusal) => {
                    if refusal.status == 404 && self.ended.is_some() {
                        self.end().await;
                    }
                    // A killed function or a cut during the handshake; a browser would retry too.
                    assert!(refusal.status >= 500, "{refusal:?}");
                    self.refusals += 1;
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
            return;
        };
        let mut broken = false;
        for _ in 0..KEYS_AT_ONCE {
            if self.client.unacknowledged() >= KEYS_AHEAD || !self.client.is_attached() {
                break;
            }
            let Some(key) = self.keys.pop_front() else { break };
            self.client.write(&[key]);
            while let Some(frame) = self.client.poll(self.started.elapsed()) {
                broken |=
                    socket.stream.feed(Message::text(serde_json::to_string(&frame).unwrap())).await.is_err();
            }
        }
        while let Some(frame) = self.client.poll(self.started.elapsed()) {
            let json = serde_json::to_string(&frame).unwrap();
            assert!(json.len() <= MAX_FRAME);
            broken |= socket.stream.feed(Message::text(json)).await.is_err();
        }
        broken |= socket.stream.flush().await.is_err();
        let due = self.client.deadline().map_or(until, |due| self.started + due).min(until);
        // Also wakes regularly, so that `done` can check the time or type.
        let due = due.min(Instant::now() + Duration::from_millis(10));
        let message = tokio::select! {
            message = socket.stream.next(), if !broken => Some(message),
            () = tokio::time::sleep_until(due.into()) => None,
        };
        match message {
            Some(Some(Ok(Message::Text(text)))) => {
                if self.ended.is_some() && is_the_end(&text) {
                    self.end().await;
                }
                self.receive(&text);
            }
            None if !broken => {}
            Some(Some(Ok(Message::Ping(_) | Message::Pong(_)))) => {}
            broken => {
                if let Some(Some(Ok(Message::Close(Some(frame))))) = broken {
                    self.closed.push(frame.code.into());
                }
                self.cuts += 1;
                self.drop_connection();
            }
        }
    }

    /// Says that the session has ended, and waits for ever.
    async fn end(&mut self) {
        if let Some(ended) = &self.ended {
            ended.notify_one();
        }
        std::future::pending::<()>().await;
    }

    fn receive(&mut self, text: &str) {
        if text.starts_with(r#"{"message": "Internal server error""#) {
            // API Gateway's error frame for a failed invocation; its contents are sent again.
            self.refusals += 1;
            return;
        }
        let frame: ServerFrame = serde_json::from_str(text).unwrap();
        let limit = match frame {
            ServerFrame::Output { .. } | ServerFrame::Snapshot { .. } => MAX_FRAME,
            _ => MAX_MESSAGE,
        };
        assert!(text.len() <= limit, "a frame of {} bytes", text.len());
        self.largest = self.largest.max(text.len());
        let now = self.now();
        match self.client.receive(frame, now) {
            Event::Snapshot { bytes, gap, .. } => {
                self.gap += gap;
                self.snapshots.push(bytes);
                self.after_snapshot = self.output.len();
            }
            Event::Other(frame) => self.others.push(frame),
            _ => {}
        }
        self.output.extend(self.client.take_output());
    }
}
