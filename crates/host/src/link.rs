//! The stream to the backend.

use std::{
    future::pending,
    io::{self, ErrorKind},
    os::unix::net::UnixListener as StdListener,
    path::{Path, PathBuf},
};

use rustix::process::Uid;
use shellbridge_protocol::ids::SessionId;
use shellbridge_session::link::{Channel, FromHost, ToHost};
use tokio::{
    io::Interest,
    net::{UnixListener, UnixStream},
};

/// Bytes that may wait to be written before nothing more is read: answers do not pile up.
const MAX_WAITING: usize = 1024 * 1024;
/// Bytes that may wait to be written at all: more than all pushes that a session has in flight. Beyond, the backend is
/// given up.
const MAX_QUEUED: usize = 64 * 1024 * 1024;
/// Bytes read at once.
const READ: usize = 32 * 1024;

/// Where backends connect.
pub(crate) struct Listener {
    inner: UnixListener,
    backend: Uid,
    /// Where they find it.
    path: Option<PathBuf>,
}

impl Listener {
    /// Takes connections of this user.
    pub(crate) fn new(listener: StdListener, backend: Uid) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let path = listener.local_addr()?.as_pathname().map(Path::to_owned);
        Ok(Self { inner: UnixListener::from_std(listener)?, backend, path })
    }

    /// Whether no backend can find it any more.
    pub(crate) fn is_removed(&self) -> bool {
        let missing = |error: io::Error| error.kind() == ErrorKind::NotFound;
        self.path.as_ref().is_some_and(|path| path.symlink_metadata().is_err_and(missing))
    }

    /// Lets no backend find it any more.
    pub(crate) fn remove(&self) {
        if let Some(path) = &self.path {
            // The backend removes it, too. Its directory may be closed to this process's user.
            let _ = std::fs::remove_file(path);
        }
    }

    /// The next backend.
    pub(crate) async fn accept(&self, session: SessionId) -> Link {
        loop {
            let Ok((stream, _)) = self.inner.accept().await else {
                // No descriptors: one will be free when something ends.
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                continue;
            };
            if stream.peer_cred().is_ok_and(|peer| peer.uid() == self.backend.as_raw()) {
                return Link::new(stream, session);
            }
        }
    }
}

/// A connection of a backend.
pub(crate) struct Link {
    stream: UnixStream,
    channel: Channel,
    broken: bool,
}

impl Link {
    fn new(stream: UnixStream, session: SessionId) -> Self {
        Self { stream, channel: Channel::new(session), broken: false }
    }

    /// Says something, when [`Link::next`] is waited for next. What cannot be said ends the link.
    pub(crate) fn say(&mut self, message: impl Into<FromHost>) {
        let full = self.channel.to_write().len() > MAX_QUEUED;
        self.broken |= full || self.channel.say(&message.into()).is_err();
    }

    /// Writes what can be written without waiting. If nobody reads any more, it is dropped: what a backend said before it
    /// died is still to be read.
    fn flush(&mut self) {
        while !self.broken && !self.channel.to_write().is_empty() {
            let count = match self.stream.try_write(self.channel.to_write()) {
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => self.channel.to_write().len(),
            };
            self.channel.wrote(count);
        }
    }

    /// The next message; none at the link's end. Cancel safe.
    pub(crate) async fn next(&mut self) -> Option<ToHost> {
        loop {
            match self.channel.message() {
                Ok(Some(message)) => return Some(message),
                Ok(None) => {}
                Err(_) => return None,
            }
            // A backend of another major version has ours, and leaves us alone.
            if self.broken || self.channel.other().is_some_and(|other| !other.fits()) {
                self.flush();
                return None;
            }
            if !self.transfer().await {
                return None;
            }
        }
    }

    /// Waits until something can be read or written, and does it; false at the end.
    async fn transfer(&mut self) -> bool {
        self.flush();
        let waiting = self.channel.to_write().len();
        let mut interest = Interest::READABLE;
        if waiting > 0 {
            interest = if waiting > MAX_WAITING { Interest::WRITABLE } else { interest | Interest::WRITABLE };
        }
        let Ok(ready) = self.stream.ready(interest).await else { return false };
        if ready.is_readable() && interest.is_readable() {
            match self.stream.try_read_buf(self.channel.room(READ)) {
                Ok(0) => return false,
                Err(error) if error.kind() != ErrorKind::WouldBlock => return false,
                _ => {}
            }
        }
        !self.broken
    }

    /// Writes until nothing is left to be written.
    pub(crate) async fn flushed(&mut self) {
        loop {
            self.flush();
            if self.broken || self.channel.to_write().is_empty() || self.stream.writable().await.is_err() {
                return;
            }
        }
    }
}

/// The next message of the link, if there is one; none within at its end.
pub(crate) async fn next(link: &mut Option<Link>) -> Option<ToHost> {
    match link {
        Some(link) => link.next().await,
        None => pending().await,
    }
}
