//! The handle by which the rest of the backend reaches a session.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
};

use bytes::Bytes;
use shellbridge_protocol::{
    ids::{ConnectionId, SessionId, UserId},
    limits::REPLY_WITHIN,
    times::UnixMs,
};
use shellbridge_session::{ConnectionInfo, link::Reply};
use tokio::{
    sync::{Notify, mpsc, oneshot},
    time::{Instant, timeout, timeout_at},
};

use super::{
    outlet::Route,
    tokens::{Stale, Tokens},
};

/// What is known of a session from outside its task.
#[derive(Debug)]
pub(crate) struct Status {
    /// Its name.
    pub(crate) id: SessionId,
    /// Its owner's `sub`.
    pub(crate) owner: UserId,
    /// When it was made.
    pub(crate) created_at: UnixMs,
    /// When it ends, Unix ms.
    pub(super) expires_at: AtomicU64,
    /// Which of the tokens minted for it are good.
    pub(crate) tokens: Tokens,
    pub(super) connections: AtomicUsize,
    pub(super) exited: AtomicBool,
    pub(super) ended: AtomicBool,
    /// It is to end. Apart from the inbox, which may be full because the host does not answer.
    pub(super) end: Notify,
}

/// A way to a session's task. Cheap to clone; the task does not live longer for it.
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
    /// More time: see [`Status::expires_at`]. `told` when the host is sure to hear of it.
    Extended {
        told: oneshot::Sender<()>,
    },
    /// The tokens have changed: the host keeps them, and connections by those that are good no more end. `told` as
    /// above.
    Tokens {
        told: oneshot::Sender<()>,
    },
    Drain,
}

/// A client's frame, which only the session reads.
pub(crate) struct Incoming {
    /// In its envelope.
    pub(crate) body: Bytes,
    /// Bytes of it that the client sent.
    pub(crate) bytes: usize,
    /// The client's own `timestamp`, as JSON; the envelope has another in its place.
    pub(crate) timestamp: Option<String>,
    /// The transport's id of the message.
    pub(crate) message_id: String,
}

/// Why a session's task could not be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unreachable {
    /// It has ended.
    #[error("the session has ended")]
    Ended,
    /// It has more to do than it can.
    #[error("the session is busy")]
    Busy,
    /// It has as many connections as it may.
    #[error("the session has too many connections")]
    Full,
    /// The connection's token is good no more.
    #[error(transparent)]
    Stale(#[from] Stale),
}

impl Status {
    /// When it ends.
    pub(crate) fn expires_at(&self) -> UnixMs {
        UnixMs(self.expires_at.load(Ordering::Relaxed))
    }

    /// How many connections it has.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Whether it takes nothing more.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// `active`, `detached` (nobody is connected) or `exited` (the shell has ended).
    pub(crate) fn state(&self) -> &'static str {
        match (self.exited.load(Ordering::Relaxed), self.connections()) {
            (true, _) => "exited",
            (false, 0) => "detached",
            (false, _) => "active",
        }
    }
}

impl Handle {
    /// What is known without asking.
    pub(crate) fn status(&self) -> &Arc<Status> {
        &self.status
    }

    /// A connection was made. What is not answered in time may have been taken all the same; if nobody is there, a
    /// push will find that out.
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

    /// A connection is gone.
    pub(crate) async fn disconnect(&self, id: ConnectionId) -> Result<(), Unreachable> {
        self.tell(Message::Disconnect { id }).await
    }

    /// A frame came. What is not answered within [`REPLY_WITHIN`] is pushed.
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
        // From here on the task pushes; what it answered in this very moment still counts.
        answer.close();
        Ok(answer.try_recv().unwrap_or(Ok(Reply::Nothing))?)
    }

    /// Lets it live until `expires_at`. When this returns, it will, whatever becomes of this process.
    pub(crate) async fn extend(&self, expires_at: UnixMs) -> Result<(), Unreachable> {
        self.status.expires_at.fetch_max(expires_at.0, Ordering::Relaxed);
        self.tell_surely(|told| Message::Extended { told }).await
    }

    /// Its tokens have changed: connections by those that are good no more end. When this returns, the change outlives
    /// this process.
    pub(crate) async fn tokens_changed(&self) -> Result<(), Unreachable> {
        self.tell_surely(|told| Message::Tokens { told }).await
    }

    /// Tells its connections that the backend is stopping.
    pub(crate) async fn drain(&self) -> Result<(), Unreachable> {
        self.tell(Message::Drain).await
    }

    /// Ends it, and waits until nothing of it is left.
    pub(crate) async fn end(&self) {
        self.status.end.notify_one();
        self.inbox.closed().await;
    }

    async fn tell_surely(
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
    async fn a_session_that_does_not_answer_is_busy_and_keeps_nobody() {
        let (inbox, _unread) = mpsc::channel(1);
        let status = Arc::new(Status {
            id: "s".into(),
            owner: "alice".into(),
            created_at: UnixMs(0),
            expires_at: AtomicU64::new(0),
            tokens: Tokens::new(),
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
