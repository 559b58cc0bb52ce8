//! The one way to the backend: signed, bounded in time and size, tried again where that is safe.
//!
//! Every request is safe to repeat: frames carry offsets or ids, and the backend takes the same connect and
//! disconnect twice.

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
    deadline::now_ms,
    event::Invocation,
    metrics::Tally,
    secrets::{Apart, Secret, Which},
};

/// Repeats of a request that failed for a passing reason.
const REPEATS: u32 = 2;
/// Time kept free to tell the client.
const TELL: Duration = Duration::from_millis(800);

/// What the backend said.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// 200, with a JSON object.
    Object(String),
    /// 204.
    Nothing,
    /// Another status, with an error frame's code.
    Refused(u16, ErrorCode),
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Not there, or talking nonsense.
    Unavailable(&'static str),
    /// Not in time.
    Timeout,
    /// It refused our signature twice.
    Unsigned,
    /// The answer is larger than a client can be sent.
    TooLarge,
    /// Too many requests.
    Overloaded,
}

impl Failure {
    pub(crate) const fn code(self) -> ErrorCode {
        match self {
            Self::Unavailable(_) => ErrorCode::BackendUnavailable,
            Self::Timeout => ErrorCode::BackendTimeout,
            Self::Unsigned => ErrorCode::Internal,
            Self::TooLarge => ErrorCode::TooLarge,
            Self::Overloaded => ErrorCode::RateLimited,
        }
    }

    pub(crate) const fn cause(self) -> &'static str {
        match self {
            Self::Unavailable(cause) => cause,
            Self::Timeout => "backend_timeout",
            Self::Unsigned => "backend_refused_signature",
            Self::TooLarge => "backend_answer_too_large",
            Self::Overloaded => "backend_overloaded",
        }
    }
}

