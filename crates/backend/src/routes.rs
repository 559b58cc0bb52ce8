//! The HTTP API, one file a resource.

mod bridge;
mod diagnostics;
mod health;
mod keep_awake;
mod metrics;
pub(crate) mod page;
mod sessions;

use std::sync::Arc;

use axum::{
    Router,
    extract::DefaultBodyLimit,
    http::{HeaderMap, HeaderName, HeaderValue, Method, header},
    routing::{delete, get, post},
};
use shellbridge_protocol::{bridge as contract, limits::MAX_BRIDGE_BODY};
use tower_http::{
    catch_panic::CatchPanicLayer,
    cors::{AllowOrigin, CorsLayer},
    set_header::SetResponseHeaderLayer,
};

use crate::{app::App, observe::observe};

/// Bodies of the sessions API: an environment, and little more.
const MAX_API_BODY: usize = 128 * 1024;

/// All routes.
pub(crate) fn router(app: Arc<App>) -> Router {
    let bridge = Router::new()
        .route(contract::CONNECT_PATH, post(bridge::connect))
        .route(contract::MESSAGE_PATH, post(bridge::message))
        .route(contract::DISCONNECT_PATH, post(bridge::disconnect))
        .layer(DefaultBodyLimit::max(MAX_BRIDGE_BODY));
    let api = Router::new()
        .route("/api/sessions", post(sessions::create))
        .route("/api/sessions/{id}", get(sessions::show).delete(sessions::end))
        .route("/api/sessions/{id}/validate", get(sessions::validate))
        .route("/api/sessions/{id}/extend", post(sessions::extend))
        .route("/api/sessions/{id}/share", post(sessions::share))
        .route("/api/sessions/{id}/shares", get(sessions::shares).delete(sessions::revoke_shares))
        .route("/api/sessions/{id}/shares/{share}", delete(sessions::revoke_share))
        .route("/api/dev/sessions", post(sessions::create_dev))
        .layer(DefaultBodyLimit::max(MAX_API_BODY))
        .layer(cors(&app));
    let policy = page::policy(app.config.ws_url.as_deref());
    Router::new()
        .merge(bridge)
        .merge(api)
        // It answers every origin: it tells why an origin is refused.
        .route("/api/diagnostics/websocket", get(diagnostics::websocket).options(diagnostics::preflight))
        .route("/health", get(health::health))
        .route("/ready", get(health::ready))
        .route("/metrics", get(metrics::metrics))
        .route(crate::keep_awake::PATH, post(keep_awake::hold))
        .fallback(page::asset)
        .layer(constant(header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .layer(constant(header::X_FRAME_OPTIONS, "DENY"))
        .layer(constant(header::REFERRER_POLICY, "no-referrer"))
        // A page that opened ours can neither move it to another #fragment nor see where it is.
        .layer(constant(HeaderName::from_static("cross-origin-opener-policy"), "same-origin"))
        .layer(SetResponseHeaderLayer::if_not_present(header::CONTENT_SECURITY_POLICY, policy))
        .layer(CatchPanicLayer::new())
        // Around all the others, so that their answers are logged too, and have an id.
        .layer(axum::middleware::from_fn(observe))
        .with_state(app)
}

/// What is served at `METRICS_BIND`.
pub(crate) fn metrics_router(app: Arc<App>) -> Router {
    Router::new()
        .route("/metrics", get(metrics::open))
        .layer(axum::middleware::from_fn(observe))
        .with_state(app)
}

fn constant(name: HeaderName, value: &'static str) -> SetResponseHeaderLayer<HeaderValue> {
    SetResponseHeaderLayer::if_not_present(name, HeaderValue::from_static(value))
}

/// The same allow-list as the handshake's. Credentials are allowed, so the answer names the origin and never `*`.
fn cors(app: &App) -> CorsLayer {
    let origins = app.origins.clone();
    let allowed = move |origin: &HeaderValue, _: &axum::http::request::Parts| {
        let origin = origin.to_str().ok();
        origin.is_some() && origins.as_ref().is_some_and(|origins| origins.allows(origin))
    };
    CorsLayer::new()
        .allow_origin(AllowOrigin::predicate(allowed))
        .allow_methods([Method::GET, Method::POST, Method::DELETE])
        .allow_headers([header::AUTHORIZATION, header::CONTENT_TYPE])
        .expose_headers([HeaderName::from_static(contract::REQUEST_ID_HEADER)])
        .allow_credentials(true)
        .max_age(std::time::Duration::from_hours(24))
}

/// The token of `Authorization: Bearer`.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}
