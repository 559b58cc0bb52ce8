//! Frames from clients, and their parser.

use serde::{Deserialize, Serialize, de::IgnoredAny};

use super::ErrorFrame;
use crate::{ErrorCode, ids::ClientId, limits, payload::Payload, times::Epoch};

/// A frame from a client.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(tag = "type", rename_all = "snake_case", rename_all_fields = "camelCase")]
#[cfg_attr(test, ts(optional_fields))]
pub enum ClientFrame {
    /// Requests a `pong`; may acknowledge output.
    Ping {
        /// Any number; `pong` returns it as `echo`.
        #[serde(skip_serializing_if = "Option::is_none")]
        #[cfg_attr(test, ts(type = "number", optional))]
        timestamp: Option<serde_json::Number>,
        /// Acknowledges all output before this offset.
        #[serde(skip_serializing_if = "Option::is_none")]
        output_offset: Option<u64>,
    },
    /// Runs a command beside the interactive shell.
    Command {
        /// Passed to the shell's `-c`.
        command: String,
        /// A repetition with the same id receives the first run's result.
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<String>,
        /// Time limit in milliseconds: 25,000 by default, at most 600,000.
        #[serde(skip_serializing_if = "Option::is_none")]
        timeout_ms: Option<u64>,
    },
    /// Reports the size of the client's terminal, in cells.
    Resize {
        /// Columns, at least 1.
        cols: u16,
        /// Rows, at least 1.
        rows: u16,
        /// Counter per connection. A frame whose `seq` is not above the last one has no effect.
        #[serde(skip_serializing_if = "Option::is_none")]
        seq: Option<u64>,
    },
    /// Requests the newest commands.
    History,
    /// Clears that history.
    Clear,
    /// Requests a copy of this frame, with whatever other fields it has.
    Echo,
    /// Joins the byte streams.
    Attach {
        /// The client's input stream: 16–64 of `[A-Za-z0-9_-]`.
        client_id: ClientId,
        /// Columns, at least 1.
        cols: u16,
        /// Rows, at least 1.
        rows: u16,
        /// First output byte still needed; 0 by default.
        #[serde(skip_serializing_if = "Option::is_none")]
        output_offset: Option<u64>,
        /// The shell that the offset belongs to.
        #[serde(skip_serializing_if = "Option::is_none")]
        epoch: Option<Epoch>,
        /// See [`ClientFrame::Resize`].
        #[serde(skip_serializing_if = "Option::is_none")]
        seq: Option<u64>,
    },
    /// Typed bytes.
    Input {
        /// The client's input stream.
        client_id: ClientId,
        /// Offset of the first byte.
        offset: u64,
        /// The bytes.
        #[serde(flatten)]
        payload: Payload,
        /// The shell that the bytes are for.
        #[serde(skip_serializing_if = "Option::is_none")]
        epoch: Option<Epoch>,
        /// Acknowledges all output before this offset.
        #[serde(skip_serializing_if = "Option::is_none")]
        output_offset: Option<u64>,
    },
    /// Acknowledges output.
    Ack {
        /// All output before this offset has arrived.
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
    /// A type that this version does not know.
    #[serde(other)]
    #[cfg_attr(test, ts(skip))]
    Unknown,
}

/// The fields that identify a frame of any type, even a malformed one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FrameHead {
    /// `type`, if it is a string.
    pub kind: Option<String>,
    /// `id`, if it is a string.
    pub id: Option<String>,
}

impl FrameHead {
    /// The `ref` of an error about this frame: its `id`, else its `type`.
    pub fn reference(&self) -> Option<String> {
        self.id.clone().or_else(|| self.kind.clone())
    }

    /// Parses the fields of a frame.
    ///
    /// # Errors
    /// The frame is not a JSON object.
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

/// Longest text of a client that an error repeats, so that no error is larger than its cause.
const MAX_REFERENCE: usize = 128;

fn shortened(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(MAX_REFERENCE));
    text
}

impl ClientFrame {
    /// Parses a frame from an untrusted source. The error is the response to send. Parses once; only an invalid frame, or
    /// one without a type, is parsed again for its reference.
    ///
    /// # Errors
    /// `BAD_FRAME`: not JSON, not an object, or a field of the wrong type or range. A missing or unknown type is
    /// [`ClientFrame::Unknown`] instead.
    pub fn parse(json: &[u8]) -> Result<Self, ErrorFrame> {
        let frame = if is_object(json) { serde_json::from_slice(json) } else { Err(not_an_object()) };
        let error = match frame.map(Self::checked) {
            Ok(Ok(Self::Unknown)) => None,
            Ok(Ok(frame)) => return Ok(frame),
            Ok(Err(error)) => Some(error),
            Err(error) => Some(bad_frame(&error)),
        };
        match (FrameHead::read(json), error) {
            (Ok(head), Some(error)) if head.kind.is_some() => Err(error.answering(head.reference())),
            (Ok(_), _) => Ok(Self::Unknown),
            (Err(error), _) => Err(bad_frame(&error)),
        }
    }

    /// Enforces the ranges that types cannot express.
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

/// Needed because serde also accepts an array for a struct or a tagged enum.
fn is_object(json: &[u8]) -> bool {
    json.trim_ascii_start().first() == Some(&b'{')
}

fn not_an_object() -> serde_json::Error {
    serde::de::Error::custom("a frame is a JSON object")
}

fn bad_frame(error: &serde_json::Error) -> ErrorFrame {
    // serde_json's message names fields and positions, and quotes only values that the sender wrote.
    ErrorFrame::new(ErrorCode::BadFrame, shortened(error.to_string()))
}

/// Whether a text is a valid `clientId`.
pub fn is_client_id(text: &str) -> bool {
    limits::CLIENT_ID_LEN.contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}
