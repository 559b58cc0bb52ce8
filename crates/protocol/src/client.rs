//! State machine of the client's side of the two byte streams: the reference for other clients, and the client of tests
//! and benchmarks. It consumes frames and time, produces frames, and does no I/O.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use crate::{
    ErrorCode,
    backoff::{Backoff, BackoffTimer},
    frame::{ClientFrame, ErrorFrame, Exit, NoticeCode, ServerFrame},
    ids::ClientId,
    limits::{INPUT_RETRY, INPUT_WINDOW, OUTPUT_ACK_EVERY, OUTPUT_ACK_WITHIN, OUTPUT_WINDOW},
    payload::Payload,
    stream::{Arrival, Reassembler},
    times::Epoch,
};

/// Wait before `attach` is repeated, until `attached` arrives.
const ATTACH_AGAIN: Duration = Duration::from_secs(2);
/// Wait before output is acknowledged. Input sent in the meantime carries the acknowledgement, because every frame is
/// billed. The rest of [`OUTPUT_ACK_WITHIN`] allows for a late timer.
const ACK_AFTER: Duration = OUTPUT_ACK_WITHIN.saturating_sub(Duration::from_millis(10));
/// Waits before input is resent.
const RETRY: Backoff = Backoff::new(INPUT_RETRY, Duration::from_secs(8));
/// Bytes of one `input` frame. Even control characters alone, six bytes each in JSON, fit.
const INPUT_CHUNK: usize = 5_000;
/// Output held beyond the acknowledged offset: one window, and another for bytes sent twice.
const HELD: usize = OUTPUT_WINDOW * 2;

/// One client over all of its connections.
#[derive(Debug)]
pub struct Client {
    id: ClientId,
    cols: u16,
    rows: u16,
    epoch: Option<Epoch>,
    link: Link,
    /// Counter of this connection's distinct `attach` requests.
    seq: u64,
    output: Reassembler,
    snapshot: Option<Parts>,
    acked_output: u64,
    ack_at: Option<Duration>,
    /// Typed but not acknowledged; the first byte is at `acked_input`.
    input: VecDeque<u8>,
    acked_input: u64,
    sent_input: u64,
    retry: Option<BackoffTimer>,
    exit: Option<(u64, Exit)>,
    /// Recovery events, for tests and benchmarks.
    pub counts: Counts,
}

/// Counters that stay 0 on an undisturbed connection, except `attaches`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Output frames without new bytes.
    pub repeats: u64,
    /// Input frames resent.
    pub retransmissions: u64,
    /// Snapshots received in place of output.
    pub snapshots: u64,
    /// `attach` frames sent.
    pub attaches: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    Down,
    /// `attach` is due at this time.
    Attaching(Duration),
    Attached,
    /// A newer connection of this client took over.
    Replaced,
}

#[derive(Debug)]
struct Parts {
    offset: u64,
    gap: u64,
    size: (u16, u16),
    count: u32,
    have: BTreeMap<u32, Vec<u8>>,
}

/// What a frame means to the user of a client.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// [`Client::take_output`] may have more.
    Output,
    /// Reset the terminal and write these bytes; `gap` output bytes are lost.
    Snapshot {
        /// Output bytes that it replaces.
        gap: u64,
        /// Columns of the screen.
        cols: u16,
        /// Rows of the screen.
        rows: u16,
        /// What to write.
        bytes: Vec<u8>,
    },
    /// The client is attached.
    Attached,
    /// A new shell runs; the client attaches to it.
    Restarted,
    /// A newer connection took over; this client stops.
    Replaced,
    /// The backend has forgotten this client, which must take a new id with [`Client::rename`].
    Forgotten,
    /// A frame that does not concern the streams.
    Other(ServerFrame),
    /// Nothing to report.
    Nothing,
}

impl Client {
    /// A disconnected client at offset 0. `id`: 16–64 of `[A-Za-z0-9_-]`.
    pub fn new(id: impl Into<ClientId>, cols: u16, rows: u16) -> Self {
        Self {
            id: id.into(),
            cols,
            rows,
            epoch: None,
            link: Link::Down,
            seq: 0,
            output: Reassembler::new(HELD),
            snapshot: None,
            acked_output: 0,
            ack_at: None,
            input: VecDeque::new(),
            acked_input: 0,
            sent_input: 0,
            retry: None,
            exit: None,
            counts: Counts::default(),
        }
    }

