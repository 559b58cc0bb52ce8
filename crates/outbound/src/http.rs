//! The HTTP client of a process: to the backend, to `@connections`, and under the AWS SDK.
//!
//! The SDK has a client of its own, with HTTP/2, a second connection pool and a second copy of the root certificates:
//! 0.6 MB of the function, and milliseconds of its first request. reqwest's redirects, URLs and layers were a tenth of
//! what a frame costs; it fetches JWK sets.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use aws_smithy_runtime_api::{
    box_error::BoxError,
    client::{
        http::{HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector},
        orchestrator::{HttpRequest, HttpResponse},
        result::ConnectorError,
        runtime_components::RuntimeComponents,
    },
    http::HttpError as SdkHttpError,
};
use aws_smithy_types::body::SdkBody;
use http::{Request, Response, Uri};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, Error, connect},
    rt::{TokioExecutor, TokioTimer},
};
use tokio::{sync::OnceCell, time::timeout};
use tower_service::Service;

/// Idle connections are closed after this, before a load balancer closes them (60 s at an ALB).
const IDLE: Duration = Duration::from_secs(30);

/// HTTP/1.1 over TCP or TLS 1.2 and up, with keep-alive, to hosts that the platform's root certificates vouch for. Ignores
/// proxy settings, and follows no redirects.
///
/// Clones share one pool. Root certificates are loaded with the first request, since that takes milliseconds.
#[derive(Debug, Clone)]
pub struct Http {
    client: Arc<OnceCell<Client<Connector, SdkBody>>>,
    connect: Duration,
}

impl Http {
    /// `connect`: the longest that TCP and TLS handshakes may take together.
    pub fn new(connect: Duration) -> Self {
        Self { client: Arc::default(), connect }
    }

    /// Sends a request and returns the head of the answer. Bounded in time by the caller, but for connecting.
    ///
    /// # Errors
    /// See [`HttpError`].
    pub async fn send(&self, request: Request<SdkBody>) -> Result<Response<Incoming>, HttpError> {
        let connect = self.connect;
        let client = self.client.get_or_try_init(async || client(connect)).await.map_err(HttpError::Setup)?;
        client.request(request).await.map_err(|error| {
            if error.is_connect() { HttpError::Connect(error) } else { HttpError::Lost(error) }
        })
    }

    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, ConnectorError> {
        let user = |error: SdkHttpError| ConnectorError::user(error.into());
        let response = self.send(request.try_into_http1x().map_err(user)?).await.map_err(|error| {
            // The SDK repeats what failed in the network.
            if error.is_retryable() {
                ConnectorError::io(error.into())
            } else {
                ConnectorError::user(error.into())
            }
        })?;
        let (head, body) = response.into_parts();
        let body = body.collect().await.map_err(|error| ConnectorError::io(error.into()))?;
        HttpResponse::try_from(Response::from_parts(head, SdkBody::from(body.to_bytes()))).map_err(user)
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// No retry helps: there are no root certificates.
    #[error("no HTTP client can be made")]
    Setup(#[source] io::Error),
    /// A retry may help: no connection within the time for one.
    #[error("no connection")]
    Connect(#[source] Error),
    /// A retry may help: the connection was lost; the request may have been received.
    #[error("the connection was lost")]
    Lost(#[source] Error),
}

impl HttpError {
    /// Whether the same request may succeed later.
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::Connect(_) | Self::Lost(_))
    }
}

fn client(limit: Duration) -> io::Result<Client<Connector, SdkBody>> {
    let mut tcp = connect::HttpConnector::new();
    tcp.set_nodelay(true);
    // Divided by the addresses of a name, so that one that is dead does not take the time of the others.
    tcp.set_connect_timeout(Some(limit));
    tcp.enforce_http(false);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let https = HttpsConnectorBuilder::new()
        .with_provider_and_platform_verifier(provider)?
        .https_or_http()
        .enable_http1()
        .wrap_connector(tcp);
    Ok(Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE)
        .build(Connector { https, within: limit }))
}

/// Bounds the time to connect, TLS included.
#[derive(Debug, Clone)]
struct Connector {
    https: HttpsConnector<connect::HttpConnector>,
    within: Duration,
}

type Connection = <HttpsConnector<connect::HttpConnector> as Service<Uri>>::Response;

impl Service<Uri> for Connector {
    type Response = Connection;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Connection, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.https.poll_ready(context)
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let connecting = timeout(self.within, self.https.call(to));
        Box::pin(async move { connecting.await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))? })
    }
}

impl HttpConnector for Http {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let http = self.clone();
        HttpConnectorFuture::new(async move { http.call(request).await })
    }
}

impl HttpClient for Http {
    fn http_connector(&self, _: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        // The client bounds connecting, the SDK an attempt.
        SharedHttpConnector::new(self.clone())
    }
}
