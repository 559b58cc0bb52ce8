//! What the function and the backend both send: one HTTP client, `@connections` of API Gateway, JWK sets.
//!
//! Everything here is bounded in time and size by its caller's limits, and each error says whether a retry can help.

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

/// The SDK's configuration from the environment (`AWS_REGION`, `AWS_ENDPOINT_URL_*`, credentials, …), over `http`.
pub async fn sdk_config(http: Http) -> SdkConfig {
    aws_config::defaults(BehaviorVersion::latest())
        .http_client(http)
        // Bodies are small and read whole, and every call has a deadline.
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .load()
        .await
}

/// An error and all its causes, joined by colons.
pub fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
