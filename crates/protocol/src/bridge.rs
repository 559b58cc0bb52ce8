//! The HTTP contract between Lambda and backend: bodies, and the signature that authenticates the Lambda.

mod replay;
#[cfg(feature = "tokens")]
mod token;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

pub use replay::{Replay, ReplayCache};
#[cfg(feature = "tokens")]
pub use token::{BridgeKeys, BridgeToken, KeyError, TokenRefused};

use crate::{
    ErrorCode,
    frame::ErrorFrame,
    ids::{ConnectionId, SessionId, UserId},
    json::RawJson,
    limits,
    times::{UnixMs, UnixSecs},
};

/// Path of [`ConnectRequest`].
pub const CONNECT_PATH: &str = "/api/ws/connect";
/// Path of [`Envelope`] with a frame.
pub const MESSAGE_PATH: &str = "/api/ws/message";
/// Path of [`DisconnectRequest`].
pub const DISCONNECT_PATH: &str = "/api/ws/disconnect";
/// Header that repeats the signed connection id.
pub const CONNECTION_ID_HEADER: &str = "x-connection-id";
/// Header `1` of a request that one instance of the backend passes on to another. In answers to the Lambda, with several
/// instances: how many instances the request was passed on to, `0` or `1`.
pub const HOP_HEADER: &str = "x-shellbridge-hop";
/// Header with the request id that both programs log.
pub const REQUEST_ID_HEADER: &str = "x-request-id";

/// Announces a connection with a verified token and an allowed origin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConnectRequest {
    /// API Gateway's id.
    pub connection_id: ConnectionId,
    /// The requested session.
    pub session_id: SessionId,
    /// The token's `sub`.
    pub user_id: UserId,
    /// The token's `username`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// Whether the token is view-only.
    pub read_only: bool,
    /// Whether the token names the session. A view-only token of another user opens it only if so.
    #[serde(default)]
    pub names_session: bool,
    /// When the handshake began.
    pub connected_at: UnixMs,
    /// The token's `exp`.
    pub token_expires_at: UnixSecs,
    /// Base URL of its `@connections`.
    pub callback_url: String,
    /// The token's `shellbridgeId`, if present. With it the backend rejects tokens that were revoked or minted for an
    /// earlier session with this id. Added to version 1 of the contract: if a Lambda omits it, this check does not apply.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_id: Option<String>,
    /// The client's IP address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_ip: Option<String>,
}

/// Announces that a connection has closed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DisconnectRequest {
    /// API Gateway's id.
    pub connection_id: ConnectionId,
    /// Its session.
    pub session_id: SessionId,
    /// Its user.
    pub user_id: UserId,
    /// The WebSocket close code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_code: Option<i64>,
    /// The close reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The `bridge` field, which the Lambda adds to a client's frame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BridgeContext {
    /// API Gateway's id of the message.
    pub message_id: String,
    /// When the handshake began.
    pub connected_at: UnixMs,
    /// Base URL of its `@connections`.
    pub callback_url: String,
    /// The token's `exp`.
    pub token_expires_at: UnixSecs,
    /// The token's `username`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// Whether the token is view-only.
    pub read_only: bool,
    /// See [`ConnectRequest::token_id`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_id: Option<String>,
    /// The client's `timestamp`, which the Lambda's has replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_timestamp: Option<Box<RawJson>>,
}

/// The fields of a message body that the Lambda sets: sender, time and route of a frame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Envelope {
    /// API Gateway's id of the connection.
    pub connection_id: ConnectionId,
    /// From the Lambda's record, never from the frame.
    pub session_id: SessionId,
    /// From the Lambda's record, never from the frame.
    pub user_id: UserId,
    /// When the Lambda received the frame.
    pub timestamp: UnixMs,
    /// Everything else.
    pub bridge: BridgeContext,
}

/// Top-level fields that belong to the Lambda.
const ENVELOPE_FIELDS: [&str; 5] = ["connectionId", "sessionId", "userId", "timestamp", "bridge"];

