//! Messages queued for one client: bounded, in order, and without an allocation while empty.

use std::collections::VecDeque;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_tungstenite::tungstenite::Utf8Bytes;

/// Cost of a queued message besides its bytes, so that empty messages are bounded too.
const OVERHEAD: usize = 64;

/// Why a message was not queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendError {
    /// The client reads too slowly: 429, "client side buffer is full".
    Full,
    /// The connection has ended: 410.
    Gone,
}

/// How the gateway ends a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// With a close frame, after all messages queued before it.
    Close(u16, &'static str),
    /// By a TCP reset, at once.
    Reset,
}

/// Messages, and possibly an end, for the task that owns the socket.
#[derive(Debug)]
pub(super) struct Outbox {
    state: Mutex<State>,
    /// A message was queued, or an end requested.
    changed: Notify,
    /// An end was requested.
    ending: Notify,
    limit: usize,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Utf8Bytes>,
    bytes: usize,
    end: Option<End>,
    closed: bool,
}

/// The next step of the task that owns the socket.
#[derive(Debug)]
pub(super) enum Next {
    Send(Utf8Bytes),
    End(End),
}

impl Outbox {
    /// An outbox for `limit` bytes. A single message always fits, whatever its size.
    pub(super) fn new(limit: usize) -> Self {
        Self { state: Mutex::default(), changed: Notify::new(), ending: Notify::new(), limit }
    }

    /// Queues a message.
    pub(super) fn push(&self, text: Utf8Bytes) -> Result<(), SendError> {
        {
            let mut state = self.state.lock();
            if state.closed || state.end.is_some() {
                return Err(SendError::Gone);
            }
            let cost = text.len() + OVERHEAD;
            if !state.queue.is_empty() && state.bytes + cost > self.limit {
                return Err(SendError::Full);
            }
            state.bytes += cost;
            state.queue.push_back(text);
        }
        self.changed.notify_one();
        Ok(())
    }

    /// Requests the connection's end. The first request counts.
    pub(super) fn end(&self, end: End) {
        self.state.lock().end.get_or_insert(end);
        self.changed.notify_one();
        self.ending.notify_one();
    }

    /// Accepts no more messages.
    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.queue = VecDeque::new();
    }

    /// The next message, or the requested end once there is none.
    pub(super) fn next(&self) -> Option<Next> {
        let mut state = self.state.lock();
        if state.end == Some(End::Reset) {
            return Some(Next::End(End::Reset));
        }
        if let Some(text) = state.queue.pop_front() {
            state.bytes = state.bytes.saturating_sub(text.len() + OVERHEAD);
            if state.queue.is_empty() && state.queue.capacity() > 8 {
                state.queue = VecDeque::new();
            }
            return Some(Next::Send(text));
        }
        state.end.map(Next::End)
    }

    /// Waits for a change since the last wait. For the sending loop alone: a change wakes one waiter.
    pub(super) async fn until_changed(&self) {
        self.changed.notified().await;
    }

    /// Waits until an end is requested. For one waiter.
    pub(super) async fn until_end_requested(&self) -> End {
        loop {
            if let Some(end) = self.end_requested() {
                return end;
            }
            self.ending.notified().await;
        }
    }

    /// The requested end, whatever is queued before it.
    pub(super) fn end_requested(&self) -> Option<End> {
        self.state.lock().end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_bounded_and_precede_the_end() {
        let outbox = Outbox::new(1000);
        outbox.push("x".repeat(5000).into()).unwrap();
        assert_eq!(outbox.push("y".into()), Err(SendError::Full));
        assert!(matches!(outbox.next(), Some(Next::Send(_))));
        for _ in 0..15 {
            outbox.push("".into()).unwrap();
        }
        assert_eq!(outbox.push("".into()), Err(SendError::Full));
        outbox.end(End::Close(1000, "bye"));
        assert_eq!(outbox.push("late".into()), Err(SendError::Gone));
        for _ in 0..15 {
            assert!(matches!(outbox.next(), Some(Next::Send(_))));
        }
        assert!(matches!(outbox.next(), Some(Next::End(End::Close(1000, "bye")))));
    }

    #[test]
    fn a_reset_overtakes_queued_messages() {
        let outbox = Outbox::new(1000);
        outbox.push("x".into()).unwrap();
        outbox.end(End::Reset);
        assert!(matches!(outbox.next(), Some(Next::End(End::Reset))));
        outbox.close();
        assert_eq!(outbox.push("late".into()), Err(SendError::Gone));
    }
}
