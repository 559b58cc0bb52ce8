//! Signature Version 4 for requests made without an SDK client. Caches credentials until they expire.
//!
//! An SDK client assembles settings, endpoint, identity, interceptors, signing key and connector for each request. The
//! requests of a frame need only the signature. The signer omits the SDK's clock skew correction: Lambda and ECS keep
//! correct time.

use std::{
    fmt,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_config::SdkConfig;
use aws_credential_types::{
    Credentials,
    provider::{ProvideCredentials as _, SharedCredentialsProvider, error::CredentialsError},
};
use aws_sigv4::sign::v4::{calculate_signature, generate_signing_key};
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_types::{
    DateTime,
    body::SdkBody,
    date_time::{DateTimeFormatError, Format},
};
use http::{
    HeaderName, HeaderValue, Request,
    header::{AUTHORIZATION, HOST},
};
use parking_lot::Mutex;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use sha2::{Digest as _, Sha256};
use tokio::sync::Mutex as AsyncMutex;

const DATE: HeaderName = HeaderName::from_static("x-amz-date");
const TOKEN: HeaderName = HeaderName::from_static("x-amz-security-token");
/// A canonical path is encoded a second time, for every service but S3: everything but unreserved characters (RFC 3986,
/// section 2.3) and slashes.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'~').remove(b'.').remove(b'/');
/// A signing key is valid for one UTC day.
const DAY: u64 = 24 * 3600;
/// Renews credentials this long before they expire, as the SDK does.
const EXPIRY_MARGIN: Duration = Duration::from_secs(10);
/// Lifetime of credentials without an expiry, as in the SDK.
const DEFAULT_LIFETIME: Duration = Duration::from_mins(15);

/// Signs requests to one service with the region and credentials of the SDK's configuration.
#[derive(Debug)]
pub struct Signer {
    service: &'static str,
    region: Option<String>,
    provider: Option<SharedCredentialsProvider>,
    cached: Mutex<Option<Arc<Cached>>>,
    /// Held during a fetch of credentials, so that concurrent requests share one.
    fetching: AsyncMutex<()>,
    /// Number of fetches so far.
    fetched: AtomicU64,
}

/// Credentials and the signing key derived from them for one day.
struct Cached {
    credentials: Credentials,
    /// `20261120`
    day: String,
    key: Vec<u8>,
    /// The part of the day in which the credentials are valid.
    valid: Range<SystemTime>,
    generation: u64,
}

/// Omits the key.
impl fmt::Debug for Cached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cached").field("valid", &self.valid).finish_non_exhaustive()
    }
}

/// The credentials that signed a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub struct Used {
    generation: u64,
    /// Fetched for this request: if the service rejects them, it would reject newer ones too.
    pub fresh: bool,
}

