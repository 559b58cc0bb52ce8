//! Holds the request that the backend sends to itself. See `crate::keep_awake`.

use std::sync::Arc;

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode},
};
use shellbridge_protocol::ErrorCode;

use crate::{access::bearer, error::ApiError, http::App, keep_awake::HOLD};

/// `POST /api/keep-awake`: answers when no session is left, or after [`HOLD`].
pub(crate) async fn hold(State(app): State<Arc<App>>, headers: HeaderMap) -> Result<StatusCode, ApiError> {
    let off = || ApiError::new(StatusCode::NOT_FOUND, ErrorCode::Forbidden, "KEEP_AWAKE_URL is not set");
    let awake = app.keep_awake.as_ref().ok_or_else(off)?;
    if !bearer(&headers).is_some_and(|key| awake.knows(key)) {
        return Err(ApiError::unauthorized("only for requests from the backend itself"));
    }
    awake.hold(app.directory.living(), HOLD).await;
    Ok(StatusCode::NO_CONTENT)
}
