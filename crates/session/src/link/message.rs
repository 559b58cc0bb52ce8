//! The messages of both directions.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize, de::IntoDeserializer as _};
use shellbridge_protocol::{
    ErrorCode,
    frame::ClientFrame,
    ids::{ConnectionId, SessionId, UserId},
    times::{Epoch, UnixMs},
};

use super::codec::{self, Broken, MAX_MESSAGE, MAX_TO_HOST, Message, Sink};
use crate::{Sent, Settings};

/// Longest [`Peer::address`], bytes.
pub const MAX_ADDRESS: usize = 2048;
/// Largest [`Keep::notes`], bytes.
pub const MAX_NOTES: usize = 16 * 1024;
/// Start of [`Ending::why`] when the session's files could not be laid.
pub const FILES_FAILED: &str = "files: ";
/// Longest [`Log::message`], bytes.
pub const MAX_LOG: usize = 1024;

macro_rules! messages {
    ($(#[$doc:meta])* $name:ident at most $max:ident { $($(#[$about:meta])* $kind:literal $variant:ident,)* }) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub enum $name {
            $($(#[$about])* $variant($variant),)*
        }

        impl Message for $name {
            const MAX: usize = $max;

            fn kind(&self) -> u16 {
                match self {
                    $(Self::$variant(_) => $kind,)*
                }
            }

            fn write(&self, out: &mut Sink<'_>) -> postcard::Result<()> {
                match self {
                    $(Self::$variant(body) => codec::write(body, out),)*
                }
            }

            fn read(kind: u16, body: &[u8]) -> Result<Option<Self>, Broken> {
                Ok(match kind {
                    $($kind => Some(Self::$variant(codec::read(body)?)),)*
                    _ => None,
                })
            }
        }

        $(impl From<$variant> for $name {
            fn from(body: $variant) -> Self {
                Self::$variant(body)
            }
        })*
    };
}

messages! {
    /// From a backend to a host.
    ToHost at most MAX_TO_HOST {
        /// The first message.
        1 Hello,
        /// A connection was made.
        2 Connect,
        /// A client's frame came.
        3 Frame,
        /// A connection is gone.
        4 Gone,
        /// The outcome of a [`Push`].
        5 Pushed,
        /// The result of a [`Check`].
        6 Checked,
        /// The session's expiry was extended.
        7 Extend,
        /// Connections whose tokens are no longer valid.
        8 Revoke,
        /// Notes to keep for the next backend.
        9 Keep,
        /// The backend is stopping; the host notifies clients.
        10 Drain,
        /// End the session.
        11 End,
        /// Measure what the session uses.
        12 Measure,
    }
}

messages! {
    /// From a host to a backend.
    FromHost at most MAX_MESSAGE {
        /// The answer to [`Hello`], after a [`Known`] for each connection.
        1 Here,
        /// A connection of the session.
        2 Known,
        /// Push a frame.
        3 Push,
        /// Close a connection.
        4 Close,
        /// Check whether a connection still exists.
        5 Check,
        /// The answer to a [`Frame`].
        6 Answer,
        /// The answer to a [`Connect`].
        7 Taken,
        /// The connection count or the shell's state changed.
        8 Status,
        /// A line for the log.
        9 Log,
        /// The session is over and accepts no more messages.
        10 Ending,
        /// All of the session's processes have ended. The last message.
        11 Ended,
        /// The answer to a [`Measure`].
        12 Measured,
    }
}

/// See [`ToHost::Hello`].
#[derive(Debug, Serialize, Deserialize)]
pub struct Hello {
    /// The session to start. Ignored by a host that already has one; a host without a session exits if this is `None`.
    pub start: Option<Start>,
}

/// Parameters of a new session.
#[derive(Debug, Serialize, Deserialize)]
pub struct Start {
    /// Its id.
    pub id: SessionId,
    /// Its owner's `sub`.
    pub owner: UserId,
    /// Creation time, Unix ms; also the first epoch.
    pub created_at: UnixMs,
    /// Expiry, Unix ms.
    pub expires_at: UnixMs,
    /// Limits and lifetimes.
    pub settings: Settings,
    /// The shell to run.
    pub shell: ShellSpec,
    /// See [`Keep`].
    pub notes: Bytes,
    /// Files laid below the shell's `HOME` before it starts. If that fails, the session ends with the reason, which
    /// starts with [`FILES_FAILED`].
    pub files: Vec<File>,
    /// Command that the shell's program runs in the terminal before the shell starts, whatever its result.
    pub init: Option<String>,
}

/// A file of a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    /// Path relative to `HOME`.
    pub path: String,
    /// Its content.
    pub content: Bytes,
    /// Its permission bits, at most 0o777.
    pub mode: u32,
}

/// How to start a shell. Paths are text because the API takes them as JSON.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ShellSpec {
    /// Path of the program.
    pub shell: String,
    /// Initial working directory.
    pub cwd: String,
    /// The complete environment.
    pub env: BTreeMap<String, String>,
}

