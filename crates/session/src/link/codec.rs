//! Encoding of the link: a preface, then length-prefixed messages.

use std::io;

use bytes::{Buf as _, BufMut as _, BytesMut};
use postcard::ser_flavors::Flavor;
use serde::{Serialize, de::DeserializeOwned};
use shellbridge_protocol::ids::SessionId;

/// Largest message of a host, bytes: kind and body. The largest one in use carries an answer of the wire contract
/// ([`MAX_MESSAGE`](shellbridge_protocol::limits::MAX_MESSAGE), 128 KiB).
pub const MAX_MESSAGE: usize = 192 * 1024;
/// Largest message to a host, bytes: kind and body. The largest one in use is [`Hello`](super::Hello) with a session's
/// files, their paths, `init` and environment.
pub const MAX_TO_HOST: usize = 640 * 1024;
/// Raised by a change that a side of the previous major version cannot handle.
pub const MAJOR: u16 = 1;
/// Raised by every added message kind or field.
pub const MINOR: u16 = 1;

const MAGIC: [u8; 4] = *b"SBL1";
/// Bytes of the length field, and of the kind field.
const LENGTH: usize = 4;
const KIND: usize = 2;
/// Bytes of the preface before the session's id.
const PREFACE: usize = MAGIC.len() + 2 + 2 + 1;
/// Zero bytes supplied for appended fields that an older side does not send.
const APPENDED: usize = 32;
/// Capacity that an empty buffer keeps, bytes.
const KEPT: usize = 16 * 1024;

/// Errors that end a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// The other side does not speak this protocol.
    #[error("not a link")]
    NotALink,
    /// A message exceeds [`Message::MAX`].
    #[error("message too large")]
    TooLarge,
    /// A message cannot be decoded.
    #[error("malformed message")]
    Malformed,
}

/// The first bytes that each side sends. Their format never changes, so that sides of any two versions recognize each
/// other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preface {
    /// See [`MAJOR`].
    pub major: u16,
    /// See [`MINOR`].
    pub minor: u16,
    /// The host's session; empty before it has one, and from a backend.
    pub session: SessionId,
}

impl Preface {
    /// A preface of this version.
    pub const fn new(session: SessionId) -> Self {
        Self { major: MAJOR, minor: MINOR, session }
    }

    /// Whether the sender's major version is compatible with this one.
    pub const fn fits(&self) -> bool {
        self.major == MAJOR
    }

    /// Appends the preface to `out`. An id of more than 255 bytes is omitted; the API allows 128.
    pub fn encode(&self, out: &mut BytesMut) {
        let session = self.session.as_bytes();
        let (length, session) = u8::try_from(session.len()).map_or((0, &[][..]), |length| (length, session));
        out.put_slice(&MAGIC);
        out.put_u16_le(self.major);
        out.put_u16_le(self.minor);
        out.put_u8(length);
        out.put_slice(session);
    }
}

/// The messages of one direction.
pub trait Message: Sized {
    /// Largest message, bytes: kind and body.
    const MAX: usize;
    /// Number of its kind on the link.
    fn kind(&self) -> u16;
    /// Writes the body.
    #[doc(hidden)]
    fn write(&self, out: &mut Sink<'_>) -> postcard::Result<()>;
    /// Reads the body of a kind; `None` if the kind is unknown.
    #[doc(hidden)]
    fn read(kind: u16, body: &[u8]) -> Result<Option<Self>, Broken>;
}

/// Appends a message to `out`.
///
/// # Errors
/// When the message exceeds [`Message::MAX`]; `out` is unchanged then.
pub fn encode<M: Message>(message: &M, out: &mut BytesMut) -> Result<(), Broken> {
    let start = out.len();
    out.put_u32_le(0);
    out.put_u16_le(message.kind());
    let limit = start + LENGTH + M::MAX;
    if message.write(&mut Sink { out, limit }).is_err() {
        out.truncate(start);
        return Err(Broken::TooLarge);
    }
    let length = u32::try_from(out.len() - start - LENGTH).unwrap_or(u32::MAX);
    if let Some(place) = out.get_mut(start..start + LENGTH) {
        place.copy_from_slice(&length.to_le_bytes());
    }
    Ok(())
}

/// Incremental decoder. Buffers one message, and the bytes read after it.
#[derive(Debug, Default)]
pub struct Decoder(BytesMut);

impl Decoder {
    /// The buffer to read into. Take all messages before reading more.
    pub const fn buffer(&mut self) -> &mut BytesMut {
        &mut self.0
    }

    /// The preface, once it is complete.
    ///
    /// # Errors
    /// When the bytes are not a preface.
    pub fn preface(&mut self) -> Result<Option<Preface>, Broken> {
        let known = self.0.len().min(MAGIC.len());
        if self.0.get(..known) != MAGIC.get(..known) {
            return Err(Broken::NotALink);
        }
        let Some(length) = self.0.get(PREFACE - 1).copied() else { return Ok(None) };
        if self.0.len() < PREFACE + usize::from(length) {
            return Ok(None);
        }
        self.0.advance(MAGIC.len());
        let (major, minor) = (self.0.get_u16_le(), self.0.get_u16_le());
        self.0.advance(1);
        let session = self.0.split_to(length.into());
        let session = std::str::from_utf8(&session).map_err(|_| Broken::NotALink)?;
        Ok(Some(Preface { major, minor, session: session.into() }))
    }

