//! The sessions API: the platform creates sessions; owners inspect, extend, share and end them.

use std::{net::IpAddr, sync::Arc, time::Duration};

use axum::{
    Json,
    extract::{FromRequest, FromRequestParts, Path, RawPathParams, Request, State},
    http::{HeaderMap, StatusCode, Uri, header, request::Parts},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use shellbridge_protocol::{ErrorCode, access::Grant, ids::SessionId, times::UnixMs};

use crate::{
    access::Mint,
    access::bearer,
    clock::unix_ms,
    directory::{Missing, Refused, Reservation},
    error::ApiError,
    http::{
        App,
        room::{RoomRequest, describe},
    },
    launcher::{
        NotStarted, Sandbox, SetupRequest, ShellRequest, Space, move_in, shell_spec, shell_spec_elsewhere,
        shell_spec_inside,
    },
    metrics,
    observe::about_session,
    sessions::{self, Handle, NotOpened, Start, Status, Use},
};

/// Default of `ttlSeconds`, capped by `MAX_SESSION_TTL`.
const DEFAULT_TTL: u64 = 3600;
/// Longest user id, in bytes.
const MAX_USER_ID: usize = 256;

/// Body of `POST /api/sessions` and of `POST /api/dev/sessions`, where `userId` is optional.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Create {
    #[serde(default)]
    user_id: Option<String>,
    #[serde(default)]
    session_id: Option<String>,
    #[serde(default)]
    ttl_seconds: Option<u64>,
    #[serde(flatten)]
    room: RoomRequest,
    #[serde(flatten)]
    setup: SetupRequest,
    #[serde(flatten)]
    shell: ShellRequest,
}

#[derive(Deserialize)]
pub(crate) struct Extend {
    seconds: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Share {
    #[serde(default)]
    ttl_seconds: Option<u64>,
}

/// A JSON body whose errors are error frames. An empty body counts as an empty object.
pub(crate) struct Body<T>(T);

impl<T: DeserializeOwned> FromRequest<Arc<App>> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, ApiError> {
        let bytes = axum::body::Bytes::from_request(request, app).await.map_err(|error| {
            let status = error.into_response().status();
            ApiError::new(status, ErrorCode::TooLarge, "the body is too large or could not be read")
        })?;
        let bytes = if bytes.is_empty() { b"{}".as_slice() } else { &bytes };
        serde_json::from_slice(bytes).map(Self).map_err(|error| ApiError::bad_request(error.to_string()))
    }
}

/// Requires `ADMIN_TOKEN`. Checked before the body is read.
pub(crate) struct Admin;

impl FromRequestParts<Arc<App>> for Admin {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, ApiError> {
        let wanted = || match bearer(&parts.headers) {
            None => ApiError::no_token("ADMIN_TOKEN is required"),
            Some(_) => ApiError::unauthorized("ADMIN_TOKEN is required"),
        };
        app.admin.admits(&parts.headers).await.then_some(Self).ok_or_else(wanted)
    }
}

/// Requires `DEV_SESSIONS` and a request from this machine. Checked before the body is read.
pub(crate) struct Developer;

impl FromRequestParts<Arc<App>> for Developer {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, ApiError> {
        if !app.config.dev_sessions {
            return Err(ApiError::new(StatusCode::NOT_FOUND, ErrorCode::Forbidden, "DEV_SESSIONS is off"));
        }
        let elsewhere = || ApiError::forbidden("only for requests from this machine");
        is_local(app, &parts.uri, &parts.headers).then_some(Self).ok_or_else(elsewhere)
    }
}

/// The session of the path, if the caller may know of it; otherwise 404. Checked before the body is read.
pub(crate) struct Known {
    session: Handle,
    caller: Caller,
}

impl FromRequestParts<Arc<App>> for Known {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, ApiError> {
        Self::for_use(parts, app, Use::Door).await
    }
}

impl Known {
    async fn for_use(parts: &mut Parts, app: &Arc<App>, purpose: Use) -> Result<Self, ApiError> {
        let path = RawPathParams::from_request_parts(parts, app).await;
        let path = path.map_err(|_| ApiError::no_session())?;
        let id = path.iter().find(|(name, _)| *name == "id").map(|(_, id)| id.to_owned());
        let id: SessionId = id.ok_or_else(ApiError::no_session)?.into();
        let caller = Caller::identify(app, &parts.headers, &id).await?;
        about_session(&id);
        let elsewhere = parts.extensions.get::<Missing>();
        let session = app.directory.find(&id).map_err(|missing| elsewhere.copied().unwrap_or(missing))?;
        if let Caller::User(grant) = &caller {
            if !grant.opens(&session.status().owner) {
                return Err(ApiError::no_session());
            }
            session.status().tokens.check(grant.token_id.as_deref(), purpose, unix_ms())?;
        }
        Ok(Self { session, caller })
    }