/// A connection, as authenticated by its transport.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Peer {
    /// Its id.
    pub id: ConnectionId,
    /// The connection is view-only.
    pub read_only: bool,
    /// The token's user.
    pub user: UserId,
    /// The token's `shellbridgeId`.
    pub token_id: Option<String>,
    /// When the connection was made, Unix ms by the transport's clock.
    pub connected_at: UnixMs,
    /// Remaining validity of its token, ms.
    pub token_lasts: u64,
    /// Largest frame that its transport can carry, bytes.
    pub max_frame: u32,
    /// Maximum output frames in flight.
    pub in_flight: u32,
    /// Address by which a backend reaches the connection: for API Gateway, the callback URL. At most [`MAX_ADDRESS`]
    /// bytes, opaque to the host.
    pub address: String,
}

/// See [`ToHost::Connect`]. Answered by [`Taken`].
#[derive(Debug, Serialize, Deserialize)]
pub struct Connect {
    /// Request number, chosen by the backend.
    pub request: u64,
    /// The connection.
    pub peer: Peer,
}

/// See [`ToHost::Frame`]. Answered by [`Answer`].
#[derive(Debug, Serialize, Deserialize)]
pub struct Frame {
    /// Request number, chosen by the backend.
    pub request: u64,
    /// The sender's connection.
    pub peer: Peer,
    /// The frame in its envelope.
    pub body: Bytes,
    /// Size of the frame as the client sent it, bytes.
    pub bytes: u32,
    /// The client's own `timestamp`, as JSON; the envelope overwrites that field.
    pub timestamp: Option<String>,
    /// The transport's message id.
    pub message_id: String,
}

/// See [`ToHost::Gone`].
#[derive(Debug, Serialize, Deserialize)]
pub struct Gone {
    /// The connection.
    pub connection: ConnectionId,
}

/// See [`ToHost::Pushed`].
#[derive(Debug, Serialize, Deserialize)]
pub struct Pushed {
    /// [`Push::push`].
    pub push: u64,
    /// The outcome.
    pub sent: Sent,
}

/// See [`ToHost::Checked`].
#[derive(Debug, Serialize, Deserialize)]
pub struct Checked {
    /// The connection.
    pub connection: ConnectionId,
    /// Whether it exists.
    pub exists: bool,
}

/// See [`ToHost::Extend`].
#[derive(Debug, Serialize, Deserialize)]
pub struct Extend {
    /// Expiry of the session, Unix ms. Never earlier than the previous one.
    pub expires_at: UnixMs,
}

/// See [`ToHost::Revoke`].
#[derive(Debug, Serialize, Deserialize)]
pub struct Revoke {
    /// How long the connections may continue, ms.
    pub wait: u64,
    /// The connections.
    pub connections: Vec<ConnectionId>,
}

/// See [`ToHost::Keep`].
#[derive(Debug, Serialize, Deserialize)]
pub struct Keep {
    /// Opaque to the host; at most [`MAX_NOTES`] bytes. The next backend gets the latest notes.
    pub notes: Bytes,
}

/// See [`ToHost::Drain`].
#[derive(Debug, Serialize, Deserialize)]
pub struct Drain {}

/// See [`ToHost::End`].
#[derive(Debug, Serialize, Deserialize)]
pub struct End {}

/// See [`ToHost::Measure`]. Answered by [`Measured`], unless the host is still measuring for an earlier one: then only the
/// latest is answered.
#[derive(Debug, Serialize, Deserialize)]
pub struct Measure {
    /// Request number, chosen by the backend.
    pub request: u64,
    /// Whether to measure the files below `HOME`, which belong to this session alone.
    pub disk: bool,
}

/// See [`FromHost::Here`].
#[derive(Debug, Serialize, Deserialize)]
pub struct Here {
    /// As in [`Start`].
    pub id: SessionId,
    /// As in [`Start`].
    pub owner: UserId,
    /// As in [`Start`].
    pub created_at: UnixMs,
    /// Identifies the running shell.
    pub epoch: Epoch,
    /// Expiry of the session, Unix ms.
    pub expires_at: UnixMs,
    /// Output offset: bytes that the shell has written.
    pub output: u64,
    /// Whether the shell has ended.
    pub exited: bool,
    /// The latest [`Keep::notes`].
    pub notes: Bytes,
}

/// See [`FromHost::Known`].
#[derive(Debug, Serialize, Deserialize)]
pub struct Known {
    /// The connection.
    pub peer: Peer,
}

