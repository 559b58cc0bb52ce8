//! Which connections a session has: who gets in, who gives way, and who is gone.

use std::time::Duration;

use shellbridge_protocol::{
    ErrorCode,
    frame::{ErrorFrame, ServerFrame},
    ids::ConnectionId,
};

use crate::{
    connection::{Connection, ConnectionInfo},
    effect::Effect,
    session::{Session, TooManyConnections},
};

/// Connections of one session at once.
pub(crate) const MAX_CONNECTIONS: usize = 256;
/// Of these, how many may be viewers': the rest are kept for writers.
pub(crate) const MAX_VIEWERS: usize = 192;
/// Viewers with the same token, so that one share link leaves places for the others.
pub(crate) const MAX_VIEWERS_PER_TOKEN: usize = 32;
/// Dropped connections that are remembered, so that their late frames are told to attach again.
pub(crate) const MAX_DROPPED: usize = 64;

impl Session {
    /// Takes a connection in, newly made or found out about by its first frame. A writer always gets in, but for one
    /// that had to give way.
    pub(crate) fn connect(&mut self, info: ConnectionInfo, now: Duration) -> Result<(), TooManyConnections> {
        self.stale = true;
        if let Some(known) = self.connections.get_mut(&info.id) {
            known.info = info;
            return Ok(());
        }
        let full = self.connections.len() >= MAX_CONNECTIONS;
        if info.read_only {
            let viewers = || self.connections.values().filter(|connection| connection.info.read_only);
            let same = viewers().filter(|viewer| viewer.has_token_of(&info)).count();
            if full || viewers().count() >= MAX_VIEWERS || same >= MAX_VIEWERS_PER_TOKEN {
                return Err(TooManyConnections);
            }
        } else if full {
            // One that had to go is not let in again at the cost of another, or late frames would throw out all.
            if self.was_dropped(&info.id) {
                return Err(TooManyConnections);
            }
            self.make_room(now);
        }
        self.dropped.retain(|id| *id != info.id);
        self.connections.insert(info.id.clone(), Connection::new(info, now));
        Ok(())
    }

    /// Takes a connection out.
    pub(crate) fn disconnect(&mut self, id: &ConnectionId, now: Duration) {
        if let Some(connection) = self.connections.remove(id) {
            self.lost(&connection, now);
            self.dropped.push_back(connection.info.id);
            if self.dropped.len() > MAX_DROPPED {
                self.dropped.pop_front();
            }
            self.refit();
        }
    }

    /// Ends a connection that no longer exists, so far as pushes can tell: a client that is there all the same notices.
    pub(crate) fn drop_connection(&mut self, id: &ConnectionId, now: Duration) {
        self.disconnect(id, now);
        self.effects.push_back(Effect::Close { connection: id.clone(), last: None, reason: None });
    }

    /// Ends a connection with an error frame.
    pub(crate) fn farewell(&mut self, id: &ConnectionId, error: ErrorFrame, now: Duration) {
        self.disconnect(id, now);
        let reason = Some(error.code);
        let last = Some(ServerFrame::from(error).to_json());
        self.effects.push_back(Effect::Close { connection: id.clone(), last, reason });
    }

    /// Whether a connection that is not known was known before, so that its frames come late.
    pub(crate) fn was_dropped(&self, id: &ConnectionId) -> bool {
        self.dropped.contains(id)
    }

    /// Ends the viewer that was silent longest, or the writer, where there are only writers.
    fn make_room(&mut self, now: Duration) {
        let silent = self.connections.values().min_by_key(|c| (!c.info.read_only, c.heard));
        let Some(info) = silent.map(|connection| connection.info.clone()) else { return };
        self.give_way(&info.id, info.read_only, now);
    }

    /// Ends the writer that was silent longest: every input stream belongs to a connected client.
    pub(crate) fn make_room_for_client(&mut self, newer: &ConnectionId, now: Duration) {
        let holders = self.connections.iter().filter(|(id, connection)| {
            *id != newer && connection.attachment.is_some() && !connection.info.read_only
        });
        let silent = holders.min_by_key(|(_, connection)| connection.heard).map(|(id, _)| id.clone());
        if let Some(silent) = silent {
            self.give_way(&silent, false, now);
        }
    }

    /// Ends a connection whose place a newer writer takes.
    fn give_way(&mut self, id: &ConnectionId, read_only: bool, now: Duration) {
        let error = if read_only {
            ErrorFrame::new(ErrorCode::RateLimited, "the session is full; a writer takes this place")
        } else {
            // Not to be tried again at once: the two would throw each other out for ever.
            ErrorFrame::new(ErrorCode::Replaced, "the session is full; a newer connection took this place")
        };
        self.farewell(id, error, now);
    }
}
