//! The AWS SDK's shared configuration, loaded when the first client needs it.

use std::{sync::Arc, time::Duration};

use aws_config::{BehaviorVersion, SdkConfig, stalled_stream_protection::StalledStreamProtectionConfig};
use aws_smithy_types::{retry::RetryConfig, timeout::TimeoutConfig};
use tokio::sync::OnceCell;

use crate::{config::Limits, http::Http};

/// Tries of one request, the first included.
const ATTEMPTS: u32 = 3;

/// Where the SDK has its settings from.
#[derive(Debug, Clone)]
pub enum AwsSettings {
    /// The environment, as the SDK documents it (`AWS_REGION`, `AWS_ENDPOINT_URL_*`, …).
    Environment,
    /// As given.
    Given(Box<SdkConfig>),
}

/// Credentials, region, endpoints, and the HTTP client of all AWS clients in this process.
#[derive(Debug, Clone)]
pub(crate) struct Aws {
    settings: AwsSettings,
    http: Http,
    config: Arc<OnceCell<SdkConfig>>,
}

impl Aws {
    pub(crate) fn new(settings: AwsSettings, http: Http) -> Self {
        Self { settings, http, config: Arc::default() }
    }

    /// The configuration.
    pub(crate) async fn config(&self) -> &SdkConfig {
        let load = async || match &self.settings {
            AwsSettings::Environment => {
                aws_config::defaults(BehaviorVersion::latest())
                    .http_client(self.http.clone())
                    // Bodies are small and whole, and every call has its time.
                    .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
                    .load()
                    .await
            }
            AwsSettings::Given(config) => config.to_builder().http_client(self.http.clone()).build(),
        };
        self.config.get_or_init(load).await
    }
}

/// Times of a client that repeats by itself. For connections, [`Http`] has one.
pub(crate) fn timeouts(limits: &Limits) -> TimeoutConfig {
    TimeoutConfig::builder()
        .operation_attempt_timeout(limits.aws_attempt)
        .operation_timeout(limits.aws)
        .build()
}

/// How such a client repeats.
pub(crate) fn repeats() -> RetryConfig {
    RetryConfig::standard().with_max_attempts(ATTEMPTS).with_initial_backoff(Duration::from_millis(50))
}