/// See [`FromHost::Push`].
#[derive(Debug, Serialize, Deserialize)]
pub struct Push {
    /// Push number, chosen by the host.
    pub push: u64,
    /// The receiving connection.
    pub to: ConnectionId,
    /// JSON text.
    pub frame: Bytes,
    /// If the frame is too large for the connection, an error may replace it.
    pub replaceable: bool,
}

/// See [`FromHost::Close`].
#[derive(Debug, Serialize, Deserialize)]
pub struct Close {
    /// The connection.
    pub connection: ConnectionId,
    /// A last frame, with the reason.
    pub last: Option<Bytes>,
    /// The reason for transports with close codes; `None` if the connection is already gone.
    pub reason: Option<Reason>,
}

/// An [`ErrorCode`] by its wire name, so that unknown codes of a newer version can be decoded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason(String);

impl From<ErrorCode> for Reason {
    fn from(code: ErrorCode) -> Self {
        let json = serde_json::to_string(&code).unwrap_or_default();
        Self(json.trim_matches('"').to_owned())
    }
}

impl From<Reason> for ErrorCode {
    fn from(Reason(name): Reason) -> Self {
        let known: Result<Self, serde::de::value::Error> =
            Self::deserialize(name.as_str().into_deserializer());
        known.unwrap_or(Self::Unknown)
    }
}

/// See [`FromHost::Check`].
#[derive(Debug, Serialize, Deserialize)]
pub struct Check {
    /// The connection.
    pub connection: ConnectionId,
}

/// See [`FromHost::Answer`].
#[derive(Debug, Serialize, Deserialize)]
pub struct Answer {
    /// [`Frame::request`].
    pub request: u64,
    /// Kind of the frame, for metrics.
    pub received: FrameKind,
    /// Whether the session has the connection after the frame.
    pub has: bool,
    /// The reply.
    pub reply: Reply,
}

/// Reply to a client's frame.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// A frame, JSON text.
    Frame(Bytes),
    /// An `error` frame, JSON text.
    Error(Bytes),
    /// No reply.
    Nothing,
    /// Another [`Answer`] follows when the command has ended.
    Later,
}

/// Kind of a client's frame, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrameKind(u8);

impl FrameKind {
    /// A frame that cannot be parsed.
    pub const MALFORMED: Self = Self(0);
    /// Names by number. Append only.
    const NAMES: [&str; 12] = [
        "malformed",
        "ping",
        "command",
        "resize",
        "history",
        "clear",
        "echo",
        "attach",
        "input",
        "ack",
        "detach",
        "unknown",
    ];

    /// Name of the kind.
    pub fn name(self) -> &'static str {
        Self::NAMES.get(usize::from(self.0)).copied().unwrap_or("unknown")
    }
}

impl From<&ClientFrame> for FrameKind {
    fn from(frame: &ClientFrame) -> Self {
        Self(match frame {
            ClientFrame::Ping { .. } => 1,
            ClientFrame::Command { .. } => 2,
            ClientFrame::Resize { .. } => 3,
            ClientFrame::History => 4,
            ClientFrame::Clear => 5,
            ClientFrame::Echo => 6,
            ClientFrame::Attach { .. } => 7,
            ClientFrame::Input { .. } => 8,
            ClientFrame::Ack { .. } => 9,
            ClientFrame::Detach { .. } => 10,
            ClientFrame::Unknown => 11,
        })
    }
}

/// See [`FromHost::Taken`].
#[derive(Debug, Serialize, Deserialize)]
pub struct Taken {
    /// [`Connect::request`].
    pub request: u64,
    /// The connection.
    pub connection: ConnectionId,
    /// Whether the session accepted the connection; false if it has too many.
    pub taken: bool,
}

/// See [`FromHost::Status`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Number of the session's connections.
    pub connections: u32,
    /// Whether its shell has ended.
    pub exited: bool,
}

/// See [`FromHost::Log`].
#[derive(Debug, Serialize, Deserialize)]
pub struct Log {
    /// Whether the line is a warning.
    pub warning: bool,
    /// At most [`MAX_LOG`] bytes. Never contains what a user typed or a shell wrote.
    pub message: String,
}

/// See [`FromHost::Ending`].
#[derive(Debug, Serialize, Deserialize)]
pub struct Ending {
    /// The reason, for the log.
    pub why: String,
}

/// See [`FromHost::Ended`].
#[derive(Debug, Serialize, Deserialize)]
pub struct Ended {}

/// See [`FromHost::Measured`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measured {
    /// [`Measure::request`].
    pub request: u64,
    /// Living processes of the session, without the host.
    pub processes: u32,
    /// Resident memory of these, bytes. Shared pages count for each.
    pub memory: u64,
    /// Processor time of these and of those that have ended, ms.
    pub cpu_ms: u64,
    /// Bytes that the files below `HOME` occupy. `None` if not asked for, or if there are too many to count in time.
    pub disk: Option<u64>,
}
