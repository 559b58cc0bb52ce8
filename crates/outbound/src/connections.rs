//! Client of `@connections`, the API Gateway Management API: posts to connections, looks them up and closes them
//! (API Gateway Developer Guide, "Use @connections commands in your backend service").
//!
//! Every frame needs a post, so posts are single requests signed by [`Signer`]. The rare operations go through
//! `aws-sdk-apigatewaymanagement`.

use std::{
    sync::Arc,
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
use parking_lot::Mutex;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use shellbridge_protocol::ids::ConnectionId;
use tokio::time::{Instant, timeout, timeout_at};

use crate::{Http, Retry, SignError, Signer};

/// Service name in signatures.
const SERVICE: &str = "execute-api";
/// Content type of a post; the SDK sends the same.
const POST_TYPE: HeaderValue = HeaderValue::from_static("application/octet-stream");
/// Percent-encoded in a connection id: everything but unreserved characters (RFC 3986, section 2.3), as in the SDK, and
/// dots, so that no id can read as `..`.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'~');
/// Cached clients, one per API. A deployment has one API; a custom domain adds another.
const MAX_CLIENTS: usize = 16;

/// Why a connection could not be reached.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// No retry helps: the connection has closed, or its handshake is still in progress (410).
    #[error("the connection is gone")]
    Gone,
    /// No retry helps: the frame exceeds API Gateway's limit of 128 KiB, or a proxy's (413).
    #[error("the frame is too large")]
    TooLarge,
    /// Signature, permission or stage rejected (403). One retry helps if the credentials were cached: it fetches new
    /// ones.
    #[error("status 403 with {} credentials", if *.retryable { "cached" } else { "new" })]
    Forbidden {
        /// Whether the credentials were cached, so that new ones may succeed.
        retryable: bool,
    },
    /// No retry helps: any other status.
    #[error("status {0}")]
    Rejected(StatusCode),
    /// A retry may help: too many requests (429), or an error in API Gateway (5xx).
    #[error("status {0}")]
    Busy(StatusCode),
    /// A retry may help: the attempt timed out.
    #[error("the request timed out")]
    Timeout,
    /// A retry may help: the network failed.
    #[error("no response")]
    NoResponse(#[source] BoxError),
    /// [`SignError::is_retryable`] says whether a retry helps.
    #[error(transparent)]
    Unsigned(#[from] SignError),
    /// No retry helps: not a URL, or an id that a URL cannot contain.
    #[error("not the URL of an API")]
    Url(#[source] BoxError),
}

impl ConnectionError {
    /// Whether the same request may succeed later. All requests in this module are safe to repeat.
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Busy(_) | Self::Timeout | Self::NoResponse(_) | Self::Forbidden { retryable: true } => true,
            Self::Unsigned(error) => error.is_retryable(),
            Self::Gone | Self::TooLarge | Self::Forbidden { .. } | Self::Rejected(_) | Self::Url(_) => false,
        }
    }

    /// The one table of error statuses. Sources: the service's Smithy model, and "Common errors" in the API Gateway
    /// Management API reference.
    const fn from_status(status: StatusCode) -> Self {
        match status.as_u16() {
            403 => Self::Forbidden { retryable: false },
            410 => Self::Gone,
            413 => Self::TooLarge,
            429 | 500..=599 => Self::Busy(status),
            _ => Self::Rejected(status),
        }
    }

    fn from_sdk<E: std::error::Error + Send + Sync + 'static>(error: SdkError<E, HttpResponse>) -> Self {
        // The SDK's message quotes the response, which does not belong in a log.
        let status = error.raw_response().and_then(|response| response.status().as_u16().try_into().ok());
        status.map_or_else(|| Self::NoResponse(error.into()), Self::from_status)
    }
}

/// How long [`Connections::deliver`] keeps trying.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Every attempt ends by this time.
    pub until: Instant,
    /// Until this time a 410 may mean that the handshake is still in progress, and is retried.
    pub opening_until: Option<Instant>,
}

