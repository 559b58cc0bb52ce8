//! Pictures of the screen for clients whose output is gone: made once for all that are behind, sent to each.

use std::{
    collections::VecDeque,
    sync::{Arc, Weak},
};

use bytes::Bytes;
use shellbridge_protocol::{frame::ServerFrame, payload::Payload, size::Size, stream::OutputLog};

use crate::{connection::PAYLOAD_BUDGET, screen::Screen};

/// The screen as it stood at one offset of the output, cut into what frames hold.
#[derive(Debug)]
pub(crate) struct Picture {
    offset: u64,
    size: Size,
    parts: Vec<Payload>,
}

/// A picture on its way to one client, kept until it is acknowledged: the same bytes for the same offset.
#[derive(Debug)]
pub(crate) struct Snapshot {
    picture: Arc<Picture>,
    /// Bytes of output that it stands for and that this client does not have.
    gap: u64,
    unsent: VecDeque<u32>,
}

impl Picture {
    /// The picture at the end of `log`, the newest if that is it: any number of viewers may be behind, and each must not cost a
    /// whole screen of time and memory. `newest` must be emptied when the screen changes otherwise than by output.
    pub(crate) fn shared(
        newest: &mut Weak<Self>,
        screen: &mut Screen,
        log: &OutputLog,
        size: Size,
    ) -> Arc<Self> {
        let end = log.end();
        if let Some(picture) = newest.upgrade().filter(|picture| picture.offset == end) {
            return picture;
        }
        screen.catch_up(log);
        let bytes = screen.snapshot();
        let mut rest = bytes.as_slice();
        let mut parts = Vec::new();
        loop {
            let (part, after) = rest.split_at(Payload::fit(rest, PAYLOAD_BUDGET));
            parts.push(Payload::new(part));
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
        let picture = Arc::new(Self { offset: end, size, parts });
        *newest = Arc::downgrade(&picture);
        picture
    }

    fn count(&self) -> u32 {
        u32::try_from(self.parts.len()).unwrap_or(u32::MAX)
    }
}

impl Snapshot {
    pub(crate) fn new(picture: Arc<Picture>, gap: u64) -> Self {
        let unsent = (0..picture.count()).collect();
        Self { picture, gap, unsent }
    }

    /// Where output goes on after it.
    pub(crate) fn offset(&self) -> u64 {
        self.picture.offset
    }

    #[cfg(test)]
    pub(crate) fn picture(&self) -> &Picture {
        &self.picture
    }

    /// Whether all parts were sent.
    pub(crate) fn is_sent(&self) -> bool {
        self.unsent.is_empty()
    }

    /// The next part to send.
    pub(crate) fn next(&mut self, epoch: u64) -> Option<Bytes> {
        let part = self.unsent.pop_front()?;
        let Picture { offset, size: Size { cols, rows }, .. } = *self.picture;
        let payload = self.picture.parts.get(part as usize)?.clone();
        let (parts, gap) = (self.picture.count(), self.gap);
        Some(ServerFrame::Snapshot { epoch, offset, part, parts, cols, rows, gap, payload }.to_json())
    }

    /// All parts are to be sent again.
    pub(crate) fn again(self) -> Self {
        Self::new(self.picture, self.gap)
    }
}
