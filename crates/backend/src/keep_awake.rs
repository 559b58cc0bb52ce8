//! Keeps one request to this very backend under way while a session lives, by its public address: App Runner gives an
//! instance CPU only while it answers one, and a shell's output would stall. Whether it counts one that the instance
//! sends itself is unconfirmed.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use reqwest::StatusCode;
use shellbridge_protocol::backoff::Backoff;
use subtle::ConstantTimeEq;
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use url::Url;

/// Where the request goes, below `KEEP_AWAKE_URL`.
pub(crate) const PATH: &str = "/api/keep-awake";
/// How long a request is held: App Runner ends one after 120 s.
pub(crate) const HOLD: Duration = Duration::from_secs(100);
/// After that its answer is not waited for.
const TIMEOUT: Duration = HOLD.saturating_add(Duration::from_secs(20));
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Waits after requests that did not last, doubling from the first to the last. One that lasted longer than the last
/// has served, however it ended.
const WAITS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Both ends of the request.
pub(crate) struct KeepAwake {
    url: Url,
    http: reqwest::Client,
    /// Made at the start and known to this process only: nobody else can have requests held.
    key: String,
    /// The newest request. Older ones are let go, so that no more than one is held.
    newest: watch::Sender<u64>,
}

impl KeepAwake {
    /// `url`: `KEEP_AWAKE_URL`.
    ///
    /// # Errors
    /// When it is no http or https URL.
    pub(crate) fn new(url: &str) -> anyhow::Result<Self> {
        let url = Url::parse(url).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        let mut url = url.context("KEEP_AWAKE_URL: not an http or https URL")?;
        url.set_path(&format!("{}{PATH}", url.path().trim_end_matches('/')));
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(TIMEOUT)
            // The key is for nobody else.
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .context("no HTTP client")?;
        let key = format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple());
        Ok(Self { url, http, key, newest: watch::Sender::new(0) })
    }

    /// Whether this is the key, which only the process itself knows.
    pub(crate) fn knows(&self, key: &str) -> bool {
        self.key.as_bytes().ct_eq(key.as_bytes()).into()
    }

    /// Holds a request: until there is no session, a newer request comes, or `longest` has passed.
    pub(crate) async fn hold(&self, mut sessions: watch::Receiver<usize>, longest: Duration) {
        self.newest.send_modify(|newest| *newest += 1);
        let mut newest = self.newest.subscribe();
        tokio::select! {
            _ = newest.changed() => {}
            _ = sessions.wait_for(|sessions| *sessions == 0) => {}
            () = sleep(longest) => {}
        }
    }

    async fn ask(&self) -> Result<(), String> {
        let request = self.http.post(self.url.clone()).bearer_auth(&self.key);
        match request.send().await {
            Ok(answer) if answer.status() == StatusCode::NO_CONTENT => Ok(()),
            Ok(answer) => Err(format!("status {}", answer.status())),
            Err(error) => Err(format!("{:#}", anyhow::Error::from(error.without_url()))),
        }
    }
}

/// Keeps the request under way while there are sessions.
pub(crate) async fn run(awake: Arc<KeepAwake>, mut sessions: watch::Receiver<usize>) {
    let mut backoff = Backoff::new(WAITS.0, WAITS.1);
    while sessions.wait_for(|sessions| *sessions > 0).await.is_ok() {
        let started = Instant::now();
        let answer = tokio::select! {
            _ = sessions.wait_for(|sessions| *sessions == 0) => continue,
            answer = awake.ask() => answer,
        };
        if started.elapsed() > WAITS.1 {
            backoff.reset();
        } else if *sessions.borrow_and_update() > 0 {
            let error = answer.err().unwrap_or_else(|| "it was not held".to_owned());
            tracing::warn!(error, "the request to KEEP_AWAKE_URL did not last; output may stall");
            sleep(backoff.step()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_request_is_held_no_longer_than_it_may_be() {
        let awake = KeepAwake::new("https://example.org/base/").unwrap();
        assert_eq!(awake.url.as_str(), "https://example.org/base/api/keep-awake");
        let sessions = watch::Sender::new(1);
        let short = Duration::from_millis(50);
        let started = Instant::now();
        awake.hold(sessions.subscribe(), short).await;
        assert!(started.elapsed() >= short);
        sessions.send_replace(0);
        awake.hold(sessions.subscribe(), HOLD).await;
        assert!(started.elapsed() < HOLD, "nobody is to be kept awake for");
    }
}
