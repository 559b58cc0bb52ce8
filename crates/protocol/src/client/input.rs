//! The sending end of the input stream: typed bytes, kept until acknowledged.

use std::{collections::VecDeque, time::Duration};

use crate::{
    backoff::{Backoff, BackoffTimer},
    limits::{INPUT_RETRY, INPUT_WINDOW},
    payload::Payload,
};

/// Waits before input is resent.
const RETRY: Backoff = Backoff::new(INPUT_RETRY, Duration::from_secs(8));
/// Bytes of one `input` frame: 27 kB as base64, so that any frame fits.
const CHUNK: usize = 20_000;
/// Longest `data` as JSON; text longer than that, because of escapes, goes as base64.
const MAX_TEXT: usize = 30_000;

#[derive(Debug, Default)]
pub(super) struct Input {
    /// From `acked` on.
    bytes: VecDeque<u8>,
    acked: u64,
    /// The next byte to send; returns to `acked` to send again.
    sent: u64,
    /// End of everything ever sent.
    highest: u64,
    /// What was acknowledged when the connection opened: a backend that remembers this client expects nothing before it.
    floor: u64,
    /// Whether the offset at which this stream starts is settled.
    started: bool,
    /// The next frame is a resent one. No other follows it until there is news: the rest may have arrived.
    resends: bool,
    waits: bool,
    retry: Option<BackoffTimer>,
    sent_at: Option<Duration>,
}

impl Input {
    pub(super) fn connected(&mut self) {
        self.floor = self.acked;
        self.retry = None;
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
        (self.resends, self.waits) = (false, false);
    }

    pub(super) fn pending(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn deadline(&self) -> Option<Duration> {
        self.retry.as_ref().map(BackoffTimer::due)
    }

    /// The next frame, if the window allows one.
    pub(super) fn next_frame(&mut self, now: Duration) -> Option<(u64, Payload)> {
        let from = usize::try_from(self.sent - self.acked).ok()?;
        if self.waits || from >= self.bytes.len().min(INPUT_WINDOW) {
            return None;
        }
        let offset = self.sent;
        let bytes: Vec<u8> = self.bytes.iter().copied().take(INPUT_WINDOW).skip(from).take(CHUNK).collect();
        self.started = true;
        self.sent += bytes.len() as u64;
        self.highest = self.highest.max(self.sent);
        self.waits = std::mem::take(&mut self.resends);
        self.sent_at = Some(now);
        self.retry.get_or_insert_with(|| BackoffTimer::new(RETRY, now));
        Some((offset, payload(&bytes)))
    }

    /// Goes back to the first unacknowledged byte if an acknowledgement is overdue.
    pub(super) fn resend_if_due(&mut self, now: Duration) -> bool {
        let due = self.retry.as_mut().is_some_and(|timer| timer.fire(now));
        if due {
            self.back();
        }
        due
    }

    fn back(&mut self) {
        self.sent = self.acked;
        (self.resends, self.waits) = (true, false);
    }

    /// Handles an acknowledgement of everything before `offset`.
    pub(super) fn acknowledge(&mut self, offset: u64, now: Duration) {
        if offset <= self.acked || offset > self.highest {
            return;
        }
        let count = usize::try_from(offset - self.acked).unwrap_or(usize::MAX).min(self.bytes.len());
        self.bytes.drain(..count);
        self.acked = offset;
        self.sent = self.sent.max(offset);
        (self.resends, self.waits) = (false, false);
        self.retry = (self.sent > self.acked).then(|| BackoffTimer::new(RETRY, now));
    }

    /// `INPUT_GAP`: resends, unless a frame is still under way.
    pub(super) fn gap(&mut self, offset: Option<u64>, now: Duration) {
        if let Some(offset) = offset {
            self.acknowledge(offset, now);
        }
        let lately = self.sent_at.is_some_and(|at| now < at + INPUT_RETRY);
        if self.sent > self.acked && !lately {
            self.back();
            if let Some(timer) = &mut self.retry {
                timer.advance(now);
            }
        }
    }

    /// Continues at `offset`, the next byte that the backend expects. Returns `false` if the backend knows another stream by
    /// this client's id.
    pub(super) fn resume(&mut self, offset: u64, now: Duration) -> bool {
        if !self.started {
            (self.acked, self.sent, self.highest, self.started) = (offset, offset, offset, true);
        } else if offset < self.floor || offset > self.highest {
            return false;
        }
        self.acknowledge(offset, now);
        // Input under way may be lost with the old connection.
        self.sent = self.acked;
        (self.resends, self.waits, self.retry) = (false, false, None);
        true
    }

    /// Keeps unacknowledged bytes as a new stream from 0.
    pub(super) fn restart(&mut self) {
        *self = Self { bytes: std::mem::take(&mut self.bytes), started: true, ..Self::default() };
    }

    /// Drops unacknowledged bytes; the stream starts where the backend says.
    pub(super) fn discard(&mut self) {
        *self = Self { acked: self.acked, sent: self.acked, highest: self.acked, ..Self::default() };
    }
}

/// Text as `data`, unless escapes make it too long.
fn payload(bytes: &[u8]) -> Payload {
    let fits = Payload::fit(bytes, MAX_TEXT) == bytes.len();
    if fits { Payload::new(bytes) } else { Payload::base64(bytes) }
}
