//! The one HTTP client of the process: to the backend, and under the AWS SDK.
//!
//! The SDK brings a client of its own, with HTTP/2, a second connection pool and a second copy of the root
//! certificates: 0.6 MB of the binary, and milliseconds of the first request.

use std::sync::Arc;

use aws_smithy_runtime_api::client::{
    http::{HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector},
    orchestrator::{HttpRequest, HttpResponse},
    result::ConnectorError,
    runtime_components::RuntimeComponents,
};
use aws_smithy_types::body::SdkBody;
use reqwest::redirect;
use tokio::sync::OnceCell;

use crate::config::Limits;

/// An idle connection is dropped before a load balancer does (60 s at an ALB).
const IDLE: std::time::Duration = std::time::Duration::from_secs(30);

/// Made when first used: loading the root certificates takes milliseconds.
#[derive(Debug, Clone)]
pub(crate) struct Http {
    client: Arc<OnceCell<reqwest::Client>>,
    limits: Limits,
}

impl Http {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { client: Arc::default(), limits }
    }

    /// The client.
    ///
    /// # Errors
    /// When there are no root certificates.
    pub(crate) async fn client(&self) -> reqwest::Result<&reqwest::Client> {
        let limits = self.limits;
        let make = async || {
            builder(limits)
                .read_timeout(limits.backend)
                .pool_idle_timeout(IDLE)
                .tcp_nodelay(true)
                .http1_only()
                .build()
        };
        self.client.get_or_try_init(make).await
    }

    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, ConnectorError> {
        let unusable = |error: reqwest::Error| ConnectorError::user(error.into());
        let method = request.method().parse().map_err(|_| ConnectorError::user("method".into()))?;
        let body = request.body().bytes().ok_or_else(|| ConnectorError::user("a streamed body".into()))?;
        let mut sent = self.client().await.map_err(unusable)?.request(method, request.uri());
        for (name, value) in request.headers() {
            sent = sent.header(name, value);
        }
        let mut response = sent.body(body.to_vec()).send().await.map_err(connector_error)?;
        let status = response.status().into();
        let headers = std::mem::take(response.headers_mut());
        let body = response.bytes().await.map_err(connector_error)?;
        let mut answer = HttpResponse::new(status, SdkBody::from(body));
        for (name, value) in &headers {
            if let Ok(value) = value.to_str() {
                answer.headers_mut().append(name.as_str().to_owned(), value.to_owned());
            }
        }
        Ok(answer)
    }
}

/// What all clients of this crate have in common: no proxy of the environment sees what is sent, and nobody is
/// followed elsewhere.
pub(crate) fn builder(limits: Limits) -> reqwest::ClientBuilder {
    reqwest::Client::builder().connect_timeout(limits.connect).no_proxy().redirect(redirect::Policy::none())
}

/// The SDK tries again after what is a timeout or of the network.
fn connector_error(error: reqwest::Error) -> ConnectorError {
    if error.is_timeout() { ConnectorError::timeout(error.into()) } else { ConnectorError::io(error.into()) }
}

impl HttpConnector for Http {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let http = self.clone();
        HttpConnectorFuture::new(async move { http.send(request).await })
    }
}

impl HttpClient for Http {
    fn http_connector(&self, _: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        // Connect timeouts are the client's; the time for an attempt is kept by the SDK.
        SharedHttpConnector::new(self.clone())
    }
}
