//! HTTP/1.1 for the small services: keep-alive, no delay, one function for all requests; and the client of others.

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

/// Wait after the system refused a connection, so that a full descriptor table does not spin a core.
const REFUSED: Duration = Duration::from_millis(100);

/// Time for a connection to a program of this machine, or of the next one.
const CONNECT_WITHIN: Duration = Duration::from_secs(1);

/// A client with a pool of connections.
pub(crate) fn client<B: Body + Send>() -> Client<HttpConnector, B>
where
    B::Data: Send,
{
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT_WITHIN));
    Client::builder(TokioExecutor::new()).build(connector)
}

/// Accepts connections for ever; errors are said and waited out.
pub(crate) async fn accept(listener: &TcpListener) -> (TcpStream, std::net::SocketAddr) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                if let Err(error) = stream.set_nodelay(true) {
                    debug!(%error, "setting TCP_NODELAY");
                }
                return (stream, peer);
            }
            Err(error) => {
                warn!(%error, "cannot accept a connection");
                tokio::time::sleep(REFUSED).await;
            }
        }
    }
}

/// Answers every request on a listener with one function, until dropped.
pub(crate) async fn serve<H, F>(listener: TcpListener, handler: H)
where
    H: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    loop {
        let (stream, _) = accept(&listener).await;
        tokio::spawn(serve_connection(stream, handler.clone()));
    }
}

/// Answers every request on one connection with one function.
pub(crate) async fn serve_connection<S, H, F>(stream: S, handler: H)
where
    S: AsyncRead + AsyncWrite + Unpin,
    H: Fn(Request<Incoming>) -> F,
    F: Future<Output = Response<Full<Bytes>>>,
{
    let service = service_fn(move |request| {
        let answer = handler(request);
        async { Ok::<_, Infallible>(answer.await) }
    });
    if let Err(error) = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await {
        debug!(%error, "an HTTP connection ended");
    }
}

/// A response with a body that is there already.
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
            warn!(name, "a response header holds what headers may not");
        }
    }
    response
}
