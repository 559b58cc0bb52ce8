//! What clients are sent.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    ErrorCode,
    ids::{ClientId, ConnectionId, SessionId},
    json::{self, RawJson},
    payload::Payload,
    times::{Epoch, UnixMs},
};

/// What the backend, or the Lambda for it, sends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(tag = "type", rename_all = "snake_case", rename_all_fields = "camelCase")]
#[cfg_attr(test, ts(optional_fields))]
pub enum ServerFrame {
    /// The first frame of every connection, unasked.
    Connected {
        /// For people.
        message: String,
        /// The session the token opened.
        session_id: SessionId,
        /// API Gateway's id of this connection.
        connection_id: ConnectionId,
        /// When it was sent.
        timestamp: UnixMs,
        /// Version of this contract.
        protocol: u32,
        /// Whether this connection may only watch.
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
        /// stdout and stderr in the order written; invalid UTF-8 replaced.
        result: String,
        /// As a shell's `$?` has it: 128 + signal when killed.
        exit_code: i32,
        /// When it was sent.
        timestamp: UnixMs,
        /// The command's id.
        id: String,
        /// How long it ran.
        duration_ms: u64,
        /// The signal that ended it, such as `SIGKILL`.
        #[serde(skip_serializing_if = "Option::is_none")]
        signal: Option<String>,
        /// Whether `result` is not all there was.
        #[serde(skip_serializing_if = "Option::is_none")]
        truncated: Option<bool>,
    },
    /// The size in force, asked for or not.
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
        /// The newest 100, oldest first.
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
        /// For people.
        message: String,
        /// When it was sent.
        timestamp: UnixMs,
    },
    /// Answers `attach`.
    Attached {
        /// The shell running now.
        epoch: Epoch,
        /// Where output goes on.
        output_offset: u64,
        /// The next input byte expected of this client.
        input_offset: u64,
        /// Columns in force.
        cols: u16,
        /// Rows in force.
        rows: u16,
        /// Whether this connection may only watch.
        read_only: bool,
        /// Output bytes that the client needs and that are gone; a `snapshot` follows.
        #[serde(skip_serializing_if = "Option::is_none")]
        gap: Option<u64>,
        /// The shell has ended.
        #[serde(skip_serializing_if = "Option::is_none")]
        exit: Option<Exit>,
    },
    /// Bytes of the shell.
    Output {
        /// The shell.
        epoch: Epoch,
        /// Offset of the first byte.
        offset: u64,
        /// The bytes; none in a probe.
        #[serde(flatten)]
        payload: Payload,
        /// Acknowledges input up to here.
        #[serde(skip_serializing_if = "Option::is_none")]
        input_offset: Option<u64>,
    },
    /// A part of the screen as it stands, in place of output that is gone.
    Snapshot {
        /// The shell.
        epoch: Epoch,
        /// Where output goes on; also names the snapshot that this part belongs to.
        offset: u64,
        /// Index of this part, from 0.
        part: u32,
        /// How many parts there are.
        parts: u32,
        /// Columns of the screen.
        cols: u16,
        /// Rows of the screen.
        rows: u16,
        /// Output bytes that it stands for.
        gap: u64,
        /// What to write to a terminal that was reset.
        #[serde(flatten)]
        payload: Payload,
    },
    /// Acknowledges input when there is no output to do it.
    InputAck {
        /// The shell.
        epoch: Epoch,
        /// Whose input.
        client_id: ClientId,
        /// Everything before this offset was written to the shell.
        input_offset: u64,
    },
    /// The shell ended.
    Exit {
        /// The shell.
        epoch: Epoch,
        /// End of its output; the client waits for everything before it.
        offset: u64,
        /// How it ended.
        #[serde(flatten)]
        exit: Exit,
    },
    /// Answers `detach`.
    Detached,
    /// Something the user should know.
    Notice {
        /// What it is about.
        code: NoticeCode,
        /// For people.
        message: String,
    },
    /// Something failed.
    Error(ErrorFrame),
    /// A type of a newer server.
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
    /// What failed.
    pub code: ErrorCode,
    /// For people; never a secret, never another program's words.
    pub message: String,
    /// Whether the same request may succeed later.
    pub retryable: bool,
    /// The frame it answers: its `id`, else its `type`.
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
    /// As a shell's `$?` has it: 128 + signal when killed.
    pub exit_code: i32,
    /// The signal that ended it, such as `SIGKILL`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
}

/// One command that was run with `command`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub struct HistoryEntry {
    /// As it was sent.
    pub command: String,
    /// As a shell's `$?` has it.
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
    /// The session's time is nearly over.
    SessionExpiring,
    /// A new shell runs; attach again.
    ShellRestarted,
    /// A code of a newer server.
    #[serde(other)]
    #[cfg_attr(test, ts(skip))]
    Unknown,
}

impl ServerFrame {
    /// The frame as JSON text.
    pub fn to_json(&self) -> Bytes {
        // Infallible: frames hold no maps whose keys are not text, and writing to memory does not fail.
        serde_json::to_vec(self).unwrap_or_default().into()
    }
}

impl ErrorFrame {
    /// An error with the code's own idea of whether a retry helps.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            retryable: code.retryable(),
            reference: None,
            input_offset: None,
        }
    }

    /// Names the frame that it answers.
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
