//! The handle through which the rest of the backend uses a session.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use shellbridge_protocol::{
    ids::{ConnectionId, SessionId, UserId},
    limits::REPLY_WITHIN,
    times::UnixMs,
};
use shellbridge_session::{
    ConnectionInfo,
    link::{Measured, Reply},
};
use tokio::{
    sync::{Notify, mpsc, oneshot},
    time::{Instant, timeout, timeout_at},
};

use super::{
    outlet::Route,
    tokens::{Stale, Tokens},
};
use crate::{clock::unix_ms, launcher::Room};

/// How long a request waits for a session's usage.
const MEASURED_WITHIN: Duration = Duration::from_secs(1);

/// How long a host may keep an expired session.
const OVERDUE: Duration = Duration::from_secs(5);

/// State of a session that is shared with its task.
#[derive(Debug)]
pub(crate) struct Status {
    /// Its id.
    pub(crate) id: SessionId,
    /// Its owner's `sub`.
    pub(crate) owner: UserId,
    /// Creation time.
    pub(crate) created_at: UnixMs,
    /// Expiry, Unix ms.
    pub(super) expires_at: AtomicU64,
    /// Which of the tokens minted for it are valid.
    pub(crate) tokens: Tokens,
    /// How it is kept apart.
    pub(crate) room: Room,
    pub(super) connections: AtomicUsize,
    pub(super) exited: AtomicBool,
    pub(super) ended: AtomicBool,
    /// Requests the session's end. Not a [`Message`], because the inbox may be full when the host does not answer.
    pub(super) end: Notify,
}

/// Sends messages to a session's task. Cheap to clone, and does not keep the task alive.
#[derive(Clone)]
pub(crate) struct Handle {
    pub(super) status: Arc<Status>,
    pub(super) inbox: mpsc::Sender<Message>,
}

/// A message to a session's task.
pub(super) enum Message {
    Connect {
        info: ConnectionInfo,
        route: Route,
        reply: oneshot::Sender<Result<(), Unreachable>>,
    },
    Disconnect {
        id: ConnectionId,
    },
    Frame {
        info: ConnectionInfo,
        route: Route,
        frame: Incoming,
        reply: oneshot::Sender<Result<Reply, Stale>>,
    },
    /// [`Status::expires_at`] has changed. `told` fires once the message is written to the host's socket.
    Extended {
        told: oneshot::Sender<()>,
    },
    /// The tokens have changed: the host stores them, and connections whose token is no longer valid end. `told` as
    /// above.
    Tokens {
        told: oneshot::Sender<()>,
    },
    /// Measure what the session uses.
    Measure {
        reply: oneshot::Sender<Measured>,
    },
    Drain,
}

/// A client's frame, which only the host parses.
pub(crate) struct Incoming {
    /// The frame in its envelope.
    pub(crate) body: Bytes,
    /// Size of the frame as the client sent it, bytes.
    pub(crate) bytes: usize,
    /// The client's own `timestamp`, as JSON; the envelope overwrites that field.
    pub(crate) timestamp: Option<String>,
    /// The transport's message id.
    pub(crate) message_id: String,
}

/// Why a session did not take a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unreachable {
    /// The session has ended.
    #[error("the session has ended")]
    Ended,
    /// The session did not answer in time.
    #[error("the session is busy")]
    Busy,
    /// The session has reached its limit of connections.
    #[error("the session has too many connections")]
    Full,
    /// The connection's token is no longer valid.
    #[error(transparent)]
    Stale(#[from] Stale),
}

impl Status {
    /// What the next backend has to know. [`Status::noted`] reads it.
    pub(super) fn notes(&self) -> String {
        // Infallible: no map, no I/O. JSON on one line contains no line feed.
        self.tokens.notes() + "\n" + &serde_json::to_string(&self.room).unwrap_or_default()
    }

    /// Reads an earlier backend's notes. One without sandboxes noted the tokens alone.
    pub(super) fn noted(notes: &str) -> (Tokens, Room) {
        let (tokens, room) = notes.split_once('\n').unwrap_or((notes, ""));
        (Tokens::restored(tokens.as_bytes()), serde_json::from_str(room).unwrap_or_default())
    }

    /// Expiry.
    pub(crate) fn expires_at(&self) -> UnixMs {
        UnixMs(self.expires_at.load(Ordering::Relaxed))
    }

    /// Number of connections.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Whether the session has stopped accepting requests.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// `active`, `detached` (no connections) or `exited` (the shell has ended).
    pub(crate) fn state(&self) -> &'static str {
        match (self.exited.load(Ordering::Relaxed), self.connections()) {
            (true, _) => "exited",
            (false, 0) => "detached",
            (false, _) => "active",
        }
    }
}

impl Handle {
    /// The shared state, which needs no round trip to the task.
    pub(crate) fn status(&self) -> &Arc<Status> {
        &self.status
    }

