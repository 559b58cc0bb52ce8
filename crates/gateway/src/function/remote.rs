//! A function behind an Invoke endpoint: `POST …/2015-03-31/functions/NAME/invocations` with the event as body.
//!
//! A function error has status 200 and the header `X-Amz-Function-Error` (Lambda API, *Invoke*), or a status other
//! than 2xx (`cargo lambda watch` 1.9.2: 500 with the error document).

use bytes::Bytes;
use http::{Method, Request, Uri, header::CONTENT_TYPE};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::{Client, connect::HttpConnector};

use super::FunctionError;
use crate::http1;

/// An Invoke endpoint over plain HTTP.
#[derive(Debug, Clone)]
pub struct Remote {
    client: Client<HttpConnector, Full<Bytes>>,
    url: Uri,
}

impl Remote {
    /// An endpoint at this URL. Fails unless it is an `http://` URL.
    pub fn new(url: &str) -> Result<Self, String> {
        let url: Uri = url.parse().map_err(|error| format!("{url}: {error}"))?;
        if url.scheme_str() != Some("http") || url.authority().is_none() {
            return Err(format!("{url}: the Invoke endpoint must be an http:// URL"));
        }
        Ok(Self { client: http1::client(), url })
    }

    pub(super) async fn invoke(&self, event: Bytes) -> Result<Bytes, FunctionError> {
        let failed =
            |error: &dyn std::error::Error| FunctionError::Endpoint(format!("{}: {error}", self.url));
        let request = Request::builder()
            .method(Method::POST)
            .uri(self.url.clone())
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(event))
            .map_err(|error| failed(&error))?;
        let response = self.client.request(request).await.map_err(|error| failed(&error))?;
        let (head, body) = response.into_parts();
        let body = body.collect().await.map_err(|error| failed(&error))?.to_bytes();
        if head.headers.contains_key("x-amz-function-error") {
            return Err(FunctionError::Unhandled(String::from_utf8_lossy(&body).into_owned()));
        }
        if !head.status.is_success() {
            return Err(FunctionError::Endpoint(format!("{}: {}", self.url, head.status)));
        }
        Ok(body)
    }
}