    /// Reports a new connection; the client will attach.
    pub fn connected(&mut self, now: Duration) {
        if self.link != Link::Replaced {
            self.seq = 0;
            // Its missing parts may belong to a newer screen.
            self.snapshot = None;
            self.attach(now);
        }
    }

    /// Attaches under a new id, whose input stream starts at 0, and resends unacknowledged input there.
    pub fn rename(&mut self, id: impl Into<ClientId>, now: Duration) {
        self.id = id.into();
        (self.acked_input, self.sent_input, self.retry) = (0, 0, None);
        self.attach(now);
    }

    /// Reports that the connection is gone.
    pub fn disconnected(&mut self) {
        if self.link != Link::Replaced {
            self.link = Link::Down;
        }
        self.ack_at = None;
        self.retry = None;
    }

    /// Whether the client is attached.
    pub fn is_attached(&self) -> bool {
        self.link == Link::Attached
    }

    /// Queues bytes for the shell.
    pub fn write(&mut self, bytes: &[u8]) {
        self.input.extend(bytes);
    }

    /// Number of typed bytes not yet acknowledged.
    pub fn unacknowledged(&self) -> usize {
        self.input.len()
    }

    /// Takes the output that is ready, in order, each byte once.
    pub fn take_output(&mut self) -> Vec<u8> {
        let (a, b) = self.output.ready();
        let bytes = [a, b].concat();
        self.output.consume(bytes.len());
        bytes
    }

    /// Offset of the first output byte that has not arrived.
    pub fn output_offset(&self) -> u64 {
        self.output.next()
    }

    /// How the shell ended, once all its output has arrived.
    pub fn exit(&self) -> Option<&Exit> {
        self.exit.as_ref().filter(|(offset, _)| self.output.next() >= *offset).map(|(_, exit)| exit)
    }

    /// Handles a frame.
    pub fn receive(&mut self, frame: ServerFrame, now: Duration) -> Event {
        match frame {
            ServerFrame::Attached { epoch, input_offset, output_offset, gap, exit, .. } => {
                self.attached(epoch, input_offset, output_offset, gap, exit, now)
            }
            ServerFrame::Output { epoch, offset, payload, input_offset } => {
                if !self.is_current(epoch) {
                    return Event::Nothing;
                }
                if let Some(offset) = input_offset {
                    self.acknowledged(offset, now);
                }
                let Ok(bytes) = payload.decode() else { return Event::Nothing };
                let arrival = self.output.push(offset, &bytes);
                if arrival == Arrival::Repeat || bytes.is_empty() {
                    self.counts.repeats += u64::from(!bytes.is_empty());
                    self.ack_at = Some(now);
                } else {
                    self.want_ack(now);
                }
                Event::Output
            }
            ServerFrame::Snapshot { epoch, offset, part, parts, cols, rows, gap, payload } => {
                let Ok(bytes) = payload.decode() else { return Event::Nothing };
                if !self.is_current(epoch) {
                    return Event::Nothing;
                }
                self.part(offset, gap, (cols, rows), (part, parts), bytes, now)
            }
            ServerFrame::InputAck { epoch, client_id, input_offset } => {
                if self.is_current(epoch) && client_id == self.id {
                    self.acknowledged(input_offset, now);
                }
                Event::Nothing
            }
            ServerFrame::Exit { epoch, offset, exit } => {
                if self.is_current(epoch) {
                    self.exit = Some((offset, exit));
                    self.ack_at = Some(now);
                }
                Event::Output
            }
            ServerFrame::Notice { code: NoticeCode::ShellRestarted, .. } => {
                self.attach(now);
                Event::Restarted
            }
            ServerFrame::Error(error) => self.failed(error, now),
            other => Event::Other(other),
        }
    }

