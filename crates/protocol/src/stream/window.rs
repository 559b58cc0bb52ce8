//! Decides what to send to one receiver of a stream, and when to probe it.

use std::time::Duration;

use crate::{
    backoff::{Backoff, BackoffTimer},
    limits::{PROBE_FIRST, PROBE_MAX},
};

/// Longest wait before the first probe, however slow the path: a few more must fit into `RESUME_GRACE`.
const SLOWEST_FIRST: Duration = Duration::from_secs(4);

/// The sending side of one stream to one receiver. Times are the caller's monotonic clock.
///
/// Offsets: `acked <= sent`, and `sent - base` never exceeds the window, where `base` is `acked` or the offset of the last
/// snapshot.
#[derive(Debug)]
pub struct SendWindow {
    acked: u64,
    base: u64,
    sent: u64,
    /// Everything before this has been sent once; resending may continue below it.
    highest: u64,
    size: u64,
    /// Offset and send time of the byte whose acknowledgement measures the next round trip.
    timed: Option<(u64, Duration)>,
    round_trip: Option<RoundTrip>,
    probe: Option<BackoffTimer>,
    /// A probe is out, so an acknowledgement below `sent` means loss.
    probed: bool,
}

/// Smoothed round trip and its deviation (RFC 6298, section 2).
#[derive(Debug, Clone, Copy)]
struct RoundTrip {
    mean: Duration,
    deviation: Duration,
}

/// Effect of an acknowledgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acked {
    /// The receiver has more than before.
    Progress,
    /// It acknowledges nothing new.
    Nothing,
    /// The receiver has lost bytes: sending resumes from what it has.
    Rewound,
}

impl SendWindow {
    /// A receiver that has everything before `offset`; at most `size` bytes may be in flight.
    pub const fn new(offset: u64, size: u64) -> Self {
        Self {
            acked: offset,
            base: offset,
            sent: offset,
            highest: offset,
            size,
            timed: None,
            round_trip: None,
            probe: None,
            probed: false,
        }
    }

    /// Everything before this offset has been acknowledged.
    pub const fn acked(&self) -> u64 {
        self.acked
    }

    /// The next byte to send.
    pub const fn sent(&self) -> u64 {
        self.sent
    }

    /// Number of bytes that may be sent now, for a stream that ends at `end`.
    pub fn sendable(&self, end: u64) -> u64 {
        end.min(self.base + self.size).saturating_sub(self.sent)
    }

    /// Whether the receiver is a full window behind a stream that ends at `end`.
    pub const fn is_behind(&self, end: u64) -> bool {
        end.saturating_sub(self.acked) >= self.size
    }

    /// Notes that everything before `offset` has been sent.
    pub fn advance(&mut self, offset: u64, now: Duration) {
        if offset > self.sent {
            self.sent = offset;
        }
        // Karn's algorithm: a retransmission measures no round trip.
        if offset > self.highest {
            self.highest = offset;
            self.timed.get_or_insert((offset, now));
        }
    }

    /// Resumes at `offset` because a snapshot replaces the bytes before it.
    pub fn jump(&mut self, offset: u64) {
        self.base = offset;
        self.sent = offset;
        self.highest = self.highest.max(offset);
        self.timed = None;
    }

    /// Handles an acknowledgement. Ignores one of bytes that were never sent.
    pub fn ack(&mut self, offset: u64, now: Duration) -> Acked {
        if offset > self.highest {
            return Acked::Nothing;
        }
        // These bytes were in flight when the response to a probe rewound; do not resend them.
        self.sent = self.sent.max(offset);
        if let Some((timed, at)) = self.timed
            && offset >= timed
        {
            self.measure(now.saturating_sub(at));
            self.timed = None;
        }
        let progress = offset > self.acked;
        if progress {
            self.acked = offset;
            self.base = self.base.max(offset);
            self.probe = None;
        }
        if std::mem::take(&mut self.probed) && offset < self.sent {
            self.rewind();
            return Acked::Rewound;
        }
        if progress { Acked::Progress } else { Acked::Nothing }
    }

    /// Rewinds to the acknowledged offset, because everything sent since may be lost.
    pub const fn rewind(&mut self) {
        self.sent = self.acked;
        self.base = self.acked;
        // Karn's algorithm: a retransmission measures no round trip.
        self.timed = None;
    }

    /// Restarts at `offset`: the receiver has announced a new position.
    pub fn reset(&mut self, offset: u64) {
        let round_trip = self.round_trip;
        *self = Self { round_trip, ..Self::new(offset, self.size) };
    }

    /// When to call [`SendWindow::probe`] next. `waiting`: bytes sent are still unacknowledged.
    pub fn probe_at(&mut self, waiting: bool, now: Duration) -> Option<Duration> {
        if !waiting {
            self.probe = None;
            return None;
        }
        let first = self
            .round_trip
            .map_or(PROBE_FIRST, |rtt| (rtt.mean + rtt.deviation * 4).clamp(PROBE_FIRST, SLOWEST_FIRST));
        Some(self.probe.get_or_insert(BackoffTimer::new(Backoff::new(first, PROBE_MAX), now)).due())
    }

