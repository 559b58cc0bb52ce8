//! Fetches the JWK set. What may be fetched, when, and from where is `protocol::access::JwksPolicy`'s.

use shellbridge_protocol::access::{JwksPolicy, JwksRefused, MAX_JWKS, TokenKeys};
use tokio::{sync::Mutex, time::timeout};
use url::Url;

use crate::config::Limits;

/// The keys behind `JWKS_URL`.
pub(crate) struct Jwks {
    url: Url,
    limits: Limits,
    /// Held while fetching, so that many tokens make one fetch.
    policy: Mutex<JwksPolicy>,
}

impl Jwks {
    pub(crate) fn new(url: Url, allow_private: bool, limits: Limits) -> Result<Self, JwksRefused> {
        let policy = JwksPolicy::new(allow_private);
        policy.admit_scheme(url.scheme())?;
        Ok(Self { url, limits, policy: Mutex::new(policy) })
    }

    /// The keys, fetched if they are not known, or old, or lack one that a token names. `None` when there are
    /// none and they cannot be had.
    pub(crate) async fn keys(&self, unknown_kid: bool, now: i64) -> Option<TokenKeys> {
        let mut policy = self.policy.lock().await;
        if policy.wants_fetch(unknown_kid, now) {
            let fetched = match timeout(self.limits.jwks, self.fetch(&policy)).await {
                Ok(Ok(set)) => policy.accept(&set, now).map_err(|error| error.to_string()),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err("no answer in time".to_owned()),
            };
            if let Err(error) = fetched {
                tracing::error!(error, "the JWK set cannot be fetched");
            }
        }
        policy.keys(now).cloned()
    }

    async fn fetch(&self, policy: &JwksPolicy) -> anyhow::Result<Vec<u8>> {
        let port = self.url.port_or_known_default().ok_or(JwksRefused::Scheme)?;
        let host = self.url.host_str().ok_or(JwksRefused::Scheme)?;
        let addresses: Vec<_> =
            tokio::net::lookup_host((host.trim_matches(['[', ']']), port)).await?.collect();
        policy.admit(addresses.iter().map(std::net::SocketAddr::ip))?;
        // Connects to what was checked. A second lookup could give another address.
        let client = reqwest::Client::builder()
            .connect_timeout(self.limits.connect)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .resolve_to_addrs(host, &addresses)
            .build()?;
        let mut response = client.get(self.url.clone()).send().await?.error_for_status()?;
        anyhow::ensure!(response.status().is_success(), "status {}", response.status());
        let mut set = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            anyhow::ensure!(set.len() + chunk.len() <= MAX_JWKS, "larger than {MAX_JWKS} bytes");
            set.extend_from_slice(&chunk);
        }
        Ok(set)
    }
}
