//! The control port: faults and counters, for this machine only.
//!
//! `POST /__faults` sets the given faults and leaves the others; `GET /__state` returns the counters. Against DNS
//! rebinding, `Host` must be a loopback name, and `Origin`, if present, that of the local page.

use std::sync::Arc;

use bytes::Bytes;
use http::{
    HeaderMap, Method, Request, Response, StatusCode,
    header::{HOST, ORIGIN},
};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use serde_json::{Map, Value};
use tokio::net::TcpListener;
use tracing::info;

use crate::{
    faults::FaultSettings,
    gateway::Gateway,
    http1::{self, response},
    reply::http_error,
};

/// Largest settings document, bytes.
const MAX_BODY: usize = 16 * 1024;
const JSON: &[(&str, &str)] = &[("content-type", "application/json")];

/// Serves the control port until dropped. Pages of `origins` may use it.
pub async fn serve(listener: TcpListener, gateway: Arc<Gateway>, origins: Vec<String>) {
    let origins: Arc<[String]> = origins.into();
    http1::serve(listener, move |request| {
        let (gateway, origins) = (Arc::clone(&gateway), Arc::clone(&origins));
        async move { handle(&gateway, &origins, request).await }
    })
    .await;
}

async fn handle(gateway: &Gateway, origins: &[String], request: Request<Incoming>) -> Response<Full<Bytes>> {
    if !is_local(request.headers(), origins) {
        return error(StatusCode::FORBIDDEN, "the control port serves this machine only");
    }
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/__state") => response(StatusCode::OK, JSON, state(gateway)),
        (&Method::POST, "/__faults") => match Limited::new(request.into_body(), MAX_BODY).collect().await {
            Ok(body) => faults(gateway, &body.to_bytes()),
            Err(_) => error(StatusCode::PAYLOAD_TOO_LARGE, "body too large"),
        },
        (_, "/__state" | "/__faults") => {
            error(StatusCode::METHOD_NOT_ALLOWED, "GET /__state, POST /__faults")
        }
        _ => error(StatusCode::NOT_FOUND, "GET /__state, POST /__faults"),
    }
}

fn is_local(headers: &HeaderMap, origins: &[String]) -> bool {
    let text = |name| headers.get(name).map(|value: &http::HeaderValue| value.to_str().unwrap_or_default());
    let host = text(HOST).unwrap_or_default();
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((name, _)) => name,
        None => host.split_once(':').map_or(host, |(name, _)| name),
    };
    matches!(name, "127.0.0.1" | "localhost" | "::1")
        && text(ORIGIN).is_none_or(|origin| origins.iter().any(|allowed| allowed == origin))
}

fn state(gateway: &Gateway) -> String {
    let mut state = to_object(&gateway.counters.snapshot(gateway.connections.len()));
    state.insert("faults".to_owned(), Value::Object(to_object(&gateway.faults.settings())));
    Value::Object(state).to_string()
}

/// Applies the given settings and returns all of them.
fn faults(gateway: &Gateway, body: &[u8]) -> Response<Full<Bytes>> {
    let given: Map<String, Value> = match serde_json::from_slice(body) {
        Ok(given) => given,
        Err(cause) => return error(StatusCode::BAD_REQUEST, &format!("not a JSON object: {cause}")),
    };
    let reseed = given.contains_key("seed");
    let changed = !given.is_empty();
    let mut merged = to_object(&gateway.faults.settings());
    merged.extend(given);
    let settings: FaultSettings = match serde_json::from_value(Value::Object(merged)) {
        Ok(settings) => settings,
        Err(cause) => return error(StatusCode::BAD_REQUEST, &cause.to_string()),
    };
    if let Err(cause) = gateway.faults.check(&settings) {
        return error(StatusCode::BAD_REQUEST, &cause);
    }
    if changed {
        let faults = Value::Object(to_object(&settings)).to_string();
        info!(faults, "faults changed");
        gateway.faults.replace(settings, reseed);
    }
    response(StatusCode::OK, JSON, Value::Object(to_object(&gateway.faults.settings())).to_string())
}

fn to_object(value: &impl serde::Serialize) -> Map<String, Value> {
    match serde_json::to_value(value) {
        Ok(Value::Object(map)) => map,
        _ => Map::new(),
    }
}

fn error(status: StatusCode, message: &str) -> Response<Full<Bytes>> {
    response(status, JSON, http_error(message))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local(host: &str, origin: Option<&str>) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, host.parse().unwrap());
        if let Some(origin) = origin {
            headers.insert(ORIGIN, origin.parse().unwrap());
        }
        is_local(&headers, &["http://127.0.0.1:3001".to_owned()])
    }

    #[test]
    fn only_this_machine_and_the_local_page_are_served() {
        assert!(local("127.0.0.1:3003", None));
        assert!(local("localhost", None));
        assert!(local("[::1]:3003", Some("http://127.0.0.1:3001")));
        assert!(!local("rebound.example:3003", None));
        assert!(!local("127.0.0.1.example:3003", None));
        assert!(!local("127.0.0.1:3003", Some("https://evil.example")));
        assert!(!local("127.0.0.1:3003", Some("null")));
    }
}
