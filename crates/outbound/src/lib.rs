//! Outgoing requests of function and backend: the HTTP client, API Gateway's `@connections`, JWK sets.
//!
//! Callers limit each operation in time and size. Every error says whether a retry can help.

pub mod connections;
pub mod endpoint;
pub mod http;
pub mod jwks;
pub mod retry;
pub mod signer;

use aws_config::{BehaviorVersion, SdkConfig, stalled_stream_protection::StalledStreamProtectionConfig};

pub use connections::{ConnectionError, Connections, Patience, Pool};
pub use http::{Http, HttpError};
pub use jwks::Jwks;
pub use retry::Retry;
pub use signer::{SignError, Signer};

/// Loads the SDK's configuration from the environment (`AWS_REGION`, `AWS_ENDPOINT_URL_*`, credentials, …); clients send
/// their requests by `http`.
pub async fn sdk_config(http: Http) -> SdkConfig {
    aws_config::defaults(BehaviorVersion::latest())
        .http_client(http)
        // Bodies are small, and every call has a deadline.
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .load()
        .await
}

/// An error and its causes, joined by colons.
pub fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
