//! Messages as bytes: a preface, then messages with their lengths.

use bytes::{Buf as _, BufMut as _, BytesMut};
use postcard::ser_flavors::Flavor;
use serde::{Serialize, de::DeserializeOwned};
use shellbridge_protocol::ids::SessionId;

/// Largest message, bytes: its kind and its body. The largest there is carries an answer of the wire contract
/// ([`MAX_MESSAGE`](shellbridge_protocol::limits::MAX_MESSAGE), 128 KiB).
pub const MAX_MESSAGE: usize = 192 * 1024;
/// Raised when a side of the earlier major version could not go on.
pub const MAJOR: u16 = 1;
/// Raised with every kind of message or field that is added.
pub const MINOR: u16 = 0;

const MAGIC: [u8; 4] = *b"SBL1";
/// Bytes of a length, and of a kind.
const LENGTH: usize = 4;
const KIND: usize = 2;
/// Bytes of the preface before the session's id.
const PREFACE: usize = MAGIC.len() + 2 + 2 + 1;
/// Fields that may have been appended to a message: what an older side did not send reads as zeros.
const APPENDED: usize = 32;
/// Room for reading that is kept while nothing is read, bytes.
const KEPT: usize = 16 * 1024;

/// Why a link cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// The other side does not speak this protocol.
    #[error("not a link")]
    NotALink,
    /// A message is over [`MAX_MESSAGE`].
    #[error("a message is too large")]
    TooLarge,
    /// A message cannot be read.
    #[error("a message cannot be read")]
    Malformed,
}

/// The first bytes of each side. Their form never changes, so that sides of all versions can tell each other apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preface {
    /// See [`MAJOR`].
    pub major: u16,
    /// See [`MINOR`].
    pub minor: u16,
    /// The session that a host has; empty before it has one, and from a backend.
    pub session: SessionId,
}

impl Preface {
    /// Of this version.
    pub const fn new(session: SessionId) -> Self {
        Self { major: MAJOR, minor: MINOR, session }
    }

    /// Whether both sides can talk.
    pub const fn fits(&self) -> bool {
        self.major == MAJOR
    }

    /// Appends it. An id of more than 255 bytes is left out; the API allows 128.
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

/// A kind of message for each direction.
pub trait Message: Sized {
    /// Its number on the link.
    fn kind(&self) -> u16;
    /// Writes what follows the kind.
    #[doc(hidden)]
    fn write(&self, out: &mut Sink<'_>) -> postcard::Result<()>;
    /// Reads what follows a kind; none if the kind is not known.
    #[doc(hidden)]
    fn read(kind: u16, body: &[u8]) -> Result<Option<Self>, Broken>;
}

/// Appends a message.
///
/// # Errors
/// When it is over [`MAX_MESSAGE`]; nothing is appended then.
pub fn encode(message: &impl Message, out: &mut BytesMut) -> Result<(), Broken> {
    let start = out.len();
    out.put_u32_le(0);
    out.put_u16_le(message.kind());
    let limit = start + LENGTH + MAX_MESSAGE;
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

/// Reads what the other side sends, as it comes. Keeps one message and what was read behind it.
#[derive(Debug, Default)]
pub struct Decoder(BytesMut);

impl Decoder {
    /// Where to append what was read. Take all messages before reading more.
    pub const fn buffer(&mut self) -> &mut BytesMut {
        &mut self.0
    }

    /// The preface, once it is there.
    ///
    /// # Errors
    /// When it is none.
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

    /// The next message, once it is there. Kinds that are not known are skipped.
    ///
    /// # Errors
    /// When it is too large or cannot be read. The link is of no use then.
    pub fn message<M: Message>(&mut self) -> Result<Option<M>, Broken> {
        while let Some(length) = self.0.first_chunk::<LENGTH>().copied() {
            let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
            if length > MAX_MESSAGE {
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

/// Both directions of a link, without its I/O: what is to be written, and what was read.
#[derive(Debug)]
pub struct Channel {
    read: Decoder,
    out: BytesMut,
    written: u64,
    other: Option<Preface>,
}

impl Channel {
    /// Begins a link; `session` is for [`Preface::session`].
    pub fn new(session: SessionId) -> Self {
        let mut out = BytesMut::new();
        Preface::new(session).encode(&mut out);
        Self { read: Decoder::default(), out, written: 0, other: None }
    }

    /// The other side's preface, once it has come.
    pub const fn other(&self) -> Option<&Preface> {
        self.other.as_ref()
    }

    /// Adds a message to what is to be written.
    ///
    /// # Errors
    /// When it is too large.
    pub fn say(&mut self, message: &impl Message) -> Result<(), Broken> {
        encode(message, &mut self.out)
    }

    /// The next message of the other side, if it is there. None from a side of another major version.
    ///
    /// # Errors
    /// When the link cannot go on.
    pub fn message<M: Message>(&mut self) -> Result<Option<M>, Broken> {
        if self.other.is_none() {
            self.other = self.read.preface()?;
        }
        if self.other.as_ref().is_some_and(Preface::fits) { self.read.message() } else { Ok(None) }
    }

    /// What is to be written next. Report how much was with [`Channel::wrote`].
    pub fn to_write(&self) -> &[u8] {
        &self.out
    }

    /// So many bytes were written.
    pub fn wrote(&mut self, count: usize) {
        self.written += count as u64;
        self.out.advance(count);
        if self.out.is_empty() && self.out.capacity() > KEPT {
            self.out = BytesMut::new();
        }
    }

    /// Bytes that were written so far, and those with what is to be written: what was just said has gone out when the
    /// first has reached the second.
    pub fn progress(&self) -> (u64, u64) {
        (self.written, self.written + self.out.len() as u64)
    }

    /// Where to append what was read; there is room for `count` bytes. Take all messages before reading more.
    pub fn room(&mut self, count: usize) -> &mut BytesMut {
        let buffer = self.read.buffer();
        buffer.reserve(count);
        buffer
    }
}

/// Reads a body. Fields that it lacks at its end were added later: they read as zeros, which are `0`, `false`, `None` or
/// empty. Bytes behind it are fields that were added since.
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

/// Writes a body.
pub(super) fn write(body: &impl Serialize, out: &mut Sink<'_>) -> postcard::Result<()> {
    let sink = Sink { out: &mut *out.out, limit: out.limit };
    postcard::serialize_with_flavor(body, sink)
}

/// Where a message is written.
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
