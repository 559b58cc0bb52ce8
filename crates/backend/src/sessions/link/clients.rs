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
    Sent,
    link::{Checked, Gone, Peer, Pushed, Revoke},
};

use super::{Asker, FRAME_COST, Task};
use crate::sessions::{
    outlet::{self, FindRoute, Outlet},
    tokens::{HANDOVER, Use},
};

/// A connection of the session.
pub(super) struct Client {
    pub(super) outlet: Arc<dyn Outlet>,
    token_id: Option<Arc<str>>,
}

/// A finished operation on a connection.
#[derive(Clone, Copy)]
pub(super) enum Done {
    /// The bytes it held, and the host's push number; `None` for the backend's own pushes.
    Pushed(usize, Option<u64>, Sent),
    Checked(bool),
    Closed,
}

impl Task {
    /// Adopts the connections that the session already has.
    pub(in crate::sessions) fn take_over(&mut self, peers: Vec<Peer>, routes: &FindRoute) {
        self.status.connections.store(peers.len(), Ordering::Relaxed);
        for Peer { id, token_id, address, .. } in peers {
            match routes(&address) {
                Some(route) => self.adopt(Asker { id, token_id: token_id.map(Into::into), route }),
                None => self.say(Gone { connection: id }),
            }
        }
        // Handovers may have ended since.
        self.end_stale();
    }

    /// Adds a connection that the host has accepted.
    pub(super) fn adopt(&mut self, Asker { id, token_id, route }: Asker) {
        // Its token may have been revoked during the request, when the connection was not yet known here.
        if self.check(token_id.as_deref(), Use::Connection).is_err() {
            self.say(Revoke { wait: 0, connections: vec![id.clone()] });
        }
        let outlet = route.outlet(id.clone());
        self.peers.insert(id, Client { outlet, token_id });
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

    /// Pushes a frame. An unknown connection is not a protocol violation: the host may not know yet that it is gone.
    pub(super) fn push(&mut self, to: ConnectionId, frame: Bytes, replaceable: bool, push: Option<u64>) {
        let bytes = frame.len() + FRAME_COST;
        self.held += bytes;
        let outlet = self.peers.get(&to).map(|client| client.outlet.clone());
        self.pushes.spawn(async move {
            let sent = match outlet {
                // Catch panics: a push without an outcome would stay in flight forever.
                Some(outlet) => {
                    let push = AssertUnwindSafe(outlet::push(&*outlet, frame, replaceable));
                    push.catch_unwind().await.unwrap_or(Sent::Gone)
                }
                None => Sent::Gone,
            };
            (to, Done::Pushed(bytes, push, sent))
        });
    }

    /// Closes a connection, after a last frame if given.
    pub(super) fn close(
        &mut self,
        id: ConnectionId,
        client: Client,
        last: Option<Bytes>,
        reason: Option<ErrorCode>,
    ) {
        self.pushes.spawn(async move {
            let closing = outlet::close(&*client.outlet, last, reason);
            let _ = AssertUnwindSafe(closing).catch_unwind().await;
            (id, Done::Closed)
        });
    }

    /// Checks whether a connection still exists.
    pub(super) fn exists(&mut self, id: ConnectionId) {
        let outlet = self.peers.get(&id).map(|client| client.outlet.clone());
        self.pushes.spawn(async move {
            let exists = match outlet {
                Some(outlet) => AssertUnwindSafe(outlet.exists()).catch_unwind().await.unwrap_or(false),
                None => false,
            };
            (id, Done::Checked(exists))
        });
    }

    pub(super) fn done(&mut self, id: ConnectionId, done: Done) {
        match done {
            Done::Pushed(bytes, push, sent) => {
                self.held -= bytes;
                match push {
                    Some(push) => self.say(Pushed { push, sent }),
                    None if sent == Sent::Gone => self.say(Checked { connection: id, exists: false }),
                    None => {}
                }
            }
            Done::Checked(exists) => self.say(Checked { connection: id, exists }),
            Done::Closed => {}
        }
    }
}
