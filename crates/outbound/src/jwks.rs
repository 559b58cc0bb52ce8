//! Fetches JWK sets. [`JwksPolicy`] decides what to fetch, when, and from where.

use std::{net::SocketAddr, time::Duration};

use jsonwebtoken::jwk::{AlgorithmParameters, JwkSet};
use parking_lot::Mutex;
use shellbridge_protocol::{
    access::{JwksPolicy, JwksRefused, KeyError, MAX_JWKS, TokenKeys},
    times::UnixSecs,
};
use tokio::{sync::Mutex as AsyncMutex, time::timeout};
use url::Url;

use crate::chain;

/// Timeout of a fetch, including the DNS lookup.
pub const FETCH_WITHIN: Duration = Duration::from_secs(3);
/// Timeout of its TCP and TLS handshakes.
const CONNECT_WITHIN: Duration = Duration::from_secs(1);

/// The keys of one `JWKS_URL`.
#[derive(Debug)]
pub struct Jwks {
    url: Url,
    within: Duration,
    cache: Mutex<Cache>,
    /// Held during a fetch, so that concurrent tokens share one.
    fetching: AsyncMutex<()>,
}

#[derive(Debug)]
struct Cache {
    policy: JwksPolicy,
    /// The last set fetched, which names each key (`kid`).
    set: Option<JwkSet>,
}

/// Why a fetch failed. A retry may help; [`JwksPolicy`] says when.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error(transparent)]
    Policy(#[from] JwksRefused),
    #[error("DNS lookup failed")]
    Lookup(#[source] std::io::Error),
    #[error("no response")]
    NoResponse(#[source] reqwest::Error),
    #[error("the request timed out")]
    Timeout,
    #[error("status {0}")]
    Status(u16),
    #[error("larger than {MAX_JWKS} bytes")]
    TooLarge,
    #[error(transparent)]
    Keys(#[from] KeyError),
}

/// Drops the URL, whose query may be secret.
impl From<reqwest::Error> for FetchError {
    fn from(error: reqwest::Error) -> Self {
        Self::NoResponse(error.without_url())
    }
}

impl Jwks {
    /// `within` is the timeout of a fetch ([`FETCH_WITHIN`]); `allow_private` permits private addresses and plain HTTP.
    ///
    /// # Errors
    /// The policy forbids the URL.
    pub fn new(url: &str, allow_private: bool, within: Duration) -> Result<Self, JwksRefused> {
        let url = Url::parse(url).ok().filter(Url::has_host).ok_or(JwksRefused::Scheme)?;
        let policy = JwksPolicy::new(allow_private);
        policy.admit_scheme(url.scheme())?;
        let cache = Mutex::new(Cache { policy, set: None });
        Ok(Self { url, within, cache, fetching: AsyncMutex::default() })
    }

    /// The keys. Fetches them if they are missing or stale, or if a token names a key that they lack (`unknown_kid`).
    /// `None` if they are missing and the fetch fails.
    pub async fn keys(&self, unknown_kid: bool, now: UnixSecs) -> Option<TokenKeys> {
        // A token whose key is cached does not wait for a fetch that another token caused.
        if unknown_kid || self.is_stale(now) {
            self.refresh(unknown_kid, now).await;
        }
        self.cache.lock().policy.keys(now).cloned()
    }

    /// The `kid` of a key, which may be absent. The outer `None` means that the set lacks the key.
    pub async fn kid_of(&self, key: &AlgorithmParameters, now: UnixSecs) -> Option<Option<String>> {
        if self.is_stale(now) {
            self.refresh(false, now).await;
        }
        let cache = self.cache.lock();
        let jwk = cache.set.as_ref()?.keys.iter().find(|jwk| jwk.algorithm == *key)?;
        Some(jwk.common.key_id.clone())
    }

    fn is_stale(&self, now: UnixSecs) -> bool {
        let cache = self.cache.lock();
        cache.policy.keys(now).is_none() || cache.policy.is_due(false, now)
    }

    async fn refresh(&self, unknown_kid: bool, now: UnixSecs) {
        let _guard = self.fetching.lock().await;
        if !self.cache.lock().policy.wants_fetch(unknown_kid, now) {
            return;
        }
        let fetched = timeout(self.within, self.fetch()).await.unwrap_or(Err(FetchError::Timeout));
        if let Err(error) = fetched.and_then(|set| self.accept(&set, now)) {
            tracing::error!(error = chain(&error), "cannot fetch the JWK set");
        }
    }

    fn accept(&self, set: &[u8], now: UnixSecs) -> Result<(), FetchError> {
        let mut cache = self.cache.lock();
        cache.policy.accept(set, now)?;
        cache.set = serde_json::from_slice(set).ok();
        Ok(())
    }

    async fn fetch(&self) -> Result<Vec<u8>, FetchError> {
        let port = self.url.port_or_known_default().ok_or(JwksRefused::Scheme)?;
        let host = self.url.host_str().ok_or(JwksRefused::Scheme)?;
        let lookup = tokio::net::lookup_host((host.trim_matches(['[', ']']), port)).await;
        let addresses: Vec<_> = lookup.map_err(FetchError::Lookup)?.collect();
        self.cache.lock().policy.admit(addresses.iter().map(SocketAddr::ip))?;
        // Connects to the addresses just checked: a second lookup could return others, and a redirect or a proxy would
        // lead elsewhere.
        let client = reqwest::Client::builder()
            .connect_timeout(CONNECT_WITHIN)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .resolve_to_addrs(host, &addresses)
            .build()?;
        let mut response = client.get(self.url.clone()).send().await?;
        if !response.status().is_success() {
            return Err(FetchError::Status(response.status().as_u16()));
        }
        let mut set = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            if set.len() + chunk.len() > MAX_JWKS {
                return Err(FetchError::TooLarge);
            }
            set.extend_from_slice(&chunk);
        }
        Ok(set)
    }
}
