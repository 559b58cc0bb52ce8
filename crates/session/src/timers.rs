//! The deadlines of a session: one table, and the waits between shells.

use std::time::Duration;

use shellbridge_protocol::backoff::Backoff;

/// A shell that lived for less than this is restarted with a delay.
const SHORT_LIFE: Duration = Duration::from_secs(1);
/// Longest delay before a restart.
const RESTART_MAX: Duration = Duration::from_secs(30);

/// What a session waits for; one deadline each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Timer {
    /// The earliest of all connections' expiry, check, probe, acknowledgement or grace.
    Connections,
    /// A hole in a client's input.
    Gaps,
    /// The shell stops waiting for a lost client.
    Grace,
    /// The session ends after its shell.
    Exit,
    /// A new shell may be started.
    Restart,
    /// The session ends because it has no connections or cannot reach them.
    Detached,
    /// The screen model's budget permits another turn.
    Model,
    /// The session expires soon; then, it expires.
    Expiry,
}

/// The deadlines of a session, by [`Timer`].
#[derive(Debug, Default)]
pub(crate) struct TimerTable([Option<Duration>; Timer::Expiry as usize + 1]);

impl TimerTable {
    pub(crate) fn set(&mut self, timer: Timer, at: Option<Duration>) {
        // In bounds: the table has a place for the last timer.
        if let Some(place) = self.0.get_mut(timer as usize) {
            *place = at;
        }
    }

    /// The earliest deadline.
    pub(crate) fn next(&self) -> Option<Duration> {
        self.0.iter().flatten().min().copied()
    }
}

/// When a new shell may be started: later each time while shells end at once.
#[derive(Debug)]
pub(crate) struct Restarts {
    pub(crate) at: Duration,
    backoff: Backoff,
}

impl Default for Restarts {
    fn default() -> Self {
        let mut backoff = Backoff::new(SHORT_LIFE, RESTART_MAX);
        Self { at: backoff.step(), backoff }
    }
}

impl Restarts {
    /// A new shell was started.
    pub(crate) fn started(&mut self, now: Duration) {
        if now.saturating_sub(self.at) >= SHORT_LIFE {
            self.backoff.reset();
        }
        self.at = now + self.backoff.step();
    }
}
