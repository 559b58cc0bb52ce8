//! Passes requests about sessions of other instances on to them, and creations while this instance drains.

use std::sync::Arc;

use axum::{
    body::to_bytes,
    extract::{FromRequestParts as _, RawPathParams, Request, State},
    http::{Method, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use shellbridge_protocol::{ErrorCode, ids::SessionId};

use super::{App, MAX_CREATE_BODY, sessions::Caller};
use crate::{
    directory::Located,
    error::ApiError,
    hop::{Passed, hopped},
};

/// Where the request belongs, before its handler runs.
pub(crate) async fn pass_on(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    if !app.directory.is_shared() || hopped(request.headers()) {
        return next.run(request).await;
    }
    let (mut parts, body) = request.into_parts();
    let url = match locate(&app, &mut parts).await {
        Ok(Some(url)) => url,
        Ok(None) => return next.run(Request::from_parts(parts, body)).await,
        Err(error) => return error.into_response(),
    };
    let Ok(body) = to_bytes(body, MAX_CREATE_BODY).await else {
        let status = axum::http::StatusCode::PAYLOAD_TOO_LARGE;
        return ApiError::new(status, ErrorCode::TooLarge, "the body is too large or could not be read")
            .into_response();
    };
    let target = parts.uri.path_and_query().map_or("/", |target| target.as_str()).to_owned();
    let passed = Passed { method: parts.method, target, headers: parts.headers, body };
    app.hops.pass(&url, passed).await.unwrap_or_else(IntoResponse::into_response)
}

/// URL of the instance that the request belongs to; `None` for this one.
async fn locate(app: &App, parts: &mut Parts) -> Result<Option<Arc<str>>, ApiError> {
    let path = RawPathParams::from_request_parts(parts, &()).await.map_err(|_| ApiError::no_session())?;
    let id = path.iter().find(|(name, _)| *name == "id").map(|(_, id)| SessionId::from(id));
    let Some(id) = id else {
        // `POST /api/sessions`. Another instance is asked only for the platform.
        let creates = parts.method == Method::POST && parts.uri.path() == "/api/sessions";
        let may = creates && app.admin.admits(&parts.headers).await;
        return Ok(if may { app.directory.successor().await } else { None });
    };
    if app.directory.is_here(&id) {
        return Ok(None);
    }
    // No one may make this instance ask Redis about ids at random.
    Caller::identify(app, &parts.headers, &id).await?;
    match app.directory.locate(&id, false).await {
        Ok(Located::Here) => Ok(None),
        Ok(Located::At(url)) => Ok(Some(url)),
        Err(missing) => {
            // The handler answers, in its own form.
            parts.extensions.insert(missing);
            Ok(None)
        }
    }
}
