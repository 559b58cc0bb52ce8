//! While a session exists, keeps one request to this backend's public URL in flight: App Runner provides CPU only
//! during requests, so a shell's output would stall. Whether App Runner counts a request from the instance itself is
//! unconfirmed.

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

/// Path of the request, below `KEEP_AWAKE_URL`.
pub(crate) const PATH: &str = "/api/keep-awake";
/// How long a request is held. App Runner ends requests after 120 s.
pub(crate) const HOLD: Duration = Duration::from_secs(100);
/// Client-side limit of the request, in case the response is lost.
const TIMEOUT: Duration = HOLD.saturating_add(Duration::from_secs(20));
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// First and longest delay after a request that ended early. A request that outlasted the longest delay has done its
/// job, however it ended.
const WAITS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Client and server side of the request.
pub(crate) struct KeepAwake {
    url: Url,
    http: reqwest::Client,
    /// Generated at start-up and known to this process only, so that no client can have requests held.
    key: String,
    /// Number of the newest request. It releases older ones, so at most one is held.
    newest: watch::Sender<u64>,
}

impl KeepAwake {
    /// `url`: `KEEP_AWAKE_URL`.
    ///
    /// # Errors
    /// When it is not an http or https URL.
    pub(crate) fn new(url: &str) -> anyhow::Result<Self> {
        let url = Url::parse(url).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        let mut url = url.context("KEEP_AWAKE_URL: not an http or https URL")?;
        url.set_path(&format!("{}{PATH}", url.path().trim_end_matches('/')));
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(TIMEOUT)
            // No proxy may see the key.
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .context("no HTTP client")?;
        let key = format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple());
        Ok(Self { url, http, key, newest: watch::Sender::new(0) })
    }

    /// Whether `key` is this process's key. Compares in constant time.
    pub(crate) fn knows(&self, key: &str) -> bool {
        self.key.as_bytes().ct_eq(key.as_bytes()).into()
    }

    /// Holds a request until no session is left, a newer request arrives, or `longest` has passed.
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

/// Keeps the request in flight while there are sessions.
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
            let error = answer.err().unwrap_or_else(|| "answered too early".to_owned());
            tracing::warn!(error, "the request to KEEP_AWAKE_URL ended early; output may stall");
            sleep(backoff.step()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_request_is_held_until_its_limit_or_the_last_session_ends() {
        let awake = KeepAwake::new("https://example.org/base/").unwrap();
        assert_eq!(awake.url.as_str(), "https://example.org/base/api/keep-awake");
        let sessions = watch::Sender::new(1);
        let short = Duration::from_millis(50);
        let started = Instant::now();
        awake.hold(sessions.subscribe(), short).await;
        assert!(started.elapsed() >= short);
        sessions.send_replace(0);
        awake.hold(sessions.subscribe(), HOLD).await;
        assert!(started.elapsed() < HOLD, "no session is left");
    }
}
