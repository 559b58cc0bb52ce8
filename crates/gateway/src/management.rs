//! `@connections`: POST, GET and DELETE on one connection.
//!
//! Source: the Smithy model of `apigatewaymanagementapi`, and README.md, section 5. Choices where AWS's behaviour is
//! unconfirmed: 413 takes precedence over 410; a body that is not UTF-8 gets 400; other paths get 403, and the stage
//! itself 426.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header::HOST};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use percent_encoding::percent_decode_str;
use serde_json::json;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use crate::{
    clock,
    faults::PushFailure,
    gateway::Gateway,
    http1::response,
    id,
    reply::http_error,
    ws::{Connection, End, SendError},
};

/// Why a call failed, in the model's names where it has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failure {
    InvalidConnectionId,
    NotText,
    Forbidden,
    UpgradeRequired,
    MethodNotAllowed,
    Gone,
    PayloadTooLarge,
    LimitExceeded,
    Internal(u16),
}

/// Handles a request that is not a WebSocket handshake.
pub(crate) async fn handle(gateway: &Gateway, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let id = match target(gateway, &request) {
        Ok(id) => id,
        Err(failure) => return failure.response(""),
    };
    let is_push = request.method() == Method::POST;
    let outcome = call(gateway, request, &id).await;
    let response = match outcome {
        Ok(response) => response,
        Err(failure) => failure.response(&id),
    };
    if is_push {
        gateway.counters.pushes.increment(response.status().as_str());
    }
    response
}

/// The connection id that a request names.
fn target(gateway: &Gateway, request: &Request<Incoming>) -> Result<String, Failure> {
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let path = percent_decode_str(request.uri().path()).decode_utf8().map_err(|_| Failure::Forbidden)?;
    let below_stage = path.strip_prefix('/').and_then(|path| path.strip_prefix(gateway.api.stage.as_str()));
    match below_stage {
        Some("") if gateway.serves_host(host) => Err(Failure::UpgradeRequired),
        Some(rest) if gateway.serves_host(host) => {
            rest.strip_prefix("/@connections/").map(str::to_owned).ok_or(Failure::Forbidden)
        }
        _ => Err(Failure::Forbidden),
    }
}

async fn call(
    gateway: &Gateway,
    request: Request<Incoming>,
    id: &str,
) -> Result<Response<Full<Bytes>>, Failure> {
    if !gateway.rates.allow_request() {
        return Err(Failure::LimitExceeded);
    }
    if !id::is_well_formed(id) {
        return Err(Failure::InvalidConnectionId);
    }
    match *request.method() {
        Method::POST => {
            let body = Limited::new(request.into_body(), gateway.limits.max_message).collect().await;
            let body = body.map_err(|_| Failure::PayloadTooLarge)?.to_bytes();
            let text = Utf8Bytes::try_from(body).map_err(|_| Failure::NotText)?;
            post(gateway, &*open(gateway, id).await?, text)?;
            Ok(answer(StatusCode::OK, &[], ""))
        }
        Method::GET => {
            let connection = open(gateway, id).await?;
            let body = describe(&connection);
            Ok(answer(StatusCode::OK, &[("content-type", "application/json")], body))
        }
        Method::DELETE => {
            open(gateway, id).await?.end(End::Close(1000, "Connection Closed Normally"));
            Ok(answer(StatusCode::NO_CONTENT, &[], ""))
        }
        _ => Err(Failure::MethodNotAllowed),
    }
}

async fn open(gateway: &Gateway, id: &str) -> Result<Arc<Connection>, Failure> {
    gateway.connections.get(id).await.ok_or(Failure::Gone)
}

fn post(gateway: &Gateway, connection: &Connection, text: Utf8Bytes) -> Result<(), Failure> {
    let fault = gateway.faults.push();
    if !matches!(fault, Some(PushFailure { delivered: false, .. })) {
        connection.send(text, &gateway.counters).map_err(|error| match error {
            SendError::Full => Failure::LimitExceeded,
            SendError::Gone => Failure::Gone,
        })?;
    }
    match fault {
        None => Ok(()),
        Some(PushFailure { status: 410, .. }) => Err(Failure::Gone),
        Some(PushFailure { status: 413, .. }) => Err(Failure::PayloadTooLarge),
        Some(PushFailure { status: 429, .. }) => Err(Failure::LimitExceeded),
        Some(PushFailure { status: 403, .. }) => Err(Failure::Forbidden),
        Some(PushFailure { status, .. }) => Err(Failure::Internal(status)),
    }
}

/// `GetConnectionResponse`. The model marks `userAgent` as required, but captures show null.
fn describe(connection: &Connection) -> String {
    json!({
        "connectedAt": clock::iso_8601(connection.connected_at),
        "identity": { "sourceIp": connection.peer.source_ip, "userAgent": connection.peer.user_agent },
        "lastActiveAt": clock::iso_8601(connection.last_active_at()),
    })
    .to_string()
}

fn answer(
    status: StatusCode,
    headers: &[(&'static str, &str)],
    body: impl Into<Bytes>,
) -> Response<Full<Bytes>> {
    let mut response = response(status, headers, body);
    if let Ok(request_id) = id::random_uuid().to_string().try_into() {
        response.headers_mut().insert("x-amzn-requestid", request_id);
    }
    response
}

impl Failure {
    fn response(self, id: &str) -> Response<Full<Bytes>> {
        let (status, kind, message) = match self {
            Self::InvalidConnectionId => (400, "BadRequestException", format!("Invalid connectionId: {id}")),
            Self::NotText => (400, "BadRequestException", "Messages must be UTF-8 text".to_owned()),
            Self::Forbidden => (403, "ForbiddenException", "Forbidden".to_owned()),
            Self::MethodNotAllowed => (405, "MethodNotAllowedException", "Method not allowed".to_owned()),
            Self::UpgradeRequired => (426, "UpgradeRequired", "Upgrade Required".to_owned()),
            // Not JSON on AWS (laravel-echo-api-gateway#9): clients must use status and header.
            Self::Gone => (410, "GoneException", String::new()),
            Self::PayloadTooLarge => (413, "PayloadTooLargeException", "Message too long".to_owned()),
            Self::LimitExceeded => (429, "LimitExceededException", "Rate exceeded".to_owned()),
            Self::Internal(status) => (status, "InternalServerError", "Internal server error".to_owned()),
        };
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = if message.is_empty() { String::new() } else { http_error(&message) };
        let content_type = if body.is_empty() { "application/x-amz-json-1.1" } else { "application/json" };
        answer(status, &[("x-amzn-errortype", kind), ("content-type", content_type)], body)
    }
}
