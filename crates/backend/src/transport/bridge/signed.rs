//! Requests signed by the Lambda, each accepted once.

use std::sync::Arc;

use axum::{
    body::Bytes,
    extract::{FromRequest, Request},
    http::{HeaderMap, Method, StatusCode},
    response::{IntoResponse, Response},
};
use serde::de::DeserializeOwned;
use shellbridge_protocol::{
    ErrorCode,
    bridge::{BridgeToken, CONNECTION_ID_HEADER, Replay},
    ids::{ConnectionId, SessionId, UserId},
};

use super::Bridge;
use crate::{
    access::bearer,
    clock::unix_secs,
    directory::Located,
    error::ApiError,
    hop::{Passed, hopped},
    metrics,
};

/// A request with a valid signature of the Lambda. [`Signed::once`] refuses replays, once the user is known.
pub(super) struct Signed {
    token: BridgeToken,
    body: Bytes,
    /// The connection that the token is bound to.
    connection: ConnectionId,
    path: String,
    /// With several instances.
    headers: Option<HeaderMap>,
}

impl Signed {
    pub(super) const fn body(&self) -> &Bytes {
        &self.body
    }

    pub(super) fn json<T: DeserializeOwned>(&self) -> Result<T, ApiError> {
        serde_json::from_slice(&self.body).map_err(|error| ApiError::bad_request(error.to_string()))
    }

    /// Passes the request on if its session is at another instance, which then refuses replays: only the owner remembers
    /// requests.
    pub(super) async fn pass_on(
        &self,
        bridge: &Bridge,
        session: &SessionId,
    ) -> Result<Option<Response>, ApiError> {
        let Some(headers) = &self.headers else { return Ok(None) };
        let Located::At(url) = bridge.ingress.locate(session, hopped(headers)).await? else {
            return Ok(None);
        };
        let (target, headers, body) = (self.path.clone(), headers.clone(), self.body.clone());
        let passed = bridge.hops.pass(&url, Passed { method: Method::POST, target, headers, body }).await;
        if passed.as_ref().map_or(true, |answer| answer.status() == StatusCode::SERVICE_UNAVAILABLE) {
            bridge.ingress.misled(session);
        }
        passed.map(Some)
    }

    /// Refuses a replay without remembering the request, so that a rate-limited one can be sent again.
    pub(super) fn is_new(&self, bridge: &Bridge) -> Result<(), ApiError> {
        if bridge.replays.lock().has(&self.token.jti) { Err(replayed()) } else { Ok(()) }
    }

    /// Refuses a replay, and remembers the request. `user`: as named by the Lambda.
    pub(super) fn once(&self, bridge: &Bridge, user: &UserId) -> Result<(), ApiError> {
        let (jti, until) = (&self.token.jti, self.token.remembered_until());
        let replay = bridge.replays.lock().check(jti, user, until, unix_secs());
        match replay {
            Replay::Fresh => Ok(()),
            Replay::Seen => Err(replayed()),
            Replay::Share => {
                metrics::bridge_refused("share");
                let message = "too many requests from this user to detect replays";
                Err(ApiError::new(StatusCode::TOO_MANY_REQUESTS, ErrorCode::RateLimited, message))
            }
            Replay::Full => {
                metrics::bridge_refused("full");
                let message = "too many requests to detect replays";
                Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::RateLimited, message))
            }
        }
    }

    /// Refuses a body that names another connection than the token.
    pub(super) fn is_about(&self, connection: &ConnectionId) -> Result<(), ApiError> {
        if self.connection == *connection {
            Ok(())
        } else {
            Err(ApiError::bad_request("connectionId differs from X-Connection-Id"))
        }
    }
}

impl FromRequest<Arc<Bridge>> for Signed {
    type Rejection = ApiError;

    async fn from_request(request: Request, bridge: &Arc<Bridge>) -> Result<Self, ApiError> {
        let refused = |cause| {
            metrics::bridge_refused(cause);
            ApiError::unauthorized("not signed by the Lambda")
        };
        let path = request.uri().path().to_owned();
        let headers = request.headers();
        let token = bearer(headers).ok_or_else(|| {
            metrics::bridge_refused("no_token");
            ApiError::no_token("not signed by the Lambda")
        })?;
        let token = token.to_owned();
        let connection = headers.get(CONNECTION_ID_HEADER).and_then(|id| id.to_str().ok());
        let connection: ConnectionId = connection.ok_or_else(|| refused("no_connection"))?.into();
        let kept = bridge.ingress.is_shared().then(|| headers.clone());
        let body = Bytes::from_request(request, bridge).await.map_err(|error| {
            metrics::bridge_refused("body");
            let status = error.into_response().status();
            ApiError::new(status, ErrorCode::TooLarge, "the body is too large or could not be read")
        })?;
        let now = unix_secs();
        let token = bridge.keys.verify(&token, &path, &connection, &body, now).map_err(|cause| {
            tracing::warn!(%cause, path, "refused a request not signed by the Lambda");
            refused(metrics::token_fault(cause))
        })?;
        Ok(Self { token, body, connection, path, headers: kept })
    }
}

fn replayed() -> ApiError {
    metrics::bridge_refused("replay");
    tracing::warn!("refused a replayed request");
    ApiError::unauthorized("not signed by the Lambda")
}