    /// Adds a connection. On timeout the connection may still have been accepted; a failing push will remove it.
    pub(crate) async fn connect(&self, info: ConnectionInfo, route: Route) -> Result<(), Unreachable> {
        let deadline = Instant::now() + REPLY_WITHIN;
        let (reply, answer) = oneshot::channel();
        self.tell(Message::Connect { info, route, reply }).await?;
        match timeout_at(deadline, answer).await {
            Ok(Ok(taken)) => taken,
            Ok(Err(_)) => Err(Unreachable::Ended),
            Err(_) => Err(Unreachable::Busy),
        }
    }

    /// Removes a connection.
    pub(crate) async fn disconnect(&self, id: ConnectionId) -> Result<(), Unreachable> {
        self.tell(Message::Disconnect { id }).await
    }

    /// Delivers a frame and returns its reply. A reply later than [`REPLY_WITHIN`] is pushed instead.
    pub(crate) async fn frame(
        &self,
        info: ConnectionInfo,
        route: Route,
        frame: Incoming,
    ) -> Result<Reply, Unreachable> {
        let deadline = Instant::now() + REPLY_WITHIN;
        let (reply, mut answer) = oneshot::channel();
        self.tell(Message::Frame { info, route, frame, reply }).await?;
        if let Ok(answer) = timeout_at(deadline, &mut answer).await {
            return Ok(answer.map_err(|_| Unreachable::Ended)??);
        }
        // From here on the task pushes the reply. One that it sent just before still counts.
        answer.close();
        Ok(answer.try_recv().unwrap_or(Ok(Reply::Nothing))?)
    }

    /// Extends the session to `expires_at`. On success, the extension survives a crash of this process.
    pub(crate) async fn extend(&self, expires_at: UnixMs) -> Result<(), Unreachable> {
        self.status.expires_at.fetch_max(expires_at.0, Ordering::Relaxed);
        self.tell_durably(|told| Message::Extended { told }).await
    }

    /// Stores changed tokens in the host, and ends connections whose token is no longer valid. On success, the change
    /// survives a crash of this process.
    pub(crate) async fn tokens_changed(&self) -> Result<(), Unreachable> {
        self.tell_durably(|told| Message::Tokens { told }).await
    }

    /// What the session uses. `None` if the host does not know in time, or has a version that cannot measure.
    pub(crate) async fn usage(&self) -> Option<Measured> {
        let measured = async {
            let (reply, measured) = oneshot::channel();
            self.inbox.send(Message::Measure { reply }).await.ok()?;
            measured.await.ok()
        };
        timeout(MEASURED_WITHIN, measured).await.ok().flatten()
    }

    /// Notifies the connections that the backend is stopping.
    pub(crate) async fn drain(&self) -> Result<(), Unreachable> {
        self.tell(Message::Drain).await
    }

    /// Ends an expired session. Its host does so earlier, unless a shell keeps it from it.
    pub(crate) fn end_if_overdue(&self) {
        if unix_ms() > self.status.expires_at().saturating_add(OVERDUE) {
            self.status.end.notify_one();
        }
    }

    /// Ends the session, and waits until its processes and connections are gone.
    pub(crate) async fn end(&self) {
        self.status.end.notify_one();
        self.inbox.closed().await;
    }

    /// Ends the session at `expires_at`, if that is earlier.
    pub(crate) async fn shorten(&self, expires_at: UnixMs) -> Result<(), Unreachable> {
        self.status.expires_at.fetch_min(expires_at.0, Ordering::Relaxed);
        self.tell_durably(|told| Message::Extended { told }).await
    }

    async fn tell_durably(
        &self,
        message: impl FnOnce(oneshot::Sender<()>) -> Message,
    ) -> Result<(), Unreachable> {
        let (told, heard) = oneshot::channel();
        self.tell(message(told)).await?;
        match timeout(REPLY_WITHIN, heard).await {
            Ok(heard) => heard.map_err(|_| Unreachable::Ended),
            Err(_) => Err(Unreachable::Busy),
        }
    }

    async fn tell(&self, message: Message) -> Result<(), Unreachable> {
        match timeout(REPLY_WITHIN / 2, self.inbox.send(message)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Unreachable::Ended),
            Err(_) => Err(Unreachable::Busy),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sessions::tests::{Stuck, info, route};

    #[tokio::test]
    async fn a_session_that_does_not_answer_is_busy_and_blocks_no_request() {
        let (inbox, _unread) = mpsc::channel(1);
        let status = Arc::new(Status {
            id: "s".into(),
            owner: "alice".into(),
            created_at: UnixMs(0),
            expires_at: AtomicU64::new(0),
            tokens: Tokens::new(),
            room: Room::default(),
            connections: AtomicUsize::new(0),
            exited: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            end: Notify::new(),
        });
        let handle = Handle { status, inbox };
        let connect = || timeout(REPLY_WITHIN * 5, handle.connect(info("c"), route(Stuck)));
        let (unanswered, unheard) = tokio::join!(connect(), connect());
        assert_eq!(unanswered.unwrap(), Err(Unreachable::Busy));
        assert_eq!(unheard.unwrap(), Err(Unreachable::Busy), "its inbox is full");
    }
}
