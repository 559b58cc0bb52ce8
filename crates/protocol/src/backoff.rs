//! Exponential backoff: how long to wait before the next attempt.

use std::time::Duration;

/// Waits that double from the first to the longest. Reads no clock and no random source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    /// The first wait, and the longest.
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, next: first }
    }

    /// The next wait.
    pub fn step(&mut self) -> Duration {
        let wait = self.next.min(self.longest);
        self.next = wait.saturating_mul(2);
        wait
    }

    /// The next wait, shortened by up to half. `random` is from 0 to 1; 1 shortens nothing. Clients that fail together then
    /// retry at different times.
    pub fn jittered(&mut self, random: f64) -> Duration {
        self.step().mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0)
    }

    /// Returns to the first wait, after a success.
    pub const fn reset(&mut self) {
        self.next = self.first;
    }
}

/// A deadline that recurs with a backoff. Times are the caller's monotonic clock.
#[derive(Debug, Clone, Copy)]
pub struct BackoffTimer {
    due: Duration,
    backoff: Backoff,
}

impl BackoffTimer {
    /// First due after the backoff's next wait.
    pub fn new(mut backoff: Backoff, now: Duration) -> Self {
        Self { due: now + backoff.step(), backoff }
    }

    /// The next deadline.
    pub const fn due(&self) -> Duration {
        self.due
    }

    /// Whether the deadline has passed. If so, sets the next one.
    pub fn fire(&mut self, now: Duration) -> bool {
        let due = self.due <= now;
        if due {
            self.advance(now);
        }
        due
    }

    /// Sets the next deadline, whether or not this one has passed.
    pub fn advance(&mut self, now: Duration) {
        self.due = now + self.backoff.step();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn waits_double_up_to_the_longest_and_start_over() {
        let mut backoff = Backoff::new(MS(100), MS(350));
        assert_eq!([(); 4].map(|()| backoff.step()), [MS(100), MS(200), MS(350), MS(350)]);
        backoff.reset();
        assert_eq!(backoff.step(), MS(100));
    }

    #[test]
    fn jitter_takes_up_to_half() {
        let jittered = |random| Backoff::new(MS(100), MS(350)).jittered(random);
        assert_eq!([0.0, 0.5, 1.0].map(jittered), [MS(50), MS(75), MS(100)]);
        assert_eq!([-7.0, 7.0].map(jittered), [MS(50), MS(100)], "clamped");
    }

    #[test]
    fn a_timer_fires_once_for_each_deadline() {
        let mut timer = BackoffTimer::new(Backoff::new(MS(100), MS(350)), MS(0));
        assert!(!timer.fire(MS(99)));
        assert!(timer.fire(MS(100)) && !timer.fire(MS(100)));
        assert_eq!(timer.due(), MS(300));
        assert!(timer.fire(MS(500)));
        assert_eq!(timer.due(), MS(850), "late is counted from then");
    }

    #[test]
    fn no_wait_overflows() {
        let mut backoff = Backoff::new(MS(1), Duration::MAX);
        for _ in 0..200 {
            backoff.step();
        }
        assert_eq!(backoff.step(), Duration::MAX);
    }
}
