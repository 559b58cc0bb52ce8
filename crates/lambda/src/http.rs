//! The one HTTP client of the process: to the backend and `@connections`, and under the AWS SDK.
//!
//! The SDK brings a client of its own, with HTTP/2, a second connection pool and a second copy of the root
//! certificates: 0.6 MB of the binary, and milliseconds of the first request. reqwest would have done here, and does
//! for JWK sets; its redirects, its own URLs and its layers were a tenth of what a frame costs.

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
    http::HttpError,
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

use crate::config::Limits;

/// An idle connection is dropped before a load balancer does (60 s at an ALB).
const IDLE: Duration = Duration::from_secs(30);

/// Made when first used: loading the root certificates takes milliseconds.
#[derive(Debug, Clone)]
pub(crate) struct Http {
    client: Arc<OnceCell<Client<Connector, SdkBody>>>,
    limits: Limits,
}

impl Http {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { client: Arc::default(), limits }
    }

    /// Sends a request and returns the head of the answer. Times are the caller's, but for those of connecting.
    pub(crate) async fn send(&self, request: Request<SdkBody>) -> Result<Response<Incoming>, Failed> {
        let limits = self.limits;
        let client = self.client.get_or_try_init(async || client(limits)).await.map_err(Failed::Unusable)?;
        client.request(request).await.map_err(Failed::Sending)
    }

    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, ConnectorError> {
        let user = |error: HttpError| ConnectorError::user(error.into());
        let response =
            self.send(request.try_into_http1x().map_err(user)?).await.map_err(|error| match error {
                Failed::Unusable(error) => ConnectorError::user(error.into()),
                // The SDK tries again after what is of the network.
                Failed::Sending(error) => ConnectorError::io(error.into()),
            })?;
        let (head, body) = response.into_parts();
        let body = body.collect().await.map_err(|error| ConnectorError::io(error.into()))?;
        HttpResponse::try_from(Response::from_parts(head, SdkBody::from(body.to_bytes()))).map_err(user)
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failed {
    /// There are no root certificates.
    #[error("no HTTP client can be made")]
    Unusable(#[source] io::Error),
    /// No connection ([`Error::is_connect`]), or it was lost.
    #[error("the connection failed")]
    Sending(#[source] Error),
}

fn client(limits: Limits) -> io::Result<Client<Connector, SdkBody>> {
    let mut tcp = connect::HttpConnector::new();
    tcp.set_nodelay(true);
    // Divided by the addresses of a name, so that one that is dead does not take the time of the others.
    tcp.set_connect_timeout(Some(limits.connect));
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
        .build(Connector { https, within: limits.connect }))
}

/// Connects, TLS included, within a time. Nobody's proxy sees what is sent.
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
        // Connect timeouts are the client's; the time for an attempt is kept by the SDK.
        SharedHttpConnector::new(self.clone())
    }
}
