//! `--count-backend-calls`: a relay between function and backend, which counts the requests by path.
//!
//! What the function asks of `DynamoDB` and of `@connections` is counted where it arrives; its backend is another
//! process, whose own count would be the word of what is measured. The relay costs each frame a hop, so it is there
//! only on request.

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

/// Hands every request on a listener to the backend and counts it, until dropped.
pub(crate) async fn serve(listener: TcpListener, backend: Authority, counters: Arc<Counters>) {
    let client = http1::client();
    http1::serve(listener, move |request| {
        let (client, backend, counters) = (client.clone(), backend.clone(), Arc::clone(&counters));
        async move {
            counters.backend_calls.increment(request.uri().path());
            relay(&client, backend, request).await.unwrap_or_else(|error| {
                warn!(error = format!("{error:#}"), "a request did not reach the backend");
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
