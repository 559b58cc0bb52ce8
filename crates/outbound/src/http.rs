//! The process's HTTP client, for the backend, `@connections` and the AWS SDK.
//!
//! The SDK's own client would add HTTP/2, a second connection pool and a second copy of the root certificates: 0.6 MB of
//! the function and milliseconds of its first request. reqwest's redirects, URLs and layers were a tenth of a frame's
//! cost, so reqwest fetches only JWK sets.

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
use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, Error, connect},
    rt::{TokioExecutor, TokioTimer},
};
use tokio::{sync::OnceCell, time::timeout};
use tower_service::Service;

/// Closes idle connections before a load balancer does (60 s at an ALB).
const IDLE: Duration = Duration::from_secs(30);

/// HTTP/1.1 over TCP or TLS 1.2 and later, with keep-alive. Verifies hosts against the platform's root certificates,
/// ignores proxy settings and follows no redirects.
///
/// Clones share one pool. The first request loads the root certificates, which takes milliseconds.
#[derive(Debug, Clone)]
pub struct Http {
    client: Arc<OnceCell<Client<Connector, SdkBody>>>,
    connect: Duration,
}

impl Http {
    /// `connect` limits the TCP and TLS handshakes together.
    pub fn new(connect: Duration) -> Self {
        Self { client: Arc::default(), connect }
    }

    /// Sends a request and returns the response with its body unread. The caller sets a timeout; only connecting has one
    /// here.
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

    /// Sends a request and reads the response: `within` the time, and at most `most` bytes of body.
    ///
    /// # Errors
    /// See [`ExchangeError`].
    pub async fn exchange(
        &self,
        request: Request<Bytes>,
        within: Duration,
        most: usize,
    ) -> Result<Response<Bytes>, ExchangeError> {
        let exchange = async {
            let (head, body) = self.send(request.map(SdkBody::from)).await?.into_parts();
            let body = Limited::new(body, most).collect().await.map_err(ExchangeError::Body)?;
            Ok(Response::from_parts(head, body.to_bytes()))
        };
        timeout(within, exchange).await.map_err(|_| ExchangeError::Timeout)?
    }

    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, ConnectorError> {
        let user = |error: SdkHttpError| ConnectorError::user(error.into());
        let response = self.send(request.try_into_http1x().map_err(user)?).await.map_err(|error| {
            // The SDK retries I/O errors.
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

/// Why a request got no response.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// No retry helps: the platform has no root certificates.
    #[error("the HTTP client cannot be created")]
    Setup(#[source] io::Error),
    /// A retry may help: connecting failed or timed out.
    #[error("cannot connect")]
    Connect(#[source] Error),
    /// A retry may help: the connection was lost, and the server may have received the request.
    #[error("the connection was lost")]
    Lost(#[source] Error),
}

/// Why [`Http::exchange`] got no whole response. A retry may help.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// There was no response.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The response's body was cut off, or is too large.
    #[error("the response cannot be read")]
    Body(#[source] BoxError),
    /// No response in time.
    #[error("no response in time")]
    Timeout,
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
    // hyper divides this among a name's addresses, so one dead address leaves time for the others.
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

/// Limits the time to connect, including TLS.
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
        // `Http` limits connecting and the SDK limits an attempt.
        SharedHttpConnector::new(self.clone())
    }
}
