//! The handle by which the rest of the backend reaches a session.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
};

use shellbridge_protocol::{
    frame::ClientFrame,
    ids::{ConnectionId, SessionId, UserId},
    limits::REPLY_WITHIN,
    times::UnixMs,
};
use shellbridge_session::{ConnectionInfo, Reply};
use tokio::{
    sync::{mpsc, oneshot},
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
        reply: oneshot::Sender<Reply>,
    },
    Extended,
    /// Some tokens are good no more.
    Revoked,
    Drain,
    End,
}

/// A client's frame with what only the bridge knows of it.
pub(super) struct Incoming {
    pub(super) frame: ClientFrame,
    /// The gateway's id of the message.
    pub(super) message_id: String,
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
        frame: ClientFrame,
        message_id: String,
    ) -> Result<Reply, Unreachable> {
        let deadline = Instant::now() + REPLY_WITHIN;
        let (reply, mut answer) = oneshot::channel();
        self.tell(Message::Frame { info, route, frame: Incoming { frame, message_id }, reply }).await?;
        if let Ok(answer) = timeout_at(deadline, &mut answer).await {
            return answer.map_err(|_| Unreachable::Ended);
        }
        // From here on the task pushes; what it answered in this very moment still counts.
        answer.close();
        Ok(answer.try_recv().unwrap_or(Reply::Nothing))
    }

    /// Lets it live until `expires_at`.
    pub(crate) async fn extend(&self, expires_at: UnixMs) -> Result<(), Unreachable> {
        self.status.expires_at.fetch_max(expires_at.0, Ordering::Relaxed);
        self.tell(Message::Extended).await
    }

    /// Ends connections by tokens that are good no more.
    pub(crate) async fn revoked(&self) -> Result<(), Unreachable> {
        self.tell(Message::Revoked).await
    }

    /// Tells its connections that the backend is stopping.
    pub(crate) async fn drain(&self) -> Result<(), Unreachable> {
        self.tell(Message::Drain).await
    }

    /// Ends it, and waits until nothing of it is left.
    pub(crate) async fn end(&self) {
        // Ended already is as good.
        let _ = self.inbox.send(Message::End).await;
        self.inbox.closed().await;
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
        });
        let handle = Handle { status, inbox };
        let connect = || timeout(REPLY_WITHIN * 5, handle.connect(info("c"), route(Stuck)));
        let (unanswered, unheard) = tokio::join!(connect(), connect());
        assert_eq!(unanswered.unwrap(), Err(Unreachable::Busy));
        assert_eq!(unheard.unwrap(), Err(Unreachable::Busy), "its inbox is full");
    }
}
