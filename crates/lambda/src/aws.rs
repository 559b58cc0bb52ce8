//! The AWS SDK's shared configuration, loaded when the first client needs it.

use std::sync::Arc;

use aws_config::{BehaviorVersion, SdkConfig};
use tokio::sync::OnceCell;

/// Credentials, region, endpoints and the one HTTP client of all AWS clients in this process.
#[derive(Debug, Clone)]
pub struct Aws(Arc<OnceCell<SdkConfig>>);

impl Aws {
    /// From the environment, as the SDK documents it (`AWS_REGION`, `AWS_ENDPOINT_URL_*`, …).
    pub fn from_environment() -> Self {
        Self(Arc::new(OnceCell::new()))
    }

    /// As given.
    pub fn with(config: SdkConfig) -> Self {
        Self(Arc::new(OnceCell::new_with(Some(config))))
    }

    /// The configuration.
    pub(crate) async fn config(&self) -> &SdkConfig {
        self.0.get_or_init(|| aws_config::load_defaults(BehaviorVersion::latest())).await
    }
}