/// The client of the backend.
pub(crate) struct Backend {
    /// Of each path.
    uris: [(&'static str, Uri); 3],
    keys: Secret<BridgeKeys>,
    limits: Limits,
    http: Http,
    breaker: Breaker,
}

impl Backend {
    pub(crate) fn new(config: &Config, http: Http, aws: &Aws, apart: &Apart) -> Result<Self, ConfigError> {
        let keys = match (&config.bridge_secret, &config.bridge_secret_arn) {
            (Some(secret), None) => Secret::set(BridgeKeys::parse(secret)?),
            (None, Some(name)) => {
                let which = (Which::Bridge, apart);
                Secret::stored(name, which, aws.clone(), config.limits, |secret| {
                    Ok(BridgeKeys::parse(secret)?)
                })
            }
            (None, None) => return Err(ConfigError::Missing("BRIDGE_SECRET or BRIDGE_SECRET_ARN")),
            _ => return Err(ConfigError::Several("BRIDGE_SECRET and BRIDGE_SECRET_ARN")),
        };
        let base = config.backend()?;
        let uri = |path| -> Result<(&'static str, Uri), ConfigError> {
            let mut url = base.clone();
            url.set_path(&format!("{}{path}", base.path().trim_end_matches('/')));
            Ok((path, url.as_str().parse().map_err(|_| ConfigError::Url("BACKEND_URL"))?))
        };
        let uris = [uri(CONNECT_PATH)?, uri(MESSAGE_PATH)?, uri(DISCONNECT_PATH)?];
        Ok(Self { uris, keys, limits: config.limits, http, breaker: Breaker::default() })
    }

    /// Posts `body` for the connection of `invocation`.
    pub(crate) async fn post(
        &self,
        path: &str,
        body: Vec<u8>,
        invocation: &Invocation,
        tally: &mut Tally,
    ) -> Result<Answer, Failure> {
        let started = Instant::now();
        let within = invocation.deadline.within(self.limits.backend, TELL);
        let repeated = self.repeated(path, body.into(), invocation, tally);
        let answer = timeout(within, repeated).await.unwrap_or_else(|_| {
            // Slow is not gone: had there been no connection, that would have failed sooner.
            if within > self.limits.connect {
                self.breaker.connected();
            }
            Err(Failure::Timeout)
        });
        tally.backend = Some(tally.backend.unwrap_or_default() + started.elapsed());
        if let Err(failure) = answer {
            tracing::warn!(cause = failure.cause(), path, "the backend failed");
        }
        answer
    }

    async fn repeated(
        &self,
        path: &str,
        body: bytes::Bytes,
        invocation: &Invocation,
        tally: &mut Tally,
    ) -> Result<Answer, Failure> {
        let mut retry = Retry::until(Instant::now() + self.limits.repeat_within).at_most(REPEATS);
        let mut keys = self.keys.get().await.ok_or(Failure::Unavailable("no_bridge_secret"))?;
        let mut refused = false;
        loop {
            if !self.breaker.admits() {
                return Err(Failure::Unavailable("backend_circuit_open"));
            }
            let passing = match self.once(path, body.clone(), invocation, &keys).await {
                Err(Failed::Unsigned) if refused => return Err(Failure::Unsigned),
                Err(Failed::Unsigned) => {
                    refused = true;
                    keys = self.keys.changed().await.unwrap_or(keys);
                    tally.retries += 1;
                    continue;
                }
                Err(Failed::Passing(failure)) => failure,
                Err(Failed::Final(failure)) => return Err(failure),
                Ok(answer) => return Ok(answer),
            };
            if !retry.wait().await {
                return Err(passing);
            }
            tally.retries += 1;
        }
    }

    async fn once(
        &self,
        path: &str,
        body: bytes::Bytes,
        invocation: &Invocation,
        keys: &BridgeKeys,
    ) -> Result<Answer, Failed> {
        let jti = uuid::Uuid::new_v4().to_string();
        let token = keys
            .sign(path, &invocation.connection_id, &body, now_ms() / 1_000, jti)
            .map_err(|_| Failed::Final(Failure::Unsigned))?;
        let unusable = || Failed::Final(Failure::Unavailable("no_http_client"));
        let mut request = Request::new(SdkBody::from(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() =
            self.uris.iter().find(|(of, _)| *of == path).map(|(_, uri)| uri.clone()).ok_or_else(unusable)?;
        *request.headers_mut() = headers(invocation, &token).ok_or_else(unusable)?;
        let response = match self.http.send(request).await {
            Ok(response) => response,
            Err(HttpError::Setup(error)) => {
                tracing::error!(%error, "no HTTP client can be made");
                return Err(unusable());
            }
            Err(HttpError::Connect(_)) => {
                self.breaker.failed();
                return Err(Failed::Passing(Failure::Unavailable("backend_not_connected")));
            }
            // Cut while it was at it, or an idle connection that had been closed.
            Err(HttpError::Lost(_)) => {
                return Err(Failed::Passing(Failure::Unavailable("backend_connection_lost")));
            }
        };
        self.breaker.connected();
        read(response).await
    }
}

/// `None` if an id has what a header may not; the gateway makes them.
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

/// Why one try gave no answer.
enum Failed {
    /// 401.
    Unsigned,
    /// The next try may do better.
    Passing(Failure),
    /// It may not.
    Final(Failure),
}

async fn read(response: Response<Incoming>) -> Result<Answer, Failed> {
    let status = response.status();
    match status {
        StatusCode::NO_CONTENT => return Ok(Answer::Nothing),
        StatusCode::UNAUTHORIZED => return Err(Failed::Unsigned),
        StatusCode::PAYLOAD_TOO_LARGE => return Ok(Answer::Refused(413, ErrorCode::TooLarge)),
        StatusCode::TOO_MANY_REQUESTS => return Err(Failed::Final(Failure::Overloaded)),
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE => {
            return Err(Failed::Passing(Failure::Unavailable("backend_unavailable")));
        }
        StatusCode::GATEWAY_TIMEOUT => return Err(Failed::Final(Failure::Timeout)),
        _ => {}
    }
    let body = match Limited::new(response.into_body(), MAX_MESSAGE).collect().await {
        Ok(body) => body.to_bytes().into(),
        Err(error) if error.is::<LengthLimitError>() => return Err(Failed::Final(Failure::TooLarge)),
        Err(_) => return Err(Failed::Passing(Failure::Unavailable("backend_connection_lost"))),
    };
    let garbage = Failed::Final(Failure::Unavailable("backend_garbage"));
    // A proxy's error page is not the backend's word.
    let Some(text) = String::from_utf8(body).ok().filter(|text| is_object(text)) else { return Err(garbage) };
    if status == StatusCode::OK {
        return Ok(Answer::Object(text));
    }
    match serde_json::from_str::<ErrorHead>(&text) {
        Ok(error) if error.kind == "error" => Ok(Answer::Refused(status.as_u16(), error.code)),
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
