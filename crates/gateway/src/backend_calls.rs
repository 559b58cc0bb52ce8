//! `--count-backend-calls`: a relay between function and backend that counts requests by path.
//!
//! The gateway counts requests for `DynamoDB` and `@connections` as it serves them. The backend is another process,
//! and a measurement should not rely on the counters of what it measures. The relay adds a hop to each frame, so it
//! runs only on request.

use std::sync::Arc;

use bytes::Bytes;
use http::{
    Request, Response, StatusCode, Uri,
    uri::{Authority, Scheme},
};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use tokio::net::TcpListener;
use tracing::warn;

use crate::{
    counters::Counters,
    http1::{self, response},
};

/// Counts every request on a listener and relays it to the backend, until dropped.
pub(crate) async fn serve(listener: TcpListener, backend: Authority, counters: Arc<Counters>) {
    let client = http1::client();
    http1::serve(listener, move |request| {
        let (client, backend, counters) = (client.clone(), backend.clone(), Arc::clone(&counters));
        async move {
            counters.backend_calls.increment(request.uri().path());
            relay(&client, backend, request).await.unwrap_or_else(|error| {
                warn!(error = format!("{error:#}"), "cannot relay a request to the backend");
                response(StatusCode::BAD_GATEWAY, &[], "")
            })
        }
    })
    .await;
}

async fn relay(
    client: &Client<HttpConnector, Incoming>,
    backend: Authority,
    mut request: Request<Incoming>,
) -> anyhow::Result<Response<Full<Bytes>>> {
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Some(backend);
    *request.uri_mut() = Uri::from_parts(parts)?;
    let (head, body) = client.request(request).await?.into_parts();
    Ok(Response::from_parts(head, Full::new(body.collect().await?.to_bytes())))
}
