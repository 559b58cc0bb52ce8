//! What waits to be sent to one client: bounded, in order, and without a byte of memory while there is nothing.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    task::Waker,
};

use futures_util::task::AtomicWaker;
use tokio_tungstenite::tungstenite::Utf8Bytes;

/// What a queued message costs besides its bytes, so that empty messages are bounded too.
const OVERHEAD: usize = 64;

/// Why a message was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The client does not read quickly enough: 429, "client side buffer is full".
    Full,
    /// The connection is over: 410.
    Gone,
}

/// How the gateway ends a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// With a close frame, after what was queued before.
    Close(u16, &'static str),
    /// At once and without a frame.
    Reset,
}

/// Messages and perhaps an end, for the task that holds the socket.
#[derive(Debug)]
pub(super) struct Outbox {
    state: Mutex<State>,
    waker: AtomicWaker,
    limit: usize,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Utf8Bytes>,
    bytes: usize,
    end: Option<End>,
    closed: bool,
}

/// What the socket's task has to do next.
#[derive(Debug)]
pub(super) enum Next {
    Send(Utf8Bytes),
    End(End),
    Nothing,
}

impl Outbox {
    /// An outbox for so many bytes. One message of any size always fits.
    pub(super) fn new(limit: usize) -> Self {
        Self { state: Mutex::default(), waker: AtomicWaker::new(), limit }
    }

    /// Queues a message.
    pub(super) fn push(&self, text: Utf8Bytes) -> Result<(), Refused> {
        {
            let mut state = self.state();
            if state.closed || state.end.is_some() {
                return Err(Refused::Gone);
            }
            let cost = text.len() + OVERHEAD;
            if !state.queue.is_empty() && state.bytes + cost > self.limit {
                return Err(Refused::Full);
            }
            state.bytes += cost;
            state.queue.push_back(text);
        }
        self.waker.wake();
        Ok(())
    }

    /// Asks for the connection's end. The first to ask decides.
    pub(super) fn end(&self, end: End) {
        self.state().end.get_or_insert(end);
        self.waker.wake();
    }

    /// Makes the task look again, after something else changed.
    pub(super) fn nudge(&self) {
        self.waker.wake();
    }

    /// Takes nothing more.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        state.queue = VecDeque::new();
    }

    /// Has the task woken by whatever comes from now on.
    pub(super) fn register(&self, waker: &Waker) {
        self.waker.register(waker);
    }

    /// The next message, or the end once there is none.
    pub(super) fn next(&self) -> Next {
        let mut state = self.state();
        if state.end == Some(End::Reset) {
            return Next::End(End::Reset);
        }
        if let Some(text) = state.queue.pop_front() {
            state.bytes = state.bytes.saturating_sub(text.len() + OVERHEAD);
            if state.queue.is_empty() && state.queue.capacity() > 8 {
                state.queue = VecDeque::new();
            }
            return Next::Send(text);
        }
        state.end.map_or(Next::Nothing, Next::End)
    }

    /// The end that was asked for, whatever is queued before it.
    pub(super) fn ending(&self) -> Option<End> {
        self.state().end
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_bounded_and_ends_in_order() {
        let outbox = Outbox::new(1000);
        outbox.push("x".repeat(5000).into()).unwrap();
        assert_eq!(outbox.push("y".into()), Err(Refused::Full));
        assert!(matches!(outbox.next(), Next::Send(_)));
        for _ in 0..15 {
            outbox.push("".into()).unwrap();
        }
        assert_eq!(outbox.push("".into()), Err(Refused::Full));
        outbox.end(End::Close(1000, "bye"));
        assert_eq!(outbox.push("late".into()), Err(Refused::Gone));
        for _ in 0..15 {
            assert!(matches!(outbox.next(), Next::Send(_)));
        }
        assert!(matches!(outbox.next(), Next::End(End::Close(1000, "bye"))));
    }

    #[test]
    fn a_reset_overtakes_what_is_queued() {
        let outbox = Outbox::new(1000);
        outbox.push("x".into()).unwrap();
        outbox.end(End::Reset);
        assert!(matches!(outbox.next(), Next::End(End::Reset)));
        outbox.close();
        assert_eq!(outbox.push("late".into()), Err(Refused::Gone));
    }
}
