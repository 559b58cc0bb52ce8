//! The session's connections: their outlets, and the operations on them.

use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use futures_util::FutureExt as _;
use shellbridge_protocol::{ErrorCode, ids::ConnectionId};
use shellbridge_session::{
    ConnectionInfo, Sent,
    link::{Checked, Gone, Peer, Pushed, Revoke},
};

use super::{Asker, OPERATION_COST, Task};
use crate::sessions::{
    outlet::{self, FindRoute, Outlet, Route},
    tokens::{HANDOVER, Use},
};

/// A connection of the session.
pub(super) struct Client {
    pub(super) outlet: Arc<dyn Outlet>,
    token_id: Option<Arc<str>>,
    /// See [`Asker::address`].
    address: Arc<str>,
}

/// A finished operation on a connection.
pub(super) struct Done {
    connection: ConnectionId,
    /// The bytes it held.
    held: usize,
    outcome: Outcome,
}

enum Outcome {
    /// With the host's push number; `None` for the backend's own pushes.
    Pushed(Option<u64>, Sent),
    Checked(bool),
    Closed,
}

impl Task {
    /// Adopts the connections that the session already has.
    pub(in crate::sessions) fn take_over(&mut self, peers: Vec<Peer>, routes: &FindRoute) {
        self.status.connections.store(peers.len(), Ordering::Relaxed);
        for Peer { id, token_id, address, .. } in peers {
            let route =
                self.seal.check(&[&self.status.id, &id], &address).and_then(|address| routes(address));
            match route {
                Some(route) => {
                    self.adopt(Asker {
                        id,
                        token_id: token_id.map(Into::into),
                        route,
                        address: address.into(),
                    });
                }
                None => self.say(Gone { connection: id }),
            }
        }
        // Handovers may have ended since.
        self.end_stale();
    }

    /// The connection of a request.
    pub(super) fn asker(&self, info: &ConnectionInfo, route: &Route) -> Asker {
        let known = self.peers.get(&info.id).map(|client| client.address.clone());
        let address =
            known.unwrap_or_else(|| self.seal.put(&[&self.status.id, &info.id], &route.address).into());
        Asker { id: info.id.clone(), token_id: info.token_id.clone(), route: route.clone(), address }
    }

    /// Adds a connection that the host has accepted.
    pub(super) fn adopt(&mut self, Asker { id, token_id, route, address }: Asker) {
        // Its token may have been revoked during the request, when the connection was not yet known here.
        if self.check(token_id.as_deref(), Use::Connection).is_err() {
            self.say(Revoke { wait: 0, connections: vec![id.clone()] });
        }
        let outlet = route.outlet(id.clone());
        self.claim.joined(&id, &route.address);
        self.peers.insert(id, Client { outlet, token_id, address });
    }

    /// Ends connections whose tokens are no longer valid; those with a superseded token, after the handover time.
    pub(super) fn end_stale(&mut self) {
        for (purpose, wait) in [(Use::Connection, Duration::ZERO), (Use::Door, HANDOVER)] {
            let stale = self
                .peers
                .iter()
                .filter(|(_, client)| self.check(client.token_id.as_deref(), purpose).is_err());
            let connections: Vec<_> = stale.map(|(id, _)| id.clone()).collect();
            if !connections.is_empty() {
                self.say(Revoke { wait: u64::try_from(wait.as_millis()).unwrap_or(u64::MAX), connections });
            }
        }
    }

    /// Removes a connection.
    pub(super) fn forget(&mut self, id: &ConnectionId) -> Option<Client> {
        let client = self.peers.remove(id)?;
        self.claim.left(id);
        Some(client)
    }

    /// Pushes a frame; false if there is no such connection. That is not a protocol violation: the host may not know yet
    /// that it is gone.
    pub(super) fn push(
        &mut self,
        to: ConnectionId,
        frame: Bytes,
        replaceable: bool,
        push: Option<u64>,
    ) -> bool {
        let Some(outlet) = self.outlet(&to) else {
            self.pushed(to, push, Sent::Gone);
            return false;
        };
        let mut fence = self.fence.clone();
        self.perform(to, frame.len(), async move {
            let pushing = fence.during(|| outlet::push(&*outlet, frame.clone(), replaceable));
            // Catch panics: a push without an outcome would stay in flight forever.
            let sent = AssertUnwindSafe(pushing).catch_unwind().await;
            Outcome::Pushed(push, sent.unwrap_or(Sent::Gone))
        });
        true
    }

    /// Closes a connection, after a last frame if given.
    pub(super) fn close(
        &mut self,
        id: ConnectionId,
        client: Client,
        last: Option<Bytes>,
        reason: Option<ErrorCode>,
    ) {
        let mut fence = self.fence.clone();
        self.perform(id, last.as_ref().map_or(0, Bytes::len), async move {
            let closing = fence.during(|| outlet::close(&*client.outlet, last.clone(), reason));
            let _ = AssertUnwindSafe(closing).catch_unwind().await;
            Outcome::Closed
        });
    }

    /// Checks whether a connection still exists; false if it is unknown.
    pub(super) fn exists(&mut self, id: ConnectionId) -> bool {
        let Some(outlet) = self.outlet(&id) else {
            self.say(Checked { connection: id, exists: false });
            return false;
        };
        self.perform(id, 0, async move {
            Outcome::Checked(AssertUnwindSafe(outlet.exists()).catch_unwind().await.unwrap_or(false))
        });
        true
    }

    pub(super) fn done(&mut self, Done { connection, held, outcome }: Done) {
        self.held -= held;
        match outcome {
            Outcome::Pushed(push, sent) => self.pushed(connection, push, sent),
            Outcome::Checked(exists) => self.say(Checked { connection, exists }),
            Outcome::Closed => {}
        }
    }

    fn pushed(&mut self, to: ConnectionId, push: Option<u64>, sent: Sent) {
        match push {
            Some(push) => self.say(Pushed { push, sent }),
            None if sent == Sent::Gone => self.say(Checked { connection: to, exists: false }),
            None => {}
        }
    }

    fn outlet(&self, id: &ConnectionId) -> Option<Arc<dyn Outlet>> {
        self.peers.get(id).map(|client| client.outlet.clone())
    }

    /// Performs an operation that holds this many bytes, and itself, until it is done.
    fn perform(
        &mut self,
        on: ConnectionId,
        bytes: usize,
        operation: impl Future<Output = Outcome> + Send + 'static,
    ) {
        let held = bytes + OPERATION_COST;
        self.held += held;
        self.pushes.spawn(async move { Done { connection: on, held, outcome: operation.await } });
    }
}