/// Why a request was not signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// No retry helps: the configuration names no region.
    #[error("no AWS region is set")]
    NoRegion,
    /// No retry helps: the configuration names no credentials provider.
    #[error("no AWS credentials provider is set")]
    NoProvider,
    /// A retry may help: the provider failed.
    #[error("cannot fetch AWS credentials")]
    Credentials(#[source] CredentialsError),
    /// No retry helps: a value is not valid in a header.
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
    /// `service` is the name in signatures, such as `execute-api`. Fetches nothing yet.
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

    /// Adds `host`, `x-amz-date`, `x-amz-security-token` and `authorization`, and signs every header present.
    ///
    /// The request's header names must be unique. Its URI must be absolute, without a query and without dot or empty
    /// segments in the path.
    ///
    /// # Errors
    /// See [`SignError`].
    pub async fn sign(&self, request: &mut Request<SdkBody>, now: SystemTime) -> Result<Used, SignError> {
        if let Some(cached) = self.cached(now) {
            self.sign_with(&cached, request, now)?;
            return Ok(Used { generation: cached.generation, fresh: false });
        }
        // Boxed: fetching is rare and its future is large.
        let (cached, fresh) = Box::pin(self.fetch(now)).await?;
        self.sign_with(&cached, request, now)?;
        Ok(Used { generation: cached.generation, fresh })
    }

    /// Drops credentials that the service rejected, so that the next request fetches new ones. Does nothing if another
    /// request has replaced them already.
    pub fn invalidate(&self, used: Used) {
        self.cached.lock().take_if(|cached| cached.generation == used.generation);
    }

    fn cached(&self, now: SystemTime) -> Option<Arc<Cached>> {
        self.cached.lock().as_ref().filter(|cached| cached.valid.contains(&now)).cloned()
    }

    async fn fetch(&self, now: SystemTime) -> Result<(Arc<Cached>, bool), SignError> {
        let _guard = self.fetching.lock().await;
        if let Some(cached) = self.cached(now) {
            return Ok((cached, false));
        }
        let provider = self.provider.as_ref().ok_or(SignError::NoProvider)?;
        let credentials = provider.provide_credentials().await.map_err(SignError::Credentials)?;
        let cached = Arc::new(self.cache(credentials, now)?);
        *self.cached.lock() = Some(Arc::clone(&cached));
        Ok((cached, true))
    }

    fn cache(&self, credentials: Credentials, now: SystemTime) -> Result<Cached, SignError> {
        let region = self.region.as_deref().ok_or(SignError::NoRegion)?;
        let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let midnight = UNIX_EPOCH + Duration::from_secs(seconds - seconds % DAY);
        let until = credentials
            .expiry()
            .map_or(now + DEFAULT_LIFETIME, |expiry| expiry.checked_sub(EXPIRY_MARGIN).unwrap_or(now));
        let time = basic_format(now).map_err(|error| SignError::Request(error.into()))?;
        Ok(Cached {
            day: time.get(..8).unwrap_or_default().to_owned(),
            key: generate_signing_key(credentials.secret_access_key(), now, region, self.service)
                .as_ref()
                .to_vec(),
            valid: midnight..until.min(midnight + Duration::from_secs(DAY)),
            generation: self.fetched.fetch_add(1, Ordering::Relaxed),
            credentials,
        })
    }

    fn sign_with(
        &self,
        cached: &Cached,
        request: &mut Request<SdkBody>,
        now: SystemTime,
    ) -> Result<(), SignError> {
        let region = self.region.as_deref().ok_or(SignError::NoRegion)?;
        let authorization =
            authorization(cached, (region, self.service), request, now).map_err(SignError::Request)?;
        request.headers_mut().insert(AUTHORIZATION, authorization);
        Ok(())
    }
}

/// Signature Version 4:
/// <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html>
fn authorization(
    cached: &Cached,
    (region, service): (&str, &str),
    request: &mut Request<SdkBody>,
    now: SystemTime,
) -> Result<HeaderValue, BoxError> {
    let time = basic_format(now)?;
    let host = HeaderValue::from_str(request.uri().authority().ok_or("no host")?.as_str())?;
    let headers = request.headers_mut();
    headers.insert(HOST, host);
    headers.insert(DATE, HeaderValue::from_str(&time)?);
    if let Some(token) = cached.credentials.session_token() {
        let mut token = HeaderValue::from_str(token)?;
        token.set_sensitive(true);
        headers.insert(TOKEN, token);
    }
    let mut headers: Vec<_> = request.headers().iter().collect();
    headers.sort_unstable_by_key(|(name, _)| name.as_str());

    let (mut canonical, mut signed) = (String::with_capacity(2_048), String::with_capacity(64));
    canonical.extend([request.method().as_str(), "\n"]);
    canonical.extend(utf8_percent_encode(request.uri().path(), ENCODED));
    canonical.push_str("\n\n");
    for (name, value) in headers {
        canonical.extend([name.as_str(), ":", value.to_str()?.trim(), "\n"]);
        signed.extend([if signed.is_empty() { "" } else { ";" }, name.as_str()]);
    }
    let body = request.body().bytes().unwrap_or_default();
    canonical.extend(["\n", &signed, "\n", &hex::encode(Sha256::digest(body))]);

    let scope = format!("{}/{region}/{service}/aws4_request", cached.day);
    let hash = hex::encode(Sha256::digest(&canonical));
    let to_sign = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{hash}");
    let signature = calculate_signature(&cached.key, to_sign.as_bytes());
    let mut authorization = HeaderValue::try_from(format!(
        "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={signed}, Signature={signature}",
        cached.credentials.access_key_id()
    ))?;
    authorization.set_sensitive(true);
    Ok(authorization)
}

