//! State of a terminal's output: decides when the output of an exited shell is complete.

use std::time::Duration;

use shellbridge_protocol::frame::Exit;
use tokio::time::Instant;

/// Once the shell has exited, its output counts as complete after this long without any. A background process may
/// still hold the terminal open.
const QUIET: Duration = Duration::from_millis(100);
/// Bytes, more than a terminal buffers unread (Linux: two pages, and 64 KiB in transit).
const HELD: usize = 128 * 1024;

/// The terminal as seen by its reader. The methods return the [`Exit`] exactly once, when the output is complete.
#[derive(Debug)]
pub(crate) enum Tty {
    /// The shell is running; output is read as flow control allows.
    Open,
    /// The shell has exited and its remaining output is being read, until the terminal is quiet or `left` bytes have
    /// arrived: other programs may keep writing forever.
    Draining { exit: Exit, quiet_at: Instant, left: usize },
    /// No more output is read.
    Closed,
}

impl Tty {
    /// When the terminal counts as quiet, if the shell has exited.
    pub(crate) const fn quiet_at(&self) -> Option<Instant> {
        match self {
            Self::Draining { quiet_at, .. } => Some(*quiet_at),
            Self::Open | Self::Closed => None,
        }
    }

    /// Records the shell's exit.
    pub(crate) fn exited(&mut self, exit: Exit) -> Option<Exit> {
        if matches!(self, Self::Closed) {
            return Some(exit);
        }
        *self = Self::Draining { exit, quiet_at: Instant::now() + QUIET, left: HELD };
        None
    }

    /// Records `count` bytes of output.
    pub(crate) fn came(&mut self, count: usize) -> Option<Exit> {
        let Self::Draining { quiet_at, left, .. } = self else { return None };
        *quiet_at = Instant::now() + QUIET;
        *left = left.saturating_sub(count);
        if *left == 0 { self.close() } else { None }
    }

    /// Stops reading, at EOF or once the terminal is quiet.
    pub(crate) fn close(&mut self) -> Option<Exit> {
        match std::mem::replace(self, Self::Closed) {
            Self::Draining { exit, .. } => Some(exit),
            Self::Open | Self::Closed => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXIT: Exit = Exit { exit_code: 3, signal: None };

    #[test]
    fn the_exit_is_reported_once_in_either_order_of_exit_and_eof() {
        let mut tty = Tty::Open;
        assert_eq!(tty.exited(EXIT), None);
        assert_eq!(tty.close(), Some(EXIT));
        assert_eq!(tty.close(), None);
        let mut tty = Tty::Open;
        assert_eq!(tty.close(), None);
        assert_eq!(tty.exited(EXIT), Some(EXIT));
    }

    #[test]
    fn a_process_that_writes_forever_does_not_delay_the_exit() {
        let mut tty = Tty::Open;
        assert_eq!(tty.came(10 * HELD), None, "the shell is running");
        tty.exited(EXIT);
        let quiet_at = tty.quiet_at();
        assert_eq!(tty.came(HELD - 1), None);
        assert!(tty.quiet_at() >= quiet_at, "output postpones the deadline");
        assert_eq!(tty.came(1), Some(EXIT));
        assert_eq!(tty.quiet_at(), None);
    }
}
