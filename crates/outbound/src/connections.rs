//! `@connections`, the API Gateway Management API: posts to connections, asks after them and ends them
//! (API Gateway Developer Guide, "Use @connections commands in your backend service").
//!
//! A post is one request signed by [`Signer`], because it comes with every frame. What is rare goes through
//! `aws-sdk-apigatewaymanagement`.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use aws_config::SdkConfig;
use aws_sdk_apigatewaymanagement::{
    Client,
    config::{StalledStreamProtectionConfig, retry::RetryConfig, timeout::TimeoutConfig},
    error::SdkError,
};
use aws_smithy_runtime_api::{box_error::BoxError, client::orchestrator::HttpResponse};
use aws_smithy_types::body::SdkBody;
use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, StatusCode, Uri,
    header::CONTENT_TYPE,
    uri::{Authority, PathAndQuery, Scheme},
};
use http_body_util::BodyExt as _;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::time::{Instant, timeout, timeout_at};

use crate::{Http, Retry, SignError, Signer};

/// The service's name in signatures.
const SERVICE: &str = "execute-api";
/// Content type of a post, as by the SDK.
const TYPE: HeaderValue = HeaderValue::from_static("application/octet-stream");
/// Encoded in a connection id: all but unreserved characters (RFC 3986, section 2.3), as by the SDK; dots too, so that
/// no id is taken for `..`.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'~');
/// Clients kept, one an API. A deployment has one API; a custom domain adds another.
const MAX_CLIENTS: usize = 16;

/// Why a connection could not be reached.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// No retry helps: the connection has ended, or its handshake has not (410).
    #[error("the connection is gone")]
    Gone,
    /// No retry helps: the frame is above a limit, API Gateway's own of 128 KiB or one on the way (413).
    #[error("the frame is too large")]
    TooLarge,
    /// Signature, permission or stage refused (403). A retry helps, once, if the credentials had been kept for a while:
    /// it fetches others.
    #[error("status 403 with {} credentials", if *.retryable { "kept" } else { "new" })]
    Forbidden {
        /// Whether other credentials may do better.
        retryable: bool,
    },
    /// No retry helps: another status that blames the request.
    #[error("status {0}")]
    Refused(StatusCode),
    /// A retry may help: too many requests (429), or a fault of API Gateway's (5xx).
    #[error("status {0}")]
    Busy(StatusCode),
    /// A retry may help: no answer within the time for one attempt.
    #[error("no answer in time")]
    Late,
    /// A retry may help: the network failed.
    #[error("no answer")]
    NoAnswer(#[source] BoxError),
    /// As [`SignError::is_retryable`].
    #[error(transparent)]
    Unsigned(#[from] SignError),
    /// No retry helps: not a URL, or an id that no URL can hold.
    #[error("not the URL of an API")]
    Url(#[source] BoxError),
}

impl ConnectionError {
    /// Whether the same request may succeed later. Every request here is safe to repeat.
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Busy(_) | Self::Late | Self::NoAnswer(_) | Self::Forbidden { retryable: true } => true,
            Self::Unsigned(error) => error.is_retryable(),
            Self::Gone | Self::TooLarge | Self::Forbidden { .. } | Self::Refused(_) | Self::Url(_) => false,
        }
    }

    /// What a status other than a success means: the one table. Sources: the service's Smithy model, and "Common
    /// errors" of the API Gateway Management API reference.
    const fn of(status: StatusCode) -> Self {
        match status.as_u16() {
            403 => Self::Forbidden { retryable: false },
            410 => Self::Gone,
            413 => Self::TooLarge,
            429 | 500..=599 => Self::Busy(status),
            _ => Self::Refused(status),
        }
    }

    fn of_sdk<E: std::error::Error + Send + Sync + 'static>(error: SdkError<E, HttpResponse>) -> Self {
        // Not in the SDK's words, which quote the answer.
        let status = error.raw_response().and_then(|response| response.status().as_u16().try_into().ok());
        status.map_or_else(|| Self::NoAnswer(error.into()), Self::of)
    }
}

/// How long [`Connections::deliver`] goes on.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// No attempt goes beyond this.
    pub until: Instant,
    /// Until then, 410 may mean that the handshake has not ended, and is tried again.
    pub opening_until: Option<Instant>,
}

/// The connections of one API.
#[derive(Debug)]
pub struct Connections {
    http: Http,
    api: Api,
    signer: Arc<Signer>,
    sdk: Client,
    attempt: Duration,
}

impl Connections {
    /// Posts a text frame, once.
    ///
    /// # Errors
    /// See [`ConnectionError`].
    pub async fn post(&self, id: &str, frame: Bytes) -> Result<(), ConnectionError> {
        let mut request = self.api.request(id, frame)?;
        let used = self.signer.sign(&mut request, SystemTime::now()).await?;
        let sent = self.http.send(request).await;
        let response = sent.map_err(|error| ConnectionError::NoAnswer(error.into()))?;
        let status = response.status();
        // To its end, so that its connection serves the next request. If it breaks off, only the connection is lost.
        let _cut = response.into_body().collect().await;
        if status.is_success() {
            return Ok(());
        }
        if status == StatusCode::FORBIDDEN {
            self.signer.refused(used);
            return Err(ConnectionError::Forbidden { retryable: !used.fresh });
        }
        Err(ConnectionError::of(status))
    }

