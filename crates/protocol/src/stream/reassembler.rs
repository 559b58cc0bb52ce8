//! Reassembles a byte stream from frames in any order.

use std::collections::{BTreeMap, VecDeque};

/// Most disjoint pieces held beyond a hole. Only a sender of single bytes with holes between them exceeds this; the
/// dropped pieces are resent like lost ones.
const MAX_PIECES: usize = 256;

/// Receives one stream. Returns each byte once and in order; memory stays within twice the window.
#[derive(Debug, Default)]
pub struct Reassembler {
    /// Everything before this offset has been consumed.
    consumed: u64,
    /// In order and not yet consumed.
    ready: VecDeque<u8>,
    /// Pieces beyond a hole: disjoint, none adjacent to another or to `next`.
    early: BTreeMap<u64, Vec<u8>>,
    window: usize,
}

/// Effect of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// It advanced the stream.
    Advanced,
    /// It lies beyond a hole (held) or beyond the window (dropped).
    Early,
    /// All of it had arrived before: the sender missed an acknowledgement.
    Repeat,
}

impl Reassembler {
    /// A stream from offset 0 that accepts `window` bytes beyond what was consumed.
    pub fn new(window: usize) -> Self {
        Self { window, ..Self::default() }
    }

    /// A stream whose bytes before `offset` were received elsewhere.
    pub fn starting_at(offset: u64, window: usize) -> Self {
        Self { consumed: offset, ..Self::new(window) }
    }

    /// Skips ahead to `offset` because a snapshot replaces the bytes before it. Never moves back.
    pub fn jump(&mut self, offset: u64) {
        if offset <= self.next() {
            return;
        }
        self.ready.clear();
        self.consumed = offset;
        let early = std::mem::take(&mut self.early);
        for (start, piece) in early {
            // Trims what lies before the offset; what follows directly becomes ready.
            self.push(start, &piece);
        }
    }

    /// Everything before this offset has been consumed and may be acknowledged.
    pub const fn consumed(&self) -> u64 {
        self.consumed
    }

    /// The first byte that has not arrived.
    pub fn next(&self) -> u64 {
        self.consumed + self.ready.len() as u64
    }

    /// Whether bytes have arrived beyond a missing one.
    pub fn has_hole(&self) -> bool {
        !self.early.is_empty()
    }

    /// Takes a frame's bytes. Trims repeated ones and drops those beyond the window.
    pub fn push(&mut self, offset: u64, bytes: &[u8]) -> Arrival {
        let next = self.next();
        let Some(end) = offset.checked_add(bytes.len() as u64) else { return Arrival::Early };
        if end <= next {
            return Arrival::Repeat;
        }
        let limit = self.consumed + self.window as u64;
        let bytes = trim(offset, bytes, next, limit);
        let offset = offset.max(next);
        if bytes.is_empty() {
            return Arrival::Early;
        }
        if offset > next {
            self.keep(offset, bytes);
            return Arrival::Early;
        }
        self.ready.extend(bytes);
        // Release the pieces that waited behind the hole.
        while let Some(first) = self.early.first_entry()
            && *first.key() <= self.consumed + self.ready.len() as u64
        {
            let (start, piece) = first.remove_entry();
            let have = self.consumed + self.ready.len() as u64;
            self.ready.extend(trim(start, &piece, have, u64::MAX));
        }
        Arrival::Advanced
    }

    /// Bytes in order and not yet consumed, in two parts.
    pub fn ready(&self) -> (&[u8], &[u8]) {
        self.ready.as_slices()
    }

    /// Marks the first `count` ready bytes as consumed and advances the window.
    pub fn consume(&mut self, count: usize) {
        let count = count.min(self.ready.len());
        self.ready.drain(..count);
        self.consumed += count as u64;
        if self.ready.is_empty() {
            // An idle stream holds no memory.
            self.ready.shrink_to(64);
        }
    }

    /// Discards bytes beyond a hole: the sender restarts at [`Reassembler::next`], perhaps with different bytes.
    pub fn discard_early(&mut self) {
        self.early.clear();
    }

    /// Discards everything not consumed: a new reader replaces the old one.
    pub fn discard(&mut self) {
        self.ready = VecDeque::new();
        self.early.clear();
    }

    /// Holds bytes beyond a hole, merged with their neighbours.
    fn keep(&mut self, mut offset: u64, bytes: &[u8]) {
        let mut piece = bytes.to_vec();
        if let Some((&start, before)) = self.early.range(..=offset).next_back() {
            let end = start + before.len() as u64;
            if end >= offset {
                if end >= offset + piece.len() as u64 {
                    return;
                }
                let tail = trim(offset, &piece, end, u64::MAX).to_vec();
                let mut before = self.early.remove(&start).unwrap_or_default();
                before.extend(tail);
                (offset, piece) = (start, before);
            }
        }
        while let Some((&start, after)) = self.early.range(offset..).next()
            && start <= offset + piece.len() as u64
        {
            let end = offset + piece.len() as u64;
            piece.extend_from_slice(trim(start, after, end, u64::MAX));
            self.early.remove(&start);
        }
        if self.early.len() < MAX_PIECES {
            self.early.insert(offset, piece);
        }
    }
}

