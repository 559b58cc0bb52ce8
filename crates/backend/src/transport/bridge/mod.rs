//! API Gateway's WebSockets: frames come in as signed requests of the Lambda, and go out through `@connections`.

mod push;
mod signed;

use std::sync::Arc;

use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State},
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use parking_lot::Mutex;
use shellbridge_protocol::{
    ErrorCode,
    bridge::{
        BridgeKeys, CONNECT_PATH, ConnectRequest, DISCONNECT_PATH, DisconnectRequest, Envelope, HOP_HEADER,
        MESSAGE_PATH, ReplayCache,
    },
    limits::{MAX_BRIDGE_BODY, MAX_FRAME},
};
use tower_http::set_header::SetResponseHeaderLayer;

use self::{
    push::{Forbidden, Pusher},
    signed::Signed,
};
use crate::{
    config::Config,
    error::ApiError,
    hop::Hops,
    ingress::{Identity, Ingress, reference},
    metrics,
    observe::about_session,
    sessions::{Incoming, outlet::FindRoute},
};

/// What its routes share.
pub(crate) struct Bridge {
    keys: BridgeKeys,
    replays: Mutex<ReplayCache>,
    pusher: Pusher,
    ingress: Arc<Ingress>,
    hops: Hops,
}

impl Bridge {
    /// # Errors
    /// When `BRIDGE_SECRET` or the place to push to is not usable.
    pub(crate) async fn new(config: &Config, ingress: Arc<Ingress>) -> anyhow::Result<Self> {
        Ok(Self {
            keys: BridgeKeys::parse(&config.bridge_secret)?,
            replays: Mutex::new(ReplayCache::new(ReplayCache::CAPACITY)),
            pusher: Pusher::new(config.callback_url.as_deref()).await?,
            ingress,
            hops: Hops::new(),
        })
    }

    /// Finds the ways to connections that an earlier backend had.
    pub(crate) fn find_route(self: Arc<Self>) -> FindRoute {
        Arc::new(move |callback_url| self.pusher.route(callback_url, None).ok())
    }
}

/// Its routes.
pub(crate) fn router(bridge: Arc<Bridge>) -> Router {
    let router = Router::new()
        .route(CONNECT_PATH, post(connect))
        .route(MESSAGE_PATH, post(message))
        .route(DISCONNECT_PATH, post(disconnect))
        .layer(DefaultBodyLimit::max(MAX_BRIDGE_BODY));
    let router = if bridge.ingress.is_shared() {
        let (name, none) = (HeaderName::from_static(HOP_HEADER), HeaderValue::from_static("0"));
        router.layer(SetResponseHeaderLayer::if_not_present(name, none))
    } else {
        router
    };
    router.with_state(bridge)
}

/// `POST /api/ws/connect`
async fn connect(State(bridge): State<Arc<Bridge>>, signed: Signed) -> Result<Response, ApiError> {
    let refused = |cause| {
        move |error: ApiError| {
            metrics::connect_refused(cause);
            error
        }
    };
    let request: ConnectRequest = signed.json().map_err(refused("malformed"))?;
    signed.is_about(&request.connection_id).map_err(refused("malformed"))?;
    about_session(&request.session_id);
    if let Some(passed) = signed.pass_on(&bridge, &request.session_id).await? {
        return Ok(passed);
    }
    signed.once(&bridge, &request.user_id)?;
    let route = bridge.pusher.route(&request.callback_url, Some(request.connected_at));
    let route = route.map_err(forbidden).map_err(refused("callback_url"))?;
    let identity = Identity {
        session: request.session_id,
        connection: request.connection_id,
        user: request.user_id,
        read_only: request.read_only,
        token_id: request.token_id,
        token_expires_at: request.token_expires_at,
        connected_at: request.connected_at,
    };
    bridge.ingress.connect(identity, request.names_session, route).await.map_err(|error| {
        metrics::connect_refused(error.cause());
        ApiError::from(error)
    })?;
    Ok(Json(serde_json::json!({"ok": true})).into_response())
}

/// `POST /api/ws/message`
async fn message(State(bridge): State<Arc<Bridge>>, signed: Signed) -> Result<Response, ApiError> {
    let envelope: Envelope = signed.json()?;
    signed.is_about(&envelope.connection_id)?;
    signed.is_new(&bridge)?;
    about_session(&envelope.session_id);
    if let Some(passed) = signed.pass_on(&bridge, &envelope.session_id).await? {
        return Ok(passed);
    }
    let body = signed.body();
    metrics::received(body.len());
    bridge.ingress.count(&envelope.connection_id, &envelope.user_id).map_err(|_| {
        ApiError::new(StatusCode::TOO_MANY_REQUESTS, ErrorCode::RateLimited, "too many frames a second")
            .answering(reference(body))
    })?;
    signed.once(&bridge, &envelope.user_id)?;
    let bytes = bytes_of_the_client(body, &envelope);
    let route = bridge.pusher.route(&envelope.bridge.callback_url, None).map_err(forbidden)?;
    let frame = Incoming {
        body: body.clone(),
        bytes,
        message_id: envelope.bridge.message_id,
        timestamp: envelope.bridge.client_timestamp.map(|json| json.get().to_owned()),
    };
    let identity = Identity {
        session: envelope.session_id,
        connection: envelope.connection_id,
        user: envelope.user_id,
        read_only: envelope.bridge.read_only,
        token_id: envelope.bridge.token_id,
        token_expires_at: envelope.bridge.token_expires_at,
        connected_at: envelope.bridge.connected_at,
    };
    Ok(match bridge.ingress.frame(identity, frame, route).await? {
        Some(json) => json_response(json),
        None => StatusCode::NO_CONTENT.into_response(),
    })
}

/// `POST /api/ws/disconnect`
async fn disconnect(State(bridge): State<Arc<Bridge>>, signed: Signed) -> Result<Response, ApiError> {
    let request: DisconnectRequest = signed.json()?;
    signed.is_about(&request.connection_id)?;
    about_session(&request.session_id);
    if let Some(passed) = signed.pass_on(&bridge, &request.session_id).await? {
        return Ok(passed);
    }
    signed.once(&bridge, &request.user_id)?;
    bridge.ingress.disconnect(&request.session_id, request.connection_id).await;
    Ok(Json(serde_json::json!({"success": true})).into_response())
}

fn json_response(json: Bytes) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], json).into_response()
}

/// Bytes of a body that the client sent. The envelope is measured only where it could decide.
fn bytes_of_the_client(body: &[u8], envelope: &Envelope) -> usize {
    if body.len() <= MAX_FRAME {
        return body.len();
    }
    body.len().saturating_sub(serde_json::to_vec(envelope).map_or(0, |json| json.len()))
}

fn forbidden(cause: Forbidden) -> ApiError {
    ApiError::forbidden(&cause.to_string())
}