/// `20261120T093000Z`
fn basic_format(time: SystemTime) -> Result<String, DateTimeFormatError> {
    let seconds = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let extended = DateTime::from_secs(i64::try_from(seconds).unwrap_or_default()).fmt(Format::DateTime)?;
    Ok(extended.replace(['-', ':'], ""))
}

#[cfg(test)]
mod tests {
    use aws_config::Region;
    use aws_sigv4::{
        http_request::{SignableBody, SignableRequest, SigningSettings, sign},
        sign::v4::SigningParams,
    };

    use super::*;

    fn signer(credentials: Credentials) -> Signer {
        let provider = SharedCredentialsProvider::new(credentials);
        let config =
            SdkConfig::builder().region(Region::new("eu-west-1")).credentials_provider(provider).build();
        Signer::new(&config, "execute-api")
    }

    /// The `Authorization` header that the SDK's signer computes.
    fn sdk_authorization(request: &Request<SdkBody>, credentials: &Credentials, now: SystemTime) -> String {
        let identity = credentials.clone().into();
        let params = SigningParams::builder()
            .identity(&identity)
            .region("eu-west-1")
            .name("execute-api")
            .time(now)
            .settings(SigningSettings::default())
            .build()
            .unwrap()
            .into();
        let body = SignableBody::Bytes(request.body().bytes().unwrap());
        let headers = request.headers().iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap()));
        let unsigned =
            SignableRequest::new(request.method().as_str(), request.uri().to_string(), headers, body)
                .unwrap();
        let (instructions, _) = sign(unsigned, &params).unwrap().into_parts();
        instructions.headers().find(|(name, _)| *name == "authorization").unwrap().1.to_owned()
    }

    #[tokio::test]
    async fn signatures_equal_those_of_the_sdk() {
        let midnight = UNIX_EPOCH + Duration::from_secs(20_000 * DAY);
        for token in [None, Some("a+token/with==  two  spaces".to_owned())] {
            let credentials = Credentials::new("AKID", "secret", token, None, "test");
            let signer = signer(credentials.clone());
            for (method, uri, body) in [
                ("POST", "https://abc.execute-api.eu-west-1.amazonaws.com/prod/@connections/L0S%3D", ""),
                ("POST", "https://ws.example.org/@connections/%2E%2E", r#"{"type":"pong"}"#),
                ("PUT", "http://127.0.0.1:8080/st-age_1/a%20b~c.d/$default", "é\u{1f600}\n"),
                ("POST", "http://[::1]/", "x"),
            ] {
                // Each UTC day has a signing key of its own, whichever way the clock moves.
                for now in [
                    midnight - Duration::from_millis(1),
                    midnight,
                    midnight + DEFAULT_LIFETIME,
                    midnight - DEFAULT_LIFETIME,
                ] {
                    let mut request = Request::new(SdkBody::from(body));
                    *request.method_mut() = method.parse().unwrap();
                    *request.uri_mut() = uri.parse().unwrap();
                    let headers = request.headers_mut();
                    headers.insert("x-amz-target", HeaderValue::from_static(" Service.Operation "));
                    headers.insert("content-type", HeaderValue::from_static("application/json"));
                    let expected = sdk_authorization(&request, &credentials, now);
                    let _used = signer.sign(&mut request, now).await.unwrap();
                    assert_eq!(request.headers()[AUTHORIZATION], expected, "{uri} {now:?}");
                }
            }
        }
    }

    #[tokio::test]
    async fn the_cache_ends_shortly_before_expiry_or_at_midnight() {
        let now = UNIX_EPOCH + Duration::from_secs(20_000 * DAY + 3600);
        let valid_until = |expiry, now| {
            let credentials = Credentials::new("AKID", "secret", None, expiry, "test");
            signer(credentials.clone()).cache(credentials, now).unwrap().valid.end
        };
        let lifetime = DEFAULT_LIFETIME;
        assert_eq!(valid_until(None, now), now + lifetime);
        assert_eq!(valid_until(Some(now + lifetime * 2), now), now + lifetime * 2 - EXPIRY_MARGIN);
        assert_eq!(valid_until(Some(now + lifetime * 2), now - lifetime * 5), now - lifetime * 4, "midnight");
    }
}