    /// Posts a text frame, again while that may help. `repeated` is told of every failure that is followed by a repeat.
    ///
    /// # Errors
    /// The last failure.
    pub async fn deliver(
        &self,
        id: &str,
        frame: Bytes,
        patience: Patience,
        mut repeated: impl FnMut(&ConnectionError),
    ) -> Result<(), ConnectionError> {
        let mut retry = Retry::until(patience.until);
        loop {
            let post = self.post(id, frame.clone());
            let attempt = timeout_at(retry.attempt_ends(self.attempt), post).await;
            let Err(error) = attempt.unwrap_or(Err(ConnectionError::Late)) else { return Ok(()) };
            let opening = || patience.opening_until.is_some_and(|until| Instant::now() < until);
            let passing = error.is_retryable() || (matches!(error, ConnectionError::Gone) && opening());
            if !passing || !retry.again().await {
                return Err(error);
            }
            repeated(&error);
        }
    }

    /// Ends a connection, or finds it ended.
    ///
    /// # Errors
    /// It may be open still.
    pub async fn close(&self, id: &str) -> Result<(), ConnectionError> {
        let delete = Box::pin(self.sdk.delete_connection().connection_id(id).send());
        match timeout(self.attempt, delete).await.map_err(|_| ConnectionError::Late)? {
            Ok(_) => Ok(()),
            Err(error) => match ConnectionError::of_sdk(error) {
                ConnectionError::Gone => Ok(()),
                error => Err(error),
            },
        }
    }

    /// Whether a connection exists; `true` also when that cannot be told.
    pub async fn exists(&self, id: &str) -> bool {
        let get = Box::pin(self.sdk.get_connection().connection_id(id).send());
        let Ok(Err(error)) = timeout(self.attempt, get).await else { return true };
        !matches!(ConnectionError::of_sdk(error), ConnectionError::Gone)
    }
}

/// The clients of `@connections` in this process, by URL.
#[derive(Debug)]
pub struct Pool {
    config: SdkConfig,
    http: Http,
    attempt: Duration,
    signer: Arc<Signer>,
    clients: Mutex<Vec<(String, Arc<Connections>)>>,
}

impl Pool {
    /// With region and credentials of `config`; `attempt` is the time for one request and its answer.
    pub fn new(config: &SdkConfig, http: Http, attempt: Duration) -> Self {
        let signer = Arc::new(Signer::new(config, SERVICE));
        Self { config: config.clone(), http, attempt, signer, clients: Mutex::default() }
    }

    /// The client of the API at `url`, made when it is first asked for. At most 16 are kept; the oldest goes first.
    ///
    /// # Errors
    /// [`ConnectionError::Url`].
    pub fn get(&self, url: &str) -> Result<Arc<Connections>, ConnectionError> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, client)) = clients.iter().find(|(of, _)| of == url) {
            return Ok(Arc::clone(client));
        }
        let client = Arc::new(self.client(url)?);
        if clients.len() >= MAX_CLIENTS {
            clients.remove(0);
        }
        clients.push((url.to_owned(), Arc::clone(&client)));
        Ok(client)
    }

    fn client(&self, url: &str) -> Result<Connections, ConnectionError> {
        let sdk = aws_sdk_apigatewaymanagement::config::Builder::from(&self.config)
            .http_client(self.http.clone())
            .endpoint_url(url)
            // Times and repeats are decided here.
            .timeout_config(TimeoutConfig::disabled())
            .retry_config(RetryConfig::disabled())
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .build();
        Ok(Connections {
            http: self.http.clone(),
            api: Api::new(url)?,
            signer: Arc::clone(&self.signer),
            sdk: Client::from_conf(sdk),
            attempt: self.attempt,
        })
    }
}

/// What the URIs of an API's connections are made of.
#[derive(Debug)]
struct Api {
    scheme: Scheme,
    authority: Authority,
    /// The stage, if the URL has one, and `/@connections/`.
    path: String,
}

impl Api {
    fn new(url: &str) -> Result<Self, ConnectionError> {
        let wrong = |error: BoxError| ConnectionError::Url(error);
        // As a URL, which has no dots in its path and no port that its scheme has anyway.
        let url = url::Url::parse(url).map_err(|error| wrong(error.into()))?;
        let parts = Uri::try_from(url.as_str()).map_err(|error| wrong(error.into()))?.into_parts();
        let path = parts.path_and_query.as_ref().map_or("", PathAndQuery::path);
        // Without empty segments either, which signatures leave out.
        let path: String =
            path.split('/').filter(|part| !part.is_empty()).flat_map(|part| ["/", part]).collect();
        Ok(Self {
            scheme: parts.scheme.ok_or_else(|| wrong("no scheme".into()))?,
            authority: parts.authority.ok_or_else(|| wrong("no host".into()))?,
            path: format!("{path}/@connections/"),
        })
    }

    /// An unsigned post.
    fn request(&self, id: &str, frame: Bytes) -> Result<Request<SdkBody>, ConnectionError> {
        let uri = Uri::builder()
            .scheme(self.scheme.clone())
            .authority(self.authority.clone())
            .path_and_query(format!("{}{}", self.path, utf8_percent_encode(id, ENCODED)))
            .build()
            .map_err(|error| ConnectionError::Url(error.into()))?;
        let mut request = Request::new(SdkBody::from(frame));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri;
        request.headers_mut().reserve(4);
        request.headers_mut().insert(CONTENT_TYPE, TYPE);
        Ok(request)
    }
}
