//! Fetches the JWK set of `JWKS_URL`. What may be fetched, when, and from where is `protocol::access::JwksPolicy`'s.

use std::{net::SocketAddr, time::Duration};

use anyhow::Context;
use jsonwebtoken::jwk::{AlgorithmParameters, JwkSet};
use shellbridge_protocol::access::{JwksPolicy, JwksRefused, MAX_JWKS, TokenKeys};
use tokio::{sync::Mutex, time::timeout};
use url::Url;

/// For a JWK set to arrive, lookup of its host included.
const FETCH_WITHIN: Duration = Duration::from_secs(3);
/// For a TCP and TLS connection to its source.
const CONNECT_WITHIN: Duration = Duration::from_secs(1);

/// The keys behind `JWKS_URL`.
pub(crate) struct Jwks {
    url: Url,
    /// Held while fetching, so that many tokens make one fetch.
    known: Mutex<Known>,
}

struct Known {
    policy: JwksPolicy,
    /// The set as fetched last: it says by which `kid` a key is called.
    set: Option<JwkSet>,
}

impl Jwks {
    pub(crate) fn new(url: &str, allow_private: bool) -> Result<Self, JwksRefused> {
        let url = Url::parse(url).ok().filter(Url::has_host).ok_or(JwksRefused::Scheme)?;
        let policy = JwksPolicy::new(allow_private);
        policy.admit_scheme(url.scheme())?;
        Ok(Self { url, known: Mutex::new(Known { policy, set: None }) })
    }

    /// The keys, fetched if they are not known, or old, or lack one that a token names. `None` when there are
    /// none and they cannot be had.
    pub(crate) async fn keys(&self, unknown_kid: bool, now: i64) -> Option<TokenKeys> {
        let mut known = self.known.lock().await;
        self.refresh(&mut known, unknown_kid, now).await;
        known.policy.keys(now).cloned()
    }

    /// What the set calls a key: its `kid`, which may be none. Outer `None`: it is not in the set.
    pub(crate) async fn kid_of(&self, key: &AlgorithmParameters, now: i64) -> Option<Option<String>> {
        let mut known = self.known.lock().await;
        self.refresh(&mut known, false, now).await;
        let jwk = known.set.as_ref()?.keys.iter().find(|jwk| jwk.algorithm == *key)?;
        Some(jwk.common.key_id.clone())
    }

    async fn refresh(&self, known: &mut Known, unknown_kid: bool, now: i64) {
        if !known.policy.wants_fetch(unknown_kid, now) {
            return;
        }
        let fetched = match timeout(FETCH_WITHIN, self.fetch(&known.policy)).await {
            Ok(Ok(set)) => known
                .policy
                .accept(&set, now)
                .map_err(|error| error.to_string())
                .and_then(|()| serde_json::from_slice(&set).map_err(|error| error.to_string())),
            Ok(Err(error)) => Err(format!("{error:#}")),
            Err(_) => Err("no answer in time".to_owned()),
        };
        match fetched {
            Ok(set) => known.set = Some(set),
            Err(error) => tracing::error!(error, "the JWK set cannot be fetched"),
        }
    }

    async fn fetch(&self, policy: &JwksPolicy) -> anyhow::Result<Vec<u8>> {
        let port = self.url.port_or_known_default().ok_or(JwksRefused::Scheme)?;
        let host = self.url.host_str().ok_or(JwksRefused::Scheme)?;
        let addresses: Vec<_> =
            tokio::net::lookup_host((host.trim_matches(['[', ']']), port)).await?.collect();
        policy.admit(addresses.iter().map(SocketAddr::ip))?;
        // Connects to what was checked: a second lookup could give another address. Follows nobody elsewhere, and
        // no proxy of the environment stands between.
        let client = reqwest::Client::builder()
            .connect_timeout(CONNECT_WITHIN)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .resolve_to_addrs(host, &addresses)
            .build()
            .context("no HTTP client")?;
        let mut response = client.get(self.url.clone()).send().await.map_err(reqwest::Error::without_url)?;
        anyhow::ensure!(response.status().is_success(), "status {}", response.status());
        let mut set = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(reqwest::Error::without_url)? {
            anyhow::ensure!(set.len() + chunk.len() <= MAX_JWKS, "larger than {MAX_JWKS} bytes");
            set.extend_from_slice(&chunk);
        }
        Ok(set)
    }
}
