//! HTTP client of the backend: signs requests, limits their time and size, and retries.
//!
//! Every request is safe to repeat: frames carry offsets or ids, and the backend accepts a repeated connect or
//! disconnect.

use std::time::Duration;

use ::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use aws_smithy_types::body::SdkBody;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Incoming;
use serde::Deserialize;
use shellbridge_outbound::{Http, HttpError, Retry};
use shellbridge_protocol::{
    ErrorCode,
    bridge::{
        BridgeKeys, CONNECT_PATH, CONNECTION_ID_HEADER, DISCONNECT_PATH, MESSAGE_PATH, REQUEST_ID_HEADER,
    },
    limits::MAX_MESSAGE,
};
use tokio::time::{Instant, timeout};

use crate::{
    aws::Aws,
    breaker::Breaker,
    config::{Config, ConfigError, Limits},
    deadline::unix_ms,
    event::Invocation,
    metrics::InvocationStats,
    secrets::{DistinctSecrets, Secret, SecretKind},
    sticky::Sticky,
};

/// Retries after a transient failure.
const MAX_RETRIES: u32 = 2;
/// Time reserved to post an error frame.
const ERROR_POST_TIME: Duration = Duration::from_millis(800);

/// The backend's response.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum BackendResponse {
    /// 200, with a JSON object.
    Object(String),
    /// 204.
    Empty,
    /// Another status, with the code of an error frame.
    Error(u16, ErrorCode),
}

/// Why a request got no usable response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BackendError {
    /// The backend cannot be reached or responds with garbage.
    Unavailable(&'static str),
    /// The request timed out.
    Timeout,
    /// The backend rejected the signature twice.
    Unauthorized,
    /// The response exceeds the size of a message to a client.
    TooLarge,
    /// Too many requests.
    Overloaded,
}

impl BackendError {
    pub(crate) const fn code(self) -> ErrorCode {
        match self {
            Self::Unavailable(_) => ErrorCode::BackendUnavailable,
            Self::Timeout => ErrorCode::BackendTimeout,
            Self::Unauthorized => ErrorCode::Internal,
            Self::TooLarge => ErrorCode::TooLarge,
            Self::Overloaded => ErrorCode::RateLimited,
        }
    }

    pub(crate) const fn cause(self) -> &'static str {
        match self {
            Self::Unavailable(cause) => cause,
            Self::Timeout => "backend_timeout",
            Self::Unauthorized => "backend_refused_signature",
            Self::TooLarge => "backend_answer_too_large",
            Self::Overloaded => "backend_overloaded",
        }
    }
}

