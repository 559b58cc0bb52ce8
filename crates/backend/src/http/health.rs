//! Liveness and readiness, for load balancers and operators.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode},
};
use serde_json::{Value, json};
use shellbridge_protocol::bridge::{CONNECT_PATH, DISCONNECT_PATH, MESSAGE_PATH};

use crate::{clock::unix_ms, http::App};

/// `GET /health`: answers while the process lives.
pub(crate) async fn health() -> Json<Value> {
    Json(json!({
        "status": "ok",
        "timestamp": unix_ms(),
        "websocket": "available",
        "endpoints": [CONNECT_PATH, MESSAGE_PATH, DISCONNECT_PATH],
        "version": env!("CARGO_PKG_VERSION"),
    }))
}

/// `GET /ready`: 503 while stopping, and, with several instances, without Redis. Only `ADMIN_TOKEN` sees the number of sessions.
pub(crate) async fn ready(State(app): State<Arc<App>>, headers: HeaderMap) -> (StatusCode, Json<Value>) {
    if app.directory.is_closed() {
        return (
            StatusCode::SERVICE_UNAVAILABLE,
            Json(json!({"status": "stopping", "notReady": ["stopping"]})),
        );
    }
    if app.launcher.containers().is_some_and(|containers| !containers.available()) {
        return (
            StatusCode::SERVICE_UNAVAILABLE,
            Json(json!({"status": "degraded", "notReady": ["container engine"]})),
        );
    }
    let admin = app.admin.admits(&headers).await;
    if let Some(report) = app.directory.report().filter(|report| !report.leased) {
        let mut answer = json!({"status": "not ready", "notReady": ["redis"]});
        if let (true, Value::Object(answer)) = (admin, &mut answer) {
            answer.insert("redis".to_owned(), report.error.into());
        }
        return (StatusCode::SERVICE_UNAVAILABLE, Json(answer));
    }
    let ready = if admin {
        json!({"status": "ready", "sessions": app.directory.len()})
    } else {
        json!({"status": "ready"})
    };
    (StatusCode::OK, Json(ready))
}
