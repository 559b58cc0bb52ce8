//! The door for the Lambda: signed requests about connections and their frames.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    body::Bytes,
    extract::{FromRequest, Request, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::de::DeserializeOwned;
use shellbridge_protocol::{
    ErrorCode,
    access::{good_until_ms, may_open},
    bridge::{BridgeToken, CONNECTION_ID_HEADER, ConnectRequest, DisconnectRequest, Envelope, Replay},
    frame::{ClientFrame, ErrorFrame, FrameHead, ServerFrame},
    ids::ConnectionId,
    limits::MAX_FRAME,
};
use shellbridge_session::{ConnectionInfo, Reply};

use crate::{
    app::App,
    count,
    error::ApiError,
    observe::about_session,
    push::Forbidden,
    routes::bearer,
    sessions::{Handle, Stale, Status, Unreachable, Use},
    unix_ms, unix_secs,
};

/// Clocks of the Lambda's side and of this one may differ by this much.
const CLOCK_SKEW_MS: i64 = 60_000;

/// The body of a request that is proven to be the Lambda's. Whether it is new is asked of [`Signed::once`], when it
/// is known whose it is.
pub(crate) struct Signed {
    token: BridgeToken,
    body: Bytes,
    /// The connection that the token is bound to.
    connection: String,
}

impl Signed {
    fn json<T: DeserializeOwned>(&self) -> Result<T, ApiError> {
        serde_json::from_slice(&self.body).map_err(|error| ApiError::bad_request(error.to_string()))
    }

    /// Refuses a request that came before. It may come again as if it were new: for one that is refused for its rate.
    fn is_new(&self, app: &App) -> Result<(), ApiError> {
        match app.replays.lock() {
            Ok(replays) if replays.has(&self.token.jti) => Err(replayed()),
            Ok(_) => Ok(()),
            Err(_) => Err(ApiError::internal()),
        }
    }

    /// Refuses a request that came before, and remembers it. `user`: whose it is, as the Lambda says.
    fn once(&self, app: &App, user: &str) -> Result<(), ApiError> {
        let (jti, until) = (&self.token.jti, self.token.remembered_until());
        let replay = match app.replays.lock() {
            Ok(mut replays) => replays.check(jti, user, until, unix_secs()),
            Err(_) => return Err(ApiError::internal()),
        };
        match replay {
            Replay::Fresh => Ok(()),
            Replay::Seen => Err(replayed()),
            Replay::Share => {
                count::bridge_refused("share");
                let message = "too many requests of this user to tell them from replays";
                Err(ApiError::new(StatusCode::TOO_MANY_REQUESTS, ErrorCode::RateLimited, message))
            }
            Replay::Full => {
                count::bridge_refused("full");
                let message = "too many requests to tell them from replays";
                Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::RateLimited, message))
            }
        }
    }

    /// Refuses a body about another connection than the token's.
    fn is_about(&self, connection: &str) -> Result<(), ApiError> {
        if self.connection == connection {
            Ok(())
        } else {
            Err(ApiError::bad_request("connectionId is not X-Connection-Id"))
        }
    }
}

impl FromRequest<Arc<App>> for Signed {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, ApiError> {
        let refused = |cause| {
            count::bridge_refused(cause);
            ApiError::unauthorized("not signed by the Lambda")
        };
        let path = request.uri().path().to_owned();
        let headers = request.headers();
        let token = bearer(headers).ok_or_else(|| {
            count::bridge_refused("no_token");
            ApiError::no_token("not signed by the Lambda")
        })?;
        let token = token.to_owned();
        let connection = headers.get(CONNECTION_ID_HEADER).and_then(|id| id.to_str().ok());
        let connection = connection.ok_or_else(|| refused("no_connection"))?.to_owned();
        let body = Bytes::from_request(request, app).await.map_err(|error| {
            count::bridge_refused("body");
            let status = error.into_response().status();
            ApiError::new(status, ErrorCode::TooLarge, "the body is too large or could not be read")
        })?;
        let now = unix_secs();
        let token = app.bridge.verify(&token, &path, &connection, &body, now).map_err(|cause| {
            tracing::warn!(%cause, path, "a request is not the Lambda's");
            refused(count::token_fault(cause))
        })?;
        Ok(Self { token, body, connection })
    }
}

