//! The function's response, and the frames that the gateway itself sends to clients.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};
use shellbridge_protocol::ids::ConnectionId;

/// A function's response to an event: `{statusCode, headers?, body?}`.
#[derive(Debug, PartialEq, Eq)]
pub struct Reply {
    /// HTTP status, from 100 to 599.
    pub status: u16,
    /// The subprotocol that the function selected.
    pub subprotocol: Option<String>,
    /// Body; the client gets it if the route has a route response.
    pub body: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    status_code: Value,
    #[serde(default)]
    headers: Option<BTreeMap<String, Value>>,
    #[serde(default)]
    body: Option<Value>,
}

impl Reply {
    /// Parses a response. `None` means malformed: the client gets 502 or `Internal server error`
    /// (serverless-websockets-plugin#13). The status may be a string of digits; the body must be a string.
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let raw: Raw = serde_json::from_slice(payload).ok()?;
        let status = match &raw.status_code {
            Value::Number(number) => number.as_u64().and_then(|status| u16::try_from(status).ok()),
            Value::String(text) => text.parse().ok(),
            _ => None,
        }?;
        let body = match raw.body {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) => Some(text),
            Some(_) => return None,
        };
        let subprotocol = raw.headers.unwrap_or_default().into_iter().find_map(|(name, value)| match value {
            Value::String(value) if name.eq_ignore_ascii_case("sec-websocket-protocol") => Some(value),
            _ => None,
        });
        (100..=599).contains(&status).then_some(Self { status, subprotocol, body })
    }

    /// Whether a handshake with this response succeeds: any 2xx does.
    pub fn accepts(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

/// The frame for a message without a route. Spacing as captured (simple-websockets-chat-app#24).
pub fn forbidden(connection_id: &ConnectionId, request_id: &str) -> String {
    error_frame("Forbidden", connection_id, request_id)
}

/// The frame for an integration that failed, timed out or was throttled, on one-way routes too.
pub fn internal_server_error(connection_id: &ConnectionId, request_id: &str) -> String {
    error_frame("Internal server error", connection_id, request_id)
}

/// The frame for a message over the account's rate. The text is unconfirmed.
pub fn too_many_requests(connection_id: &ConnectionId, request_id: &str) -> String {
    error_frame("Too Many Requests", connection_id, request_id)
}

fn error_frame(message: &str, connection_id: &ConnectionId, request_id: &str) -> String {
    format!(r#"{{"message": "{message}", "connectionId":"{connection_id}", "requestId":"{request_id}"}}"#)
}

/// JSON body of an HTTP error.
pub fn http_error(message: &str) -> String {
    json!({ "message": message }).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses_are_parsed_or_malformed() {
        let ok = Reply::parse(br#"{"statusCode":200,"headers":{"sec-websocket-PROTOCOL":"a"},"body":"x"}"#)
            .unwrap();
        assert_eq!(ok, Reply { status: 200, subprotocol: Some("a".into()), body: Some("x".into()) });
        assert!(Reply::parse(br#"{"statusCode":"204","body":null}"#).unwrap().accepts());
        assert!(!Reply::parse(br#"{"statusCode":301}"#).unwrap().accepts());
        for wrong in [
            "",
            "null",
            "{}",
            "[]",
            "\"200\"",
            r#"{"statusCode":null}"#,
            r#"{"statusCode":42}"#,
            r#"{"statusCode":200,"body":{}}"#,
        ] {
            assert_eq!(Reply::parse(wrong.as_bytes()), None, "{wrong}");
        }
    }

    #[test]
    fn error_frames_are_json() {
        let frame: Value = serde_json::from_str(&forbidden(&"c=".into(), "r=")).unwrap();
        assert_eq!(frame, json!({"message": "Forbidden", "connectionId": "c=", "requestId": "r="}));
    }
}
