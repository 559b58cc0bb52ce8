//! Frames to clients.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    ErrorCode,
    ids::{ClientId, ConnectionId, SessionId},
    json::{self, RawJson},
    payload::Payload,
    times::{Epoch, UnixMs},
};

/// A frame to a client, from the backend or, on its behalf, the Lambda.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(tag = "type", rename_all = "snake_case", rename_all_fields = "camelCase")]
#[cfg_attr(test, ts(optional_fields))]
pub enum ServerFrame {
    /// First frame of every connection; answers no request.
    Connected {
        /// For humans.
        message: String,
        /// The session that the token opened.
        session_id: SessionId,
        /// API Gateway's id of this connection.
        connection_id: ConnectionId,
        /// When it was sent.
        timestamp: UnixMs,
        /// Version of the protocol.
        protocol: u32,
        /// Whether this connection is view-only.
        read_only: bool,
    },
    /// Answers `ping`.
    Pong {
        /// When it was sent.
        timestamp: UnixMs,
        /// The ping's own timestamp.
        #[serde(skip_serializing_if = "Option::is_none")]
        #[cfg_attr(test, ts(type = "number", optional))]
        echo: Option<serde_json::Number>,
    },
    /// Answers `command`.
    CommandResult {
        /// stdout and stderr in the order written, with invalid UTF-8 replaced.
        result: String,
        /// Like a shell's `$?`: 128 + signal if killed.
        exit_code: i32,
        /// When it was sent.
        timestamp: UnixMs,
        /// The command's id.
        id: String,
        /// Run time in milliseconds.
        duration_ms: u64,
        /// The signal that ended it, such as `SIGKILL`.
        #[serde(skip_serializing_if = "Option::is_none")]
        signal: Option<String>,
        /// Whether `result` is incomplete.
        #[serde(skip_serializing_if = "Option::is_none")]
        truncated: Option<bool>,
    },
    /// The size in force. Answers `resize`, and is also sent when the size changes.
    ResizeAck {
        /// Columns.
        cols: u16,
        /// Rows.
        rows: u16,
        /// When it was sent.
        timestamp: UnixMs,
    },
    /// Answers `history`.
    History {
        /// The newest 100 commands, oldest first.
        history: Vec<HistoryEntry>,
        /// When it was sent.
        timestamp: UnixMs,
    },
    /// Answers `clear`.
    ClearAck {
        /// When it was sent.
        timestamp: UnixMs,
    },
    /// Answers `echo`.
    Echo {
        /// The frame as sent.
        #[serde(deserialize_with = "json::rewritten")]
        #[cfg_attr(test, ts(type = "unknown"))]
        received: RawJson,
        /// When it was sent.
        timestamp: UnixMs,
    },
    /// Answers a frame whose `type` is missing or unknown.
    UnknownCommand {
        /// The type, if the frame had one.
        #[serde(skip_serializing_if = "Option::is_none")]
        received: Option<String>,
        /// For humans.
        message: String,
        /// When it was sent.
        timestamp: UnixMs,
    },
    /// Answers `attach`.
    Attached {
        /// The current shell.
        epoch: Epoch,
        /// Offset at which output continues.
        output_offset: u64,
        /// The next input byte expected from this client.
        input_offset: u64,
        /// Columns in force.
        cols: u16,
        /// Rows in force.
        rows: u16,
        /// Whether this connection is view-only.
        read_only: bool,
        /// Number of evicted output bytes that the client needed; a `snapshot` follows.
        #[serde(skip_serializing_if = "Option::is_none")]
        gap: Option<u64>,
        /// Present if the shell has ended.
        #[serde(skip_serializing_if = "Option::is_none")]
        exit: Option<Exit>,
    },
    /// Output of the shell.
    Output {
        /// The shell.
        epoch: Epoch,
        /// Offset of the first byte.
        offset: u64,
        /// The bytes; none in a probe.
        #[serde(flatten)]
        payload: Payload,
        /// Acknowledges all input before this offset.
        #[serde(skip_serializing_if = "Option::is_none")]
        input_offset: Option<u64>,
    },
    /// A part of a snapshot of the screen, which replaces evicted output.
    Snapshot {
        /// The shell.
        epoch: Epoch,
        /// Offset at which output continues; also identifies the snapshot.
        offset: u64,
        /// Index of this part, from 0.
        part: u32,
        /// Number of parts.
        parts: u32,
        /// Columns of the screen.
        cols: u16,
        /// Rows of the screen.
        rows: u16,
        /// Number of output bytes that the snapshot replaces.
        gap: u64,
        /// Bytes to write after resetting the terminal.
        #[serde(flatten)]
        payload: Payload,
    },
    /// Acknowledges input if no `output` does.
    InputAck {
        /// The shell.
        epoch: Epoch,
        /// The client's input stream.
        client_id: ClientId,
        /// All input before this offset has been written to the shell.
        input_offset: u64,
    },
    /// The shell has ended.
    Exit {
        /// The shell.
        epoch: Epoch,
        /// End of its output; the client first waits for all output before it.
        offset: u64,
        /// How it ended.
        #[serde(flatten)]
        exit: Exit,
    },
    /// Answers `detach`.
    Detached,
    /// An event that the user should know about.
    Notice {
        /// The event.
        code: NoticeCode,
        /// For humans.
        message: String,
    },
    /// A request failed, or the connection ends.
    Error(ErrorFrame),
    /// A type that this version does not know.
    #[serde(other)]
    #[cfg_attr(test, ts(skip))]
    Unknown,
}

/// An `error` frame without its `type`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
#[cfg_attr(test, ts(optional_fields))]
pub struct ErrorFrame {
    /// The error.
    pub code: ErrorCode,
    /// For humans. Contains no secret and no other program's text.
    pub message: String,
    /// Whether the same request may succeed later.
    pub retryable: bool,
    /// The frame that caused it: its `id`, else its `type`.
    #[serde(rename = "ref", skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// The next input byte expected (`INPUT_GAP`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input_offset: Option<u64>,
}

/// How a shell ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
#[cfg_attr(test, ts(optional_fields))]
pub struct Exit {
    /// Like a shell's `$?`: 128 + signal if killed.
    pub exit_code: i32,
    /// The signal that ended it, such as `SIGKILL`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
}

/// A command that `command` ran.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub struct HistoryEntry {
    /// The command as sent.
    pub command: String,
    /// Like a shell's `$?`.
    pub exit_code: i32,
    /// When it ended.
    pub timestamp: UnixMs,
}

/// Code of a `notice`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum NoticeCode {
    /// The backend is stopping.
    Draining,
    /// The session expires soon.
    SessionExpiring,
    /// A new shell is running; attach again.
    ShellRestarted,
    /// A code that this version does not know.
    #[serde(other)]
    #[cfg_attr(test, ts(skip))]
    Unknown,
}

impl ServerFrame {
    /// The frame as JSON text.
    pub fn to_json(&self) -> Bytes {
        // Cannot fail: every map key in a frame is a string, and the writer is memory.
        serde_json::to_vec(self).unwrap_or_default().into()
    }
}

impl ErrorFrame {
    /// An error that is as retryable as its code.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            retryable: code.retryable(),
            reference: None,
            input_offset: None,
        }
    }

    /// Sets the frame that caused it.
    #[must_use]
    pub fn answering(mut self, reference: Option<String>) -> Self {
        self.reference = reference;
        self
    }
}

impl From<ErrorFrame> for ServerFrame {
    fn from(error: ErrorFrame) -> Self {
        Self::Error(error)
    }
}
