//! Effects that a session requests from its driver, and their outcomes.

use std::time::Duration;

use bytes::Bytes;
use shellbridge_protocol::{
    ErrorCode,
    frame::{ErrorFrame, ServerFrame},
    ids::ConnectionId,
    size::Size,
};

use crate::model::Work;

/// An action for the driver.
#[derive(Debug)]
pub enum Effect {
    /// Push a frame. Report the outcome with [`Session::handle_pushed`](crate::Session::handle_pushed).
    Push {
        /// The connection.
        to: ConnectionId,
        /// JSON text.
        frame: Bytes,
        /// Repeated in the report.
        kind: PushKind,
    },
    /// Answer a request that got [`Reply::Later`]. Push the frame if the request has ended since.
    Answer {
        /// [`Request::number`].
        request: u64,
        /// The connection of the request.
        to: ConnectionId,
        /// The answer, if there is one.
        frame: Option<ServerFrame>,
    },
    /// Close a connection, after sending the last frame if there is one.
    Close {
        /// The connection.
        connection: ConnectionId,
        /// The error frame with the reason.
        last: Option<Bytes>,
        /// The reason for transports with close codes. `None` if the connection has probably closed already.
        reason: Option<ErrorCode>,
    },
    /// Check whether a connection still exists. Report it with
    /// [`Session::handle_checked`](crate::Session::handle_checked).
    Check(ConnectionId),
    /// Resize the terminal.
    Resize(Size),
    /// Run a command beside the shell. Report its outcome with
    /// [`Session::handle_command`](crate::Session::handle_command); no other command starts before.
    Run {
        /// Passed to the shell's `-c`.
        command: String,
        /// Time limit.
        timeout: Duration,
    },
    /// Call [`Work::run`] on a thread that may be busy for milliseconds, and return the work with
    /// [`Session::handle_followed`](crate::Session::handle_followed). It updates the screen model.
    Follow(Box<Work>),
    /// Start a new shell after the last one ended. Report it with
    /// [`Session::handle_restarted`](crate::Session::handle_restarted) or
    /// [`Session::handle_restart_failed`](crate::Session::handle_restart_failed).
    StartShell,
    /// The session is over. The last effect; earlier ones have closed the connections.
    End(End),
}

/// Why a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Its shell ended and every client has received `exit`.
    ShellEnded,
    /// It expired.
    Expired,
    /// No client was connected for too long.
    Detached,
    /// It was deleted.
    Deleted,
}

/// Content of a push, which decides what its outcome means.
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

/// Outcome of a push, after all retries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "link", derive(serde::Serialize, serde::Deserialize))]
pub enum Sent {
    /// It was written to the client's socket.
    Delivered,
    /// The connection has closed, or accepts nothing.
    Gone,
    /// The frame is too large for the connection; no retry helps.
    TooLarge,
    /// The driver that pushed it is gone, so it may or may not have arrived.
    Unknown,
}

/// Identifies a request.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// The driver's own number, for [`Effect::Answer`].
    pub number: u64,
    /// The gateway's id of the message, which a `command` without an id uses.
    pub message_id: String,
}

/// The answer to a frame. Some need the frame's text, which only the driver has.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// This frame.
    Frame(ServerFrame),
    /// No answer.
    Nothing,
    /// An [`Effect::Answer`] follows.
    Later,
    /// An `echo` of the frame as sent.
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
