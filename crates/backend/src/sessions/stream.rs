//! The backend's stream to a host.

use std::io::ErrorKind;

use shellbridge_session::link::{Broken, Channel, FromHost, ToHost};
use tokio::{io::Interest, net::UnixStream};

/// Bytes per read.
const READ: usize = 32 * 1024;

/// The backend's side of a link.
pub(super) struct Stream {
    stream: UnixStream,
    channel: Channel,
}

/// An event of the stream.
pub(super) enum Came {
    Message(FromHost),
    /// Queued bytes were written.
    Wrote,
    /// The stream has ended; with the error, if the other side violated the protocol.
    Over(Option<Broken>),
}

impl Stream {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self { stream, channel: Channel::new("".into()) }
    }

    pub(super) const fn channel(&self) -> &Channel {
        &self.channel
    }

    /// Queues a message, which [`Stream::next`] writes.
    ///
    /// # Errors
    /// When the message is too large.
    pub(super) fn say(&mut self, message: impl Into<ToHost>) -> Result<(), Broken> {
        self.channel.say(&message.into())
    }

    /// Waits for the next event. Reads only if `read`. Cancel safe.
    pub(super) async fn next(&mut self, read: bool) -> Came {
        loop {
            if read {
                match self.channel.message() {
                    Ok(Some(message)) => return Came::Message(message),
                    Ok(None) => {}
                    Err(broken) => return Came::Over(Some(broken)),
                }
                if self.channel.other().is_some_and(|other| !other.fits()) {
                    return Came::Over(None);
                }
            }
            let before = self.channel.progress().0;
            self.channel.flush(|bytes| self.stream.try_write(bytes));
            if self.channel.progress().0 > before {
                return Came::Wrote;
            }
            let waits = !self.channel.to_write().is_empty();
            let interest = match (read, waits) {
                (true, true) => Interest::READABLE | Interest::WRITABLE,
                (true, false) => Interest::READABLE,
                (false, true) => Interest::WRITABLE,
                (false, false) => return std::future::pending().await,
            };
            let Ok(ready) = self.stream.ready(interest).await else { return Came::Over(None) };
            if read && ready.is_readable() {
                match self.stream.try_read_buf(self.channel.room(READ)) {
                    Ok(0) => return Came::Over(None),
                    Err(error) if error.kind() != ErrorKind::WouldBlock => return Came::Over(None),
                    _ => {}
                }
            }
        }
    }
}
