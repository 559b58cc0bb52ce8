//! What clients send, and how it is read.

use serde::{Deserialize, Serialize, de::IgnoredAny};

use super::ErrorFrame;
use crate::{ErrorCode, ids::ClientId, limits, payload::Payload, times::Epoch};

/// What a client sends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(tag = "type", rename_all = "snake_case", rename_all_fields = "camelCase")]
#[cfg_attr(test, ts(optional_fields))]
pub enum ClientFrame {
    /// Asks for a `pong`; may carry an acknowledgement.
    Ping {
        /// The client's clock, given back as `echo`.
        #[serde(skip_serializing_if = "Option::is_none")]
        #[cfg_attr(test, ts(type = "number", optional))]
        timestamp: Option<serde_json::Number>,
        /// Acknowledges output up to here.
        #[serde(skip_serializing_if = "Option::is_none")]
        output_offset: Option<u64>,
    },
    /// Runs a command beside the interactive shell.
    Command {
        /// Handed to the shell's `-c`.
        command: String,
        /// Repeats with the same id are answered from the first run.
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<String>,
        /// Killed after this many milliseconds; default 25,000, at most 600,000.
        #[serde(skip_serializing_if = "Option::is_none")]
        timeout_ms: Option<u64>,
    },
    /// Says how large the client's terminal is, in cells.
    Resize {
        /// Columns, 1 or more.
        cols: u16,
        /// Rows, 1 or more.
        rows: u16,
        /// Counter per connection; one not above the last seen has no effect.
        #[serde(skip_serializing_if = "Option::is_none")]
        seq: Option<u64>,
    },
    /// Asks for the newest commands run.
    History,
    /// Empties that list.
    Clear,
    /// Comes back as it was sent, whatever else it holds.
    Echo,
    /// Joins the session's byte streams.
    Attach {
        /// The client's own name for its input stream: 16–64 of `[A-Za-z0-9_-]`.
        client_id: ClientId,
        /// Columns, 1 or more.
        cols: u16,
        /// Rows, 1 or more.
        rows: u16,
        /// First output byte still needed; without it, 0.
        #[serde(skip_serializing_if = "Option::is_none")]
        output_offset: Option<u64>,
        /// The shell that the offset belongs to.
        #[serde(skip_serializing_if = "Option::is_none")]
        epoch: Option<Epoch>,
        /// See [`ClientFrame::Resize`].
        #[serde(skip_serializing_if = "Option::is_none")]
        seq: Option<u64>,
    },
    /// Bytes typed.
    Input {
        /// Whose input stream it is.
        client_id: ClientId,
        /// Offset of the first byte.
        offset: u64,
        /// The bytes.
        #[serde(flatten)]
        payload: Payload,
        /// The shell they are meant for.
        #[serde(skip_serializing_if = "Option::is_none")]
        epoch: Option<Epoch>,
        /// Acknowledges output up to here.
        #[serde(skip_serializing_if = "Option::is_none")]
        output_offset: Option<u64>,
    },
    /// Acknowledges output.
    Ack {
        /// Everything before this offset has arrived.
        output_offset: u64,
        /// The shell that the offset belongs to.
        #[serde(skip_serializing_if = "Option::is_none")]
        epoch: Option<Epoch>,
    },
    /// Leaves the byte streams; the connection stays.
    Detach {
        /// See [`ClientFrame::Resize`].
        #[serde(skip_serializing_if = "Option::is_none")]
        seq: Option<u64>,
    },
    /// A type this server does not know.
    #[serde(other)]
    #[cfg_attr(test, ts(skip))]
    Unknown,
}

/// What can be told of any JSON object before its type is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FrameHead {
    /// Its `type`, if that is a string.
    pub kind: Option<String>,
    /// Its `id`, if that is a string.
    pub id: Option<String>,
}

impl FrameHead {
    /// What an error about this frame calls it: the `id`, else the `type`.
    pub fn reference(&self) -> Option<String> {
        self.id.clone().or_else(|| self.kind.clone())
    }

    /// Reads them from a frame.
    ///
    /// # Errors
    /// When it is not a JSON object.
    pub fn read(json: &[u8]) -> Result<Self, serde_json::Error> {
        #[derive(Default, Deserialize)]
        #[serde(untagged)]
        enum Name {
            Text(String),
            #[default]
            None,
            Other(IgnoredAny),
        }
        #[derive(Deserialize)]
        struct Raw {
            #[serde(default, rename = "type")]
            kind: Name,
            #[serde(default)]
            id: Name,
        }
        if !is_object(json) {
            return Err(not_an_object());
        }
        let Raw { kind, id } = serde_json::from_slice(json)?;
        let text = |name: Name| match name {
            Name::Text(text) => Some(shortened(text)),
            Name::None | Name::Other(_) => None,
        };
        Ok(Self { kind: text(kind), id: text(id) })
    }
}

/// Names given back to the client are cut here, so that an error is never larger than its cause.
const MAX_REFERENCE: usize = 128;

fn shortened(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(MAX_REFERENCE));
    text
}

impl ClientFrame {
    /// Reads a frame from an untrusted source. The error is the answer to send. Reads the text once; only a frame that
    /// is refused, or has no type, is read again for its name.
    ///
    /// # Errors
    /// `BAD_FRAME` when it is not JSON, not an object, or has fields of the wrong type or range. A missing or unknown
    /// type is not an error but [`ClientFrame::Unknown`].
    pub fn parse(json: &[u8]) -> Result<Self, ErrorFrame> {
        let frame = if is_object(json) { serde_json::from_slice(json) } else { Err(not_an_object()) };
        let error = match frame.map(Self::checked) {
            Ok(Ok(frame)) => return Ok(frame),
            Ok(Err(error)) => error,
            Err(error) => bad_frame(&error),
        };
        match FrameHead::read(json) {
            Ok(head) if head.kind.is_none() => Ok(Self::Unknown),
            Ok(head) => Err(error.answering(head.reference())),
            Err(error) => Err(bad_frame(&error)),
        }
    }

    /// Holds the ranges that types cannot.
    fn checked(mut self) -> Result<Self, ErrorFrame> {
        let bad = |message: &str| Err(ErrorFrame::new(ErrorCode::BadFrame, message));
        if let Self::Attach { cols, rows, .. } | Self::Resize { cols, rows, .. } = &mut self {
            if *cols == 0 || *rows == 0 {
                return bad("cols and rows are at least 1");
            }
            *cols = (*cols).min(limits::MAX_COLS);
            *rows = (*rows).min(limits::MAX_ROWS);
        }
        if let Self::Attach { client_id, .. } | Self::Input { client_id, .. } = &self
            && !is_client_id(client_id)
        {
            return bad("clientId is 16 to 64 of A-Z a-z 0-9 _ -");
        }
        Ok(self)
    }
}

/// serde would also read a struct, or a tagged enum, from an array.
fn is_object(json: &[u8]) -> bool {
    json.trim_ascii_start().first() == Some(&b'{')
}

fn not_an_object() -> serde_json::Error {
    serde::de::Error::custom("a frame is a JSON object")
}

fn bad_frame(error: &serde_json::Error) -> ErrorFrame {
    // serde_json's message names fields and positions; of values it quotes only what the sender wrote.
    ErrorFrame::new(ErrorCode::BadFrame, shortened(error.to_string()))
}

/// Whether a text can be a `clientId`.
pub fn is_client_id(text: &str) -> bool {
    limits::CLIENT_ID_LEN.contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}
