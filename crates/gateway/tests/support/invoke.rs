//! Lambda's Invoke endpoint, in front of whatever answers events.

use std::convert::Infallible;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

const PATH: &str = "/2015-03-31/functions/f/invocations";

/// An endpoint that is not served yet.
#[derive(Debug)]
pub struct Invoke(TcpListener);

impl Invoke {
    /// Listens on a free port.
    pub async fn bind() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    /// For `--lambda-url`.
    pub fn url(&self) -> String {
        format!("http://{}{PATH}", self.0.local_addr().unwrap())
    }

    /// Answers each event with `handler` for as long as the test runs.
    pub fn serve<F>(self, handler: impl Fn(Bytes) -> F + Clone + Send + 'static)
    where
        F: Future<Output = Response<Bytes>> + Send + 'static,
    {
        tokio::spawn(async move {
            loop {
                let (stream, _) = self.0.accept().await.unwrap();
                let handler = handler.clone();
                let service = service_fn(move |request: Request<Incoming>| {
                    let handler = handler.clone();
                    async move {
                        assert_eq!(request.uri().path(), PATH);
                        let event = request.into_body().collect().await.unwrap().to_bytes();
                        Ok::<_, Infallible>(handler(event).await.map(Full::new))
                    }
                });
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
    }
}

/// How Lambda reports that a function failed.
pub fn function_error(message: &str) -> Response<Bytes> {
    let body = serde_json::json!({ "errorMessage": message }).to_string();
    Response::builder().header("X-Amz-Function-Error", "Unhandled").body(body.into()).unwrap()
}
