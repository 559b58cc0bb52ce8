//! An open connection, as the rest of the gateway sees it.

use std::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

use shellbridge_protocol::{ids::ConnectionId, times::UnixMs};
use tokio::sync::Notify;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use super::outbox::{End, Outbox, SendError};
use crate::{
    clock,
    counters::Counters,
    event::{Api, Origin, Peer},
};

/// An open connection. The task that owns its socket is in [`super::driver`].
#[derive(Debug)]
pub struct Connection {
    /// Its id.
    pub id: ConnectionId,
    /// The client at the other end.
    pub peer: Peer,
    /// Start of the handshake.
    pub connected_at: UnixMs,
    pub(super) outbox: Outbox,
    /// Set once the 101 was written.
    open: AtomicBool,
    opened: Notify,
    /// Time of the last message in either direction, Unix milliseconds.
    last_active: AtomicU64,
    /// Messages in both directions together.
    pub(super) messages: AtomicU64,
    /// Number of the newest message from the client, for `reorder`.
    pub(crate) numbered: AtomicU64,
    /// Highest number of a message whose invocation finished without being held back.
    pub(crate) invoked: AtomicU64,
    pub(crate) overtaken: Notify,
}

impl Connection {
    pub(super) fn new(id: ConnectionId, peer: Peer, connected_at: UnixMs, send_buffer: usize) -> Self {
        Self {
            id,
            peer,
            connected_at,
            outbox: Outbox::new(send_buffer),
            open: AtomicBool::new(false),
            opened: Notify::new(),
            last_active: AtomicU64::new(connected_at.0),
            messages: AtomicU64::new(0),
            numbered: AtomicU64::new(0),
            invoked: AtomicU64::new(0),
            overtaken: Notify::new(),
        }
    }

    /// Queues a message for the client.
    pub fn send(&self, text: Utf8Bytes, counters: &Counters) -> Result<(), SendError> {
        let length = text.len();
        self.outbox.push(text)?;
        counters.message_out(length);
        self.touch();
        Ok(())
    }

    /// Ends the connection; the `$disconnect` event follows.
    pub fn end(&self, end: End) {
        self.outbox.end(end);
    }

    /// Marks the 101 as written.
    pub(super) fn set_open(&self) {
        self.open.store(true, Release);
        self.opened.notify_waiters();
    }

    /// Waits until the 101 has been written.
    pub(super) async fn until_open(&self) {
        loop {
            let opened = self.opened.notified();
            if self.open.load(Acquire) {
                return;
            }
            opened.await;
        }
    }

    /// Whether an end has been requested. `@connections` then answers 410.
    pub(super) fn is_ending(&self) -> bool {
        self.outbox.end_requested().is_some()
    }

    /// Time of the last message in either direction.
    pub fn last_active_at(&self) -> UnixMs {
        UnixMs(self.last_active.load(Relaxed))
    }

    /// The fields that all events of this connection share.
    pub fn origin<'a>(&'a self, api: &'a Api) -> Origin<'a> {
        Origin { api, peer: &self.peer, connection_id: &self.id, connected_at: self.connected_at }
    }

    /// Restarts the idle timeout.
    pub(super) fn touch(&self) {
        self.last_active.store(clock::unix_ms().0, Relaxed);
    }
}