/// Client for the connections of one API.
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
    pub async fn post(&self, id: &ConnectionId, frame: Bytes) -> Result<(), ConnectionError> {
        let mut request = self.api.request(id, frame)?;
        let used = self.signer.sign(&mut request, SystemTime::now()).await?;
        let sent = self.http.send(request).await;
        let response = sent.map_err(|error| ConnectionError::NoResponse(error.into()))?;
        let status = response.status();
        // A body read to its end returns the TCP connection to the pool. A truncated one costs only that connection.
        let _truncated = response.into_body().collect().await;
        if status.is_success() {
            return Ok(());
        }
        if status == StatusCode::FORBIDDEN {
            self.signer.invalidate(used);
            return Err(ConnectionError::Forbidden { retryable: !used.fresh });
        }
        Err(ConnectionError::from_status(status))
    }

    /// Posts a text frame and retries while a retry may help. Calls `on_retry` with each error that leads to a retry.
    ///
    /// # Errors
    /// The last attempt's error.
    pub async fn deliver(
        &self,
        id: &ConnectionId,
        frame: Bytes,
        patience: Patience,
        mut on_retry: impl FnMut(&ConnectionError),
    ) -> Result<(), ConnectionError> {
        let mut retry = Retry::until(patience.until);
        loop {
            let post = self.post(id, frame.clone());
            let attempt = timeout_at(retry.attempt_deadline(self.attempt), post).await;
            let Err(error) = attempt.unwrap_or(Err(ConnectionError::Timeout)) else { return Ok(()) };
            let opening = || patience.opening_until.is_some_and(|until| Instant::now() < until);
            let transient = error.is_retryable() || (matches!(error, ConnectionError::Gone) && opening());
            if !transient || !retry.wait().await {
                return Err(error);
            }
            on_retry(&error);
        }
    }

    /// Closes a connection. Succeeds if it has closed already.
    ///
    /// # Errors
    /// The connection may still be open.
    pub async fn close(&self, id: &ConnectionId) -> Result<(), ConnectionError> {
        let delete = Box::pin(self.sdk.delete_connection().connection_id(id.as_str()).send());
        match timeout(self.attempt, delete).await.map_err(|_| ConnectionError::Timeout)? {
            Ok(_) => Ok(()),
            Err(error) => match ConnectionError::from_sdk(error) {
                ConnectionError::Gone => Ok(()),
                error => Err(error),
            },
        }
    }

    /// Whether a connection exists; `true` if the lookup fails.
    pub async fn exists(&self, id: &ConnectionId) -> bool {
        let get = Box::pin(self.sdk.get_connection().connection_id(id.as_str()).send());
        let Ok(Err(error)) = timeout(self.attempt, get).await else { return true };
        !matches!(ConnectionError::from_sdk(error), ConnectionError::Gone)
    }
}

/// The process's `@connections` clients, by URL.
#[derive(Debug)]
pub struct Pool {
    config: SdkConfig,
    http: Http,
    attempt: Duration,
    signer: Arc<Signer>,
    clients: Mutex<Vec<(String, Arc<Connections>)>>,
}

impl Pool {
    /// Takes region and credentials from `config`; `attempt` is the timeout of one request.
    pub fn new(config: &SdkConfig, http: Http, attempt: Duration) -> Self {
        let signer = Arc::new(Signer::new(config, SERVICE));
        Self { config: config.clone(), http, attempt, signer, clients: Mutex::default() }
    }

    /// The client for the API at `url`, created on first use. The pool keeps 16 and evicts the oldest.
    ///
    /// # Errors
    /// [`ConnectionError::Url`].
    pub fn get(&self, url: &str) -> Result<Arc<Connections>, ConnectionError> {
        let mut clients = self.clients.lock();
        if let Some((_, client)) = clients.iter().find(|(key, _)| key == url) {
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
            // This module sets timeouts and retries.
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

/// The parts that the URIs of an API's connections share.
#[derive(Debug)]
struct Api {
    scheme: Scheme,
    authority: Authority,
    /// The stage, if the URL has one, then `/@connections/`.
    path: String,
}

impl Api {
    fn new(url: &str) -> Result<Self, ConnectionError> {
        let invalid = |error: BoxError| ConnectionError::Url(error);
        // Parsing as a URL removes dot segments and the scheme's default port.
        let url = url::Url::parse(url).map_err(|error| invalid(error.into()))?;
        let parts = Uri::try_from(url.as_str()).map_err(|error| invalid(error.into()))?.into_parts();
        let path = parts.path_and_query.as_ref().map_or("", PathAndQuery::path);
        // Canonical requests omit empty segments, so this path must too.
        let path: String =
            path.split('/').filter(|part| !part.is_empty()).flat_map(|part| ["/", part]).collect();
        Ok(Self {
            scheme: parts.scheme.ok_or_else(|| invalid("no scheme".into()))?,
            authority: parts.authority.ok_or_else(|| invalid("no host".into()))?,
            path: format!("{path}/@connections/"),
        })
    }

    /// An unsigned post.
    fn request(&self, id: &ConnectionId, frame: Bytes) -> Result<Request<SdkBody>, ConnectionError> {
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
        request.headers_mut().insert(CONTENT_TYPE, POST_TYPE);
        Ok(request)
    }
}
