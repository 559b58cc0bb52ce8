//! The last bytes of an append-only stream, by absolute offset.

use std::collections::VecDeque;

/// Up to this many bytes, the buffer grows with its contents.
const SMALL: usize = 16 * 1024;

/// Ring buffer of the newest `capacity` bytes of a stream that begins at offset 0.
#[derive(Debug)]
pub struct OutputLog {
    bytes: VecDeque<u8>,
    start: u64,
    capacity: usize,
}

impl OutputLog {
    /// An empty log that keeps `capacity` bytes. It allocates as it fills.
    pub const fn new(capacity: usize) -> Self {
        Self { bytes: VecDeque::new(), start: 0, capacity }
    }

    /// Offset of the first byte kept.
    pub const fn start(&self) -> u64 {
        self.start
    }

    /// Offset of the next byte.
    pub fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    /// Appends bytes and evicts the oldest if the log is full.
    pub fn append(&mut self, bytes: &[u8]) {
        let kept = bytes.get(bytes.len().saturating_sub(self.capacity)..).unwrap_or_default();
        let excess = (self.bytes.len() + kept.len()).saturating_sub(self.capacity);
        self.bytes.drain(..excess);
        self.start += (excess + bytes.len() - kept.len()) as u64;
        // Untouched pages take no memory, but buffers abandoned while growing do. Beyond SMALL, reserve everything at once.
        let needed = self.bytes.len() + kept.len();
        if self.bytes.capacity() < needed {
            let room = if needed <= SMALL { needed.next_power_of_two() } else { self.capacity };
            self.bytes.reserve_exact(room.min(self.capacity) - self.bytes.len());
        }
        self.bytes.extend(kept);
    }

    /// Number of evicted bytes from `offset` on.
    pub const fn lost(&self, offset: u64) -> u64 {
        self.start.saturating_sub(offset)
    }

    /// Number of bytes that can be appended before a byte at or after `offset` is evicted.
    pub fn room_before(&self, offset: u64) -> usize {
        let held = usize::try_from(self.end().saturating_sub(offset)).unwrap_or(usize::MAX);
        self.capacity.saturating_sub(held)
    }

    /// At most `max` bytes from `offset` on. `None` if the first one is evicted, or `offset` is beyond the end.
    pub fn read(&self, offset: u64, max: usize) -> Option<Vec<u8>> {
        let (a, b) = self.since(offset)?;
        let a = a.get(..max).unwrap_or(a);
        let b = b.get(..max - a.len()).unwrap_or(b);
        Some([a, b].concat())
    }

    /// All bytes from `offset` on, in order, in two parts. `None` if the first one is evicted, or `offset` is beyond the
    /// end.
    pub fn since(&self, offset: u64) -> Option<(&[u8], &[u8])> {
        if offset < self.start || offset > self.end() {
            return None;
        }
        let from = usize::try_from(offset - self.start).ok()?;
        let (a, b) = self.bytes.as_slices();
        Some((a.get(from.min(a.len())..)?, b.get(from.saturating_sub(a.len())..)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn evicted_bytes_are_counted_exactly() {
        let mut log = OutputLog::new(4);
        log.append(b"abcdef");
        assert_eq!((log.start(), log.end()), (2, 6));
        assert_eq!(log.lost(0), 2);
        assert_eq!(log.lost(2), 0);
        assert_eq!(log.read(1, 9), None);
        assert_eq!(log.read(7, 9), None);
        assert_eq!(log.read(6, 9).unwrap(), b"");
        assert_eq!(log.room_before(4), 2);
    }

    proptest! {
        #[test]
        fn the_newest_bytes_are_read_back_at_their_offsets(
            chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..50), 0..30),
            capacity in 1_usize..100,
            from in 0_u64..1500,
            max in 0_usize..80,
        ) {
            let mut log = OutputLog::new(capacity);
            let all = chunks.concat();
            for chunk in &chunks {
                log.append(chunk);
                prop_assert!(log.bytes.capacity() <= capacity.max(8));
            }
            prop_assert_eq!(log.end(), all.len() as u64);
            prop_assert_eq!(log.start(), all.len().saturating_sub(capacity) as u64);
            let want = (from >= log.start() && from <= log.end()).then(|| {
                let from = usize::try_from(from).unwrap();
                all[from..(from + max).min(all.len())].to_vec()
            });
            prop_assert_eq!(log.read(from, max), want);
        }
    }
}
