//! Snapshots of the screen for clients whose output was evicted: painted once, sent to each client that needs it.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use shellbridge_protocol::{
    frame::ServerFrame, limits::MAX_FRAME, payload::Payload, size::Size, times::Epoch,
};

/// Room for all of an `output` or `snapshot` frame but its payload.
pub(crate) const FRAME_HEAD: usize = 256;
/// Bytes of JSON that the payload of a frame may take, where the frame may be as large as the contract allows.
const PAYLOAD_BUDGET: usize = MAX_FRAME - FRAME_HEAD;

/// The screen at one offset of the output, split into payloads of frames.
#[derive(Debug)]
pub(crate) struct Picture {
    offset: u64,
    size: Size,
    /// Unset until the model has reached the offset.
    parts: OnceLock<Vec<Payload>>,
}

/// A picture sent to one client, kept until acknowledged, so that a repetition has the same bytes.
#[derive(Debug)]
pub(crate) struct Snapshot {
    picture: Arc<Picture>,
    /// Number of output bytes that it replaces for this client.
    gap: u64,
    /// Number of parts sent.
    sent: u32,
}

impl Picture {
    /// A picture at this offset that is still to be painted.
    pub(crate) const fn new(offset: u64, size: Size) -> Self {
        Self { offset, size, parts: OnceLock::new() }
    }

    /// Where in the output it stands.
    pub(crate) const fn offset(&self) -> u64 {
        self.offset
    }

    /// Sets the bytes to write to a terminal that was just reset.
    pub(crate) fn paint(&self, bytes: &[u8]) {
        let mut rest = bytes;
        let mut parts = Vec::new();
        loop {
            let (part, after) = rest.split_at(Payload::fit(rest, PAYLOAD_BUDGET));
            parts.push(Payload::new(part));
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
        // Painted only once, so it cannot be set already.
        let _ = self.parts.set(parts);
    }

    /// Number of parts, once painted.
    fn count(&self) -> Option<u32> {
        Some(u32::try_from(self.parts.get()?.len()).unwrap_or(u32::MAX))
    }
}

impl Snapshot {
    pub(crate) const fn new(picture: Arc<Picture>, gap: u64) -> Self {
        Self { picture, gap, sent: 0 }
    }

    /// Offset at which output continues after it.
    pub(crate) fn offset(&self) -> u64 {
        self.picture.offset
    }

    #[cfg(test)]
    pub(crate) fn picture(&self) -> &Picture {
        &self.picture
    }

    /// Whether all parts have been sent.
    pub(crate) fn is_sent(&self) -> bool {
        self.picture.count().is_some_and(|parts| self.sent >= parts)
    }

    /// The next part to send, once painted.
    pub(crate) fn next(&mut self, epoch: Epoch) -> Option<Bytes> {
        let part = self.sent;
        let Picture { offset, size: Size { cols, rows }, .. } = *self.picture;
        let payload = self.picture.parts.get()?.get(part as usize)?.clone();
        let (parts, gap) = (self.picture.count()?, self.gap);
        self.sent += 1;
        Some(ServerFrame::Snapshot { epoch, offset, part, parts, cols, rows, gap, payload }.to_json())
    }

    /// The same snapshot, with all parts to send again.
    pub(crate) fn again(self) -> Self {
        Self::new(self.picture, self.gap)
    }
}
