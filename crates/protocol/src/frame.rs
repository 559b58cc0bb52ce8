//! Frames between client and backend: one JSON object each, told apart by `type`.
//!
//! `timestamp` is Unix milliseconds; offsets count bytes of one stream from 0; `epoch` names a shell. Both stay
//! under 2^53, so that JavaScript's numbers hold them.

use serde::{Deserialize, Serialize};
use ts_rs::TS;

use crate::{ErrorCode, limits, payload::Payload};

/// What a client sends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
#[serde(tag = "type", rename_all = "snake_case", rename_all_fields = "camelCase")]
#[ts(optional_fields)]
pub enum ClientFrame {
    /// Asks for a `pong`; may carry an acknowledgement.
    Ping {
        /// The client's clock, given back as `echo`.
        #[serde(skip_serializing_if = "Option::is_none")]
        #[ts(type = "number", optional)]
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
        client_id: String,
        /// Columns, 1 or more.
        cols: u16,
        /// Rows, 1 or more.
        rows: u16,
        /// First output byte still needed; without it, 0.
        #[serde(skip_serializing_if = "Option::is_none")]
        output_offset: Option<u64>,
        /// The shell that the offset belongs to.
        #[serde(skip_serializing_if = "Option::is_none")]
        epoch: Option<u64>,
        /// See [`ClientFrame::Resize`].
        #[serde(skip_serializing_if = "Option::is_none")]
        seq: Option<u64>,
    },
    /// Bytes typed.
    Input {
        /// Whose input stream it is.
        client_id: String,
        /// Offset of the first byte.
        offset: u64,
        /// The bytes.
        #[serde(flatten)]
        payload: Payload,
        /// The shell they are meant for.
        #[serde(skip_serializing_if = "Option::is_none")]
        epoch: Option<u64>,
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
        epoch: Option<u64>,
    },
    /// Leaves the byte streams; the connection stays.
    Detach {
        /// See [`ClientFrame::Resize`].
        #[serde(skip_serializing_if = "Option::is_none")]
        seq: Option<u64>,
    },
    /// A type this server does not know.
    #[serde(other)]
    #[ts(skip)]
    Unknown,
}

