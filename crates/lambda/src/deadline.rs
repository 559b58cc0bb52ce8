//! How much time is left: every wait in this crate is bounded by the invocation's own deadline.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// Kept free after the last wait, to log and to answer the runtime.
const MARGIN: Duration = Duration::from_millis(200);
/// Time where the context names no deadline, which the Lambda service never does: API Gateway's own limit.
const DEFAULT: Duration = Duration::from_secs(29);
/// A deadline before this, in 2001, is none: `cargo lambda watch` (1.9) sends a duration in its place.
const NO_TIME: u64 = 1_000_000_000_000;

/// The end of an invocation.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline(Instant);

impl Deadline {
    /// From the context's deadline, Unix milliseconds.
    pub(crate) fn new(deadline_ms: u64) -> Self {
        let left = match deadline_ms {
            ..NO_TIME => DEFAULT,
            ms => Duration::from_millis(ms).saturating_sub(since_epoch()),
        };
        Self(Instant::now() + left.saturating_sub(MARGIN))
    }

    /// What is left, at most `most`, when `after` must remain for what comes next.
    pub(crate) fn within(self, most: Duration, after: Duration) -> Duration {
        self.0.saturating_duration_since(Instant::now()).saturating_sub(after).min(most)
    }
}

/// Unix milliseconds.
pub(crate) fn now_ms() -> i64 {
    i64::try_from(since_epoch().as_millis()).unwrap_or(i64::MAX)
}

fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// How long to wait before attempt number `attempt` (the first repeat is 1): doubles from `first`, with full
/// jitter above the half, so that frames which failed together do not come back together.
pub(crate) fn backoff(first: Duration, attempt: u32) -> Duration {
    let wait = first.saturating_mul(1 << attempt.saturating_sub(1).min(6));
    wait.mul_f64(0.5 + fastrand::f64() / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_wait_ends_before_the_invocation_does() {
        let in_5_s = u64::try_from(since_epoch().as_millis()).unwrap() + 5_000;
        let deadline = Deadline::new(in_5_s);
        assert_eq!(deadline.within(Duration::from_secs(1), Duration::ZERO), Duration::from_secs(1));
        let all = deadline.within(Duration::from_mins(1), Duration::ZERO);
        assert!((Duration::from_millis(4_700)..=Duration::from_millis(4_800)).contains(&all), "{all:?}");
        assert!(
            deadline.within(Duration::from_mins(1), Duration::from_secs(2)) <= Duration::from_millis(2_800)
        );
        tokio::time::advance(Duration::from_secs(6)).await;
        assert_eq!(deadline.within(Duration::from_secs(1), Duration::ZERO), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_no_time_gives_api_gateway_s() {
        for none in [0, 600_000] {
            assert_eq!(
                Deadline::new(none).within(Duration::from_mins(1), Duration::ZERO),
                DEFAULT.saturating_sub(MARGIN)
            );
        }
    }

    #[test]
    fn waits_double_and_differ() {
        for (attempt, most) in [(1, 50), (2, 100), (3, 200), (40, 3_200)] {
            let wait = backoff(Duration::from_millis(50), attempt).as_millis();
            assert!((most / 2..=most).contains(&wait), "{attempt}: {wait}");
        }
    }
}
