//! Admission of connections: limits, displacement and removal.

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
pub const MAX_CONNECTIONS: usize = 256;
/// Viewers among them; the other places are reserved for writers.
pub(crate) const MAX_VIEWERS: usize = 192;
/// Viewers with the same token, so that one share link cannot take all places.
pub(crate) const MAX_VIEWERS_PER_TOKEN: usize = 32;
/// Removed connections that are remembered, so that their late frames receive `NOT_ATTACHED`.
pub(crate) const MAX_DROPPED: usize = 64;

impl Session {
    /// Adds a connection, announced by its transport or by its first frame. A writer is always admitted, unless it was
    /// displaced before.
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
            // Late frames of displaced connections would otherwise displace all others in turn.
            if self.was_dropped(&info.id) {
                return Err(TooManyConnections);
            }
            self.make_room(now);
        }
        self.dropped.retain(|id| *id != info.id);
        self.connections.insert(info.id.clone(), Connection::new(info, now));
        Ok(())
    }

    /// Removes a connection.
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

    /// Ends a connection that seems to have closed. Closing it makes a client that is still connected notice.
    pub(crate) fn drop_connection(&mut self, id: &ConnectionId, now: Duration) {
        self.disconnect(id, now);
        self.effects.push_back(Effect::Close { connection: id.clone(), last: None, reason: None });
    }

    /// Ends a connection with an error frame.
    pub(crate) fn end_connection(&mut self, id: &ConnectionId, error: ErrorFrame, now: Duration) {
        self.disconnect(id, now);
        let reason = Some(error.code);
        let last = Some(ServerFrame::from(error).to_json());
        self.effects.push_back(Effect::Close { connection: id.clone(), last, reason });
    }

    /// Whether an unknown connection was removed recently, so that its frames are late.
    pub(crate) fn was_dropped(&self, id: &ConnectionId) -> bool {
        self.dropped.contains(id)
    }

    /// Displaces the viewer that was silent longest; if there are only writers, the writer.
    fn make_room(&mut self, now: Duration) {
        let silent = self.connections.values().min_by_key(|c| (!c.info.read_only, c.heard));
        let Some(info) = silent.map(|connection| connection.info.clone()) else { return };
        self.displace(&info.id, info.read_only, now);
    }

    /// Displaces the writer that was silent longest, for when every input stream belongs to a connected client.
    pub(crate) fn make_room_for_client(&mut self, newer: &ConnectionId, now: Duration) {
        let holders = self.connections.iter().filter(|(id, connection)| {
            *id != newer && connection.attachment.is_some() && !connection.info.read_only
        });
        let silent = holders.min_by_key(|(_, connection)| connection.heard).map(|(id, _)| id.clone());
        if let Some(silent) = silent {
            self.displace(&silent, false, now);
        }
    }

    /// Ends a connection to make room for a newer writer.
    fn displace(&mut self, id: &ConnectionId, read_only: bool, now: Duration) {
        let error = if read_only {
            ErrorFrame::new(ErrorCode::RateLimited, "the session is full; a writer takes this place")
        } else {
            // Not retryable: the two would displace each other for ever.
            ErrorFrame::new(ErrorCode::Replaced, "the session is full; a newer connection took this place")
        };
        self.end_connection(id, error, now);
    }
}