    /// Refuses view-only tokens.
    fn changeable(self) -> Result<Self, ApiError> {
        if self.only_watches() {
            return Err(ApiError::forbidden("this token is view-only"));
        }
        Ok(self)
    }

    const fn only_watches(&self) -> bool {
        matches!(&self.caller, Caller::User(grant) if grant.read_only)
    }
}

/// The session of the path, if the caller may change it.
pub(crate) struct Changeable(Handle);

impl FromRequestParts<Arc<App>> for Changeable {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, ApiError> {
        let known = Known::from_request_parts(parts, app).await?.changeable()?;
        Ok(Self(known.session))
    }
}

/// The session of the path, if the caller may renew its token: any caller who may change it, and one whose token was
/// just replaced in a response that got lost.
pub(crate) struct Renewable(Known);

impl FromRequestParts<Arc<App>> for Renewable {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, ApiError> {
        Known::for_use(parts, app, Use::Renewal).await?.changeable().map(Self)
    }
}

/// Who made a request about a session.
pub(crate) enum Caller {
    /// The platform, by `ADMIN_TOKEN`.
    Admin,
    /// A user with a token for the session.
    User(Grant),
}

impl Caller {
    /// Authenticates a request about the session with this id.
    pub(crate) async fn identify(app: &App, headers: &HeaderMap, id: &SessionId) -> Result<Self, ApiError> {
        if app.admin.admits(headers).await {
            return Ok(Self::Admin);
        }
        let token = bearer(headers).unwrap_or_default();
        Ok(Self::User(app.access.verify(token, Some(id)).await?))
    }
}

/// `POST /api/sessions`
pub(crate) async fn create(
    State(app): State<Arc<App>>,
    _: Admin,
    Body(body): Body<Create>,
) -> Result<Response, ApiError> {
    create_session(&app, body).await
}

/// `POST /api/dev/sessions`
pub(crate) async fn create_dev(
    State(app): State<Arc<App>>,
    _: Developer,
    Body(mut body): Body<Create>,
) -> Result<Response, ApiError> {
    body.user_id.get_or_insert_with(|| "developer".to_owned());
    create_session(&app, body).await
}

/// `GET /api/sessions/{id}`
pub(crate) async fn show(known: Known) -> Json<Value> {
    let status = known.session.status();
    // Viewers do not see the owner: a share link may be passed on to anyone.
    let owner = (!known.only_watches()).then_some(&status.owner);
    let usage = if owner.is_some() { known.session.usage().await } else { None };
    let mut answer = json!({
        "sessionId": status.id,
        "status": status.state(),
        "connections": status.connections(),
        "createdAt": status.created_at,
        "expiresAt": status.expires_at(),
    });
    if let (Value::Object(answer), Some(owner)) = (&mut answer, owner) {
        answer.insert("userId".to_owned(), owner.as_str().into());
        describe(answer, &status.room, usage);
    }
    Json(answer)
}

/// `GET /api/sessions/{id}/validate`
pub(crate) async fn validate(known: Result<Known, ApiError>) -> Result<Response, ApiError> {
    let session = match known {
        Ok(Known { session, .. }) => session,
        Err(error) if error.status() == StatusCode::NOT_FOUND => {
            let invalid = Json(json!({"valid": false, "error": "no such session"}));
            return Ok((StatusCode::NOT_FOUND, invalid).into_response());
        }
        Err(error) => return Err(error),
    };
    let status = session.status();
    let expires_at = status.expires_at();
    Ok(Json(json!({
        "valid": true,
        "sessionId": status.id,
        "status": status.state(),
        "expiresAt": expires_at,
        "expiresIn": expires_at.saturating_since(unix_ms()).as_secs(),
    }))
    .into_response())
}

/// `DELETE /api/sessions/{id}`: answers once all its processes are gone.
pub(crate) async fn end(Changeable(session): Changeable) -> StatusCode {
    session.end().await;
    StatusCode::NO_CONTENT
}

/// `POST /api/sessions/{id}/extend`: returns the new end and a new token, which revokes the owner's earlier ones.
pub(crate) async fn extend(
    State(app): State<Arc<App>>,
    Renewable(Known { session, caller }): Renewable,
    Body(Extend { seconds }): Body<Extend>,
) -> Result<Json<Value>, ApiError> {
    let status = session.status();
    let latest = status.created_at.saturating_add(Duration::from_secs(app.config.max_session_ttl));
    let latest = latest.min(app.deployment.latest());
    let wanted = status.expires_at().saturating_add(Duration::from_secs(seconds));
    session.extend(wanted.min(latest)).await?;
    app.directory.extended(status);
    let expires_at = status.expires_at();
    let asked_by = match &caller {
        Caller::Admin => None,
        Caller::User(grant) => grant.token_id.as_deref(),
    };
    let token = owner_token(&app, status, asked_by).await;
    if token.is_some() {
        session.tokens_changed().await?;
    }
    Ok(Json(json!({ "expiresAt": expires_at, "token": token })))
}

