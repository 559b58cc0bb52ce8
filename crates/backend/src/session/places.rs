//! Who may be connected: places are kept for writers, and revoked tokens lose theirs.

use std::time::Duration;

use shellbridge_protocol::{ErrorCode, frame::ErrorFrame};

use super::{
    connection::{Connection, ConnectionInfo},
    core::Core,
};
use crate::outlet::ConnectionId;

/// Connections of one session at once.
pub(super) const MAX_CONNECTIONS: usize = 256;
/// Of these, how many may be viewers': the rest are kept for writers.
pub(super) const MAX_VIEWERS: usize = 192;
/// Viewers with the same token, so that one share link leaves places for the others.
pub(super) const MAX_VIEWERS_PER_TOKEN: usize = 32;

impl Core {
    /// A connection is there, newly made or found out about by its first frame. False if there are too many: of
    /// viewers, that is. A writer always gets in.
    pub(super) fn connect(&mut self, info: ConnectionInfo, now: Duration) -> bool {
        if let Some(known) = self.connections.get_mut(&info.id) {
            known.info = info;
            return true;
        }
        let full = self.connections.len() >= MAX_CONNECTIONS;
        if info.read_only {
            let viewers = || self.connections.values().filter(|connection| connection.info.read_only);
            let same = viewers().filter(|viewer| viewer.has_token_of(&info)).count();
            if full || viewers().count() >= MAX_VIEWERS || same >= MAX_VIEWERS_PER_TOKEN {
                return false;
            }
        } else if full {
            // One that had to go is not let in again at the cost of another, or late frames would throw out all.
            if self.was_dropped(&info.id) {
                return false;
            }
            self.make_room(now);
        }
        self.dropped.retain(|id| *id != info.id);
        self.connections.insert(info.id.clone(), Connection::new(info, now));
        true
    }

    /// Ends the viewer that was silent longest, or the writer, where there are only those.
    fn make_room(&mut self, now: Duration) {
        let silent = self.connections.values().min_by_key(|c| (!c.info.read_only, c.heard));
        let Some(info) = silent.map(|connection| connection.info.clone()) else { return };
        self.give_way(&info.id, info.read_only, now);
    }

    /// Ends a connection whose place a newer writer takes.
    fn give_way(&mut self, id: &ConnectionId, read_only: bool, now: Duration) {
        let frame = if read_only {
            ErrorFrame::new(ErrorCode::RateLimited, "the session is full; this place is for one who may type")
        } else {
            // Not to be tried again at once: the two would throw each other out for ever.
            ErrorFrame::new(ErrorCode::Replaced, "the session is full; a newer connection took this place")
        };
        self.farewell(id, &frame.into(), now);
    }

    /// Connections by these tokens end in a while: those who wait for a newer one have until then to connect with it.
    pub(super) fn revoke(&mut self, wait: Duration, now: Duration, gone: impl Fn(&ConnectionInfo) -> bool) {
        for connection in self.connections.values_mut().filter(|connection| gone(&connection.info)) {
            connection.expires = connection.expires.min(now + wait);
        }
    }

    /// Every input stream is somebody's who is connected: the one silent longest gives way to a newer connection.
    pub(super) fn make_room_for_client(&mut self, newer: &ConnectionId, now: Duration) {
        let holders = self.connections.iter().filter(|(id, connection)| {
            *id != newer && connection.attachment.is_some() && !connection.info.read_only
        });
        let silent = holders.min_by_key(|(_, connection)| connection.heard).map(|(id, _)| id.clone());
        if let Some(silent) = silent {
            self.give_way(&silent, false, now);
        }
    }
}
