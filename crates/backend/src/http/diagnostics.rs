//! Tells pages why a handshake was refused, which browsers do not, and the settings that clients need.

use std::sync::Arc;

use axum::{
    Json,
    body::Bytes,
    extract::{Query, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::{Value, json};
use shellbridge_protocol::{ErrorCode, PROTOCOL_VERSION, limits};

use crate::{
    access::Refused,
    access::bearer,
    clock::unix_ms,
    directory::Located,
    hop::{Passed, hopped},
    http::App,
    sessions::{Stale, Use},
};

/// Query of the diagnosis.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Asked {
    session_id: Option<String>,
}

/// `GET /api/diagnostics/websocket`
pub(crate) async fn websocket(
    State(app): State<Arc<App>>,
    Query(asked): Query<Asked>,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    let token = bearer(&headers);
    if let Some(passed) = pass_on(&app, &asked, token.unwrap_or_default(), &uri, &headers).await {
        return any_origin(passed);
    }
    let mut answer = facts(&app);
    if asked.session_id.is_some() || token.is_some() {
        let verdict = verdict(&app, asked.session_id.as_deref(), token.unwrap_or_default(), &headers).await;
        let (ok, code, message) = match verdict {
            Ok(()) => (true, None, None),
            Err((code, message)) => (false, Some(code), Some(message)),
        };
        if let Value::Object(answer) = &mut answer {
            answer.insert("ok".to_owned(), ok.into());
            answer.insert("code".to_owned(), json!(code));
            answer.insert("message".to_owned(), message.into());
        }
    }
    any_origin(Json(answer).into_response())
}

/// `OPTIONS /api/diagnostics/websocket`
pub(crate) async fn preflight() -> Response {
    let mut response = any_origin(StatusCode::NO_CONTENT.into_response());
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET"));
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("authorization"));
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("86400"));
    response
}

fn any_origin(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Predicts the outcome of a handshake. Reveals nothing about a session before the token verifies, and reports another
/// user's session as missing.
async fn verdict(
    app: &App,
    session: Option<&str>,
    token: &str,
    headers: &HeaderMap,
) -> Result<(), (ErrorCode, String)> {
    let grant = app.access.verify(token, session).await.map_err(|refused| {
        let Refused::Token(denied) = refused else {
            return (ErrorCode::BackendUnavailable, "the keys that verify tokens are unavailable".to_owned());
        };
        (denied.code(), denied.to_string())
    })?;
    let origin = headers.get(header::ORIGIN).map(|origin| origin.to_str().unwrap_or("null"));
    if !app.origins.as_ref().is_none_or(|origins| origins.allows(origin)) {
        let message = "this page's origin is not in ALLOWED_ORIGINS".to_owned();
        return Err((ErrorCode::OriginNotAllowed, message));
    }
    let session = app.directory.find(&grant.session_id).ok();
    let session = session.filter(|session| grant.opens(&session.status().owner));
    let no_session = || (ErrorCode::SessionInvalid, "no such session".to_owned());
    let session = session.ok_or_else(no_session)?;
    let checked = session.status().tokens.check(grant.token_id.as_deref(), Use::Door, unix_ms());
    checked.map_err(|stale| match stale {
        Stale::Earlier => no_session(),
        Stale::Revoked => (ErrorCode::TokenExpired, stale.to_string()),
    })
}

/// The answer of the instance that has the session.
async fn pass_on(app: &App, asked: &Asked, token: &str, uri: &Uri, headers: &HeaderMap) -> Option<Response> {
    if !app.directory.is_shared() || hopped(headers) {
        return None;
    }
    let grant = app.access.verify(token, asked.session_id.as_deref()).await.ok()?;
    let Ok(Located::At(url)) = app.directory.locate(&grant.session_id, false).await else { return None };
    let target = uri.path_and_query()?.as_str().to_owned();
    let passed = Passed { method: Method::GET, target, headers: headers.clone(), body: Bytes::new() };
    app.hops.pass(&url, passed).await.ok()
}

fn facts(app: &App) -> Value {
    json!({
        "ok": true,
        "protocol": PROTOCOL_VERSION,
        "subprotocol": limits::SUBPROTOCOL,
        "webSocketUrl": app.config.ws_url,
        "allowedOrigins": app.origins.as_ref().map(shellbridge_protocol::origin::AllowedOrigins::patterns),
        "endpoints": { "health": "/health", "ready": "/ready", "sessions": "/api/sessions" },
        "timeouts": {
            // API Gateway's quotas for WebSocket APIs.
            "connectionMaxSeconds": 7200,
            "idleSeconds": 600,
            "replyWithinSeconds": limits::REPLY_WITHIN.as_secs(),
            "resumeGraceSeconds": app.config.resume_grace,
            "detachedTtlSeconds": app.config.detached_ttl,
        },
        "limits": {
            "clientFrameBytes": limits::MAX_FRAME,
            "serverFrameBytes": limits::MAX_MESSAGE,
            "inputWindowBytes": limits::INPUT_WINDOW,
            "outputWindowBytes": app.config.output_window,
            "outputBufferBytes": app.config.output_buffer,
        },
    })
}
