//! What a session asks its driver to do, and what the driver reports of it.

use std::time::Duration;

use bytes::Bytes;
use shellbridge_protocol::{
    ErrorCode,
    frame::{ErrorFrame, ServerFrame},
    ids::ConnectionId,
    size::Size,
};

use crate::model::Work;

/// Something the driver must do.
#[derive(Debug)]
pub enum Effect {
    /// Push a frame. Report what became of it with [`Session::handle_pushed`](crate::Session::handle_pushed).
    Push {
        /// The connection.
        to: ConnectionId,
        /// JSON text.
        frame: Bytes,
        /// To be reported back.
        kind: PushKind,
    },
    /// Answer a request that [`Reply::Later`] left open: the frame, or nothing. Push the frame if the request is no
    /// longer open.
    Answer {
        /// [`Request::number`].
        request: u64,
        /// The connection that asked.
        to: ConnectionId,
        /// The answer, if there is one.
        frame: Option<ServerFrame>,
    },
    /// Close a connection, after a last frame if there is one.
    Close {
        /// The connection.
        connection: ConnectionId,
        /// The error frame that says why.
        last: Option<Bytes>,
        /// The same for transports with close codes. None if the connection is gone already.
        reason: Option<ErrorCode>,
    },
    /// Ask whether a connection still exists. Report it with
    /// [`Session::handle_checked`](crate::Session::handle_checked).
    Check(ConnectionId),
    /// Resize the terminal.
    Resize(Size),
    /// Run a command beside the shell. Report its end with
    /// [`Session::handle_command`](crate::Session::handle_command); until then there is no other.
    Run {
        /// Handed to the shell's `-c`.
        command: String,
        /// Killed after this.
        timeout: Duration,
    },
    /// Run [`Work::run`], on a thread that may be busy for milliseconds, and hand the work back with
    /// [`Session::handle_followed`](crate::Session::handle_followed): the screen model follows the output.
    Follow(Box<Work>),
    /// Start a shell in place of the one that ended. Report it with
    /// [`Session::handle_restarted`](crate::Session::handle_restarted) or
    /// [`Session::handle_restart_failed`](crate::Session::handle_restart_failed).
    StartShell,
    /// The session is over; connections were closed by the effects before this one. The last effect.
    End(End),
}

/// Why a session is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Its shell ended, and every client knows it.
    ShellEnded,
    /// Its time is over.
    Expired,
    /// No client was connected for too long.
    Detached,
    /// It was deleted.
    Deleted,
}

/// What a push carries, so that its outcome means something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PushKind {
    /// Output or a snapshot; counts as in flight.
    Output,
    /// The shell's end.
    Exit,
    /// The size in force.
    Size,
    /// Anything else.
    Other,
}

/// The outcome of a push, after all retries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// It was handed to the client's socket.
    Delivered,
    /// There is no such connection any more, or it takes nothing.
    Gone,
    /// This frame is larger than the connection takes, however often it is sent.
    TooLarge,
}

/// What names a frame's answer.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// The driver's own number, for [`Effect::Answer`].
    pub number: u64,
    /// The gateway's id of the message: the id of a `command` without one.
    pub message_id: String,
}

/// The answer to a frame. The driver knows the frame's text; the session does not.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// This frame.
    Frame(ServerFrame),
    /// None.
    Nothing,
    /// An [`Effect::Answer`] follows.
    Later,
    /// An `echo` of the frame as it was sent.
    Echo,
    /// `unknown_command`.
    Unknown,
}

impl From<Option<ServerFrame>> for Reply {
    fn from(frame: Option<ServerFrame>) -> Self {
        frame.map_or(Self::Nothing, Self::Frame)
    }
}

/// An error frame. The driver adds which frame it answers.
#[expect(clippy::unnecessary_wraps, reason = "it stands where an answer may be none")]
pub(crate) fn error(code: ErrorCode, message: &str) -> Option<ServerFrame> {
    Some(ErrorFrame::new(code, message).into())
}
