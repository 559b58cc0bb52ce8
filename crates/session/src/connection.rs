//! One connection of a session: who it is, where it is in the output, and which frame goes out next.

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

use crate::snapshot::{FRAME_HEAD, Picture, Snapshot};

/// What a transport can carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutletLimits {
    /// Largest frame, bytes of JSON; at most [`MAX_FRAME`] count.
    pub max_frame: usize,
    /// Output frames in flight at once.
    pub in_flight: usize,
}

/// Who a connection is, as its transport vouches for it.
#[derive(Debug, Clone)]
pub struct ConnectionInfo {
    /// Its name.
    pub id: ConnectionId,
    /// It may only watch.
    pub read_only: bool,
    /// The token's user.
    pub user: UserId,
    /// The token's `shellbridgeId`, if it was minted by the backend.
    pub token_id: Option<Arc<str>>,
    /// When it was made, by the transport's clock: the newer of two connections holds a client.
    pub connected_at: UnixMs,
    /// How much longer its token is valid.
    pub token_lasts: Duration,
    /// What its transport can carry.
    pub limits: OutletLimits,
}

/// A connection as the session sees it.
pub(crate) struct Connection {
    pub(crate) info: ConnectionInfo,
    /// The newest `seq` seen.
    pub(crate) seq: Option<u64>,
    /// What it said its terminal is.
    pub(crate) size: Option<Size>,
    pub(crate) attachment: Option<Attachment>,
    /// The client that it attached as last, still or not.
    pub(crate) client_id: Option<ClientId>,
    /// Output frames under way.
    pub(crate) in_flight: usize,
    /// The size it was told last, unasked, and whether that is under way.
    pub(crate) told_size: Option<Size>,
    pub(crate) size_in_flight: bool,
    /// It knows that the session's time is nearly over.
    pub(crate) told_expiry: bool,
    /// The newest `seq` by which it left the streams.
    pub(crate) left: Option<u64>,
    /// When its last frame came, or it was last seen to exist.
    pub(crate) heard: Duration,
    /// When its token ends.
    pub(crate) expires: Duration,
}

/// A connection's place in the byte streams.
pub(crate) struct Attachment {
    pub(crate) client_id: ClientId,
    pub(crate) window: SendWindow,
    /// Parts still to be sent of the snapshot that the window stands at.
    pub(crate) snapshot: Option<Snapshot>,
    /// The input offset it was told last.
    pub(crate) told_input: u64,
    /// When input is acknowledged, if no output does it before.
    pub(crate) input_ack_at: Option<Duration>,
    /// What `attach` was answered, for its repetitions.
    pub(crate) answered: (u64, Option<u64>),
    /// Since when it is a window behind, without an acknowledgement.
    pub(crate) behind_since: Option<Duration>,
    pub(crate) exit: ExitFrame,
}

/// How far the news of the shell's end has got.
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
            told_size: None,
            size_in_flight: false,
            told_expiry: false,
            left: None,
            heard: now,
            expires,
        }
    }

    /// Whether a token is the one it was let in by: the same id, or the same user where it has none.
    pub(crate) fn has_token_of(&self, info: &ConnectionInfo) -> bool {
        match (&self.info.token_id, &info.token_id) {
            (None, None) => self.info.user == info.user,
            (mine, other) => mine == other,
        }
    }

    /// Whether `other` came after this connection, so that it takes over a client id.
    pub(crate) fn is_older_than(&self, other: &Self) -> bool {
        (self.info.connected_at, &self.info.id) < (other.info.connected_at, &other.info.id)
    }

    /// Notes a `seq`; false if it is not above the last seen, so that the frame has no effect.
    pub(crate) fn is_news(&mut self, seq: Option<u64>) -> bool {
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
            told_input: 0,
            input_ack_at: None,
            answered: (offset, None),
            behind_since: None,
            exit: ExitFrame::Unsent,
        }
    }

    /// Puts a snapshot in place of what is gone, if the next byte to send is.
    pub(crate) fn bridge_gap(&mut self, log: &OutputLog, picture: impl FnOnce() -> Arc<Picture>) {
        let needed = self.window.sent();
        if log.lost(needed) == 0 {
            // A picture of before is not needed by one who goes on where it has been.
            if self.snapshot.as_ref().is_some_and(|snapshot| needed < snapshot.offset()) {
                self.snapshot = None;
            }
            return;
        }
        // A picture that never arrived is no part of what the client has.
        let has = if self.snapshot.is_some() { self.window.acked() } else { needed };
        let snapshot = match self.snapshot.take() {
            // Its bytes were asked for again, and what follows it is still there.
            Some(snapshot) if snapshot.offset() > needed && log.lost(snapshot.offset()) == 0 => {
                snapshot.again()
            }
            _ => Snapshot::new(picture(), log.end() - has),
        };
        self.window.jump(snapshot.offset());
        self.snapshot = Some(snapshot);
    }

    /// The next output frame, if one should go now. `input`: the client's input offset, to ride along.
    ///
    /// The first bytes after a quiet moment leave at once; while a push is under way, what comes meanwhile is
    /// gathered into a whole frame.
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
            // None is for now: it is still to be painted, and what follows it goes after it.
            return snapshot.next(epoch);
        }
        let budget = limits.max_frame.min(MAX_FRAME).saturating_sub(FRAME_HEAD);
        let sendable = usize::try_from(self.window.sendable(log.end())).unwrap_or(usize::MAX);
        // What is acknowledged has arrived, whether or not its push has come back.
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
            input_offset: self.news_of_input(input),
        };
        self.window.advance(offset + cut as u64, now);
        Some(frame.to_json())
    }

    /// An empty frame, which the client answers with what it has.
    pub(crate) fn probe(&mut self, epoch: Epoch, input: Option<u64>) -> Bytes {
        let input_offset = self.news_of_input(input);
        let payload = Payload::new(b"");
        ServerFrame::Output { epoch, offset: self.window.sent(), payload, input_offset }.to_json()
    }

    /// Goes back to what the client has: the snapshot it lacks, or the output.
    pub(crate) fn rewound(&mut self) {
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

    /// The offset to tell, if it is not told already.
    fn news_of_input(&mut self, input: Option<u64>) -> Option<u64> {
        let input = input.filter(|input| *input > self.told_input)?;
        self.told_input = input;
        self.input_ack_at = None;
        Some(input)
    }
}
