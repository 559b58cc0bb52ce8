//! Serves `crate::metrics` to Prometheus.

use std::sync::Arc;

use axum::{
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};

use super::{App, sessions::Admin};
use crate::{launcher::Sandbox, metrics};

/// `GET /metrics`, with `ADMIN_TOKEN`.
pub(crate) async fn metrics(_: Admin, app: State<Arc<App>>) -> Response {
    open(app).await
}

/// `GET /metrics` at `METRICS_BIND`, without authentication.
pub(crate) async fn open(State(app): State<Arc<App>>) -> Response {
    for sandbox in [Sandbox::None, Sandbox::User, Sandbox::Container] {
        metrics::holds_sessions(sandbox.name(), app.directory.count(sandbox));
    }
    metrics::holds_connections(app.directory.connections());
    if let Some(report) = app.directory.report() {
        metrics::fleet(report.leased, report.fenced, report.draining);
    }
    // The version of the text format (Prometheus documentation, "Exposition formats").
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], app.metrics.render())
        .into_response()
}
