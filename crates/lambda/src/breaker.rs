//! Fails fast while the backend refuses connections.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Consecutive connection failures that open the breaker. A slow response does not count: the backend is up.
const FAILURES: u32 = 5;
/// Time between opening and a probe. Frames must work again within 1 s of the backend's return.
const OPEN_FOR: Duration = Duration::from_millis(500);

/// A circuit breaker for one backend.
#[derive(Debug, Default)]
pub(crate) struct Breaker(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    failures: u32,
    open_until: Option<Instant>,
}

impl Breaker {
    /// Whether a request may be sent. The first one after [`OPEN_FOR`] is the probe; the breaker stays open for others
    /// until the probe has reported, or for another [`OPEN_FOR`].
    pub(crate) fn admits(&self) -> bool {
        let now = Instant::now();
        let mut state = self.0.lock();
        match state.open_until {
            None => true,
            Some(until) if now < until => false,
            Some(_) => {
                state.open_until = Some(now + OPEN_FOR);
                true
            }
        }
    }

    /// The backend accepted a connection.
    pub(crate) fn connected(&self) {
        *self.0.lock() = State::default();
    }

    /// Connecting to the backend failed.
    pub(crate) fn failed(&self) {
        let mut state = self.0.lock();
        state.failures = state.failures.saturating_add(1);
        if state.failures >= FAILURES {
            state.open_until = Some(Instant::now() + OPEN_FOR);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened() -> Breaker {
        let breaker = Breaker::default();
        for _ in 0..FAILURES {
            assert!(breaker.admits());
            breaker.failed();
        }
        breaker
    }

    #[tokio::test(start_paused = true)]
    async fn five_failures_open_it_and_one_probe_passes_after_500_ms() {
        let breaker = opened();
        assert!(!breaker.admits());
        tokio::time::advance(OPEN_FOR).await;
        assert!(breaker.admits(), "the probe");
        assert!(!breaker.admits(), "only one");
        breaker.failed();
        assert!(!breaker.admits());
        tokio::time::advance(OPEN_FOR).await;
        assert!(breaker.admits());
        breaker.connected();
        assert!(breaker.admits() && breaker.admits());
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_never_reports_does_not_keep_it_open() {
        let breaker = opened();
        tokio::time::advance(OPEN_FOR).await;
        assert!(breaker.admits());
        tokio::time::advance(OPEN_FOR).await;
        assert!(breaker.admits());
    }

    #[test]
    fn a_success_resets_the_count() {
        let breaker = Breaker::default();
        for _ in 0..10 {
            breaker.failed();
            breaker.failed();
            breaker.connected();
        }
        assert!(breaker.admits());
    }
}
