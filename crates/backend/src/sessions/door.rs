//! Who is let into a session, and who has to leave it, by their tokens.

use std::time::Duration;

use shellbridge_session::{ConnectionInfo, TooManyConnections};

use super::{
    handle::Unreachable,
    task::Task,
    tokens::{HANDOVER, Stale, Use},
};
use crate::clock::unix_ms;

impl Task {
    /// Lets a connection in.
    pub(super) fn connect(&mut self, info: ConnectionInfo, now: Duration) -> Result<(), Unreachable> {
        self.check(&info, Use::Door)?;
        self.session.handle_connect(info, now).map_err(|TooManyConnections| Unreachable::Full)
    }

    /// Looks at the token here too: it may have been revoked while the request waited, and
    /// [`Message::Revoked`](super::handle::Message::Revoked) was then before it.
    pub(super) fn check(&self, info: &ConnectionInfo, purpose: Use) -> Result<(), Stale> {
        self.status.tokens.check(info.token_id.as_deref(), purpose, unix_ms())
    }

    /// Ends connections by tokens that are no longer valid. Those that may still hand over get the time for it.
    pub(super) fn end_stale(&mut self, now: Duration) {
        let (tokens, time) = (&self.status.tokens, unix_ms());
        for (purpose, wait) in [(Use::Connection, Duration::ZERO), (Use::Door, HANDOVER)] {
            let stale =
                |info: &ConnectionInfo| tokens.check(info.token_id.as_deref(), purpose, time).is_err();
            self.session.handle_revoked(wait, now, stale);
        }
    }
}
