//! HTTP/1.1 servers with one handler for all requests, and a client.

use std::{convert::Infallible, future::Future, time::Duration};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::{
    body::{Body, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
};
use tracing::{debug, warn};

/// Delay after a failed accept, so that a full descriptor table does not keep a core busy.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Connect timeout. The peers are local.
const CONNECT_WITHIN: Duration = Duration::from_secs(1);

/// A client with a connection pool.
pub(crate) fn client<B: Body + Send>() -> Client<HttpConnector, B>
where
    B::Data: Send,
{
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT_WITHIN));
    Client::builder(TokioExecutor::new()).build(connector)
}

/// Accepts the next connection; logs errors and retries.
pub(crate) async fn accept(listener: &TcpListener) -> (TcpStream, std::net::SocketAddr) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                if let Err(error) = stream.set_nodelay(true) {
                    debug!(%error, "cannot set TCP_NODELAY");
                }
                return (stream, peer);
            }
            Err(error) => {
                warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

/// Serves a listener with one handler, until dropped.
pub(crate) async fn serve<H, F, B>(listener: TcpListener, handler: H)
where
    H: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
{
    loop {
        let (stream, _) = accept(&listener).await;
        tokio::spawn(serve_connection(stream, handler.clone()));
    }
}

/// Serves one connection with one handler.
pub(crate) async fn serve_connection<S, H, F, B>(stream: S, handler: H)
where
    S: AsyncRead + AsyncWrite + Unpin,
    H: Fn(Request<Incoming>) -> F,
    F: Future<Output = Response<B>>,
    B: Body<Error: Into<Box<dyn std::error::Error + Send + Sync>>> + 'static,
{
    let service = service_fn(move |request| {
        let answer = handler(request);
        async { Ok::<_, Infallible>(answer.await) }
    });
    if let Err(error) = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await {
        debug!(%error, "an HTTP connection failed");
    }
}

/// A response with a complete body.
pub(crate) fn response(
    status: StatusCode,
    headers: &[(&'static str, &str)],
    body: impl Into<Bytes>,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    for &(name, value) in headers {
        if let Ok(value) = value.parse() {
            response.headers_mut().insert(name, value);
        } else {
            warn!(name, "invalid value of a response header");
        }
    }
    response
}
