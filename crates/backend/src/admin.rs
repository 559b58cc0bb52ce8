//! `ADMIN_TOKEN`: who is the platform, and how slowly wrong guesses are answered.

use std::time::Duration;

use axum::http::HeaderMap;
use parking_lot::Mutex;
use shellbridge_protocol::{
    backoff::Backoff,
    secret::{self, Unfit},
};
use subtle::{Choice, ConstantTimeEq};
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep},
};

use crate::{access::bearer, metrics};

/// Waits before a wrong token is answered.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(10), Duration::from_secs(1));
/// The waits start over when there was no wrong token for this long.
const FORGET_AFTER: Duration = Duration::from_mins(1);
/// Wrong tokens that wait at the same time. Others are refused at once: waiting must not become a way to hold many
/// requests here.
const MAX_WAITING: usize = 32;

/// The keys of `ADMIN_TOKEN`, and a count of wrong ones.
///
/// The wait is one for all, since behind a load balancer nobody's address is known. It never concerns the right
/// token, so guessing cannot lock the platform out.
pub(crate) struct Admin {
    tokens: Vec<String>,
    wrong: Mutex<Wrong>,
    waiting: Semaphore,
}

struct Wrong {
    backoff: Backoff,
    last: Instant,
}

impl Admin {
    /// `ADMIN_TOKEN`, if it is set: one token, or the new and the old one. Without it nobody is the platform.
    pub(crate) fn new(setting: Option<&str>) -> Result<Self, Unfit> {
        let tokens = setting.map(secret::keys).transpose()?.unwrap_or_default();
        Ok(Self {
            tokens: tokens.into_iter().map(str::to_owned).collect(),
            wrong: Mutex::new(Wrong { backoff: BACKOFF, last: Instant::now() }),
            waiting: Semaphore::new(MAX_WAITING),
        })
    }

    /// Whether a request is the platform's. One with a wrong token waits, but a user's own passes as what it is.
    pub(crate) async fn admits(&self, headers: &HeaderMap) -> bool {
        let Some(token) = bearer(headers) else { return false };
        if self.knows(token) {
            return true;
        }
        if !self.tokens.is_empty() && !looks_like_a_jwt(token) {
            metrics::wrong_admin_token();
            self.slow_down().await;
        }
        false
    }

    /// Compares with each token, whichever is right, in constant time.
    fn knows(&self, token: &str) -> bool {
        let same = |known: &String| known.as_bytes().ct_eq(token.as_bytes());
        self.tokens.iter().map(same).fold(Choice::from(0), |any, this| any | this).into()
    }

    async fn slow_down(&self) {
        let Ok(_waiting) = self.waiting.try_acquire() else { return };
        sleep(self.wait()).await;
    }

    /// How long the wrong token of this moment waits.
    fn wait(&self) -> Duration {
        let mut wrong = self.wrong.lock();
        if wrong.last.elapsed() >= FORGET_AFTER {
            wrong.backoff.reset();
        }
        wrong.last = Instant::now();
        wrong.backoff.step()
    }
}

/// Tokens of users are no guesses of `ADMIN_TOKEN`, and must not wait because somebody else guesses.
fn looks_like_a_jwt(token: &str) -> bool {
    token.bytes().filter(|byte| *byte == b'.').count() == 2
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderValue, header};

    use super::*;

    const OLD: &str = "old-old-old-old-old-old-old-old-";
    const NEW: &str = "new-new-new-new-new-new-new-new-";

    fn with(token: &str) -> HeaderMap {
        let value = HeaderValue::from_str(&format!("Bearer {token}")).unwrap();
        HeaderMap::from_iter([(header::AUTHORIZATION, value)])
    }

    #[tokio::test(start_paused = true)]
    async fn regression_wrong_tokens_are_delayed_and_the_right_one_is_not() {
        let admin = Admin::new(Some(&format!("{NEW},{OLD}"))).unwrap();
        let took = async |token: &str, right: bool| {
            let started = Instant::now();
            assert_eq!(admin.admits(&with(token)).await, right, "{token}");
            started.elapsed()
        };
        let mut waits = Vec::new();
        for _ in 0..9 {
            waits.push(took("wrong", false).await.as_millis());
            assert_eq!((took(NEW, true).await, took(OLD, true).await), (Duration::ZERO, Duration::ZERO));
            assert_eq!(took("a.user.token", false).await, Duration::ZERO);
        }
        assert_eq!(waits, [10, 20, 40, 80, 160, 320, 640, 1000, 1000]);
        sleep(FORGET_AFTER).await;
        assert_eq!(took("wrong", false).await, Duration::from_millis(10));
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_than_some_wait_at_a_time() {
        let admin = std::sync::Arc::new(Admin::new(Some(NEW)).unwrap());
        let started = Instant::now();
        let guesses: tokio::task::JoinSet<_> = (0..10 * MAX_WAITING)
            .map(|_| {
                let admin = admin.clone();
                async move {
                    admin.admits(&with("wrong")).await;
                    started.elapsed()
                }
            })
            .collect();
        let held = guesses.join_all().await.into_iter().filter(|took| !took.is_zero()).count();
        assert_eq!(held, MAX_WAITING);
    }

    #[tokio::test]
    async fn without_a_token_nobody_is_the_platform() {
        let admin = Admin::new(None).unwrap();
        assert!(!admin.admits(&with("")).await && !admin.admits(&HeaderMap::new()).await);
    }
}
