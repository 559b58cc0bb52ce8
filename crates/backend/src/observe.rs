//! Request ids, and one log line per request: ids, route, status, duration; never a token, body or query.

use std::time::Instant;

use axum::{
    extract::{MatchedPath, Request},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    middleware::Next,
    response::Response,
};
use shellbridge_protocol::bridge::{CONNECTION_ID_HEADER, MESSAGE_PATH, REQUEST_ID_HEADER};
use tracing::{Instrument, Span, field::Empty};

use crate::metrics;

/// X-Ray's header, forwarded by the Lambda.
const TRACE_HEADER: &str = "x-amzn-trace-id";
/// Longest id accepted from a request, in bytes.
const MAX_ID: usize = 128;
/// Characters of a path or origin that are logged.
const MAX_TEXT: usize = 256;

/// Middleware around all routes: logs and measures each request.
pub(crate) async fn observe(request: Request, next: Next) -> Response {
    let started = Instant::now();
    let headers = request.headers();
    let request_id = sane(headers, REQUEST_ID_HEADER, MAX_ID)
        .map_or_else(|| uuid::Uuid::new_v4().to_string(), str::to_owned);
    let span = tracing::info_span!(
        "request",
        request_id,
        connection_id = sane(headers, CONNECTION_ID_HEADER, MAX_ID),
        trace_id = sane(headers, TRACE_HEADER, MAX_TEXT),
        session_id = Empty,
    );
    let method = request.method().clone();
    let path: String = request.uri().path().chars().take(MAX_TEXT).collect();
    let origin: Option<String> = headers
        .get(header::ORIGIN)
        .map(|origin| String::from_utf8_lossy(origin.as_bytes()).chars().take(MAX_TEXT).collect());
    let route = request.extensions().get::<MatchedPath>().map_or("page", MatchedPath::as_str).to_owned();
    let quiet = is_quiet(&path);

    let mut response = next.run(request).instrument(span.clone()).await;

    let status = response.status();
    let took = started.elapsed();
    span.in_scope(|| {
        let duration_ms = took.as_secs_f64() * 1000.0;
        let (status, origin) = (status.as_u16(), origin.as_deref());
        if quiet && response.status().is_success() {
            tracing::debug!(%method, path, status, duration_ms, origin, "request");
        } else {
            tracing::info!(%method, path, status, duration_ms, origin, "request");
        }
    });
    metrics::request(
        if status == StatusCode::METHOD_NOT_ALLOWED { "none".to_owned() } else { route },
        status.as_u16(),
        took,
    );
    if let Ok(id) = HeaderValue::from_str(&request_id) {
        response.headers_mut().insert(HeaderName::from_static(REQUEST_ID_HEADER), id);
    }
    response
}

/// Adds the session's id to the log lines of the current request.
pub(crate) fn about_session(id: &str) {
    Span::current().record("session_id", id);
}

/// Whether a path is too frequent to log when it succeeds: probes and frames.
fn is_quiet(path: &str) -> bool {
    matches!(path, "/health" | "/ready" | "/metrics" | MESSAGE_PATH)
}

/// Returns a header that is safe to log and echo: at most `most` bytes, only characters that ids consist of.
fn sane<'a>(headers: &'a HeaderMap, name: &str, most: usize) -> Option<&'a str> {
    let value = headers.get(name)?.to_str().ok()?;
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_=.:;/+".contains(&b);
    (!value.is_empty() && value.len() <= most && value.bytes().all(plain)).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_ids_are_accepted_if_well_formed() {
        let with = |value: &str| {
            let headers = HeaderMap::from_iter([(
                HeaderName::from_static(REQUEST_ID_HEADER),
                HeaderValue::from_str(value).unwrap(),
            )]);
            sane(&headers, REQUEST_ID_HEADER, MAX_ID).map(str::to_owned)
        };
        for good in
            ["8f5c4f0e-4a9a-4d2f-9d9a-0b8a7a5f3f11", "Root=1-5759e988-bd862e3f;Sampled=1", "JGHdYd7vjoEFsFg="]
        {
            assert_eq!(with(good).as_deref(), Some(good));
        }
        for bad in ["", "a b", "{\"x\":1}", "id\"", "<script>", &"x".repeat(MAX_ID + 1)] {
            assert_eq!(with(bad), None, "{bad}");
        }
    }
}