/// `POST /api/sessions/{id}/share`
pub(crate) async fn share(
    State(app): State<Arc<App>>,
    Changeable(session): Changeable,
    Body(Share { ttl_seconds }): Body<Share>,
) -> Result<Response, ApiError> {
    if !app.access.can_mint() {
        let message = "no key to sign tokens: set JWT_SECRET or JWT_PRIVATE_KEY";
        return Err(ApiError::new(StatusCode::NOT_IMPLEMENTED, ErrorCode::Forbidden, message));
    }
    if ttl_seconds == Some(0) {
        return Err(ApiError::bad_request("ttlSeconds: at least 1"));
    }
    let status = session.status();
    let wanted = ttl_seconds.map_or(UnixMs::MAX, |ttl| unix_ms().saturating_add(Duration::from_secs(ttl)));
    let expires_at = wanted.min(status.expires_at());
    // A fresh user id: a token in the owner's name would allow more than watching.
    let viewer = format!("viewer-{}", uuid::Uuid::new_v4().simple()).into();
    let id = status.tokens.new_id();
    let mint =
        Mint { user: &viewer, session: &status.id, read_only: true, id: &id, expires_at: expires_at.secs() };
    let token = app.access.mint(&mint).await.ok_or_else(ApiError::internal)?;
    let share = status.tokens.share(&id, unix_ms(), expires_at).map_err(|_| {
        let message = "too many share links: revoke some";
        ApiError::new(StatusCode::TOO_MANY_REQUESTS, ErrorCode::RateLimited, message)
    })?;
    session.tokens_changed().await?;
    let body = json!({ "id": share.id, "token": token, "expiresAt": expires_at });
    Ok((StatusCode::CREATED, [(header::CACHE_CONTROL, "no-store")], Json(body)).into_response())
}

/// `GET /api/sessions/{id}/shares`: lists the valid links, without their tokens, which are returned only on creation.
pub(crate) async fn shares(Changeable(session): Changeable) -> Json<Value> {
    Json(json!({ "shares": session.status().tokens.shares(unix_ms()) }))
}