/// Client of the backend.
pub(crate) struct Backend {
    /// One per path.
    uris: [(&'static str, Uri); 3],
    keys: Secret<BridgeKeys>,
    limits: Limits,
    http: Http,
    breaker: Breaker,
    sticky: Sticky,
}

impl Backend {
    pub(crate) fn new(
        config: &Config,
        http: Http,
        aws: &Aws,
        secrets: &DistinctSecrets,
    ) -> Result<Self, ConfigError> {
        let keys = match (&config.bridge_secret, &config.bridge_secret_arn) {
            (Some(secret), None) => Secret::set(BridgeKeys::parse(secret)?),
            (None, Some(name)) => {
                let kind = (SecretKind::Bridge, secrets);
                Secret::stored(name, kind, aws.clone(), config.limits, |secret| {
                    Ok(BridgeKeys::parse(secret)?)
                })
            }
            (None, None) => return Err(ConfigError::Missing("BRIDGE_SECRET or BRIDGE_SECRET_ARN")),
            _ => return Err(ConfigError::Conflicting("BRIDGE_SECRET and BRIDGE_SECRET_ARN")),
        };
        let base = config.backend()?;
        let uri = |path| -> Result<(&'static str, Uri), ConfigError> {
            let mut url = base.clone();
            url.set_path(&format!("{}{path}", base.path().trim_end_matches('/')));
            Ok((path, url.as_str().parse().map_err(|_| ConfigError::Url("BACKEND_URL"))?))
        };
        let uris = [uri(CONNECT_PATH)?, uri(MESSAGE_PATH)?, uri(DISCONNECT_PATH)?];
        Ok(Self {
            uris,
            keys,
            limits: config.limits,
            http,
            breaker: Breaker::default(),
            sticky: Sticky::default(),
        })
    }

    /// Posts `body` on behalf of the invocation's connection.
    pub(crate) async fn post(
        &self,
        path: &str,
        body: Vec<u8>,
        invocation: &Invocation,
        stats: &mut InvocationStats,
    ) -> Result<BackendResponse, BackendError> {
        let started = Instant::now();
        let within = invocation.deadline.budget(self.limits.backend, ERROR_POST_TIME);
        let mut failed = None;
        let attempts = self.with_retries(path, body.into(), invocation, stats, &mut failed);
        let response = timeout(within, attempts).await.unwrap_or_else(|_| {
            // Time that passed while the request was repeated is no slow answer.
            Err(failed.unwrap_or_else(|| {
                // A slow backend is still there: connecting would have failed sooner.
                if within > self.limits.connect {
                    self.breaker.connected();
                }
                BackendError::Timeout
            }))
        });
        stats.backend = Some(stats.backend.unwrap_or_default() + started.elapsed());
        if let Err(error) = response {
            tracing::warn!(cause = error.cause(), path, "the request to the backend failed");
        }
        response
    }

    /// `failed`: why the last attempt did, if it can be repeated.
    async fn with_retries(
        &self,
        path: &str,
        body: bytes::Bytes,
        invocation: &Invocation,
        stats: &mut InvocationStats,
        failed: &mut Option<BackendError>,
    ) -> Result<BackendResponse, BackendError> {
        let mut retry = Retry::until(Instant::now() + self.limits.retry_within).at_most(MAX_RETRIES);
        let mut keys = self.keys.get().await.ok_or(BackendError::Unavailable("no_bridge_secret"))?;
        let mut rejected = false;
        loop {
            if !self.breaker.admits() {
                return Err(BackendError::Unavailable("backend_circuit_open"));
            }
            let transient = match self.attempt(path, body.clone(), invocation, &keys, stats).await {
                Err(AttemptError::Unauthorized) if rejected => return Err(BackendError::Unauthorized),
                Err(AttemptError::Unauthorized) => {
                    rejected = true;
                    keys = self.keys.changed().await.unwrap_or(keys);
                    stats.retries += 1;
                    continue;
                }
                Err(AttemptError::Transient(error)) => error,
                Err(AttemptError::Permanent(error)) => return Err(error),
                Ok(response) => return Ok(response),
            };
            *failed = Some(transient);
            if !retry.wait().await {
                return Err(transient);
            }
            stats.retries += 1;
        }
    }

    async fn attempt(
        &self,
        path: &str,
        body: bytes::Bytes,
        invocation: &Invocation,
        keys: &BridgeKeys,
        stats: &mut InvocationStats,
    ) -> Result<BackendResponse, AttemptError> {
        let jti = uuid::Uuid::new_v4().to_string();
        let token = keys
            .sign(path, &invocation.connection_id, &body, unix_ms().secs(), jti)
            .map_err(|_| AttemptError::Permanent(BackendError::Unauthorized))?;
        let unusable = || AttemptError::Permanent(BackendError::Unavailable("no_http_client"));
        let mut request = Request::new(SdkBody::from(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self
            .uris
            .iter()
            .find(|(key, _)| *key == path)
            .map(|(_, uri)| uri.clone())
            .ok_or_else(unusable)?;
        *request.headers_mut() = headers(invocation, &token).ok_or_else(unusable)?;
        let session = stats.session();
        if let Some(cookie) = session.and_then(|session| self.sticky.cookie(session)) {
            request.headers_mut().insert(header::COOKIE, cookie);
        }
        let response = match self.http.send(request).await {
            Ok(response) => response,
            Err(HttpError::Setup(error)) => {
                tracing::error!(%error, "the HTTP client cannot be created");
                return Err(unusable());
            }
            Err(HttpError::Connect(_)) => {
                self.breaker.failed();
                return Err(AttemptError::Transient(BackendError::Unavailable("backend_not_connected")));
            }
            // The backend closed the connection, in the middle of the request or while it was idle.
            Err(HttpError::Lost(_)) => {
                return Err(AttemptError::Transient(BackendError::Unavailable("backend_connection_lost")));
            }
        };
        self.breaker.connected();
        if let Some(session) = session
            && self.sticky.learn(session, response.status(), response.headers())
        {
            stats.hops += 1;
        }
        read(response).await
    }
}

/// `None` if an id is not valid in a header; API Gateway's ids are.
fn headers(invocation: &Invocation, token: &str) -> Option<HeaderMap> {
    let text = |text: &str| HeaderValue::from_str(text).ok();
    let mut headers = HeaderMap::with_capacity(8);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(HeaderName::from_static(CONNECTION_ID_HEADER), text(&invocation.connection_id)?);
    headers.insert(HeaderName::from_static(REQUEST_ID_HEADER), text(&invocation.request_id)?);
    let mut bearer = text(&format!("Bearer {token}"))?;
    bearer.set_sensitive(true);
    headers.insert(header::AUTHORIZATION, bearer);
    if let Some(trace) = invocation.trace_id.as_deref().and_then(text) {
        headers.insert(HeaderName::from_static("x-amzn-trace-id"), trace);
    }
    Some(headers)
}

/// Why one attempt failed.
enum AttemptError {
    /// 401.
    Unauthorized,
    /// A retry may help.
    Transient(BackendError),
    /// No retry helps.
    Permanent(BackendError),
}

async fn read(response: Response<Incoming>) -> Result<BackendResponse, AttemptError> {
    let status = response.status();
    match status {
        StatusCode::NO_CONTENT => return Ok(BackendResponse::Empty),
        StatusCode::UNAUTHORIZED => return Err(AttemptError::Unauthorized),
        StatusCode::PAYLOAD_TOO_LARGE => return Ok(BackendResponse::Error(413, ErrorCode::TooLarge)),
        StatusCode::TOO_MANY_REQUESTS => return Err(AttemptError::Permanent(BackendError::Overloaded)),
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE => {
            return Err(AttemptError::Transient(BackendError::Unavailable("backend_unavailable")));
        }
        StatusCode::GATEWAY_TIMEOUT => return Err(AttemptError::Permanent(BackendError::Timeout)),
        _ => {}
    }
    let body = match Limited::new(response.into_body(), MAX_MESSAGE).collect().await {
        Ok(body) => body.to_bytes().into(),
        Err(error) if error.is::<LengthLimitError>() => {
            return Err(AttemptError::Permanent(BackendError::TooLarge));
        }
        Err(_) => return Err(AttemptError::Transient(BackendError::Unavailable("backend_connection_lost"))),
    };
    let garbage = AttemptError::Permanent(BackendError::Unavailable("backend_garbage"));
    // A JSON object comes from the backend; a proxy's error page is garbage.
    let Some(text) = String::from_utf8(body).ok().filter(|text| is_object(text)) else { return Err(garbage) };
    if status == StatusCode::OK {
        return Ok(BackendResponse::Object(text));
    }
    match serde_json::from_str::<ErrorHead>(&text) {
        Ok(error) if error.kind == "error" => Ok(BackendResponse::Error(status.as_u16(), error.code)),
        _ => Err(garbage),
    }
}

#[derive(Deserialize)]
struct ErrorHead {
    #[serde(rename = "type")]
    kind: String,
    code: ErrorCode,
}

fn is_object(text: &str) -> bool {
    text.trim_start().starts_with('{') && serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok()
}