    /// The next message, once it is complete. Skips unknown kinds.
    ///
    /// # Errors
    /// When the message is too large or malformed. The link cannot be used any further.
    pub fn message<M: Message>(&mut self) -> Result<Option<M>, Broken> {
        while let Some(length) = self.0.first_chunk::<LENGTH>().copied() {
            let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
            if length > M::MAX {
                return Err(Broken::TooLarge);
            }
            let Some(message) = self.0.get(LENGTH..LENGTH + length) else { break };
            let (kind, body) = message.split_first_chunk::<KIND>().ok_or(Broken::Malformed)?;
            let message = M::read(u16::from_le_bytes(*kind), body)?;
            self.0.advance(LENGTH + length);
            if message.is_some() {
                return Ok(message);
            }
        }
        if self.0.is_empty() && self.0.capacity() > KEPT {
            self.0 = BytesMut::new();
        }
        Ok(None)
    }
}

/// Both directions of a link without I/O: the output queue and the decoder.
#[derive(Debug)]
pub struct Channel {
    read: Decoder,
    out: BytesMut,
    written: u64,
    other: Option<Preface>,
}

impl Channel {
    /// Starts a link by queueing the preface, with `session` as [`Preface::session`].
    pub fn new(session: SessionId) -> Self {
        let mut out = BytesMut::new();
        Preface::new(session).encode(&mut out);
        Self { read: Decoder::default(), out, written: 0, other: None }
    }

    /// The other side's preface, once it has arrived.
    pub const fn other(&self) -> Option<&Preface> {
        self.other.as_ref()
    }

    /// Queues a message.
    ///
    /// # Errors
    /// When the message is too large.
    pub fn say(&mut self, message: &impl Message) -> Result<(), Broken> {
        encode(message, &mut self.out)
    }

    /// The other side's next message, once it is complete; always `None` if its major version differs.
    ///
    /// # Errors
    /// When the link is broken.
    pub fn message<M: Message>(&mut self) -> Result<Option<M>, Broken> {
        if self.other.is_none() {
            self.other = self.read.preface()?;
        }
        if self.other.as_ref().is_some_and(Preface::fits) { self.read.message() } else { Ok(None) }
    }

    /// The queued bytes. Report written ones to [`Channel::wrote`].
    pub fn to_write(&self) -> &[u8] {
        &self.out
    }

    /// Writes as much as possible through `write`, which does not wait. On an error the queue is discarded and the channel
    /// stays readable: messages that the other side sent before it died are still to be processed.
    pub fn flush(&mut self, mut write: impl FnMut(&[u8]) -> io::Result<usize>) {
        while !self.to_write().is_empty() {
            let count = match write(self.to_write()) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.to_write().len(),
            };
            self.wrote(count);
        }
    }

    /// Removes `count` written bytes from the queue.
    pub fn wrote(&mut self, count: usize) {
        self.written += count as u64;
        self.out.advance(count);
        if self.out.is_empty() && self.out.capacity() > KEPT {
            self.out = BytesMut::new();
        }
    }

    /// Bytes written so far, and the same plus the bytes still queued. The messages queued by now have been written once
    /// the first number reaches the second one returned now.
    pub fn progress(&self) -> (u64, u64) {
        (self.written, self.written + self.out.len() as u64)
    }

    /// The buffer to read into, with room for `count` bytes. Take all messages before reading more.
    pub fn room(&mut self, count: usize) -> &mut BytesMut {
        let buffer = self.read.buffer();
        buffer.reserve(count);
        buffer
    }
}

/// Decodes a body. Fields missing at its end, which an older sender lacks, read as zeros: `0`, `false`, `None` or empty.
/// Trailing bytes are fields of a newer version, and are ignored.
pub(super) fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Broken> {
    let read = match postcard::take_from_bytes(body) {
        Err(postcard::Error::DeserializeUnexpectedEnd) => {
            let padded = [body, &[0; APPENDED]].concat();
            postcard::take_from_bytes(&padded).map(|(value, _)| value)
        }
        read => read.map(|(value, _)| value),
    };
    read.map_err(|_| Broken::Malformed)
}

/// Encodes a body.
pub(super) fn write(body: &impl Serialize, out: &mut Sink<'_>) -> postcard::Result<()> {
    let sink = Sink { out: &mut *out.out, limit: out.limit };
    postcard::serialize_with_flavor(body, sink)
}

/// Bounded output of the encoder.
pub struct Sink<'a> {
    out: &'a mut BytesMut,
    limit: usize,
}

impl Flavor for Sink<'_> {
    type Output = ();

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.try_extend(&[byte])
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        if self.out.len() + bytes.len() > self.limit {
            return Err(postcard::Error::SerializeBufferFull);
        }
        self.out.extend_from_slice(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}