fn replayed() -> ApiError {
    count::bridge_refused("replay");
    tracing::warn!("a request of the Lambda came twice");
    ApiError::unauthorized("not signed by the Lambda")
}

/// `POST /api/ws/connect`
pub(crate) async fn connect(State(app): State<Arc<App>>, signed: Signed) -> Result<Response, ApiError> {
    let refused = |cause| {
        move |error: ApiError| {
            count::connect_refused(cause);
            error
        }
    };
    let request: ConnectRequest = signed.json().map_err(refused("malformed"))?;
    signed.is_about(&request.connection_id).map_err(refused("malformed"))?;
    signed.once(&app, &request.user_id)?;
    about_session(&request.session_id);
    let session = app.store.get(&request.session_id).ok_or_else(ApiError::no_session);
    let session = session.map_err(refused("no_session"))?;
    let status = session.status();
    if !may_open(&request.user_id, request.read_only, request.names_session, &status.owner) {
        return Err(refused("not_owner")(ApiError::forbidden("not your session")));
    }
    let id: ConnectionId = request.connection_id.into();
    let route = app.pusher.route(&request.callback_url, Some(request.connected_at));
    let route = route.map_err(forbidden).map_err(refused("callback_url"))?;
    let info = ConnectionInfo {
        id,
        read_only: request.read_only,
        user: request.user_id.into(),
        token_id: request.token_id.map(Into::into),
        connected_at: request.connected_at,
        token_lasts: lasts(request.token_expires_at),
        limits: route.transport.limits(),
    };
    session.connect(info, route).await.map_err(|error| {
        let cause = match error {
            Unreachable::Ended | Unreachable::Stale(Stale::Earlier) => "no_session",
            Unreachable::Busy => "busy",
            Unreachable::Full => "full",
            Unreachable::Stale(Stale::Revoked) => "revoked",
        };
        refused(cause)(error.into())
    })?;
    count::connected();
    Ok(Json(serde_json::json!({"ok": true})).into_response())
}

/// `POST /api/ws/message`
pub(crate) async fn message(State(app): State<Arc<App>>, signed: Signed) -> Result<Response, ApiError> {
    let envelope: Envelope = signed.json()?;
    signed.is_about(&envelope.connection_id)?;
    signed.is_new(&app)?;
    about_session(&envelope.session_id);
    count::received(signed.body.len());
    app.rates.check(&envelope.connection_id, &envelope.user_id).map_err(|whose| {
        count::rate_limited(whose);
        let reference = FrameHead::read(&signed.body).ok().and_then(|head| head.reference());
        ApiError::new(StatusCode::TOO_MANY_REQUESTS, ErrorCode::RateLimited, "too many frames a second")
            .answering(reference)
    })?;
    signed.once(&app, &envelope.user_id)?;
    let session = app.store.get(&envelope.session_id).ok_or_else(ApiError::no_session)?;
    if !adoptable(&envelope, session.status()) {
        return Err(ApiError::no_session());
    }
    let tokens = &session.status().tokens;
    tokens
        .check(envelope.bridge.token_id.as_deref(), Use::Connection, unix_ms())
        .map_err(Unreachable::from)?;
    let answer = answer(&app, &session, envelope, &signed.body).await?;
    let json = answer.as_ref().map(ServerFrame::to_json);
    count::replied(answer.as_ref(), json.as_ref().map_or(0, Bytes::len));
    Ok(match json {
        Some(json) => ([(header::CONTENT_TYPE, "application/json")], json).into_response(),
        None => StatusCode::NO_CONTENT.into_response(),
    })
}

/// `POST /api/ws/disconnect`
pub(crate) async fn disconnect(State(app): State<Arc<App>>, signed: Signed) -> Result<Response, ApiError> {
    let request: DisconnectRequest = signed.json()?;
    signed.is_about(&request.connection_id)?;
    signed.once(&app, &request.user_id)?;
    about_session(&request.session_id);
    if let Some(session) = app.store.get(&request.session_id) {
        // A session that has ended needs no news of its connections.
        let _ = session.disconnect(request.connection_id.into()).await;
    }
    Ok(Json(serde_json::json!({"success": true})).into_response())
}

