//! The request that the backend sends itself. See `keep_awake`.

use std::sync::Arc;

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode},
};
use shellbridge_protocol::ErrorCode;

use crate::{access::bearer, error::ApiError, http::App, keep_awake::HOLD};

/// `POST /api/keep-awake`: answered when there is no session left, after [`HOLD`] at the latest.
pub(crate) async fn hold(State(app): State<Arc<App>>, headers: HeaderMap) -> Result<StatusCode, ApiError> {
    let off = || ApiError::new(StatusCode::NOT_FOUND, ErrorCode::Forbidden, "KEEP_AWAKE_URL is not set");
    let awake = app.keep_awake.as_ref().ok_or_else(off)?;
    if !bearer(&headers).is_some_and(|key| awake.knows(key)) {
        return Err(ApiError::unauthorized("only this backend itself"));
    }
    awake.hold(app.directory.living(), HOLD).await;
    Ok(StatusCode::NO_CONTENT)
}
