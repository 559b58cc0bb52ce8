//! The AWS SDK's shared configuration, loaded on first use.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use aws_config::SdkConfig;
use aws_smithy_runtime_api::{
    box_error::BoxError,
    client::{
        interceptors::{Intercept, context::BeforeTransmitInterceptorContextRef},
        retries::RequestAttempts,
        runtime_components::RuntimeComponents,
    },
};
use aws_smithy_types::{config_bag::ConfigBag, retry::RetryConfig, timeout::TimeoutConfig};
use shellbridge_outbound::Http;
use tokio::sync::OnceCell;

use crate::config::Limits;

/// Retries of one AWS request, except of `@connections`.
pub(crate) const MAX_RETRIES: u32 = 2;

/// Source of the SDK's configuration.
#[derive(Debug, Clone)]
pub enum AwsSettings {
    /// The environment (`AWS_REGION`, `AWS_ENDPOINT_URL_*`, …).
    Environment,
    /// This configuration, with the function's own HTTP client.
    Given(Box<SdkConfig>),
}

/// Credentials, region, endpoints and HTTP client of the process's AWS clients.
#[derive(Debug, Clone)]
pub(crate) struct Aws {
    settings: AwsSettings,
    http: Http,
    config: Arc<OnceCell<SdkConfig>>,
    retries: RetryCounter,
}

impl Aws {
    pub(crate) fn new(settings: AwsSettings, http: Http) -> Self {
        Self { settings, http, config: Arc::default(), retries: RetryCounter::default() }
    }

    /// The HTTP client that all AWS clients share.
    pub(crate) fn http(&self) -> Http {
        self.http.clone()
    }

    /// The interceptor that counts retries.
    pub(crate) fn retries(&self) -> RetryCounter {
        self.retries.clone()
    }

    /// The configuration, loaded once.
    pub(crate) async fn config(&self) -> &SdkConfig {
        self.config.get_or_init(|| Box::pin(self.load())).await
    }

    async fn load(&self) -> SdkConfig {
        match &self.settings {
            AwsSettings::Environment => shellbridge_outbound::sdk_config(self.http.clone()).await,
            AwsSettings::Given(config) => config.to_builder().http_client(self.http.clone()).build(),
        }
    }
}

/// Timeouts of an SDK client. [`Http`] limits connecting.
pub(crate) fn timeout_config(limits: &Limits) -> TimeoutConfig {
    TimeoutConfig::builder()
        .operation_attempt_timeout(limits.aws_attempt)
        .operation_timeout(limits.aws)
        .build()
}

/// Retry policy of an SDK client.
pub(crate) fn retry_config() -> RetryConfig {
    RetryConfig::standard().with_max_attempts(1 + MAX_RETRIES).with_initial_backoff(Duration::from_millis(50))
}

/// Counts retried AWS requests. A process handles one invocation at a time, so they belong to that one.
#[derive(Debug, Clone, Default)]
pub(crate) struct RetryCounter(Arc<AtomicU32>);

impl RetryCounter {
    /// Counts one retry.
    pub(crate) fn add(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    /// Returns the count and resets it.
    pub(crate) fn take(&self) -> u32 {
        self.0.swap(0, Relaxed)
    }
}

impl Intercept for RetryCounter {
    fn name(&self) -> &'static str {
        "RetryCounter"
    }

    fn read_before_attempt(
        &self,
        _: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if config.load::<RequestAttempts>().is_some_and(|attempt| attempt.attempts() > 1) {
            self.add();
        }
        Ok(())
    }
}
