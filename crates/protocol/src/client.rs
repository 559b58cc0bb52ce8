//! State machine of the client's side of the two byte streams: the reference for other clients, and the client of tests
//! and benchmarks. It consumes frames and time, produces frames, and does no I/O.
//!
//! It keeps the rules of the browser library (`crates/web/src/client`), except that it has no terminal: bytes count as
//! written on arrival. Its caller decides when to ping, to resize and to gather keys. It measures no round trip.

mod input;
mod output;

use std::time::Duration;

use crate::{
    ErrorCode,
    frame::{ClientFrame, ErrorFrame, NoticeCode, ServerFrame},
    ids::ClientId,
    size::Size,
    times::Epoch,
};

use self::{
    input::Input,
    output::{Output, Part, Verdict},
};

/// Wait before `attach` is repeated, until `attached` arrives.
const ATTACH_AGAIN: Duration = Duration::from_secs(2);

/// One client over all of its connections.
#[derive(Debug)]
pub struct Client {
    id: ClientId,
    size: Size,
    link: Link,
    /// When `attach` is due, while `attached` has not arrived. Input waits for that.
    attach_at: Option<Duration>,
    /// `attached` has arrived on this connection.
    joined: bool,
    /// Counter of this connection's `attach` frames.
    seq: u64,
    output: Output,
    input: Input,
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
    Up,
    /// A newer connection of this client took over.
    Replaced,
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
        /// Size of the screen.
        size: Size,
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
            size: Size { cols, rows },
            link: Link::Down,
            attach_at: None,
            joined: false,
            seq: 0,
            output: Output::default(),
            input: Input::default(),
            counts: Counts::default(),
        }
    }

    /// Reports a new connection; the client will attach.
    pub fn connected(&mut self, now: Duration) {
        if self.link == Link::Replaced {
            return;
        }
        self.link = Link::Up;
        (self.seq, self.joined) = (0, false);
        self.output.connected();
        self.input.connected();
        self.attach_at = Some(now);
    }

    /// Attaches under a new id, whose input stream starts at 0, and resends unacknowledged input there.
    pub fn rename(&mut self, id: impl Into<ClientId>, now: Duration) {
        self.id = id.into();
        self.input.restart();
        self.attach(now);
    }

    /// Reports that the connection has closed.
    pub fn disconnected(&mut self) {
        if self.link != Link::Replaced {
            self.link = Link::Down;
        }
        (self.attach_at, self.joined) = (None, false);
    }

    /// Whether the client is attached.
    pub fn is_attached(&self) -> bool {
        self.link == Link::Up && self.joined && self.attach_at.is_none()
    }

    /// Queues bytes for the shell.
    pub fn write(&mut self, bytes: &[u8]) {
        self.input.push(bytes);
    }

    /// Number of typed bytes not yet acknowledged.
    pub fn unacknowledged(&self) -> usize {
        self.input.pending()
    }

    /// Takes the output that is ready, in order, each byte once.
    pub fn take_output(&mut self) -> Vec<u8> {
        self.output.take()
    }

    /// Offset of the first output byte that has not arrived.
    pub fn output_offset(&self) -> u64 {
        self.output.next()
    }

    /// Handles a frame.
    pub fn receive(&mut self, frame: ServerFrame, now: Duration) -> Event {
        if self.link == Link::Replaced {
            return Event::Nothing;
        }
        match frame {
            ServerFrame::Attached { epoch, input_offset, .. } => self.attached(epoch, input_offset, now),
            ServerFrame::Output { epoch, offset, payload, input_offset } => {
                let Ok(bytes) = payload.decode() else { return Event::Nothing };
                if !self.enter(epoch) {
                    return Event::Nothing;
                }
                if let Some(offset) = input_offset {
                    self.input.acknowledge(offset, now);
                }
                let repeat = self.output.receive(offset, &bytes, now) && !bytes.is_empty();
                self.counts.repeats += u64::from(repeat);
                Event::Output
            }
            ServerFrame::Snapshot { epoch, offset, part, parts, cols, rows, gap, payload } => {
                let Ok(bytes) = payload.decode() else { return Event::Nothing };
                if !self.enter(epoch) {
                    return Event::Nothing;
                }
                let part = Part { offset, gap, size: Size { cols, rows }, index: part, count: parts, bytes };
                match self.output.receive_part(part, now) {
                    Verdict::Incomplete => Event::Nothing,
                    Verdict::Complete { gap, size, bytes } => {
                        self.counts.snapshots += 1;
                        Event::Snapshot { gap, size, bytes }
                    }
                }
            }
            ServerFrame::InputAck { epoch, client_id, input_offset } => {
                if self.output.epoch() == Some(epoch) && client_id == self.id {
                    self.input.acknowledge(input_offset, now);
                }
                Event::Nothing
            }
            ServerFrame::Exit { epoch, offset, .. } => {
                if self.enter(epoch) {
                    self.output.ends_at(offset, now);
                }
                Event::Output
            }
            ServerFrame::Notice { code: NoticeCode::ShellRestarted, .. } => {
                self.detached(now);
                Event::Restarted
            }
            ServerFrame::Error(error) => self.failed(error, now),
            other => Event::Other(other),
        }
    }

    /// The next frame to send now, if any.
    pub fn poll(&mut self, now: Duration) -> Option<ClientFrame> {
        if self.link != Link::Up {
            return None;
        }
        if self.joined && self.output.hole_is_overdue(now) {
            self.attach(now);
        }
        if self.attach_at.is_some_and(|due| due <= now) {
            self.attach_at = Some(now + ATTACH_AGAIN);
            self.counts.attaches += 1;
            // A repetition has a higher `seq`, because it may request a later offset.
            self.seq += 1;
            return Some(ClientFrame::Attach {
                client_id: self.id.clone(),
                cols: self.size.cols,
                rows: self.size.rows,
                output_offset: self.output.position(),
                epoch: self.output.epoch(),
                seq: Some(self.seq),
            });
        }
        if self.is_attached() {
            self.counts.retransmissions += u64::from(self.input.resend_if_due(now));
            if let Some((offset, payload)) = self.input.next_frame(now) {
                return Some(ClientFrame::Input {
                    client_id: self.id.clone(),
                    offset,
                    payload,
                    epoch: self.output.epoch(),
                    output_offset: self.output.acknowledge(now),
                });
            }
        }
        if self.joined && self.output.ack_is_due(now) {
            let output_offset = self.output.acknowledge(now)?;
            return Some(ClientFrame::Ack { output_offset, epoch: self.output.epoch() });
        }
        None
    }

    /// When to call [`Client::poll`] again if nothing else happens.
    pub fn deadline(&self) -> Option<Duration> {
        if self.link != Link::Up {
            return None;
        }
        let resend = self.input.deadline().filter(|_| self.is_attached());
        let output = self.output.deadline().filter(|_| self.joined);
        [self.attach_at, resend, output].into_iter().flatten().min()
    }

    fn attach(&mut self, now: Duration) {
        if self.link == Link::Up {
            self.attach_at = Some(now);
        }
    }

    /// The backend took this connection out of the streams. An `attach` under way puts it back.
    fn detached(&mut self, now: Duration) {
        if self.is_attached() {
            self.attach(now);
        }
    }

    /// Notes the shell that a frame names. Returns `false` for a shell older than the current one.
    fn enter(&mut self, epoch: Epoch) -> bool {
        if self.output.epoch() > Some(epoch) {
            return false;
        }
        if self.output.enter(epoch) {
            // A new shell must not receive input typed for the old one.
            self.input.discard();
        }
        true
    }

    fn attached(&mut self, epoch: Epoch, input_offset: u64, now: Duration) -> Event {
        if self.attach_at.is_none() || !self.enter(epoch) {
            return Event::Nothing;
        }
        (self.attach_at, self.joined) = (None, true);
        if self.input.resume(input_offset, now) { Event::Attached } else { self.forgotten() }
    }

    /// Stays off the streams until [`Client::rename`].
    fn forgotten(&mut self) -> Event {
        self.joined = false;
        Event::Forgotten
    }

    fn failed(&mut self, error: ErrorFrame, now: Duration) -> Event {
        match error.code {
            ErrorCode::Replaced => {
                self.link = Link::Replaced;
                return Event::Replaced;
            }
            ErrorCode::NotAttached => self.detached(now),
            ErrorCode::InputGap => self.input.gap(error.input_offset, now),
            _ => {}
        }
        Event::Other(error.into())
    }
}

#[cfg(test)]
mod tests;