/// What the backend, or the Lambda for it, sends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
#[serde(tag = "type", rename_all = "snake_case", rename_all_fields = "camelCase")]
#[ts(optional_fields)]
pub enum ServerFrame {
    /// The first frame of every connection, unasked.
    Connected {
        /// For people.
        message: String,
        /// The session the token opened.
        session_id: String,
        /// API Gateway's id of this connection.
        connection_id: String,
        /// When it was sent.
        timestamp: u64,
        /// Version of this contract.
        protocol: u32,
        /// Whether this connection may only watch.
        read_only: bool,
    },
    /// Answers `ping`.
    Pong {
        /// When it was sent.
        timestamp: u64,
        /// The ping's own timestamp.
        #[serde(skip_serializing_if = "Option::is_none")]
        #[ts(type = "number", optional)]
        echo: Option<serde_json::Number>,
    },
    /// Answers `command`.
    CommandResult {
        /// stdout and stderr in the order written; invalid UTF-8 replaced.
        result: String,
        /// As a shell's `$?` has it: 128 + signal when killed.
        exit_code: i32,
        /// When it was sent.
        timestamp: u64,
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
        timestamp: u64,
    },
    /// Answers `history`.
    History {
        /// The newest 100, oldest first.
        history: Vec<HistoryEntry>,
        /// When it was sent.
        timestamp: u64,
    },
    /// Answers `clear`.
    ClearAck {
        /// When it was sent.
        timestamp: u64,
    },
    /// Answers `echo`.
    Echo {
        /// The frame as sent.
        #[ts(type = "unknown")]
        received: serde_json::Value,
        /// When it was sent.
        timestamp: u64,
    },
    /// Answers a frame whose `type` is missing or unknown.
    UnknownCommand {
        /// The type, if the frame had one.
        #[serde(skip_serializing_if = "Option::is_none")]
        received: Option<String>,
        /// For people.
        message: String,
        /// When it was sent.
        timestamp: u64,
    },
    /// Answers `attach`.
    Attached {
        /// The shell running now.
        epoch: u64,
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
        epoch: u64,
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
        epoch: u64,
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
        epoch: u64,
        /// Whose input.
        client_id: String,
        /// Everything before this offset was written to the shell.
        input_offset: u64,
    },
    /// The shell ended.
    Exit {
        /// The shell.
        epoch: u64,
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
    #[ts(skip)]
    Unknown,
}

/// An `error` frame without its `type`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, TS)]
#[serde(rename_all = "camelCase")]
#[ts(optional_fields)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, TS)]
#[serde(rename_all = "camelCase")]
#[ts(optional_fields)]
pub struct Exit {
    /// As a shell's `$?` has it: 128 + signal when killed.
    pub exit_code: i32,
    /// The signal that ended it, such as `SIGKILL`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
}

/// One command that was run with `command`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, TS)]
#[serde(rename_all = "camelCase")]
pub struct HistoryEntry {
    /// As it was sent.
    pub command: String,
    /// As a shell's `$?` has it.
    pub exit_code: i32,
    /// When it ended.
    pub timestamp: u64,
}

/// Code of a `notice`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, TS)]
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
    #[ts(skip)]
    Unknown,
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
        #[derive(Deserialize)]
        struct Raw {
            #[serde(default, rename = "type")]
            kind: serde_json::Value,
            #[serde(default)]
            id: serde_json::Value,
        }
        // Only an object will do: serde would also read a struct from an array.
        if json.trim_ascii_start().first() != Some(&b'{') {
            return Err(serde::de::Error::custom("a frame is a JSON object"));
        }
        let Raw { kind, id } = serde_json::from_slice(json)?;
        let text = |value: serde_json::Value| match value {
            serde_json::Value::String(text) => Some(shortened(text)),
            _ => None,
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
    /// Reads a frame of any origin. The error is what to answer; the head names the frame either way.
    ///
    /// # Errors
    /// `BAD_FRAME` when it is not JSON, not an object, or has fields of the wrong type or range. A type that is
    /// missing or unknown is no error but [`ClientFrame::Unknown`].
    pub fn parse(json: &[u8]) -> Result<(Self, FrameHead), ErrorFrame> {
        let head = FrameHead::read(json).map_err(|error| bad_frame(&error))?;
        let frame = match &head.kind {
            Some(_) => serde_json::from_slice(json)
                .map_err(|error| bad_frame(&error))
                .and_then(Self::checked)
                .map_err(|error| error.answering(head.reference()))?,
            None => Self::Unknown,
        };
        Ok((frame, head))
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

fn bad_frame(error: &serde_json::Error) -> ErrorFrame {
    // serde_json's message names fields and positions; of values it quotes only what the sender wrote.
    ErrorFrame::new(ErrorCode::BadFrame, shortened(error.to_string()))
}

/// Whether a text can be a `clientId`.
pub fn is_client_id(text: &str) -> bool {
    limits::CLIENT_ID_LEN.contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(value: &serde_json::Value) -> Result<ClientFrame, ErrorFrame> {
        ClientFrame::parse(value.to_string().as_bytes()).map(|(frame, _)| frame)
    }

    #[test]
    fn frames_read_as_the_contract_writes_them() {
        let frame =
            parse(&json!({"type":"attach","clientId":"0123456789abcdef","cols":80,"rows":24,"action":"x"}));
        assert_eq!(
            frame,
            Ok(ClientFrame::Attach {
                client_id: "0123456789abcdef".into(),
                cols: 80,
                rows: 24,
                output_offset: None,
                epoch: None,
                seq: None
            })
        );
        let input = json!({"type":"input","clientId":"0123456789abcdef","offset":7,"b64":"AA==","epoch":1});
        let Ok(ClientFrame::Input { payload, .. }) = parse(&input) else { panic!("not input") };
        assert_eq!(payload.decode().unwrap(), [0]);
    }

    #[test]
    fn a_missing_or_unknown_type_is_unknown_and_not_an_error() {
        for value in [json!({}), json!({"type": 7}), json!({"type": "reboot"}), json!({"type": null})] {
            assert_eq!(parse(&value), Ok(ClientFrame::Unknown), "{value}");
        }
    }

    #[test]
    fn wrong_json_types_and_ranges_are_bad_frames_that_name_their_cause() {
        let id = "0123456789abcdef";
        for value in [
            json!({"type":"resize","cols":"80","rows":24}),
            json!({"type":"resize","cols":0,"rows":24}),
            json!({"type":"resize","cols":-1,"rows":24}),
            json!({"type":"resize","cols":80.5,"rows":24}),
            json!({"type":"resize","cols":80}),
            json!({"type":"attach","clientId":"short","cols":80,"rows":24}),
            json!({"type":"attach","clientId":"0123456789abcde/","cols":80,"rows":24}),
            json!({"type":"input","clientId":id,"offset":-1,"data":"x"}),
            json!({"type":"command","command":["ls"]}),
            json!({"type":"command","command":"ls","timeoutMs":"1"}),
        ] {
            let error = parse(&value).unwrap_err();
            assert_eq!(error.code, ErrorCode::BadFrame, "{value}");
            assert_eq!(error.reference.as_deref(), value["type"].as_str(), "{value}");
        }
        for text in ["", "x", "[]", "[\"ping\"]", "null", "7", "{", "{\"type\":\"ping\"} x", "\u{feff}{}"] {
            assert_eq!(ClientFrame::parse(text.as_bytes()).unwrap_err().code, ErrorCode::BadFrame, "{text}");
        }
        assert_eq!(ClientFrame::parse(b"{\"type\":\"\xff\"}").unwrap_err().code, ErrorCode::BadFrame);
    }

    #[test]
    fn deep_nesting_is_an_error_and_not_a_stack_overflow() {
        let deep = format!("{{\"type\":\"echo\",\"x\":{}1{}}}", "[".repeat(16_000), "]".repeat(16_000));
        assert_eq!(ClientFrame::parse(deep.as_bytes()).unwrap_err().code, ErrorCode::BadFrame);
    }

    #[test]
    fn a_giant_terminal_is_brought_down_to_the_limit() {
        let frame = parse(&json!({"type":"resize","cols":65535,"rows":65535}));
        assert_eq!(
            frame,
            Ok(ClientFrame::Resize { cols: limits::MAX_COLS, rows: limits::MAX_ROWS, seq: None })
        );
    }

    #[test]
    fn errors_name_the_frame_by_id_before_type() {
        let error = parse(&json!({"type":"command","id":"c1","command":1})).unwrap_err();
        assert_eq!(error.reference.as_deref(), Some("c1"));
    }

    #[test]
    fn server_frames_write_as_the_contract_has_them() {
        let text = |frame: &ServerFrame| serde_json::to_value(frame).unwrap();
        let output =
            ServerFrame::Output { epoch: 5, offset: 3, payload: Payload::new(b"hi"), input_offset: None };
        assert_eq!(text(&output), json!({"type":"output","epoch":5,"offset":3,"data":"hi"}));
        let error = ErrorFrame::new(ErrorCode::NotAttached, "attach first").answering(Some("input".into()));
        assert_eq!(
            text(&error.into()),
            json!({"type":"error","code":"NOT_ATTACHED","message":"attach first","retryable":true,"ref":"input"})
        );
        let exit = Exit { exit_code: 0, signal: None };
        assert_eq!(
            text(&ServerFrame::Exit { epoch: 1, offset: 2, exit }),
            json!({"type":"exit","epoch":1,"offset":2,"exitCode":0})
        );
        assert_eq!(text(&ServerFrame::Detached), json!({"type":"detached"}));
    }

    #[test]
    fn frames_of_a_newer_server_survive_as_unknown() {
        let frame: ServerFrame = serde_json::from_value(json!({"type":"hologram","x":[1]})).unwrap();
        assert_eq!(frame, ServerFrame::Unknown);
        let frame: ServerFrame =
            serde_json::from_value(json!({"type":"error","code":"NEW","message":"m","retryable":false}))
                .unwrap();
        assert!(matches!(frame, ServerFrame::Error(ErrorFrame { code: ErrorCode::Unknown, .. })));
    }
}
