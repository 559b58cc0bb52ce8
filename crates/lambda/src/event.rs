//! API Gateway's proxy event: its route, the fields that every route needs, and the response.

use aws_lambda_events::apigw::ApiGatewayWebsocketProxyRequest as Event;
use lambda_runtime::Context;
use serde::Serialize;
use serde_json::value::RawValue;
use shellbridge_protocol::{ErrorCode, callback::callback_url, ids::ConnectionId, times::UnixMs};

use crate::{config::Config, deadline::Deadline};

/// Longest connection id accepted. API Gateway's have 16 characters, but are documented as opaque.
const MAX_CONNECTION_ID: usize = 128;

/// Why an event is malformed. Quotes nothing of the event, which may hold a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MalformedEvent(pub(crate) &'static str);

/// The route of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    /// A handshake.
    Connect,
    /// A frame from the client.
    Message,
    /// The connection closed.
    Disconnect,
}

impl Route {
    /// API Gateway's name of the route; every `MESSAGE` goes to `$default`.
    pub(crate) const fn key(self) -> &'static str {
        match self {
            Self::Connect => "$connect",
            Self::Message => "$default",
            Self::Disconnect => "$disconnect",
        }
    }
}

/// Parses an event and determines its route.
pub(crate) fn read(payload: &RawValue) -> Result<(Route, Event), MalformedEvent> {
    let event: Event = serde_json::from_str(payload.get()).map_err(|_| MalformedEvent("event_malformed"))?;
    let context = &event.request_context;
    let route = match (context.event_type.as_deref(), context.route_key.as_deref()) {
        (Some("CONNECT"), _) | (None, Some("$connect")) => Route::Connect,
        (Some("MESSAGE"), _) | (None, Some("$default")) => Route::Message,
        (Some("DISCONNECT"), _) | (None, Some("$disconnect")) => Route::Disconnect,
        _ => return Err(MalformedEvent("event_of_no_route")),
    };
    Ok((route, event))
}

/// The fields of an event that every route needs.
#[derive(Debug, Clone)]
pub(crate) struct Invocation {
    pub(crate) connection_id: ConnectionId,
    pub(crate) connected_at: UnixMs,
    /// The Lambda service's id of the invocation, which both programs log.
    pub(crate) request_id: String,
    /// `X-Amzn-Trace-Id`.
    pub(crate) trace_id: Option<String>,
    /// URL of this API's `@connections`.
    pub(crate) callback_url: String,
    pub(crate) deadline: Deadline,
}

impl Invocation {
    pub(crate) fn new(config: &Config, event: &Event, context: &Context) -> Result<Self, MalformedEvent> {
        let from = &event.request_context;
        let connection_id = from.connection_id.clone().unwrap_or_default();
        let plain = connection_id.bytes().all(|byte| byte.is_ascii_graphic());
        if connection_id.is_empty() || connection_id.len() > MAX_CONNECTION_ID || !plain {
            return Err(MalformedEvent("event_without_connection"));
        }
        let computed = || {
            let domain = config.domain_name.as_deref().or(from.domain_name.as_deref())?;
            let stage = config.stage.as_deref().or(from.stage.as_deref()).unwrap_or_default();
            Some(callback_url(domain, stage))
        };
        let callback_url = config.callback_endpoint.clone().or_else(computed);
        Ok(Self {
            connection_id: connection_id.into(),
            connected_at: UnixMs(from.connected_at.try_into().unwrap_or_default()),
            request_id: context.request_id.clone(),
            trace_id: context.xray_trace_id.clone(),
            callback_url: callback_url.ok_or(MalformedEvent("event_without_domain"))?,
            deadline: Deadline::new(UnixMs(context.deadline)),
        })
    }
}

/// The response to API Gateway. Hand-written because `lambda_http` sends only `multiValueHeaders`, and no documentation
/// says that `$connect` reads them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Response {
    /// On `$connect` the status of the handshake; the client sees no other.
    pub status_code: u16,
    /// The accepted subprotocol, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub headers: Option<Headers>,
    /// Why a handshake was rejected: `{"code", "message"}`. API Gateway forwards it if the route has a route response
    /// (Developer Guide, *apigateway-websocket-api-route-response*).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
}

/// The only header that the function sets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Headers {
    /// One of the client's offers.
    #[serde(rename = "Sec-WebSocket-Protocol")]
    pub subprotocol: String,
}

impl Response {
    pub(crate) const OK: Self = Self { status_code: 200, headers: None, body: None };

    /// `code` is for programs, `why` for people; neither quotes the request.
    pub(crate) fn rejection(status_code: u16, code: ErrorCode, why: &str) -> Self {
        let body = serde_json::json!({ "code": code, "message": why }).to_string();
        Self { status_code, headers: None, body: Some(body) }
    }
}
