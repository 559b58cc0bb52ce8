//! Signature Version 4 for requests that no SDK client makes, with credentials kept until they expire.
//!
//! An SDK client puts settings, endpoint, identity, interceptors, signing key and connector together anew for each
//! request; a request that recurs with every frame needs none of that but the signature. Left out is the SDK's
//! correction of a wrong clock: the clocks of Lambda and of ECS are right.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use aws_config::SdkConfig;
use aws_credential_types::provider::{
    ProvideCredentials as _, SharedCredentialsProvider, error::CredentialsError,
};
use aws_sigv4::{
    http_request::{SignableBody, SignableRequest, SigningSettings, sign},
    sign::v4::SigningParams,
};
use aws_smithy_runtime_api::{box_error::BoxError, client::identity::Identity};
use aws_smithy_types::body::SdkBody;
use http::{HeaderName, HeaderValue, Request};
use tokio::sync::Mutex as AsyncMutex;

/// Credentials are renewed this long before they expire, as by the SDK.
const EXPIRY: Duration = Duration::from_secs(10);
/// Credentials that name no expiry are renewed after this, as by the SDK.
const KEPT: Duration = Duration::from_mins(15);

/// Signs requests to one service, in the region and with the credentials of the SDK's configuration.
#[derive(Debug)]
pub struct Signer {
    service: &'static str,
    region: Option<String>,
    provider: Option<SharedCredentialsProvider>,
    cached: Mutex<Option<Arc<Cached>>>,
    /// Held while credentials are fetched, so that many requests fetch them once.
    fetching: AsyncMutex<()>,
    /// How often they were.
    fetched: AtomicU64,
}

#[derive(Debug)]
struct Cached {
    identity: Identity,
    until: SystemTime,
    generation: u64,
}

/// Which credentials a request was signed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub struct Used {
    generation: u64,
    /// They were fetched for this very request, so that a service which refuses them would refuse the next ones too.
    pub fresh: bool,
}

/// Why a request is not signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// No retry helps: the settings name no region.
    #[error("no AWS region is set")]
    NoRegion,
    /// No retry helps: the settings name no source of credentials.
    #[error("there are no AWS credentials")]
    NoProvider,
    /// A retry may help: the source of credentials did not give any.
    #[error("AWS credentials cannot be fetched")]
    Credentials(#[source] CredentialsError),
    /// No retry helps: a header cannot hold what it would have to.
    #[error("the request cannot be signed")]
    Request(#[source] BoxError),
}

impl SignError {
    /// Whether signing later may succeed.
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::Credentials(_))
    }
}

impl Signer {
    /// `service` is its name in signatures, such as `execute-api`. Fetches nothing yet.
    pub fn new(config: &SdkConfig, service: &'static str) -> Self {
        Self {
            service,
            region: config.region().map(ToString::to_string),
            provider: config.credentials_provider(),
            cached: Mutex::default(),
            fetching: AsyncMutex::default(),
            fetched: AtomicU64::default(),
        }
    }

    /// Adds `x-amz-date`, `x-amz-security-token` and `authorization`. All headers that `request` has are signed; `host`
    /// is taken from its URI.
    ///
    /// # Errors
    /// See [`SignError`].
    pub async fn sign(&self, request: &mut Request<SdkBody>, now: SystemTime) -> Result<Used, SignError> {
        if let Some(cached) = self.cached(now) {
            self.sign_with(&cached, request, now)?;
            return Ok(Used { generation: cached.generation, fresh: false });
        }
        // Boxed, because it is rare and its future is large.
        let (cached, fresh) = Box::pin(self.fetch(now)).await?;
        self.sign_with(&cached, request, now)?;
        Ok(Used { generation: cached.generation, fresh })
    }

    /// The service refused these credentials: the next request fetches others, unless another one did so already.
    pub fn refused(&self, used: Used) {
        self.lock().take_if(|cached| cached.generation == used.generation);
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<Cached>>> {
        self.cached.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cached(&self, now: SystemTime) -> Option<Arc<Cached>> {
        self.lock().as_ref().filter(|cached| now < cached.until).cloned()
    }

    async fn fetch(&self, now: SystemTime) -> Result<(Arc<Cached>, bool), SignError> {
        let _one = self.fetching.lock().await;
        if let Some(cached) = self.cached(now) {
            return Ok((cached, false));
        }
        let provider = self.provider.as_ref().ok_or(SignError::NoProvider)?;
        let credentials = provider.provide_credentials().await.map_err(SignError::Credentials)?;
        let until =
            credentials.expiry().map_or(now + KEPT, |expiry| expiry.checked_sub(EXPIRY).unwrap_or(now));
        let generation = self.fetched.fetch_add(1, Ordering::Relaxed);
        let cached = Arc::new(Cached { identity: credentials.into(), until, generation });
        *self.lock() = Some(Arc::clone(&cached));
        Ok((cached, true))
    }

    fn sign_with(
        &self,
        cached: &Cached,
        request: &mut Request<SdkBody>,
        now: SystemTime,
    ) -> Result<(), SignError> {
        let unsigned = |error: BoxError| SignError::Request(error);
        let params = SigningParams::builder()
            .identity(&cached.identity)
            .region(self.region.as_deref().ok_or(SignError::NoRegion)?)
            .name(self.service)
            .time(now)
            .settings(SigningSettings::default())
            .build()
            .map_err(|error| unsigned(error.into()))?
            .into();
        let mut headers = Vec::with_capacity(request.headers().len());
        for (name, value) in request.headers() {
            headers.push((name.as_str(), value.to_str().map_err(|error| unsigned(error.into()))?));
        }
        let body = SignableBody::Bytes(request.body().bytes().unwrap_or_default());
        let uri = request.uri().to_string();
        let signable = SignableRequest::new(request.method().as_str(), uri, headers.into_iter(), body)
            .map_err(|error| unsigned(error.into()))?;
        let (instructions, _) = sign(signable, &params).map_err(|error| unsigned(error.into()))?.into_parts();
        for header in instructions.into_parts().0 {
            // Not by `apply_to_request_http1x`, which panics where a header cannot hold its value.
            let mut value = HeaderValue::from_str(header.value()).map_err(|error| unsigned(error.into()))?;
            value.set_sensitive(true);
            request.headers_mut().insert(HeaderName::from_static(header.name()), value);
        }
        Ok(())
    }
}