    /// Whether a probe is due: an empty frame at [`SendWindow::sent`], which the receiver answers with its position.
    pub fn probe(&mut self, now: Duration) -> bool {
        let due = self.probe.as_mut().is_some_and(|timer| timer.fire(now));
        if due {
            self.probed = true;
            // Karn's algorithm: an acknowledgement that needed a probe measures the probe.
            self.timed = None;
        }
        due
    }

    fn measure(&mut self, sample: Duration) {
        self.round_trip = Some(match self.round_trip {
            None => RoundTrip { mean: sample, deviation: sample / 2 },
            Some(RoundTrip { mean, deviation }) => RoundTrip {
                mean: (mean * 7 + sample) / 8,
                deviation: (deviation * 3 + mean.abs_diff(sample)) / 4,
            },
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn no_more_than_a_window_is_in_flight() {
        let mut window = SendWindow::new(0, 100);
        assert_eq!(window.sendable(30), 30);
        window.advance(30, ms(0));
        assert_eq!(window.sendable(500), 70);
        window.advance(100, ms(0));
        assert_eq!(window.sendable(500), 0);
        assert!(window.is_behind(500));
        assert_eq!(window.ack(40, ms(10)), Acked::Progress);
        assert_eq!(window.sendable(500), 40);
    }

    #[test]
    fn data_sent_before_a_rewind_may_still_be_acknowledged() {
        let mut window = SendWindow::new(0, 100);
        window.advance(60, ms(0));
        window.ack(10, ms(5));
        window.rewind();
        assert_eq!((window.sent(), window.sendable(500)), (10, 100));
        assert_eq!(window.ack(60, ms(9)), Acked::Progress, "it had arrived");
        assert_eq!(window.sent(), 60);
    }

    #[test]
    fn acks_are_absolute_and_only_move_forward() {
        let mut window = SendWindow::new(0, 100);
        window.advance(50, ms(0));
        assert_eq!(window.ack(51, ms(0)), Acked::Nothing);
        assert_eq!(window.ack(50, ms(0)), Acked::Progress);
        assert_eq!(window.ack(20, ms(0)), Acked::Nothing);
        assert_eq!(window.acked(), 50);
    }

    #[test]
    fn a_stopped_sender_probes_after_one_second_then_two_up_to_thirty() {
        let mut window = SendWindow::new(0, 100);
        window.advance(100, ms(0));
        let mut now = ms(0);
        let mut waits = Vec::new();
        for _ in 0..7 {
            let due = window.probe_at(true, now).unwrap();
            waits.push(due.saturating_sub(now).as_secs());
            now = due;
            assert!(window.probe(now));
            assert!(!window.probe(now));
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30]);
        window.ack(50, now);
        assert_eq!(window.probe_at(true, now), Some(now + ms(1000)), "progress restarts the wait");
    }

    #[test]
    fn an_answer_below_what_was_sent_rewinds() {
        let mut window = SendWindow::new(0, 100);
        window.advance(100, ms(0));
        assert_eq!(window.ack(10, ms(0)), Acked::Progress, "without a probe, it is only late");
        window.probe_at(true, ms(0));
        assert!(window.probe(ms(1000)));
        assert_eq!(window.ack(10, ms(1001)), Acked::Rewound);
        assert_eq!(window.sent(), 10);
        assert_eq!(window.ack(10, ms(1002)), Acked::Nothing, "one answer rewinds once");
    }

    #[test]
    fn bytes_acknowledged_after_a_rewind_are_not_resent() {
        let mut window = SendWindow::new(0, 100);
        window.advance(100, ms(0));
        window.probe_at(true, ms(0));
        assert!(window.probe(ms(1000)));
        assert_eq!(window.ack(10, ms(1001)), Acked::Rewound);
        window.advance(30, ms(1001));
        assert_eq!(window.ack(101, ms(1002)), Acked::Nothing, "unsent bytes cannot be acknowledged");
        assert_eq!(window.ack(80, ms(1002)), Acked::Progress);
        assert_eq!((window.acked(), window.sent(), window.sendable(500)), (80, 80, 100));
        window.reset(0);
        assert_eq!(window.ack(80, ms(1003)), Acked::Nothing, "the receiver restarted");
    }

    #[test]
    fn a_snapshot_opens_a_window_of_its_own() {
        let mut window = SendWindow::new(0, 100);
        window.advance(100, ms(0));
        window.jump(5_000);
        assert_eq!(window.sendable(5_050), 50);
        assert_eq!(window.acked(), 0);
        assert_eq!(window.ack(5_000, ms(1)), Acked::Progress);
    }

    #[test]
    fn the_first_wait_adapts_to_slow_round_trips() {
        let mut window = SendWindow::new(0, 1000);
        window.advance(10, ms(0));
        window.ack(10, ms(2_000));
        window.advance(20, ms(2_000));
        assert_eq!(window.probe_at(true, ms(2_000)), Some(ms(2_000 + 4_000)));
    }
}
