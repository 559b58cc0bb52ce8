//! The HTTP API, one file per resource. Only this module uses [`App`].

mod app;
mod diagnostics;
mod elsewhere;
mod health;
mod keep_awake;
mod metrics;
pub(crate) mod page;
mod room;
pub(crate) mod serve;
mod sessions;

use std::sync::Arc;

use axum::{
    Router,
    extract::DefaultBodyLimit,
    http::{HeaderName, HeaderValue, Method, header},
    middleware::from_fn_with_state,
    routing::{delete, get, post},
};
use shellbridge_protocol::bridge::REQUEST_ID_HEADER;
use tower_http::{
    catch_panic::CatchPanicLayer,
    cors::{AllowOrigin, CorsLayer},
    set_header::SetResponseHeaderLayer,
};

pub(crate) use self::app::App;
use crate::{observe::observe, transport::bridge};

/// Largest body of the sessions API, in bytes.
const MAX_API_BODY: usize = 128 * 1024;
/// Largest body that creates a session, in bytes: mostly its files, whose control characters take six bytes each in JSON.
const MAX_CREATE_BODY: usize = 2 * 1024 * 1024;

/// All routes.
pub(crate) fn router(app: &Arc<App>) -> Router {
    let large = || DefaultBodyLimit::max(MAX_CREATE_BODY);
    let api = Router::new()
        .route("/api/sessions", post(sessions::create).layer(large()))
        .route("/api/sessions/{id}", get(sessions::show).delete(sessions::end))
        .route("/api/sessions/{id}/validate", get(sessions::validate))
        .route("/api/sessions/{id}/extend", post(sessions::extend))
        .route("/api/sessions/{id}/share", post(sessions::share))
        .route("/api/sessions/{id}/shares", get(sessions::shares).delete(sessions::revoke_shares))
        .route("/api/sessions/{id}/shares/{share}", delete(sessions::revoke_share))
        .route("/api/dev/sessions", post(sessions::create_dev).layer(large()))
        .layer(DefaultBodyLimit::max(MAX_API_BODY))
        .layer(from_fn_with_state(app.clone(), elsewhere::pass_on))
        .layer(cors(app));
    let policy = page::policy(app.config.ws_url.as_deref());
    Router::new()
        .merge(api)
        // Outside the CORS layer: it tells pages of any origin why theirs is refused.
        .route("/api/diagnostics/websocket", get(diagnostics::websocket).options(diagnostics::preflight))
        .route("/health", get(health::health))
        .route("/ready", get(health::ready))
        .route("/metrics", get(metrics::metrics))
        .route(crate::keep_awake::PATH, post(keep_awake::hold))
        .fallback(page::asset)
        .with_state(app.clone())
        .merge(bridge::router(app.bridge.clone()))
        .layer(constant(header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .layer(constant(header::X_FRAME_OPTIONS, "DENY"))
        .layer(constant(header::REFERRER_POLICY, "no-referrer"))
        // A page that opened this one can neither change its #fragment nor observe its location.
        .layer(constant(HeaderName::from_static("cross-origin-opener-policy"), "same-origin"))
        .layer(SetResponseHeaderLayer::if_not_present(header::CONTENT_SECURITY_POLICY, policy))
        .layer(CatchPanicLayer::new())
        // Outermost, so that responses of the other layers are logged and carry a request id.
        .layer(axum::middleware::from_fn(observe))
}

/// Routes at `METRICS_BIND`.
pub(crate) fn metrics_router(app: Arc<App>) -> Router {
    Router::new()
        .route("/metrics", get(metrics::open))
        .layer(axum::middleware::from_fn(observe))
        .with_state(app)
}

fn constant(name: HeaderName, value: &'static str) -> SetResponseHeaderLayer<HeaderValue> {
    SetResponseHeaderLayer::if_not_present(name, HeaderValue::from_static(value))
}

/// Uses the handshake's allow-list. Allows credentials, so the response names the origin and never `*`.
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
        .expose_headers([HeaderName::from_static(REQUEST_ID_HEADER)])
        .allow_credentials(true)
        .max_age(std::time::Duration::from_hours(24))
}
