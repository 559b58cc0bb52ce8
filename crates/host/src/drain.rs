//! How far the reading of a shell's terminal has got, and when what the shell wrote is complete.

use std::time::Duration;

use shellbridge_protocol::frame::Exit;
use tokio::time::Instant;

/// After the shell's end, its output is complete when nothing came for this long, although something that it left
/// behind may still hold the terminal open.
const QUIET: Duration = Duration::from_millis(100);
/// Bytes: more than a terminal holds of what nobody has read (Linux: two pages, and 64 KiB on their way).
const HELD: usize = 128 * 1024;

/// The terminal as its reader sees it. What gives back an [`Exit`] does so once: then the output is complete.
#[derive(Debug)]
pub(crate) enum Tty {
    /// It is read as the flow of output allows.
    Open,
    /// The shell has ended; what it wrote before is still being read: until it is quiet, or more has come than the
    /// terminal can have held. Another program may write to it for ever.
    Draining { exit: Exit, quiet_at: Instant, left: usize },
    /// Nothing more will come.
    Closed,
}

impl Tty {
    /// When it counts as quiet, if the shell has ended.
    pub(crate) const fn quiet_at(&self) -> Option<Instant> {
        match self {
            Self::Draining { quiet_at, .. } => Some(*quiet_at),
            Self::Open | Self::Closed => None,
        }
    }

    /// The shell has ended.
    pub(crate) fn exited(&mut self, exit: Exit) -> Option<Exit> {
        if matches!(self, Self::Closed) {
            return Some(exit);
        }
        *self = Self::Draining { exit, quiet_at: Instant::now() + QUIET, left: HELD };
        None
    }

    /// So many bytes came.
    pub(crate) fn came(&mut self, count: usize) -> Option<Exit> {
        let Self::Draining { quiet_at, left, .. } = self else { return None };
        *quiet_at = Instant::now() + QUIET;
        *left = left.saturating_sub(count);
        if *left == 0 { self.close() } else { None }
    }

    /// Nothing more will come, or is waited for.
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
    fn the_end_of_shell_and_terminal_is_said_once_whichever_comes_first() {
        let mut tty = Tty::Open;
        assert_eq!(tty.exited(EXIT), None);
        assert_eq!(tty.close(), Some(EXIT));
        assert_eq!(tty.close(), None);
        let mut tty = Tty::Open;
        assert_eq!(tty.close(), None);
        assert_eq!(tty.exited(EXIT), Some(EXIT));
    }

    #[test]
    fn one_who_writes_for_ever_is_not_waited_for() {
        let mut tty = Tty::Open;
        assert_eq!(tty.came(10 * HELD), None, "the shell lives");
        tty.exited(EXIT);
        let quiet_at = tty.quiet_at();
        assert_eq!(tty.came(HELD - 1), None);
        assert!(tty.quiet_at() >= quiet_at, "what comes puts the quiet off");
        assert_eq!(tty.came(1), Some(EXIT));
        assert_eq!(tty.quiet_at(), None);
    }
}
