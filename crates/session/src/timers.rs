//! The deadlines of a session: one table, and the waits between shells.

use std::time::Duration;

use shellbridge_protocol::backoff::Backoff;

/// A shell that lived for less than this is not started anew at once.
const SHORT_LIFE: Duration = Duration::from_secs(1);
/// Longest wait before a shell is started anew.
const RESTART_MAX: Duration = Duration::from_secs(30);

/// What a session waits for. Each has at most one deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Timer {
    /// A connection's token, check, probe, acknowledgement or grace: the first of all connections.
    Connections,
    /// A client's hole in its input.
    Gaps,
    /// A lost client is no longer waited for.
    Grace,
    /// The session whose shell ended is over.
    Exit,
    /// A new shell may be started.
    Restart,
    /// No connection came.
    Detached,
    /// The screen model's budget allows another turn.
    Model,
    /// The session's time is nearly over, then over.
    Expiry,
}

/// The deadlines of a session, one place for each [`Timer`].
#[derive(Debug, Default)]
pub(crate) struct TimerTable([Option<Duration>; Timer::Expiry as usize + 1]);

impl TimerTable {
    pub(crate) fn set(&mut self, timer: Timer, at: Option<Duration>) {
        // In bounds: the table has a place for the last timer.
        if let Some(place) = self.0.get_mut(timer as usize) {
            *place = at;
        }
    }

    /// The first deadline.
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
