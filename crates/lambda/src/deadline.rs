//! The invocation's deadline, which limits every wait in this crate.

use std::time::{Duration, SystemTime};

use shellbridge_protocol::times::UnixMs;
use tokio::time::Instant;

/// Time reserved after the last wait, to log and to answer the runtime.
const MARGIN: Duration = Duration::from_millis(200);
/// Used when the context has no deadline: API Gateway's limit. The Lambda service always sends a deadline.
const DEFAULT: Duration = Duration::from_secs(29);
/// Deadlines before this time, in 2001, are ignored: `cargo lambda watch` (1.9) sends a duration instead.
const EARLIEST: UnixMs = UnixMs(1_000_000_000_000);

/// The deadline of an invocation.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline(Instant);

impl Deadline {
    /// Takes the context's deadline.
    pub(crate) fn new(deadline: UnixMs) -> Self {
        let left = if deadline < EARLIEST { DEFAULT } else { deadline.saturating_since(unix_ms()) };
        Self(Instant::now() + left.saturating_sub(MARGIN))
    }

    /// The time left after subtracting `reserve`, at most `limit`.
    pub(crate) fn budget(self, limit: Duration, reserve: Duration) -> Duration {
        self.0.saturating_duration_since(Instant::now()).saturating_sub(reserve).min(limit)
    }
}

/// The time of day.
pub(crate) fn unix_ms() -> UnixMs {
    SystemTime::now().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_wait_ends_before_the_invocation_does() {
        let deadline = Deadline::new(unix_ms().saturating_add(Duration::from_secs(5)));
        assert_eq!(deadline.budget(Duration::from_secs(1), Duration::ZERO), Duration::from_secs(1));
        let all = deadline.budget(Duration::from_mins(1), Duration::ZERO);
        assert!((Duration::from_millis(4_700)..=Duration::from_millis(4_800)).contains(&all), "{all:?}");
        assert!(
            deadline.budget(Duration::from_mins(1), Duration::from_secs(2)) <= Duration::from_millis(2_800)
        );
        tokio::time::advance(Duration::from_secs(6)).await;
        assert_eq!(deadline.budget(Duration::from_secs(1), Duration::ZERO), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn an_implausible_deadline_is_replaced_by_the_default() {
        for none in [0, 600_000] {
            assert_eq!(
                Deadline::new(UnixMs(none)).budget(Duration::from_mins(1), Duration::ZERO),
                DEFAULT.saturating_sub(MARGIN)
            );
        }
    }
}
