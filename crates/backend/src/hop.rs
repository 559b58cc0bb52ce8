//! Passes a request on to the instance that has its session: one hop, never a second.

use std::time::Duration;

use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, HeaderName, HeaderValue, Method, Request, header},
    response::Response,
};
use shellbridge_outbound::{Http, chain};
use shellbridge_protocol::{
    ErrorCode,
    bridge::{CONNECTION_ID_HEADER, HOP_HEADER, REQUEST_ID_HEADER},
};

use crate::{error::ApiError, metrics};

/// Timeout of connecting to another instance.
const CONNECT_WITHIN: Duration = Duration::from_secs(1);
/// Timeout of a whole hop.
const WITHIN: Duration = Duration::from_secs(8);
/// Largest answer, bytes: far above any of the API's.
const MAX_ANSWER: usize = 1024 * 1024;
/// Headers that the other instance needs.
const REQUEST_HEADERS: [HeaderName; 5] = [
    header::AUTHORIZATION,
    header::CONTENT_TYPE,
    header::ORIGIN,
    HeaderName::from_static(CONNECTION_ID_HEADER),
    HeaderName::from_static(REQUEST_ID_HEADER),
];
/// Headers of its answer. This instance adds its own.
const ANSWER_HEADERS: [HeaderName; 3] = [header::CONTENT_TYPE, header::CACHE_CONTROL, header::RETRY_AFTER];

/// The way to other instances.
pub(crate) struct Hops(Http);

/// A request to pass on: the same bytes, and the headers that matter.
pub(crate) struct Passed {
    pub(crate) method: Method,
    /// Path and query.
    pub(crate) target: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// Whether another instance has passed the request on.
pub(crate) fn hopped(headers: &HeaderMap) -> bool {
    headers.get(HOP_HEADER).is_some_and(|hops| hops == "1")
}

impl Hops {
    pub(crate) fn new() -> Self {
        Self(Http::new(CONNECT_WITHIN))
    }

    /// Passes a request on to the instance at `url`.
    ///
    /// # Errors
    /// 503, retryable: the instance does not answer. It may have received the request.
    pub(crate) async fn pass(&self, url: &str, passed: Passed) -> Result<Response, ApiError> {
        let Passed { method, target, headers, body } = passed;
        let failed = || {
            metrics::hop(false);
            let message = "the session's instance does not answer";
            ApiError::new(axum::http::StatusCode::SERVICE_UNAVAILABLE, ErrorCode::BackendUnavailable, message)
        };
        let mut request = Request::builder().method(method).uri(format!("{url}{target}"));
        for name in REQUEST_HEADERS {
            if let Some(value) = headers.get(&name) {
                request = request.header(name, value);
            }
        }
        let request = request.header(HOP_HEADER, "1").body(body).map_err(|_| failed())?;
        let answer = self.0.exchange(request, WITHIN, MAX_ANSWER).await.map_err(|error| {
            tracing::warn!(cause = chain(&error), instance = url, "cannot pass a request on");
            failed()
        })?;
        metrics::hop(true);
        let (head, body) = answer.into_parts();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = head.status;
        for name in ANSWER_HEADERS {
            if let Some(value) = head.headers.get(&name) {
                response.headers_mut().insert(name, value.clone());
            }
        }
        response.headers_mut().insert(HOP_HEADER, HeaderValue::from_static("1"));
        Ok(response)
    }
}