    /// The next frame to send now, if any.
    pub fn poll(&mut self, now: Duration) -> Option<ClientFrame> {
        match self.link {
            Link::Attaching(due) if due <= now => {
                self.link = Link::Attaching(now + ATTACH_AGAIN);
                self.counts.attaches += 1;
                return Some(ClientFrame::Attach {
                    client_id: self.id.clone(),
                    cols: self.cols,
                    rows: self.rows,
                    output_offset: Some(self.output.next()),
                    epoch: self.epoch,
                    // Repetitions share `seq`, so a late one has no effect.
                    seq: Some(self.seq),
                });
            }
            Link::Attached => {}
            _ => return None,
        }
        if self.retry.as_mut().is_some_and(|timer| timer.fire(now)) {
            self.sent_input = self.acked_input;
            self.counts.retransmissions += 1;
        }
        if let Some(frame) = self.next_input(now) {
            return Some(frame);
        }
        if self.ack_at.is_some_and(|due| due <= now) {
            return Some(ClientFrame::Ack { output_offset: self.note_ack(), epoch: self.epoch });
        }
        None
    }

    /// When to call [`Client::poll`] again if nothing else happens.
    pub fn deadline(&self) -> Option<Duration> {
        match self.link {
            Link::Attaching(due) => Some(due),
            Link::Attached => {
                [self.retry.as_ref().map(BackoffTimer::due), self.ack_at].into_iter().flatten().min()
            }
            _ => None,
        }
    }

    fn attach(&mut self, now: Duration) {
        self.link = Link::Attaching(now);
        self.seq += 1;
    }

    fn is_current(&mut self, epoch: Epoch) -> bool {
        // Output may arrive before `attached`; it names the shell then.
        *self.epoch.get_or_insert(epoch) == epoch && self.link != Link::Replaced
    }

    fn attached(
        &mut self,
        epoch: Epoch,
        input_offset: u64,
        output_offset: u64,
        gap: Option<u64>,
        exit: Option<Exit>,
        now: Duration,
    ) -> Event {
        if !matches!(self.link, Link::Attaching(_)) {
            return Event::Nothing;
        }
        if self.epoch.is_some_and(|known| known != epoch) {
            // A new shell must not receive input typed for the old one.
            self.output = Reassembler::starting_at(0, HELD);
            self.acked_output = 0;
            self.snapshot = None;
            self.exit = None;
            self.input.clear();
            self.acked_input = input_offset;
        }
        self.epoch = Some(epoch);
        if input_offset < self.acked_input {
            self.link = Link::Down;
            return Event::Forgotten;
        }
        self.link = Link::Attached;
        if let Some(exit) = exit {
            let end = self.exit.take().map_or(u64::MAX, |(end, _)| end);
            self.exit = Some((end, exit));
        }
        if gap.is_none() && output_offset < self.output.next() {
            self.counts.repeats += 1;
        }
        self.acknowledged(input_offset, now);
        // Input in flight may be lost with the old connection.
        self.sent_input = self.acked_input;
        Event::Attached
    }

    fn part(
        &mut self,
        offset: u64,
        gap: u64,
        size: (u16, u16),
        (part, parts): (u32, u32),
        bytes: Vec<u8>,
        now: Duration,
    ) -> Event {
        if offset <= self.output.next() {
            // Outdated: everything it shows has arrived since.
            self.ack_at = Some(now);
            return Event::Nothing;
        }
        if self.snapshot.as_ref().is_none_or(|have| have.offset < offset) {
            self.snapshot = Some(Parts { offset, gap, size, count: parts, have: BTreeMap::new() });
        }
        let Some(have) = self.snapshot.as_mut().filter(|have| have.offset == offset) else {
            return Event::Nothing;
        };
        have.have.insert(part, bytes);
        if have.have.len() < have.count as usize {
            return Event::Nothing;
        }
        let Some(whole) = self.snapshot.take() else { return Event::Nothing };
        self.output.jump(offset);
        self.counts.snapshots += 1;
        self.ack_at = Some(now);
        let bytes = whole.have.into_values().flatten().collect();
        Event::Snapshot { gap: whole.gap, cols: whole.size.0, rows: whole.size.1, bytes }
    }

    fn failed(&mut self, error: ErrorFrame, now: Duration) -> Event {
        match error.code {
            ErrorCode::Replaced => {
                self.link = Link::Replaced;
                return Event::Replaced;
            }
            ErrorCode::NotAttached if self.link == Link::Attached => self.attach(now),
            ErrorCode::InputGap => {
                if let Some(offset) = error.input_offset {
                    self.acknowledged(offset, now);
                }
                self.sent_input = self.acked_input;
            }
            _ => {}
        }
        Event::Other(error.into())
    }