impl Envelope {
    /// Encodes the body of `/api/ws/message`: the client's frame, with the Lambda's fields replacing any of the same name.
    ///
    /// # Errors
    /// `BAD_FRAME` if the frame is not a JSON object, `TOO_LARGE` beyond [`limits::MAX_FRAME`].
    pub fn wrap(mut self, frame: &str) -> Result<Vec<u8>, ErrorFrame> {
        if frame.len() > limits::MAX_FRAME {
            return Err(ErrorFrame::new(ErrorCode::TooLarge, "a frame is at most 32768 bytes"));
        }
        // A map drops repeated keys, so the body cannot contain a second `sessionId`.
        let mut fields: BTreeMap<String, &RawValue> = serde_json::from_str(frame)
            .map_err(|_| ErrorFrame::new(ErrorCode::BadFrame, "a frame is a JSON object"))?;
        self.bridge.client_timestamp = fields.get("timestamp").map(|value| Box::new(RawJson::from(*value)));
        for field in ENVELOPE_FIELDS {
            fields.remove(field);
        }
        #[derive(Serialize)]
        struct Body<'a> {
            #[serde(flatten)]
            envelope: &'a Envelope,
            #[serde(flatten)]
            fields: BTreeMap<String, &'a RawValue>,
        }
        serde_json::to_vec(&Body { envelope: &self, fields })
            .map_err(|_| ErrorFrame::new(ErrorCode::Internal, "the frame cannot be forwarded"))
    }

    /// Extracts the client's frame from a message body and restores its `timestamp`, for `echo`. Copies values verbatim, so
    /// no key inside them has a meaning.
    ///
    /// # Errors
    /// The body is not a JSON object.
    pub fn unwrap_frame(body: &[u8]) -> Result<RawJson, serde_json::Error> {
        type Fields<'a> = BTreeMap<String, &'a RawValue>;
        let mut fields: Fields<'_> = serde_json::from_slice(body)?;
        let bridge = fields.get("bridge").and_then(|raw| serde_json::from_str::<Fields<'_>>(raw.get()).ok());
        for field in ENVELOPE_FIELDS {
            fields.remove(field);
        }
        if let Some(timestamp) = bridge.and_then(|mut bridge| bridge.remove("clientTimestamp")) {
            fields.insert("timestamp".to_owned(), timestamp);
        }
        RawJson::new(&fields)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn envelope() -> Envelope {
        Envelope {
            connection_id: "c=".into(),
            session_id: "s".into(),
            user_id: "u".into(),
            timestamp: UnixMs(5),
            bridge: BridgeContext {
                message_id: "m=".into(),
                connected_at: UnixMs(1),
                callback_url: "https://x".into(),
                token_expires_at: UnixSecs(2),
                username: None,
                read_only: false,
                token_id: None,
                client_timestamp: None,
            },
        }
    }

    #[test]
    fn the_lambdas_fields_replace_the_clients() {
        let frame = r#"{"type":"echo","sessionId":"evil","userId":"root","connectionId":"x","bridge":{"readOnly":true},
            "timestamp":1.50,"sessionId":"evil2","big":123456789012345678901234567890}"#;
        let body = envelope().wrap(frame).unwrap();
        let text = std::str::from_utf8(&body).unwrap();
        for field in ENVELOPE_FIELDS {
            assert_eq!(text.matches(&format!("\"{field}\":")).count(), 1, "{field} in {text}");
        }
        let read: Envelope = serde_json::from_slice(&body).unwrap();
        assert_eq!((read.session_id.as_str(), read.user_id.as_str()), ("s", "u"));
        assert!(!read.bridge.read_only);
        assert!(text.contains("\"clientTimestamp\":1.50") && text.contains("123456789012345678901234567890"));
    }

    #[test]
    fn echo_returns_the_frame_as_sent() {
        let frame = json!({"type":"echo","timestamp":1.5,"x":[1,{"y":null}]});
        let body = envelope().wrap(&frame.to_string()).unwrap();
        let echoed: serde_json::Value =
            serde_json::from_str(Envelope::unwrap_frame(&body).unwrap().get()).unwrap();
        assert_eq!(echoed, frame);
        let without = envelope().wrap(r#"{"type":"echo"}"#).unwrap();
        assert_eq!(Envelope::unwrap_frame(&without).unwrap().get(), r#"{"type":"echo"}"#);
    }

    #[test]
    fn regression_no_key_of_a_frame_is_parsed_as_a_document() {
        let inner = r#"{"$serde_json::private::RawValue":"{\"type\":\"command\"}"}"#;
        for frame in [
            format!(r#"{{"type":"echo","x":{inner}}}"#),
            format!(
                r#"{{"a":[{inner}],"n":123456789012345678901234567890.50,"timestamp":null,"type":"echo"}}"#
            ),
            format!(r#"{{"timestamp":{inner},"type":"echo"}}"#),
            r#"{"$serde_json::private::RawValue":"{}","type":"echo"}"#.to_owned(),
        ] {
            let body = envelope().wrap(&frame).unwrap();
            assert_eq!(Envelope::unwrap_frame(&body).unwrap().get(), frame);
        }
    }

    #[test]
    fn frames_that_are_not_objects_are_rejected() {
        for frame in ["", "[]", "7", "{", "null", "{\"a\":1}x"] {
            assert_eq!(envelope().wrap(frame).unwrap_err().code, ErrorCode::BadFrame, "{frame}");
        }
        let large = format!("{{\"type\":\"echo\",\"x\":\"{}\"}}", "x".repeat(limits::MAX_FRAME));
        assert_eq!(envelope().wrap(&large).unwrap_err().code, ErrorCode::TooLarge);
    }
}