/// `DELETE /api/sessions/{id}/shares/{shareId}`
pub(crate) async fn revoke_share(
    Changeable(session): Changeable,
    Path((_, share)): Path<(String, String)>,
) -> Result<StatusCode, ApiError> {
    if !session.status().tokens.revoke(Some(&share)) {
        return Err(ApiError::new(StatusCode::NOT_FOUND, ErrorCode::BadFrame, "no such share link"));
    }
    session.tokens_changed().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `DELETE /api/sessions/{id}/shares`: revokes all links. Succeeds without any.
pub(crate) async fn revoke_shares(Changeable(session): Changeable) -> Result<StatusCode, ApiError> {
    session.status().tokens.revoke(None);
    session.tokens_changed().await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn create_session(app: &Arc<App>, body: Create) -> Result<Response, ApiError> {
    let Create { user_id, session_id, ttl_seconds, room, setup, shell } = body;
    let user_id = user_id.unwrap_or_default();
    if user_id.is_empty() || user_id.len() > MAX_USER_ID {
        return Err(ApiError::bad_request("userId: 1 to 256 bytes"));
    }
    let fresh = session_id.is_none();
    let id = SessionId::from(session_id.unwrap_or_else(|| uuid::Uuid::new_v4().to_string()));
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.:".contains(&b);
    // Clients and proxies resolve `.` and `..` in the paths of URLs.
    if matches!(&*id, "" | "." | "..") || id.len() > 128 || !id.bytes().all(plain) {
        return Err(ApiError::bad_request("sessionId: 1 to 128 of A-Z a-z 0-9 - _ . :, but not . or .."));
    }
    let ttl = ttl_seconds.unwrap_or(DEFAULT_TTL).min(app.config.max_session_ttl);
    if ttl == 0 {
        return Err(ApiError::bad_request("ttlSeconds: at least 1"));
    }
    let spec = match app.config.shell_sandbox {
        Sandbox::None => shell_spec(shell),
        Sandbox::User => shell_spec_elsewhere(shell),
        Sandbox::Container => shell_spec_inside(shell),
    };
    let spec = spec.map_err(|bad| ApiError::bad_request(bad.to_string()))?;
    let setup = setup.check().map_err(|bad| ApiError::bad_request(bad.to_string()))?;
    let (space, room) = room.check(&app.config)?;
    let expires_at = unix_ms().saturating_add(Duration::from_secs(ttl)).min(app.deployment.latest());
    about_session(&id);
    let owner = user_id.into();
    let most = usize::try_from(app.config.max_sessions_per_user.get()).unwrap_or(usize::MAX);
    let reservation = app.directory.reserve_for(&id, &owner, most).inspect_err(|refused| {
        if matches!(refused, Refused::Quota(_)) {
            metrics::over_quota();
        }
    })?;
    let start = Start { id: id.clone(), owner, shell: spec, setup, room, expires_at };
    // In a task, so that it completes even if the request is cancelled: no one could end a half-made session.
    let opened = tokio::spawn(open(app.clone(), reservation, start, space, fresh)).await;
    let session = opened.map_err(|_| ApiError::internal())??;
    let status = session.status();
    let token = owner_token(app, status, None).await;
    if token.is_some() {
        session.tokens_changed().await?;
    }
    let body = json!({
        "sessionId": id,
        "token": token,
        "webSocketUrl": app.config.ws_url,
        "expiresAt": expires_at,
    });
    Ok((StatusCode::CREATED, [(header::CACHE_CONTROL, "no-store")], Json(body)).into_response())
}

/// Starts a host, and the session in it.
async fn open(
    app: Arc<App>,
    reservation: Reservation,
    mut start: Start,
    space: Space,
    fresh: bool,
) -> Result<Handle, ApiError> {
    let id = start.id.clone();
    let failed = |error: &dyn std::error::Error| {
        tracing::error!(error = error.to_string(), session_id = %id, "cannot start the shell");
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, ErrorCode::Internal, "cannot start the shell")
    };
    let claim = app.directory.claim(id.clone(), start.owner.clone(), start.expires_at, fresh).await?;
    let host = app.launcher.start(&id, &space).await.map_err(|error| match error {
        NotStarted::Failed(error) => failed(&error),
        error => {
            tracing::warn!(%error, session_id = %id, "no session started");
            error.into()
        }
    })?;
    if let Some(account) = host.account() {
        move_in(&mut start.shell, &account);
    }
    let contained = app.launcher.containers().is_some();
    let directory = app.directory.clone();
    let ended = move |status: &Status| directory.ended(status);
    let session = sessions::start(host, app.seal.clone(), app.settings, start, claim, ended).await.map_err(
        |error| match error {
            // Only the host sees the image, and it is the platform that chose the shell.
            NotOpened::Ended(why)
                if contained && (why.starts_with("shell: ") || why.starts_with("cwd: ")) =>
            {
                ApiError::bad_request(why)
            }
            // Such as a directory in the way, or a full disk.
            NotOpened::Files(why) => {
                ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, ErrorCode::BadFrame, why)
            }
            error => failed(&error),
        },
    )?;
    match reservation.fill(session.clone()) {
        Ok(()) => Ok(session),
        Err(late) => {
            late.end().await;
            Err(Refused::Closed.into())
        }
    }
}

/// Mints the owner's next token, which expires with the session and revokes the previous one. Without a key to sign it,
/// returns None and revokes nothing.
async fn owner_token(app: &App, status: &Status, asked_by: Option<&str>) -> Option<String> {
    let tokens = &status.tokens;
    let mint = async |id: &str| {
        let expires_at = status.expires_at().secs();
        let mint = Mint { user: &status.owner, session: &status.id, read_only: false, id, expires_at };
        app.access.mint(&mint).await
    };
    let id = tokens.successor(asked_by).unwrap_or_else(|| tokens.new_id());
    let token = mint(&id).await?;
    match tokens.renew(&id, asked_by, unix_ms()) {
        None => Some(token),
        Some(given) => mint(&given).await,
    }
}

/// Whether a request must come from a page or program on this machine: a name that an attacker's DNS points here is not
/// a loopback name, and a foreign page has an Origin that is not allowed.
fn is_local(app: &App, uri: &Uri, headers: &HeaderMap) -> bool {
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok())
        .or_else(|| uri.host())
        .unwrap_or_default();
    let name =
        host.rsplit_once(':').map_or(host, |(name, port)| if port.ends_with(']') { host } else { name });
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    let loopback =
        name.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback());
    let origin = headers.get(header::ORIGIN).map(|origin| origin.to_str().unwrap_or("null"));
    loopback && (origin.is_none() || app.origins.as_ref().is_some_and(|origins| origins.allows(origin)))
}
