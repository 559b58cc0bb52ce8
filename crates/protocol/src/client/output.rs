//! The receiving end of the output stream: order, snapshots, and when to acknowledge.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    limits::{OUTPUT_ACK_EVERY, OUTPUT_ACK_WITHIN, OUTPUT_WINDOW},
    size::Size,
    stream::{Arrival, Reassembler},
    times::Epoch,
};

/// Wait before output is acknowledged. Input sent in the meantime carries the acknowledgement, because every frame is
/// billed. The rest of [`OUTPUT_ACK_WITHIN`] allows for a late timer.
const ACK_AFTER: Duration = OUTPUT_ACK_WITHIN.saturating_sub(Duration::from_millis(10));
/// Least time between answers to repeated output, so that a burst of repeats is one answer.
const ANSWER_SPACING: Duration = Duration::from_millis(50);
/// A hole open for this long makes the client attach again: the backend learns of it only when its window is full.
const HOLE_AFTER: Duration = Duration::from_secs(3);
/// Output held beyond the acknowledged offset: one window, and another for bytes sent twice.
const HELD: usize = OUTPUT_WINDOW * 2;
/// Most parts of a snapshot; 1,000 lines of scrollback are a few dozen.
const MAX_PARTS: u32 = 1_024;

#[derive(Debug)]
pub(super) struct Output {
    epoch: Option<Epoch>,
    stream: Reassembler,
    snapshot: Option<Snapshot>,
    acked: u64,
    acked_at: Option<Duration>,
    ack_at: Option<Duration>,
    hole_at: Option<Duration>,
}

/// A `snapshot` frame.
pub(super) struct Part {
    pub(super) offset: u64,
    pub(super) gap: u64,
    pub(super) size: Size,
    pub(super) index: u32,
    pub(super) count: u32,
    pub(super) bytes: Vec<u8>,
}

/// Effect of a part.
pub(super) enum Verdict {
    /// It is outdated, or others are missing.
    Incomplete,
    /// It was the last one missing.
    Complete { gap: u64, size: Size, bytes: Vec<u8> },
}

#[derive(Debug)]
struct Snapshot {
    offset: u64,
    gap: u64,
    size: Size,
    count: u32,
    parts: BTreeMap<u32, Vec<u8>>,
}

impl Default for Output {
    fn default() -> Self {
        Self {
            epoch: None,
            stream: Reassembler::new(HELD),
            snapshot: None,
            acked: 0,
            acked_at: None,
            ack_at: None,
            hole_at: None,
        }
    }
}

impl Output {
    pub(super) fn connected(&mut self) {
        (self.ack_at, self.hole_at) = (None, None);
    }

    pub(super) const fn epoch(&self) -> Option<Epoch> {
        self.epoch
    }

    pub(super) fn next(&self) -> u64 {
        self.stream.next()
    }

    /// The offset to attach at, once a shell is known.
    pub(super) fn position(&self) -> Option<u64> {
        self.epoch.map(|_| self.next())
    }

    /// Starts over if `epoch` is another shell. Returns whether a shell was known before.
    pub(super) fn enter(&mut self, epoch: Epoch) -> bool {
        let changed = self.epoch.is_some_and(|known| known != epoch);
        if changed {
            *self = Self { acked_at: self.acked_at, ..Self::default() };
        }
        self.epoch = Some(epoch);
        changed
    }

    pub(super) fn take(&mut self) -> Vec<u8> {
        let (a, b) = self.stream.ready();
        let bytes = [a, b].concat();
        self.stream.consume(bytes.len());
        bytes
    }

    /// Takes an `output` frame's bytes. Returns whether they are a repetition, or a probe.
    pub(super) fn receive(&mut self, offset: u64, bytes: &[u8], now: Duration) -> bool {
        let repeat = self.stream.push(offset, bytes) == Arrival::Repeat || bytes.is_empty();
        if repeat {
            self.answer(now);
        }
        self.received(now);
        repeat
    }

    /// Takes a part of a snapshot. The newest snapshot wins.
    pub(super) fn receive_part(&mut self, part: Part, now: Duration) -> Verdict {
        let Part { offset, gap, size, index, count, bytes } = part;
        if offset <= self.next() {
            // Everything it shows has arrived since.
            self.answer(now);
            return Verdict::Incomplete;
        }
        let older = self.snapshot.as_ref().is_some_and(|known| offset < known.offset);
        if older || count > MAX_PARTS || index >= count {
            return Verdict::Incomplete;
        }
        let known = self.snapshot.take().filter(|known| (known.offset, known.count) == (offset, count));
        let mut known = known.unwrap_or(Snapshot { offset, gap, size, count, parts: BTreeMap::new() });
        if known.parts.insert(index, bytes).is_some() {
            self.answer(now);
        }
        let complete = known.parts.len() == known.count as usize;
        let verdict = if complete {
            self.stream.jump(offset);
            self.answer(now);
            let bytes = known.parts.into_values().flatten().collect();
            Verdict::Complete { gap: known.gap, size: known.size, bytes }
        } else {
            self.snapshot = Some(known);
            Verdict::Incomplete
        };
        self.received(now);
        verdict
    }

    /// The shell's output ends at `offset`: acknowledged at once, since the session waits for it.
    pub(super) fn ends_at(&mut self, offset: u64, now: Duration) {
        if self.next() >= offset {
            self.ack_at = Some(now);
        }
    }

    fn received(&mut self, now: Duration) {
        if self.snapshot.as_ref().is_some_and(|known| known.offset <= self.next()) {
            self.snapshot = None;
        }
        let hole = self.stream.has_hole() || self.snapshot.is_some();
        self.hole_at = hole.then(|| self.hole_at.unwrap_or(now + HOLE_AFTER));
        let unacknowledged = self.next() - self.acked;
        if unacknowledged >= OUTPUT_ACK_EVERY as u64 {
            self.ack_at = Some(now);
        } else if unacknowledged > 0 {
            self.ack_at.get_or_insert(now + ACK_AFTER);
        }
    }

    /// Acknowledges at once, or as soon as the spacing allows.
    fn answer(&mut self, now: Duration) {
        let at = self.acked_at.map_or(now, |at| now.max(at + ANSWER_SPACING));
        self.ack_at = Some(self.ack_at.map_or(at, |due| due.min(at)));
    }

    pub(super) fn ack_is_due(&self, now: Duration) -> bool {
        self.ack_at.is_some_and(|due| due <= now)
    }

    /// Whether something has been missing for too long. Asks once for each time that it is.
    pub(super) fn hole_is_overdue(&mut self, now: Duration) -> bool {
        self.hole_at.take_if(|due| *due <= now).is_some()
    }

    /// The offset that a frame to be sent acknowledges.
    pub(super) fn acknowledge(&mut self, now: Duration) -> Option<u64> {
        self.ack_at = None;
        let offset = self.position()?;
        (self.acked, self.acked_at) = (offset, Some(now));
        Some(offset)
    }

    pub(super) fn deadline(&self) -> Option<Duration> {
        [self.ack_at, self.hole_at].into_iter().flatten().min()
    }
}
