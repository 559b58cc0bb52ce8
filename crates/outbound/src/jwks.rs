//! Fetches JWK sets. What may be fetched, when, and from where is decided by [`JwksPolicy`].

use std::{
    net::SocketAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jsonwebtoken::jwk::{AlgorithmParameters, JwkSet};
use shellbridge_protocol::access::{JwksPolicy, JwksRefused, KeyError, MAX_JWKS, TokenKeys};
use tokio::{sync::Mutex as AsyncMutex, time::timeout};
use url::Url;

use crate::chain;

/// For a set to arrive, lookup of its host included.
pub const FETCH_WITHIN: Duration = Duration::from_secs(3);
/// For a TCP and TLS connection to its source.
const CONNECT_WITHIN: Duration = Duration::from_secs(1);

/// The keys behind one `JWKS_URL`.
#[derive(Debug)]
pub struct Jwks {
    url: Url,
    within: Duration,
    known: Mutex<Known>,
    /// Held while fetching, so that many tokens make one fetch.
    fetching: AsyncMutex<()>,
}

#[derive(Debug)]
struct Known {
    policy: JwksPolicy,
    /// The set as fetched last: it has the names (`kid`) of the keys.
    set: Option<JwkSet>,
}

/// Why a set was not fetched. A retry may help; [`JwksPolicy`] says when.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error(transparent)]
    Refused(#[from] JwksRefused),
    #[error("its host cannot be looked up")]
    Lookup(#[source] std::io::Error),
    #[error("no answer")]
    NoAnswer(#[source] reqwest::Error),
    #[error("no answer in time")]
    Late,
    #[error("status {0}")]
    Status(u16),
    #[error("larger than {MAX_JWKS} bytes")]
    TooLarge,
    #[error(transparent)]
    Useless(#[from] KeyError),
}

/// Without the URL, whose query may be secret.
impl From<reqwest::Error> for FetchError {
    fn from(error: reqwest::Error) -> Self {
        Self::NoAnswer(error.without_url())
    }
}

impl Jwks {
    /// `within` is the time for one fetch ([`FETCH_WITHIN`]); `allow_private` lets sets come from private addresses and
    /// by plain http.
    ///
    /// # Errors
    /// A URL that is not fetched from.
    pub fn new(url: &str, allow_private: bool, within: Duration) -> Result<Self, JwksRefused> {
        let url = Url::parse(url).ok().filter(Url::has_host).ok_or(JwksRefused::Scheme)?;
        let policy = JwksPolicy::new(allow_private);
        policy.admit_scheme(url.scheme())?;
        let known = Mutex::new(Known { policy, set: None });
        Ok(Self { url, within, known, fetching: AsyncMutex::default() })
    }

    /// The keys, fetched if they are unknown or old, or if `unknown_kid`: a token names a key that they lack. `None` when
    /// there are none and they cannot be fetched. `now` is Unix seconds.
    pub async fn keys(&self, unknown_kid: bool, now: i64) -> Option<TokenKeys> {
        // Keys that will do are not held up by a fetch that somebody else's token made.
        if unknown_kid || self.wants_fetch(now) {
            self.refresh(unknown_kid, now).await;
        }
        self.known().policy.keys(now).cloned()
    }

    /// The set's name for a key: its `kid`, which may be absent. Outer `None`: the set does not have the key.
    pub async fn kid_of(&self, key: &AlgorithmParameters, now: i64) -> Option<Option<String>> {
        if self.wants_fetch(now) {
            self.refresh(false, now).await;
        }
        let known = self.known();
        let jwk = known.set.as_ref()?.keys.iter().find(|jwk| jwk.algorithm == *key)?;
        Some(jwk.common.key_id.clone())
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wants_fetch(&self, now: i64) -> bool {
        let known = self.known();
        known.policy.keys(now).is_none() || known.policy.is_due(false, now)
    }

    async fn refresh(&self, unknown_kid: bool, now: i64) {
        let _one = self.fetching.lock().await;
        if !self.known().policy.wants_fetch(unknown_kid, now) {
            return;
        }
        let fetched = timeout(self.within, self.fetch()).await.unwrap_or(Err(FetchError::Late));
        if let Err(error) = fetched.and_then(|set| self.accept(&set, now)) {
            tracing::error!(error = chain(&error), "the JWK set cannot be fetched");
        }
    }

    fn accept(&self, set: &[u8], now: i64) -> Result<(), FetchError> {
        let mut known = self.known();
        known.policy.accept(set, now)?;
        known.set = serde_json::from_slice(set).ok();
        Ok(())
    }

    async fn fetch(&self) -> Result<Vec<u8>, FetchError> {
        let port = self.url.port_or_known_default().ok_or(JwksRefused::Scheme)?;
        let host = self.url.host_str().ok_or(JwksRefused::Scheme)?;
        let lookup = tokio::net::lookup_host((host.trim_matches(['[', ']']), port)).await;
        let addresses: Vec<_> = lookup.map_err(FetchError::Lookup)?.collect();
        self.known().policy.admit(addresses.iter().map(SocketAddr::ip))?;
        // Connects to the addresses just checked: a second lookup could give others. Neither a redirect nor a proxy of the
        // environment leads anywhere else.
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
