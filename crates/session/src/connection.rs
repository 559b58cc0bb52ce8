//! A connection of a session: its identity, its position in the output, and the next frame to send.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use shellbridge_protocol::{
    frame::ServerFrame,
    ids::{ClientId, ConnectionId, UserId},
    limits::MAX_FRAME,
    payload::Payload,
    size::Size,
    stream::{OutputLog, SendWindow},
    times::{Epoch, UnixMs},
};

use crate::{
    effect::PushKind,
    snapshot::{FRAME_HEAD, Picture, Snapshot},
};

/// What a transport can carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutletLimits {
    /// Largest frame, bytes of JSON; values above [`MAX_FRAME`] mean [`MAX_FRAME`].
    pub max_frame: usize,
    /// Output frames in flight at once.
    pub in_flight: usize,
}

/// A connection's identity, as authenticated by its transport.
#[derive(Debug, Clone)]
pub struct ConnectionInfo {
    /// Its id.
    pub id: ConnectionId,
    /// Whether it is view-only.
    pub read_only: bool,
    /// The token's user.
    pub user: UserId,
    /// The token's `shellbridgeId`, if the backend minted the token.
    pub token_id: Option<Arc<str>>,
    /// When it was made, by the transport's clock. The newer of two connections holds a client.
    pub connected_at: UnixMs,
    /// Remaining validity of its token.
    pub token_lasts: Duration,
    /// What its transport can carry.
    pub limits: OutletLimits,
}

/// A connection as the session sees it.
pub(crate) struct Connection {
    pub(crate) info: ConnectionInfo,
    /// The highest `seq` received.
    pub(crate) seq: Option<u64>,
    /// The size of its terminal, as the client reported it.
    pub(crate) size: Option<Size>,
    pub(crate) attachment: Option<Attachment>,
    /// The client with which it attached last, even if it has detached since.
    pub(crate) client_id: Option<ClientId>,
    /// Output frames in flight.
    pub(crate) in_flight: usize,
    /// The size announced to it last, and whether that frame is in flight.
    pub(crate) announced_size: Option<Size>,
    pub(crate) size_in_flight: bool,
    /// It was told that the session expires soon.
    pub(crate) expiry_announced: bool,
    /// `seq` of its last `detach`.
    pub(crate) left: Option<u64>,
    /// When its last frame arrived, or it was last checked.
    pub(crate) heard: Duration,
    /// When its token expires.
    pub(crate) expires: Duration,
}

/// A connection's place in the byte streams.
pub(crate) struct Attachment {
    pub(crate) client_id: ClientId,
    pub(crate) window: SendWindow,
    /// The snapshot at the window's position, until it is acknowledged.
    pub(crate) snapshot: Option<Snapshot>,
    /// The input offset last acknowledged to the client.
    pub(crate) acked_input: u64,
    /// When to acknowledge input, unless output does so earlier.
    pub(crate) input_ack_at: Option<Duration>,
    /// `outputOffset` and `gap` of the answer to `attach`, for repetitions.
    pub(crate) answered: (u64, Option<u64>),
    /// Since when it has been a full window behind without an acknowledgement.
    pub(crate) behind_since: Option<Duration>,
    pub(crate) exit: ExitFrame,
}

/// Progress of the `exit` frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExitFrame {
    Unsent,
    InFlight,
    Delivered,
}

impl Connection {
    pub(crate) const fn new(info: ConnectionInfo, now: Duration) -> Self {
        let expires = now.saturating_add(info.token_lasts);
        Self {
            info,
            seq: None,
            size: None,
            attachment: None,
            client_id: None,
            in_flight: 0,
            announced_size: None,
            size_in_flight: false,
            expiry_announced: false,
            left: None,
            heard: now,
            expires,
        }
    }

    /// Whether both connections have the same token: the same id or, without one, the same user.
    pub(crate) fn has_token_of(&self, info: &ConnectionInfo) -> bool {
        match (&self.info.token_id, &info.token_id) {
            (None, None) => self.info.user == info.user,
            (mine, other) => mine == other,
        }
    }

    /// Whether `other` is newer than this connection and so takes over a client id.
    pub(crate) fn is_older_than(&self, other: &Self) -> bool {
        (self.info.connected_at, &self.info.id) < (other.info.connected_at, &other.info.id)
    }

    /// Records the outcome of a push: delivered, or unknown if `arrived` is false. Unknown ones are sent again.
    pub(crate) fn pushed(&mut self, kind: PushKind, arrived: bool) {
        match (kind, &mut self.attachment) {
            (PushKind::Size, _) if !arrived => self.announced_size = None,
            (PushKind::Output, Some(attachment)) if !arrived => attachment.rewind(),
            (PushKind::Exit, Some(attachment)) if attachment.exit == ExitFrame::InFlight => {
                attachment.exit = if arrived { ExitFrame::Delivered } else { ExitFrame::Unsent };
            }
            // Clients request the other frames again.
            _ => {}
        }
    }

    /// Notes a `seq`. Returns `false` if it is not above the last one, so that the frame must have no effect.
    pub(crate) fn note_seq(&mut self, seq: Option<u64>) -> bool {
        let Some(seq) = seq else { return true };
        let news = self.seq.is_none_or(|last| seq > last);
        if news {
            self.seq = Some(seq);
        }
        news
    }
}

