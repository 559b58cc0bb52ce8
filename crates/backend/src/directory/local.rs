//! Finds sessions by id, in this process: a single instance serves all sessions.

use std::{collections::HashMap, sync::Arc};

use parking_lot::{Mutex, MutexGuard};
use shellbridge_protocol::ids::SessionId;
use tokio::sync::watch;

use crate::sessions::{Handle, Status};

/// Most sessions of a process: far more than its memory and descriptors allow.
const MAX_SESSIONS: usize = 10_000;

/// All sessions. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Directory(Arc<Mutex<Sessions>>);

#[derive(Default)]
struct Sessions {
    by_id: HashMap<SessionId, Option<Handle>>,
    /// Number of sessions that have not ended, without reservations.
    living: watch::Sender<usize>,
    /// The backend is stopping.
    closed: bool,
}

/// Why a session cannot be created.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    /// The id is in use.
    #[error("a session with this id exists")]
    Taken,
    /// The limit on sessions is reached.
    #[error("too many sessions")]
    Full,
    /// The backend is stopping.
    #[error("the backend is stopping")]
    Closed,
}

/// An id reserved for a session that is being created. Released on drop.
pub(crate) struct Reservation {
    directory: Directory,
    id: Option<SessionId>,
}

impl Directory {
    /// Returns the session with this id.
    pub(crate) fn find(&self, id: &SessionId) -> Option<Handle> {
        self.lock().by_id.get(id)?.clone()
    }

    /// Reserves an id for a session that is being created.
    pub(crate) fn reserve(&self, id: &SessionId) -> Result<Reservation, Refused> {
        let mut sessions = self.lock();
        if sessions.closed {
            return Err(Refused::Closed);
        }
        if sessions.by_id.contains_key(id) {
            return Err(Refused::Taken);
        }
        if sessions.by_id.len() >= MAX_SESSIONS {
            return Err(Refused::Full);
        }
        sessions.by_id.insert(id.clone(), None);
        Ok(Reservation { directory: self.clone(), id: Some(id.clone()) })
    }

    /// Removes a session that has ended.
    pub(crate) fn ended(&self, status: &Status) {
        let mut sessions = self.lock();
        let same = |handle: &Option<Handle>| {
            handle.as_ref().is_some_and(|h| std::ptr::eq(&raw const **h.status(), status))
        };
        if sessions.by_id.get(&status.id).is_some_and(same) {
            sessions.by_id.remove(&status.id);
            sessions.living.send_modify(|living| *living = living.saturating_sub(1));
        }
    }

    /// Number of sessions, reservations included.
    pub(crate) fn len(&self) -> usize {
        self.lock().by_id.len()
    }

    /// Watches the number of sessions with a shell.
    pub(crate) fn living(&self) -> watch::Receiver<usize> {
        self.lock().living.subscribe()
    }

    /// Number of connections of all sessions.
    pub(crate) fn connections(&self) -> usize {
        self.lock().by_id.values().flatten().map(|session| session.status().connections()).sum()
    }

    /// Refuses new sessions from now on, and returns the existing ones.
    pub(crate) fn close(&self) -> Vec<Handle> {
        let mut sessions = self.lock();
        sessions.closed = true;
        sessions.by_id.values().flatten().cloned().collect()
    }

    /// Whether the backend is stopping.
    pub(crate) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    fn lock(&self) -> MutexGuard<'_, Sessions> {
        self.0.lock()
    }
}

impl Reservation {
    /// Stores the session under the reserved id. If the backend is stopping, returns it for the caller to end:
    /// [`Directory::close`] did not see it.
    pub(crate) fn fill(mut self, handle: Handle) -> Result<(), Handle> {
        let Some(id) = self.id.take() else { return Ok(()) };
        let mut sessions = self.directory.lock();
        if sessions.closed {
            sessions.by_id.remove(&id);
            return Err(handle);
        }
        if handle.status().has_ended() {
            // It ended before it was stored, so `ended` could not remove it.
            sessions.by_id.remove(&id);
        } else {
            sessions.by_id.insert(id, Some(handle));
            sessions.living.send_modify(|living| *living += 1);
        }
        Ok(())
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some(id) = self.id.take() {
            self.directory.lock().by_id.remove(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use shellbridge_session::{Limits, Settings};

    use super::*;
    use crate::{
        launcher::{ShellRequest, ShellSpec},
        sessions::{Start, spawn},
    };

    #[test]
    fn an_id_is_reserved_once_and_released_on_drop() {
        let directory = Directory::default();
        let first = directory.reserve(&"a".into()).unwrap();
        assert_eq!(directory.reserve(&"a".into()).err(), Some(Refused::Taken));
        assert!(directory.find(&"a".into()).is_none());
        drop(first);
        assert!(directory.reserve(&"a".into()).is_ok());
    }

    #[tokio::test]
    async fn a_session_created_during_shutdown_is_returned_to_be_ended() {
        let limits = Limits { output_buffer: 65_536, output_window: 32_768, resume_grace: Duration::ZERO };
        let settings = Settings { limits, detached_ttl: Duration::from_mins(10), shell_restart: false };
        let shell = ShellRequest { shell: Some("/bin/sh".into()), ..ShellRequest::default() };
        let start = Start {
            id: "a".into(),
            owner: "alice".into(),
            spec: ShellSpec::new(shell).unwrap(),
            expires_at: crate::clock::unix_ms().saturating_add(Duration::from_mins(10)),
        };
        let directory = Directory::default();
        let reservation = directory.reserve(&"a".into()).unwrap();
        assert!(directory.close().is_empty());
        let session = spawn(settings, start, |_| ()).unwrap();
        let session = reservation.fill(session).expect_err("the backend is stopping");
        assert_eq!(directory.len(), 0);
        session.end().await;
        assert!(session.status().has_ended());
    }

    #[test]
    fn sessions_are_bounded() {
        let directory = Directory::default();
        let all: Vec<_> =
            (0..MAX_SESSIONS).map(|n| directory.reserve(&n.to_string().into()).unwrap()).collect();
        assert_eq!(directory.reserve(&"one too many".into()).err(), Some(Refused::Full));
        drop(all);
        directory.close();
        assert_eq!(directory.reserve(&"a".into()).err(), Some(Refused::Closed));
    }
}
