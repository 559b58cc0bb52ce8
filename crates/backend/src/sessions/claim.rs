//! A session's claim to its id among several instances: whether it may act now, and who its connections are.

use std::{collections::HashMap, future::Future, sync::Arc};

use parking_lot::Mutex;
use shellbridge_protocol::ids::ConnectionId;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

/// Held by the session's task. Given up on drop, when the session is gone.
pub(crate) struct Claim(Option<Registered>);

/// Connections by id, with the addresses of their routes.
pub(crate) type Roster = HashMap<ConnectionId, Arc<str>>;

struct Registered {
    fence: Fence,
    roster: Arc<Mutex<Roster>>,
    changed: Box<dyn Fn(Change) + Send + Sync>,
}

/// What the registry must know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// The roster has changed.
    Connections,
    /// The session is gone.
    Gone,
}

/// Tells whether a session may push, close, type and read.
#[derive(Clone)]
pub(crate) struct Fence(Option<Open>);

#[derive(Clone)]
struct Open {
    /// Until when this instance serves its sessions.
    lease: watch::Receiver<Option<Instant>>,
    standing: watch::Receiver<Standing>,
}

/// What the registry says about a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Not certain now.
    Waiting,
    /// It is this instance's.
    Confirmed,
    /// It is another instance's, or was reported as gone.
    Lost,
}

impl Claim {
    /// For a single instance: always valid.
    pub(crate) const fn alone() -> Self {
        Self(None)
    }

    /// `changed` is called on each change.
    pub(crate) fn registered(
        lease: watch::Receiver<Option<Instant>>,
        standing: watch::Receiver<Standing>,
        roster: Arc<Mutex<Roster>>,
        changed: impl Fn(Change) + Send + Sync + 'static,
    ) -> Self {
        let fence = Fence(Some(Open { lease, standing }));
        Self(Some(Registered { fence, roster, changed: Box::new(changed) }))
    }

    pub(super) fn fence(&self) -> Fence {
        self.0.as_ref().map_or(Fence(None), |registered| registered.fence.clone())
    }

    pub(super) fn joined(&self, connection: &ConnectionId, address: &Arc<str>) {
        if let Some(Registered { roster, changed, .. }) = &self.0 {
            roster.lock().insert(connection.clone(), address.clone());
            changed(Change::Connections);
        }
    }

    pub(super) fn left(&self, connection: &ConnectionId) {
        if let Some(Registered { roster, changed, .. }) = &self.0 {
            roster.lock().remove(connection);
            changed(Change::Connections);
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(registered) = &self.0 {
            (registered.changed)(Change::Gone);
        }
    }
}

impl Fence {
    /// Whether the session may act now.
    pub(super) fn is_open(&self) -> bool {
        self.0.as_ref().is_none_or(Open::is_open)
    }

    /// Whether the session must end.
    pub(super) fn is_lost(&self) -> bool {
        self.0.as_ref().is_some_and(|gate| *gate.standing.borrow() == Standing::Lost)
    }

    /// Waits until [`Fence::is_open`] or [`Fence::is_lost`] may have changed. `open`: what the first was.
    pub(super) async fn turns(&mut self, open: bool) {
        match &mut self.0 {
            None => std::future::pending().await,
            Some(gate) if open => gate.closes().await,
            Some(gate) => gate.changes().await,
        }
    }

    /// Performs an operation while the session may act: interrupts it when the session may not, and repeats it once it may
    /// again. Repeating is safe, because clients ignore what they have.
    pub(super) async fn during<T, F: Future<Output = T>>(&mut self, mut operation: impl FnMut() -> F) -> T {
        let Some(gate) = &mut self.0 else { return operation().await };
        loop {
            gate.opens().await;
            tokio::select! {
                biased;
                () = gate.closes() => {}
                outcome = operation() => return outcome,
            }
        }
    }
}

impl Open {
    fn is_open(&self) -> bool {
        *self.standing.borrow() == Standing::Confirmed
            && self.lease.borrow().is_some_and(|until| Instant::now() < until)
    }

    async fn opens(&mut self) {
        while !self.is_open() {
            self.changes().await;
        }
    }

    async fn closes(&mut self) {
        while self.is_open() {
            let until = self.lease.borrow().unwrap_or_else(Instant::now);
            tokio::select! {
                () = sleep_until(until) => {}
                () = self.changes() => {}
            }
        }
    }

    /// Waits for a change. Without the other side, nothing changes any more.
    async fn changes(&mut self) {
        let changed = tokio::select! {
            changed = self.lease.changed() => changed,
            changed = self.standing.changed() => changed,
        };
        if changed.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        time::Duration,
    };

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_operation_is_interrupted_when_the_lease_ends_and_repeated_when_it_is_back() {
        let (lease, leases) = watch::channel(None);
        let (standing, standings) = watch::channel(Standing::Waiting);
        let mut fence = Fence(Some(Open { lease: leases, standing: standings }));
        assert!(!fence.is_open());
        standing.send(Standing::Confirmed).unwrap();
        lease.send(Some(Instant::now() + Duration::from_secs(10))).unwrap();
        assert!(fence.is_open());
        let attempts = Arc::new(AtomicUsize::new(0));
        let counted = attempts.clone();
        let operation = tokio::spawn(async move {
            fence
                .during(|| {
                    counted.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_secs(30))
                })
                .await;
        });
        tokio::time::sleep(Duration::from_mins(1)).await;
        assert!(!operation.is_finished(), "interrupted after 10 s");
        assert_eq!(attempts.load(Ordering::Relaxed), 1);
        lease.send(Some(Instant::now() + Duration::from_secs(100))).unwrap();
        tokio::time::sleep(Duration::from_secs(31)).await;
        assert!(operation.is_finished());
        assert_eq!(attempts.load(Ordering::Relaxed), 2);
    }
}
