//! Who is let into a session, and who has to leave it, by their tokens.

use std::time::Duration;

use super::Task;
use crate::{
    session::{
        connection::ConnectionInfo,
        handle::Unreachable,
        tokens::{HANDOVER_MS, Use},
    },
    unix_ms,
};

impl Task {
    /// Lets a connection in. The token is looked at here too: it may have been revoked while the request waited, and
    /// [`Message::Revoked`] was then before it.
    pub(super) fn connect(
        &mut self,
        info: ConnectionInfo,
        purpose: Use,
        now: Duration,
    ) -> Result<(), Unreachable> {
        self.status.tokens.check(info.token_id.as_deref(), purpose, unix_ms())?;
        if self.core.connect(info, now) { Ok(()) } else { Err(Unreachable::Full) }
    }

    /// Ends connections by tokens that are good no more. Those that may still hand over get the time for it.
    pub(super) fn end_stale(&mut self, now: Duration) {
        let (tokens, time) = (&self.status.tokens, unix_ms());
        let handover = Duration::from_millis(HANDOVER_MS);
        for (purpose, wait) in [(Use::Connection, Duration::ZERO), (Use::Door, handover)] {
            let stale =
                |info: &ConnectionInfo| tokens.check(info.token_id.as_deref(), purpose, time).is_err();
            self.core.revoke(wait, now, stale);
        }
    }
}