impl Attachment {
    pub(crate) const fn new(client_id: ClientId, offset: u64, window: u64) -> Self {
        Self {
            client_id,
            window: SendWindow::new(offset, window),
            snapshot: None,
            acked_input: 0,
            input_ack_at: None,
            answered: (offset, None),
            behind_since: None,
            exit: ExitFrame::Unsent,
        }
    }

    /// If the next byte to send has been evicted, sends a snapshot instead.
    pub(crate) fn bridge_gap(&mut self, log: &OutputLog, picture: impl FnOnce() -> Arc<Picture>) {
        let needed = self.window.sent();
        if log.lost(needed) == 0 {
            // An older snapshot is obsolete if output continues below it.
            if self.snapshot.as_ref().is_some_and(|snapshot| needed < snapshot.offset()) {
                self.snapshot = None;
            }
            return;
        }
        // The client does not have a snapshot that it has not acknowledged.
        let has = if self.snapshot.is_some() { self.window.acked() } else { needed };
        let snapshot = match self.snapshot.take() {
            // The same snapshot serves again, since the output after it has not been evicted.
            Some(snapshot) if snapshot.offset() > needed && log.lost(snapshot.offset()) == 0 => {
                snapshot.again()
            }
            _ => Snapshot::new(picture(), log.end() - has),
        };
        self.window.jump(snapshot.offset());
        self.snapshot = Some(snapshot);
    }

    /// The next output frame, if one should be sent now. `input`: the client's input offset, which the frame may acknowledge.
    ///
    /// The first bytes after a pause are sent at once. While a push is in flight, further bytes are gathered into a full
    /// frame.
    pub(crate) fn next_frame(
        &mut self,
        in_flight: usize,
        limits: OutletLimits,
        log: &OutputLog,
        epoch: Epoch,
        input: Option<u64>,
        now: Duration,
    ) -> Option<Bytes> {
        if in_flight >= limits.in_flight {
            return None;
        }
        if let Some(snapshot) = self.snapshot.as_mut().filter(|snapshot| !snapshot.is_sent()) {
            // `None` until it is painted; output follows it.
            return snapshot.next(epoch);
        }
        let budget = limits.max_frame.min(MAX_FRAME).saturating_sub(FRAME_HEAD);
        let sendable = usize::try_from(self.window.sendable(log.end())).unwrap_or(usize::MAX);
        // Acknowledged output has arrived, even if its push has not completed.
        let under_way = in_flight > 0 && self.window.acked() < self.window.sent();
        if sendable == 0 || (under_way && sendable < budget) {
            return None;
        }
        let offset = self.window.sent();
        let bytes = log.read(offset, sendable.min(budget))?;
        let cut = Payload::fit(&bytes, budget);
        let frame = ServerFrame::Output {
            epoch,
            offset,
            payload: Payload::new(bytes.get(..cut)?),
            input_offset: self.input_ack(input),
        };
        self.window.advance(offset + cut as u64, now);
        Some(frame.to_json())
    }

    /// A probe: an empty frame, to which the client responds with its position.
    pub(crate) fn probe(&mut self, epoch: Epoch, input: Option<u64>) -> Bytes {
        let input_offset = self.input_ack(input);
        let payload = Payload::new(b"");
        ServerFrame::Output { epoch, offset: self.window.sent(), payload, input_offset }.to_json()
    }

    /// Records whether the client is a full window behind output that ends at `end`. Returns when the shell stops waiting
    /// for it, if it is waiting.
    pub(crate) fn lost_at(&mut self, end: u64, grace: Duration, now: Duration) -> Option<Duration> {
        if !self.window.is_behind(end) {
            self.behind_since = None;
            return None;
        }
        let at = *self.behind_since.get_or_insert(now) + grace;
        (now < at).then_some(at)
    }

    /// Sends unacknowledged output again, because the outcome of its pushes is unknown.
    pub(crate) fn rewind(&mut self) {
        self.window.rewind();
        self.rewound();
    }

    /// Resumes from what the client has: repeats a missing snapshot or output, and all that follows it.
    pub(crate) fn rewound(&mut self) {
        if self.exit == ExitFrame::Delivered {
            self.exit = ExitFrame::Unsent;
        }
        let acked = self.window.acked();
        if let Some(snapshot) = self.snapshot.take()
            && acked < snapshot.offset()
        {
            self.window.jump(snapshot.offset());
            self.snapshot = Some(snapshot.again());
        }
    }

    /// Drops a snapshot that has arrived.
    pub(crate) fn acknowledged(&mut self) {
        if self.snapshot.as_ref().is_some_and(|snapshot| self.window.acked() >= snapshot.offset()) {
            self.snapshot = None;
        }
    }

    /// The input offset to acknowledge, unless it has been already.
    fn input_ack(&mut self, input: Option<u64>) -> Option<u64> {
        let input = input.filter(|input| *input > self.acked_input)?;
        self.acked_input = input;
        self.input_ack_at = None;
        Some(input)
    }
}