    /// Handles an acknowledgement of input before `offset`.
    fn acknowledged(&mut self, offset: u64, now: Duration) {
        let end = self.acked_input + self.input.len() as u64;
        if offset <= self.acked_input || offset > end {
            return;
        }
        let count = usize::try_from(offset - self.acked_input).unwrap_or(usize::MAX).min(self.input.len());
        self.input.drain(..count);
        self.acked_input = offset;
        self.sent_input = self.sent_input.max(offset);
        self.retry = (!self.input.is_empty()).then(|| BackoffTimer::new(RETRY, now));
    }

    fn next_input(&mut self, now: Duration) -> Option<ClientFrame> {
        let from = usize::try_from(self.sent_input - self.acked_input).ok()?;
        let bytes: Vec<u8> =
            self.input.iter().copied().take(INPUT_WINDOW).skip(from).take(INPUT_CHUNK).collect();
        if bytes.is_empty() {
            return None;
        }
        let offset = self.sent_input;
        self.sent_input += bytes.len() as u64;
        self.retry.get_or_insert(BackoffTimer::new(RETRY, now));
        let output_offset = self.ack_at.is_some().then(|| self.note_ack());
        Some(ClientFrame::Input {
            client_id: self.id.clone(),
            offset,
            payload: Payload::new(&bytes),
            epoch: self.epoch,
            output_offset,
        })
    }

    fn want_ack(&mut self, now: Duration) {
        let unacknowledged = self.output.next() - self.acked_output;
        if unacknowledged >= OUTPUT_ACK_EVERY as u64 {
            self.ack_at = Some(now);
        } else if unacknowledged > 0 {
            self.ack_at.get_or_insert(now + ACK_AFTER);
        }
    }

    fn note_ack(&mut self) -> u64 {
        self.ack_at = None;
        self.acked_output = self.output.next();
        self.acked_output
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1);

    fn attached(epoch: u64, input_offset: u64) -> ServerFrame {
        let (cols, rows) = (80, 24);
        ServerFrame::Attached {
            epoch: Epoch(epoch),
            output_offset: 0,
            input_offset,
            cols,
            rows,
            read_only: false,
            gap: None,
            exit: None,
        }
    }

    fn attach(client: &mut Client, epoch: u64, input_offset: u64) -> Event {
        client.connected(NOW);
        assert!(matches!(client.poll(NOW), Some(ClientFrame::Attach { .. })));
        client.receive(attached(epoch, input_offset), NOW)
    }

    #[test]
    fn a_forgotten_client_continues_under_a_new_id() {
        let mut client = Client::new("client-0123456789", 80, 24);
        attach(&mut client, 1, 0);
        client.write(b"abc");
        assert!(matches!(client.poll(NOW), Some(ClientFrame::Input { offset: 0, .. })));
        let ack =
            ServerFrame::InputAck { epoch: Epoch(1), client_id: "client-0123456789".into(), input_offset: 2 };
        client.receive(ack, NOW);
        client.disconnected();
        assert_eq!(attach(&mut client, 1, 0), Event::Forgotten);
        client.rename("client-9876543210", NOW);
        assert!(matches!(client.poll(NOW), Some(ClientFrame::Attach { .. })));
        assert_eq!(client.receive(attached(1, 0), NOW), Event::Attached);
        let Some(ClientFrame::Input { client_id, offset: 0, payload, .. }) = client.poll(NOW) else {
            panic!("no input")
        };
        assert_eq!((client_id.as_str(), payload.data.as_deref()), ("client-9876543210", Some("c")));
    }

    #[test]
    fn output_of_a_shell_replaced_before_attached_is_dropped() {
        let mut client = Client::new("client-0123456789", 80, 24);
        client.connected(NOW);
        client.poll(NOW);
        let early = ServerFrame::Output {
            epoch: Epoch(1),
            offset: 0,
            payload: Payload::new(b"old"),
            input_offset: None,
        };
        client.receive(early, NOW);
        assert_eq!(client.take_output(), b"old");
        client.receive(attached(2, 0), NOW);
        assert_eq!(client.output_offset(), 0);
    }
}