/// Whether a connection that the Lambda's record vouches for may belong to this session: made for it by its owner, or
/// for watching, and not for a session of the same name that was before it.
fn adoptable(envelope: &Envelope, session: &Status) -> bool {
    let created_at = i64::try_from(session.created_at).unwrap_or(i64::MAX);
    (*envelope.user_id == *session.owner || envelope.bridge.read_only)
        && envelope.bridge.connected_at >= created_at.saturating_sub(CLOCK_SKEW_MS)
}

async fn answer(
    app: &App,
    session: &Handle,
    envelope: Envelope,
    body: &[u8],
) -> Result<Option<ServerFrame>, ApiError> {
    // What the Lambda adds is not the client's. Measured only where it decides.
    if body.len() > MAX_FRAME && body.len().saturating_sub(envelope_size(&envelope)) > MAX_FRAME {
        count::frame(None);
        return Ok(Some(ErrorFrame::new(ErrorCode::TooLarge, "a frame is at most 32768 bytes").into()));
    }
    let (mut frame, head) = match ClientFrame::parse(body) {
        Ok(parsed) => parsed,
        Err(error) => {
            count::frame(None);
            return Ok(Some(error.into()));
        }
    };
    count::frame(Some(&frame));
    if let ClientFrame::Ping { timestamp, .. } = &mut frame {
        // The Lambda's stands where the client's was.
        let Ok(sent) = envelope.bridge.client_timestamp.as_ref().map(|raw| raw.number()).transpose() else {
            let error = ErrorFrame::new(ErrorCode::BadFrame, "timestamp is a number");
            return Ok(Some(error.answering(head.reference()).into()));
        };
        *timestamp = sent.flatten();
    }
    let bridge = envelope.bridge;
    let id: ConnectionId = envelope.connection_id.into();
    let route = app.pusher.route(&bridge.callback_url, None).map_err(forbidden)?;
    let info = ConnectionInfo {
        id,
        read_only: bridge.read_only,
        user: envelope.user_id.into(),
        token_id: bridge.token_id.map(Into::into),
        connected_at: bridge.connected_at,
        token_lasts: lasts(bridge.token_expires_at),
        limits: route.transport.limits(),
    };
    Ok(match session.frame(info, route, frame, bridge.message_id).await? {
        Reply::Frame(ServerFrame::Error(error)) if error.reference.is_none() => {
            Some(error.answering(head.reference()).into())
        }
        Reply::Frame(frame) => Some(frame),
        Reply::Echo => Some(echo(body)),
        Reply::Unknown => Some(unknown(head)),
        Reply::Nothing | Reply::Later => None,
    })
}

/// How much longer a token is good.
fn lasts(token_expires_at: i64) -> Duration {
    let now = i64::try_from(unix_ms()).unwrap_or(i64::MAX);
    let left = good_until_ms(token_expires_at).saturating_sub(now);
    Duration::from_millis(u64::try_from(left).unwrap_or(0))
}

fn echo(body: &[u8]) -> ServerFrame {
    match Envelope::unwrap_frame(body) {
        Ok(received) => ServerFrame::Echo { received, timestamp: unix_ms() },
        Err(_) => ErrorFrame::new(ErrorCode::BadFrame, "a frame is a JSON object").into(),
    }
}

fn unknown(head: FrameHead) -> ServerFrame {
    ServerFrame::UnknownCommand {
        received: head.kind,
        message: "this type of frame is not known".to_owned(),
        timestamp: unix_ms(),
    }
}

/// Bytes that the Lambda's fields take at least.
fn envelope_size(envelope: &Envelope) -> usize {
    serde_json::to_vec(envelope).map_or(0, |json| json.len())
}

fn forbidden(cause: Forbidden) -> ApiError {
    ApiError::forbidden(&cause.to_string())
}
