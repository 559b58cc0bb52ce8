//! The AWS SDK's shared configuration, loaded when the first client needs it.

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

/// Repeats of one request to AWS, but for `@connections`.
pub(crate) const REPEATS: u32 = 2;

/// Source of the SDK's settings.
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
    repeats: Repeats,
}

impl Aws {
    pub(crate) fn new(settings: AwsSettings, http: Http) -> Self {
        Self { settings, http, config: Arc::default(), repeats: Repeats::default() }
    }

    /// The HTTP client under all of them.
    pub(crate) fn http(&self) -> Http {
        self.http.clone()
    }

    /// Counts the repeats of the clients that have it.
    pub(crate) fn repeats(&self) -> Repeats {
        self.repeats.clone()
    }

    /// The configuration.
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

/// Timeouts of a client that repeats by itself. [`Http`] bounds connecting.
pub(crate) fn timeouts(limits: &Limits) -> TimeoutConfig {
    TimeoutConfig::builder()
        .operation_attempt_timeout(limits.aws_attempt)
        .operation_timeout(limits.aws)
        .build()
}

/// How such a client repeats.
pub(crate) fn retries() -> RetryConfig {
    RetryConfig::standard().with_max_attempts(1 + REPEATS).with_initial_backoff(Duration::from_millis(50))
}

/// Requests to AWS that were sent again. A process has one invocation at a time, so they are that one's.
#[derive(Debug, Clone, Default)]
pub(crate) struct Repeats(Arc<AtomicU32>);

impl Repeats {
    /// Counts one.
    pub(crate) fn add(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    /// How many there were since this was last asked.
    pub(crate) fn take(&self) -> u32 {
        self.0.swap(0, Relaxed)
    }
}

impl Intercept for Repeats {
    fn name(&self) -> &'static str {
        "Repeats"
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