/// The part of `bytes`, which begin at `offset`, that lies in `from..to`.
fn trim(offset: u64, bytes: &[u8], from: u64, to: u64) -> &[u8] {
    let index = |at: u64| usize::try_from(at.saturating_sub(offset)).unwrap_or(usize::MAX).min(bytes.len());
    let (from, to) = (index(from), index(to));
    bytes.get(from..to.max(from)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn take(stream: &mut Reassembler) -> Vec<u8> {
        let (a, b) = stream.ready();
        let all = [a, b].concat();
        stream.consume(all.len());
        all
    }

    #[test]
    fn a_hole_holds_back_what_follows_it() {
        let mut stream = Reassembler::new(100);
        assert_eq!(stream.push(3, b"def"), Arrival::Early);
        assert!(stream.has_hole());
        assert_eq!(take(&mut stream), b"");
        assert_eq!(stream.push(0, b"abcd"), Arrival::Advanced);
        assert_eq!(take(&mut stream), b"abcdef");
        assert!(!stream.has_hole());
    }

    #[test]
    fn a_repeat_is_reported_and_changes_nothing() {
        let mut stream = Reassembler::new(100);
        stream.push(0, b"abc");
        assert_eq!(stream.push(0, b"abc"), Arrival::Repeat);
        assert_eq!(stream.push(1, b""), Arrival::Repeat);
        assert_eq!(take(&mut stream), b"abc");
        assert_eq!(stream.push(2, b"c"), Arrival::Repeat);
    }

    #[test]
    fn bytes_beyond_the_window_are_dropped_until_the_reader_moves_on() {
        let mut stream = Reassembler::new(4);
        assert_eq!(stream.push(0, b"abcdef"), Arrival::Advanced);
        assert_eq!(stream.next(), 4);
        assert_eq!(stream.push(4, b"ef"), Arrival::Early);
        stream.consume(2);
        assert_eq!(stream.push(4, b"ef"), Arrival::Advanced);
        assert_eq!(take(&mut stream), b"cdef");
    }

    #[test]
    fn a_jump_discards_what_is_before_and_keeps_what_is_after() {
        let mut stream = Reassembler::new(100);
        stream.push(0, b"ab");
        stream.push(8, b"ijkl");
        stream.jump(10);
        assert_eq!(take(&mut stream), b"kl");
        stream.jump(5);
        assert_eq!(stream.next(), 12);
    }

    #[test]
    fn an_offset_at_the_end_of_the_number_line_is_dropped() {
        let mut stream = Reassembler::new(4);
        assert_eq!(stream.push(u64::MAX, b"ab"), Arrival::Early);
        assert_eq!(stream.push(u64::MAX - 1, b"a"), Arrival::Early);
        assert!(!stream.has_hole());
    }

    #[test]
    fn scattered_single_bytes_are_bounded() {
        let mut stream = Reassembler::new(64 * 1024);
        for at in (1..60_000).step_by(2) {
            stream.push(at, b"x");
        }
        assert_eq!(stream.early.len(), MAX_PIECES);
    }

    proptest! {
        /// Frames cut anywhere, in any order, some of them repeated, all of them delivered in the end.
        #[test]
        fn any_fair_schedule_gives_the_stream_once_and_in_order(
            stream in proptest::collection::vec(any::<u8>(), 1..400),
            frames in proptest::collection::vec((0_usize..400, 1_usize..80), 0..60),
            window in 40_usize..500,
            reads in proptest::collection::vec(0_usize..50, 60),
        ) {
            let mut receiver = Reassembler::new(window);
            let mut out = Vec::new();
            for ((start, len), read) in frames.into_iter().zip(reads) {
                let start = start.min(stream.len());
                let end = (start + len).min(stream.len());
                receiver.push(start as u64, &stream[start..end]);
                let (a, b) = receiver.ready();
                let some: Vec<u8> = [a, b].concat().into_iter().take(read).collect();
                receiver.consume(some.len());
                out.extend(some);
                let held: usize = receiver.early.values().map(Vec::len).sum();
                prop_assert!(held + receiver.ready.len() <= window);
            }
            // Fairness: the sender resends from the acknowledged offset until everything has arrived.
            while out.len() < stream.len() {
                let from = usize::try_from(receiver.next()).unwrap();
                let end = (from + 40).min(stream.len());
                receiver.push(from as u64, &stream[from..end]);
                out.extend(take(&mut receiver));
            }
            prop_assert_eq!(out, stream);
        }
    }
}
