//! Shared by the integration tests: a stack of real processes, and a WebSocket client with timeouts.

// `allow` and not `expect`: which of these apply differs between the test binaries.
#![allow(dead_code, unused_imports, unreachable_pub, missing_docs)]

mod client;
mod invoke;
mod stack;

pub use client::{Client, Refusal};
pub use invoke::{Invoke, function_error};
pub use stack::{Stack, StackBuilder, example, sibling, without_capabilities, wrapped};

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt as _, Full};
use hyper_util::{client::legacy::Client as HttpClient, rt::TokioExecutor};

/// Timeout of each wait: only what never comes fails a test, however busy the machine.
pub const DEADLINE: Duration = Duration::from_mins(1);

/// The response to [`http`].
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// One HTTP request on its own connection.
pub async fn http(method: &str, url: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Answer {
    let mut request = Request::builder().method(method).uri(url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(body.into())).unwrap();
    let client = HttpClient::builder(TokioExecutor::new()).build_http();
    let exchange = async {
        let (head, body) = client.request(request).await.unwrap().into_parts();
        Answer {
            status: head.status.as_u16(),
            headers: head.headers,
            body: body.collect().await.unwrap().to_bytes(),
        }
    };
    tokio::time::timeout(DEADLINE, exchange).await.unwrap()
}

/// Calls `look` until it returns something.
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let looking = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(DEADLINE, looking).await.unwrap_or_else(|_| panic!("waited too long for {what}"))
}
