//! Open connections by id, from just before the 101 is written until the connection ends.

use std::{collections::HashMap, sync::Arc};

use parking_lot::RwLock;
use shellbridge_protocol::ids::ConnectionId;

use super::{Connection, End};

/// Open connections.
#[derive(Debug, Default)]
pub struct Registry(RwLock<HashMap<ConnectionId, Arc<Connection>>>);

impl Registry {
    /// The connection with this id, if it is open. Waits while its 101 is being written: the client may already have
    /// received it, so a 410 would be wrong.
    pub async fn get(&self, id: &str) -> Option<Arc<Connection>> {
        let connection = self.0.read().get(id).cloned()?;
        connection.until_open().await;
        Some(connection).filter(|connection| !connection.is_ending())
    }

    /// Number of open connections.
    pub fn len(&self) -> usize {
        self.0.read().len()
    }

    /// Whether no connection is open.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Ends all connections.
    pub fn end_all(&self, end: End) {
        for connection in self.0.read().values() {
            connection.end(end);
        }
    }

    pub(super) fn insert(&self, connection: &Arc<Connection>) {
        self.0.write().insert(connection.id.clone(), Arc::clone(connection));
    }

    pub(super) fn remove(&self, connection: &Connection) {
        self.0.write().remove(&connection.id);
    }
}
