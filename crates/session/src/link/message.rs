//! What the two sides say.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize, de::IntoDeserializer as _};
use shellbridge_protocol::{
    ErrorCode,
    frame::ClientFrame,
    ids::{ConnectionId, SessionId, UserId},
    times::{Epoch, UnixMs},
};

use super::codec::{self, Broken, Message, Sink};
use crate::{Sent, Settings};

/// Longest [`Peer::address`], bytes.
pub const MAX_ADDRESS: usize = 2048;
/// Largest [`Keep::notes`], bytes.
pub const MAX_NOTES: usize = 16 * 1024;
/// Longest [`Log::message`], bytes.
pub const MAX_LOG: usize = 1024;

macro_rules! messages {
    ($(#[$doc:meta])* $name:ident { $($(#[$about:meta])* $kind:literal $variant:ident,)* }) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub enum $name {
            $($(#[$about])* $variant($variant),)*
        }

        impl Message for $name {
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
    ToHost {
        /// The first message.
        1 Hello,
        /// A connection was made.
        2 Connect,
        /// A client's frame came.
        3 Frame,
        /// A connection is gone.
        4 Gone,
        /// What became of a [`Push`].
        5 Pushed,
        /// What a [`Check`] found.
        6 Checked,
        /// More time.
        7 Extend,
        /// Connections whose tokens are good no more.
        8 Revoke,
        /// Notes to keep for the next backend.
        9 Keep,
        /// The backend is stopping: clients are told.
        10 Drain,
        /// The session ends.
        11 End,
    }
}

messages! {
    /// From a host to a backend.
    FromHost {
        /// The answer to [`Hello`], after a [`Known`] for each connection.
        1 Here,
        /// A connection of the session.
        2 Known,
        /// Push a frame.
        3 Push,
        /// Close a connection.
        4 Close,
        /// Say whether a connection still exists.
        5 Check,
        /// The answer to a [`Frame`].
        6 Answer,
        /// The answer to a [`Connect`].
        7 Taken,
        /// Something changed that others ask for.
        8 Status,
        /// A line for the log.
        9 Log,
        /// The session is over: it takes nothing more.
        10 Ending,
        /// Nothing of the session is left. The last message.
        11 Ended,
    }
}

/// See [`ToHost::Hello`].
#[derive(Debug, Serialize, Deserialize)]
pub struct Hello {
    /// What to start. A host that has a session already ignores it, and one that has none ends without.
    pub start: Option<Start>,
}

/// What a session is started with.
#[derive(Debug, Serialize, Deserialize)]
pub struct Start {
    /// Its name.
    pub id: SessionId,
    /// Its owner's `sub`.
    pub owner: UserId,
    /// When it was made, Unix ms; also the first epoch.
    pub created_at: UnixMs,
    /// When it ends, Unix ms.
    pub expires_at: UnixMs,
    /// Its bounds.
    pub settings: Settings,
    /// Its shell.
    pub shell: ShellSpec,
    /// See [`Keep`].
    pub notes: Bytes,
}

/// How to start a shell. Text, since it comes as JSON.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ShellSpec {
    /// The program's path.
    pub shell: String,
    /// Where it starts.
    pub cwd: String,
    /// All of its environment.
    pub env: BTreeMap<String, String>,
}

/// A connection, as its transport vouches for it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Peer {
    /// Its name.
    pub id: ConnectionId,
    /// It may only watch.
    pub read_only: bool,
    /// The token's user.
    pub user: UserId,
    /// The token's `shellbridgeId`.
    pub token_id: Option<String>,
    /// When it was made, Unix ms by the transport's clock.
    pub connected_at: UnixMs,
    /// How much longer its token is valid, ms.
    pub token_lasts: u64,
    /// Largest frame that its transport carries, bytes.
    pub max_frame: u32,
    /// Output frames in flight at once.
    pub in_flight: u32,
    /// How a backend finds the way to it: for API Gateway the callback URL. The host only keeps it; at most
    /// [`MAX_ADDRESS`] bytes.
    pub address: String,
}

/// See [`ToHost::Connect`]. Answered by [`Taken`].
#[derive(Debug, Serialize, Deserialize)]
pub struct Connect {
    /// The backend's number.
    pub request: u64,
    /// Who.
    pub peer: Peer,
}

/// See [`ToHost::Frame`]. Answered by [`Answer`].
#[derive(Debug, Serialize, Deserialize)]
pub struct Frame {
    /// The backend's number.
    pub request: u64,
    /// From whom.
    pub peer: Peer,
    /// The frame in its envelope.
    pub body: Bytes,
    /// Bytes of it that the client sent.
    pub bytes: u32,
    /// The client's own `timestamp`, as JSON; the envelope has another in its place.
    pub timestamp: Option<String>,
    /// The transport's id of the message.
    pub message_id: String,
}

/// See [`ToHost::Gone`].
#[derive(Debug, Serialize, Deserialize)]
pub struct Gone {
    /// Which.
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
    /// Which.
    pub connection: ConnectionId,
    /// Whether it exists.
    pub exists: bool,
}

/// See [`ToHost::Extend`].
#[derive(Debug, Serialize, Deserialize)]
pub struct Extend {
    /// When the session ends, Unix ms. Never sooner than before.
    pub expires_at: UnixMs,
}

/// See [`ToHost::Revoke`].
#[derive(Debug, Serialize, Deserialize)]
pub struct Revoke {
    /// How much longer they may live, ms.
    pub wait: u64,
    /// Which.
    pub connections: Vec<ConnectionId>,
}

/// See [`ToHost::Keep`].
#[derive(Debug, Serialize, Deserialize)]
pub struct Keep {
    /// The backend's own; at most [`MAX_NOTES`] bytes. The next backend gets the last.
    pub notes: Bytes,
}

/// See [`ToHost::Drain`].
#[derive(Debug, Serialize, Deserialize)]
pub struct Drain {}

/// See [`ToHost::End`].
#[derive(Debug, Serialize, Deserialize)]
pub struct End {}

/// See [`FromHost::Here`].
#[derive(Debug, Serialize, Deserialize)]
pub struct Here {
    /// As in [`Start`].
    pub id: SessionId,
    /// As in [`Start`].
    pub owner: UserId,
    /// As in [`Start`].
    pub created_at: UnixMs,
    /// Names the running shell.
    pub epoch: Epoch,
    /// When the session ends, Unix ms.
    pub expires_at: UnixMs,
    /// Bytes that the shell has written.
    pub output: u64,
    /// Whether the shell has ended.
    pub exited: bool,
    /// What the last backend had it keep.
    pub notes: Bytes,
}

/// See [`FromHost::Known`].
#[derive(Debug, Serialize, Deserialize)]
pub struct Known {
    /// Who.
    pub peer: Peer,
}

/// See [`FromHost::Push`].
#[derive(Debug, Serialize, Deserialize)]
pub struct Push {
    /// The host's number.
    pub push: u64,
    /// To whom.
    pub to: ConnectionId,
    /// JSON text.
    pub frame: Bytes,
    /// If the connection cannot carry it, an error may stand for it.
    pub replaceable: bool,
}

/// See [`FromHost::Close`].
#[derive(Debug, Serialize, Deserialize)]
pub struct Close {
    /// Which.
    pub connection: ConnectionId,
    /// A frame that says why.
    pub last: Option<Bytes>,
    /// The same for transports with close codes; none if the connection is gone already.
    pub reason: Option<Reason>,
}

/// An [`ErrorCode`] by its name on the wire, so that a newer one is told from the others.
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
    /// Which.
    pub connection: ConnectionId,
}

/// See [`FromHost::Answer`].
#[derive(Debug, Serialize, Deserialize)]
pub struct Answer {
    /// [`Frame::request`].
    pub request: u64,
    /// What the frame was.
    pub received: FrameKind,
    /// Whether the session has the connection now.
    pub has: bool,
    /// What to say.
    pub reply: Reply,
}

/// What to say to a frame.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// This, JSON text.
    Frame(Bytes),
    /// This error, JSON text.
    Error(Bytes),
    /// Nothing.
    Nothing,
    /// Another [`Answer`] follows, when the command has ended.
    Later,
}

/// A client's frame, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrameKind(u8);

impl FrameKind {
    /// One that cannot be read.
    pub const MALFORMED: Self = Self(0);
    /// Names by number. Only ever appended to.
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

    /// Its name.
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
    /// Which.
    pub connection: ConnectionId,
    /// False: the session has too many.
    pub taken: bool,
}

/// See [`FromHost::Status`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Connections that the session has.
    pub connections: u32,
    /// Whether its shell has ended.
    pub exited: bool,
}

/// See [`FromHost::Log`].
#[derive(Debug, Serialize, Deserialize)]
pub struct Log {
    /// It is a warning.
    pub warning: bool,
    /// At most [`MAX_LOG`] bytes; nothing that a user typed or a shell wrote.
    pub message: String,
}

/// See [`FromHost::Ending`].
#[derive(Debug, Serialize, Deserialize)]
pub struct Ending {
    /// For the log.
    pub why: String,
}

/// See [`FromHost::Ended`].
#[derive(Debug, Serialize, Deserialize)]
pub struct Ended {}
