//! The one retry policy, for `@connections`, the backend and Parameter Store.

use std::time::Duration;

use shellbridge_protocol::backoff::Backoff;
use tokio::time::{Instant, sleep_until};

/// The longest delay.
const LONGEST: Duration = Duration::from_secs(1);
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(25), LONGEST);

/// The retries of one request, spaced by a jittered backoff, until a deadline.
#[derive(Debug)]
pub struct Retry {
    backoff: Backoff,
    until: Instant,
    left: u32,
}

impl Retry {
    /// Retries that start before `until`.
    pub const fn until(until: Instant) -> Self {
        Self { backoff: BACKOFF, until, left: u32::MAX }
    }

    /// Limits the number of retries.
    #[must_use]
    pub const fn at_most(self, retries: u32) -> Self {
        Self { left: retries, ..self }
    }

    /// The deadline of an attempt that starts now and may take `longest`.
    pub fn attempt_deadline(&self, longest: Duration) -> Instant {
        self.until.min(Instant::now() + longest)
    }

    /// Waits until the next retry is due. Returns `false` immediately if none is left.
    pub async fn wait(&mut self) -> bool {
        let next = Instant::now() + self.backoff.jittered(fastrand::f64());
        if self.left == 0 || next >= self.until {
            return false;
        }
        self.left -= 1;
        sleep_until(next).await;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn attempts_end_with_the_deadline() {
        let started = Instant::now();
        let until = started + Duration::from_secs(10);
        let mut retry = Retry::until(until);
        let mut retries = 0;
        while retry.wait().await {
            retries += 1;
            assert!(Instant::now() < until);
            assert!(retry.attempt_deadline(Duration::from_secs(3)) <= until);
        }
        assert!((10..25).contains(&retries), "{retries}");
        assert!(until - Instant::now() <= LONGEST, "gave up early");
    }

    #[tokio::test(start_paused = true)]
    async fn retries_are_limited() {
        let mut retry = Retry::until(Instant::now() + Duration::from_secs(10)).at_most(2);
        assert_eq!((retry.wait().await, retry.wait().await, retry.wait().await), (true, true, false));
    }
}
