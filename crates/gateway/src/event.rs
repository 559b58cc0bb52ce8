//! Proxy events: exactly the fields of the captures, without nulls as padding.
//!
//! Sources: Developer Guide, *apigateway-websocket-api-integration-requests*; `aws/aws-lambda-go`
//! `events/testdata/apigw-websocket-request-*.json`.

use bytes::Bytes;
use serde::{Serialize, Serializer, ser::SerializeMap};
use shellbridge_protocol::{ids::ConnectionId, times::UnixMs};

use crate::clock;

/// Identity of an API, the same for all its connections.
#[derive(Debug, Clone)]
pub struct Api {
    /// The API's id, the first label of its host name.
    pub id: String,
    /// The stage, the first segment of its paths.
    pub stage: String,
}

/// The client, as events describe it.
#[derive(Debug, Clone)]
pub struct Peer {
    /// IP address.
    pub source_ip: String,
    /// `User-Agent` of the handshake. Events omit the key if the client sent none.
    pub user_agent: Option<String>,
    /// `Host` of the handshake. Unlike on AWS it has a port, which callback URLs need.
    pub domain_name: String,
}

/// The fields that all events of a connection share.
#[derive(Debug, Clone, Copy)]
pub struct Origin<'a> {
    /// The API.
    pub api: &'a Api,
    /// The client.
    pub peer: &'a Peer,
    /// The connection's id.
    pub connection_id: &'a ConnectionId,
    /// Start of the handshake.
    pub connected_at: UnixMs,
}

/// Headers or query parameters in their original order and case.
pub type Pairs = Vec<(String, String)>;

/// The `$connect` event.
pub fn connect(origin: Origin<'_>, request_id: &str, headers: &Pairs, query: &Pairs) -> Bytes {
    let with_query = !query.is_empty();
    encode(&Event {
        headers: Some(Last(headers)),
        multi_value_headers: Some(All(headers)),
        query_string_parameters: with_query.then_some(Last(query)),
        multi_value_query_string_parameters: with_query.then_some(All(query)),
        request_context: context(origin, "$connect", "CONNECT", request_id, None, None),
        body: None,
        is_base64_encoded: false,
    })
}

/// The event of a message, on any route but `$connect` and `$disconnect`.
pub fn message(origin: Origin<'_>, request_id: &str, route_key: &str, message_id: &str, body: &str) -> Bytes {
    encode(&Event {
        headers: None,
        multi_value_headers: None,
        query_string_parameters: None,
        multi_value_query_string_parameters: None,
        request_context: context(origin, route_key, "MESSAGE", request_id, Some(message_id), None),
        body: Some(body),
        is_base64_encoded: false,
    })
}

/// The `$disconnect` event, with the four headers that AWS sends.
pub fn disconnect(origin: Origin<'_>, request_id: &str, code: u16, reason: &str) -> Bytes {
    let headers: Pairs = [
        ("Host", origin.peer.domain_name.as_str()),
        ("x-api-key", ""),
        ("X-Forwarded-For", ""),
        ("x-restapi", ""),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    encode(&Event {
        headers: Some(Last(&headers)),
        multi_value_headers: Some(All(&headers)),
        query_string_parameters: None,
        multi_value_query_string_parameters: None,
        request_context: context(origin, "$disconnect", "DISCONNECT", request_id, None, Some((code, reason))),
        body: None,
        is_base64_encoded: false,
    })
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Event<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    headers: Option<Last<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    multi_value_headers: Option<All<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    query_string_parameters: Option<Last<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    multi_value_query_string_parameters: Option<All<'a>>,
    request_context: RequestContext<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<&'a str>,
    is_base64_encoded: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RequestContext<'a> {
    route_key: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    message_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    disconnect_status_code: Option<u16>,
    event_type: &'static str,
    extended_request_id: &'a str,
    request_time: String,
    message_direction: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    disconnect_reason: Option<&'a str>,
    stage: &'a str,
    connected_at: UnixMs,
    request_time_epoch: UnixMs,
    identity: Identity<'a>,
    request_id: &'a str,
    domain_name: &'a str,
    connection_id: &'a ConnectionId,
    api_id: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Identity<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    user_agent: Option<&'a str>,
    source_ip: &'a str,
}

fn context<'a>(
    origin: Origin<'a>,
    route_key: &'a str,
    event_type: &'static str,
    request_id: &'a str,
    message_id: Option<&'a str>,
    disconnect: Option<(u16, &'a str)>,
) -> RequestContext<'a> {
    let now = clock::unix_ms();
    RequestContext {
        route_key,
        message_id,
        disconnect_status_code: disconnect.map(|(code, _)| code),
        event_type,
        extended_request_id: request_id,
        request_time: clock::request_time(now),
        message_direction: "IN",
        disconnect_reason: disconnect.map(|(_, reason)| reason),
        stage: &origin.api.stage,
        connected_at: origin.connected_at,
        request_time_epoch: now,
        identity: Identity {
            user_agent: origin.peer.user_agent.as_deref(),
            source_ip: &origin.peer.source_ip,
        },
        request_id,
        domain_name: &origin.peer.domain_name,
        connection_id: origin.connection_id,
        api_id: &origin.api.id,
    }
}

fn encode(event: &Event<'_>) -> Bytes {
    // Cannot fail: there are only strings, integers, and maps with string keys.
    serde_json::to_vec(event).unwrap_or_default().into()
}

/// Pairs as an object with the last value of each name.
struct Last<'a>(&'a Pairs);

impl Serialize for Last<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (index, (name, value)) in self.0.iter().enumerate() {
            let repeated = self.0.iter().skip(index + 1).any(|(later, _)| later.eq_ignore_ascii_case(name));
            if !repeated {
                map.serialize_entry(name, value)?;
            }
        }
        map.end()
    }
}

/// Pairs as an object with a list of values for each name.
struct All<'a>(&'a Pairs);

impl Serialize for All<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (index, (name, _)) in self.0.iter().enumerate() {
            let same = |(other, _): &&(String, String)| other.eq_ignore_ascii_case(name);
            if self.0.iter().skip(index + 1).any(|pair| same(&pair)) {
                continue;
            }
            let values: Vec<&str> = self.0.iter().filter(same).map(|(_, value)| value.as_str()).collect();
            map.serialize_entry(name, &values)?;
        }
        map.end()
    }
}
