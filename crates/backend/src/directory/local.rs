//! Where sessions are found by their ids. They live in this process: one instance serves all of them.

use std::{collections::HashMap, sync::Arc};

use parking_lot::{Mutex, MutexGuard};
use shellbridge_protocol::ids::SessionId;
use tokio::sync::watch;

use crate::sessions::{Handle, Status};

/// Sessions of one process: far more than it has memory and descriptors for.
const MAX_SESSIONS: usize = 10_000;

/// All sessions. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Directory(Arc<Mutex<Sessions>>);

#[derive(Default)]
struct Sessions {
    by_id: HashMap<SessionId, Option<Handle>>,
    /// How many of them are made and have not ended.
    living: watch::Sender<usize>,
    /// The backend is stopping.
    closed: bool,
}

/// Why a session cannot be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    /// There is one of this id.
    #[error("a session of this id exists")]
    Taken,
    /// There are too many.
    #[error("too many sessions")]
    Full,
    /// The backend is stopping.
    #[error("the backend is stopping")]
    Closed,
}

/// An id for a session that is being made. Given back when dropped.
pub(crate) struct Reservation {
    directory: Directory,
    id: Option<SessionId>,
}

impl Directory {
    /// The session of this id.
    pub(crate) fn find(&self, id: &SessionId) -> Option<Handle> {
        self.lock().by_id.get(id)?.clone()
    }

    /// Keeps an id for a session that is being made.
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

    /// Forgets a session that has ended.
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

    /// How many sessions there are.
    pub(crate) fn len(&self) -> usize {
        self.lock().by_id.len()
    }

    /// How many sessions have a shell, now and as that changes.
    pub(crate) fn living(&self) -> watch::Receiver<usize> {
        self.lock().living.subscribe()
    }

    /// How many connections they have.
    pub(crate) fn connections(&self) -> usize {
        self.lock().by_id.values().flatten().map(|session| session.status().connections()).sum()
    }

    /// Takes no more sessions, and gives back those there are.
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
    /// Puts the session in its place. Gives it back, to be ended, if the backend is stopping: [`Directory::close`] did not
    /// see it.
    pub(crate) fn fill(mut self, handle: Handle) -> Result<(), Handle> {
        let Some(id) = self.id.take() else { return Ok(()) };
        let mut sessions = self.directory.lock();
        if sessions.closed {
            sessions.by_id.remove(&id);
            return Err(handle);
        }
        if handle.status().has_ended() {
            // So quickly that it could not be forgotten.
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
    fn an_id_is_given_once_and_comes_back_when_nothing_came_of_it() {
        let directory = Directory::default();
        let first = directory.reserve(&"a".into()).unwrap();
        assert_eq!(directory.reserve(&"a".into()).err(), Some(Refused::Taken));
        assert!(directory.find(&"a".into()).is_none());
        drop(first);
        assert!(directory.reserve(&"a".into()).is_ok());
    }

    #[tokio::test]
    async fn a_session_created_while_the_backend_stops_is_returned_and_ended() {
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
        let session = reservation.fill(session).expect_err("nobody else would end it");
        assert_eq!(directory.len(), 0);
        session.end().await;
        assert!(session.status().has_ended());
    }

    #[test]
    fn there_is_an_end_to_sessions() {
        let directory = Directory::default();
        let all: Vec<_> =
            (0..MAX_SESSIONS).map(|n| directory.reserve(&n.to_string().into()).unwrap()).collect();
        assert_eq!(directory.reserve(&"one too many".into()).err(), Some(Refused::Full));
        drop(all);
        directory.close();
        assert_eq!(directory.reserve(&"a".into()).err(), Some(Refused::Closed));
    }
}
