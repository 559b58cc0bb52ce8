//! When a failed request is sent again: the one policy for `@connections`, the backend and Parameter Store.

use std::time::Duration;

use shellbridge_protocol::backoff::Backoff;
use tokio::time::{Instant, sleep_until};

/// The first wait and the longest.
const WAITS: (Duration, Duration) = (Duration::from_millis(25), Duration::from_secs(1));

/// The repeats of one request: spaced by a jittered backoff, until a deadline.
#[derive(Debug)]
pub struct Retry {
    backoff: Backoff,
    until: Instant,
    left: u32,
}

impl Retry {
    /// As many repeats as begin before `until`.
    pub const fn until(until: Instant) -> Self {
        Self { backoff: Backoff::new(WAITS.0, WAITS.1), until, left: u32::MAX }
    }

    /// No more than `repeats` of them.
    #[must_use]
    pub const fn at_most(self, repeats: u32) -> Self {
        Self { left: repeats, ..self }
    }

    /// When an attempt that begins now must end, if it may take `longest`.
    pub fn attempt_ends(&self, longest: Duration) -> Instant {
        self.until.min(Instant::now() + longest)
    }

    /// Waits until the next attempt is due. `false`, at once, when there is none.
    pub async fn again(&mut self) -> bool {
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
        let mut repeats = 0;
        while retry.again().await {
            repeats += 1;
            assert!(Instant::now() < until);
            assert!(retry.attempt_ends(Duration::from_secs(3)) <= until);
        }
        assert!((10..25).contains(&repeats), "{repeats}");
        assert!(until - Instant::now() <= WAITS.1, "gave up early");
    }

    #[tokio::test(start_paused = true)]
    async fn repeats_are_counted() {
        let mut retry = Retry::until(Instant::now() + Duration::from_secs(10)).at_most(2);
        assert_eq!((retry.again().await, retry.again().await, retry.again().await), (true, true, false));
    }
}
