//! The open connections by id. A connection is here from when its 101 is being written until its end is decided.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use super::{Connection, End};
use crate::id::ConnectionId;

/// Open connections.
#[derive(Debug, Default)]
pub struct Registry(RwLock<HashMap<ConnectionId, Arc<Connection>>>);

impl Registry {
    /// The connection with this id, if it is open. One whose 101 is just being written is waited for: its client
    /// may have the 101 already, and then nobody may be told that there is no such connection.
    pub async fn get(&self, id: &str) -> Option<Arc<Connection>> {
        let connection = self.0.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned()?;
        connection.until_open().await;
        Some(connection).filter(|connection| !connection.is_ending())
    }

    /// Number of open connections.
    pub fn len(&self) -> usize {
        self.0.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether none is open.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Has all connections look at the faults in force.
    pub fn nudge_all(&self) {
        for connection in self.0.read().unwrap_or_else(PoisonError::into_inner).values() {
            connection.outbox.nudge();
        }
    }

    /// Ends all connections.
    pub fn end_all(&self, end: End) {
        for connection in self.0.read().unwrap_or_else(PoisonError::into_inner).values() {
            connection.end(end);
        }
    }

    pub(super) fn insert(&self, connection: &Arc<Connection>) {
        let mut map = self.0.write().unwrap_or_else(PoisonError::into_inner);
        map.insert(connection.id.clone(), Arc::clone(connection));
    }

    pub(super) fn remove(&self, connection: &Connection) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(&connection.id);
    }
}
