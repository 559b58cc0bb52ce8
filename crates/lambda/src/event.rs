//! API Gateway's proxy event: which route it is for, what every route needs of it, and the answer.

use aws_lambda_events::apigw::ApiGatewayWebsocketProxyRequest as Event;
use lambda_runtime::Context;
use serde::Serialize;
use serde_json::value::RawValue;
use shellbridge_protocol::{ErrorCode, callback::callback_url};

use crate::{config::Config, deadline::Deadline};

/// Longest connection id taken. API Gateway's have 16 characters, but are said to be opaque.
const MAX_CONNECTION_ID: usize = 128;

/// Why an event cannot be handled: a fault of whoever invoked the function. Holds nothing of the event, which
/// may hold a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed(pub(crate) &'static str);

/// What happened to the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    /// Somebody asks to be let in.
    Connect,
    /// A frame came.
    Message,
    /// It is gone.
    Disconnect,
}

impl Route {
    /// The route as API Gateway names it; every `MESSAGE` comes to `$default`.
    pub(crate) const fn key(self) -> &'static str {
        match self {
            Self::Connect => "$connect",
            Self::Message => "$default",
            Self::Disconnect => "$disconnect",
        }
    }
}

/// Reads an event and says which route it is for.
pub(crate) fn read(payload: &RawValue) -> Result<(Route, Event), Malformed> {
    let event: Event = serde_json::from_str(payload.get()).map_err(|_| Malformed("event_malformed"))?;
    let context = &event.request_context;
    let route = match (context.event_type.as_deref(), context.route_key.as_deref()) {
        (Some("CONNECT"), _) | (None, Some("$connect")) => Route::Connect,
        (Some("MESSAGE"), _) | (None, Some("$default")) => Route::Message,
        (Some("DISCONNECT"), _) | (None, Some("$disconnect")) => Route::Disconnect,
        _ => return Err(Malformed("event_of_no_route")),
    };
    Ok((route, event))
}

/// What every route needs to know of an event.
#[derive(Debug, Clone)]
pub(crate) struct Invocation {
    pub(crate) connection_id: String,
    /// Unix ms.
    pub(crate) connected_at: i64,
    /// The Lambda service's id of this invocation, in both programs' logs.
    pub(crate) request_id: String,
    /// `X-Amzn-Trace-Id`.
    pub(crate) trace_id: Option<String>,
    /// Where `@connections` of this API is.
    pub(crate) callback_url: String,
    pub(crate) deadline: Deadline,
}

impl Invocation {
    pub(crate) fn new(config: &Config, event: &Event, context: &Context) -> Result<Self, Malformed> {
        let from = &event.request_context;
        let connection_id = from.connection_id.clone().unwrap_or_default();
        let plain = connection_id.bytes().all(|byte| byte.is_ascii_graphic());
        if connection_id.is_empty() || connection_id.len() > MAX_CONNECTION_ID || !plain {
            return Err(Malformed("event_without_connection"));
        }
        let computed = || {
            let domain = config.domain_name.as_deref().or(from.domain_name.as_deref())?;
            let stage = config.stage.as_deref().or(from.stage.as_deref()).unwrap_or_default();
            Some(callback_url(domain, stage))
        };
        let callback_url = config.callback_endpoint.clone().or_else(computed);
        Ok(Self {
            connection_id,
            connected_at: from.connected_at,
            request_id: context.request_id.clone(),
            trace_id: context.xray_trace_id.clone(),
            callback_url: callback_url.ok_or(Malformed("event_without_domain"))?,
            deadline: Deadline::new(context.deadline),
        })
    }
}

/// The answer to API Gateway. Written by hand because `lambda_http` gives only `multiValueHeaders`, of which
/// nobody says that `$connect` reads them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Response {
    /// On `$connect` the status of the handshake; elsewhere nobody sees it.
    pub status_code: u16,
    /// The subprotocol chosen, where one is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub headers: Option<Headers>,
    /// Why a handshake was refused: `{"code", "message"}`. API Gateway passes it on where the route has a route
    /// response (Developer Guide, *apigateway-websocket-api-route-response*).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
}

/// The one header this function ever sets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Headers {
    /// One of the subprotocols that the client offered.
    #[serde(rename = "Sec-WebSocket-Protocol")]
    pub subprotocol: String,
}

impl Response {
    pub(crate) const OK: Self = Self { status_code: 200, headers: None, body: None };

    /// `code` is for programs, `why` for people; neither holds anything of the request.
    pub(crate) fn refusal(status_code: u16, code: ErrorCode, why: &str) -> Self {
        let body = serde_json::json!({ "code": code, "message": why }).to_string();
        Self { status_code, headers: None, body: Some(body) }
    }
}
