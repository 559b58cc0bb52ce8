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

use crate::log;

/// Unwritten bytes above which the host stops reading, so that answers do not pile up.
const MAX_WAITING: usize = 1024 * 1024;
/// Unwritten bytes above which the host drops the link: more than all of a session's pushes in flight.
const MAX_QUEUED: usize = 64 * 1024 * 1024;
/// Bytes per read.
const READ: usize = 32 * 1024;

/// The socket to which backends connect.
pub(crate) struct Listener {
    inner: UnixListener,
    backend: Uid,
    /// Path of the socket. Without one, this process is the first one of a container.
    path: Option<PathBuf>,
}

impl Listener {
    /// Accepts connections of this user only.
    pub(crate) fn new(listener: StdListener, backend: Uid) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let path = listener.local_addr()?.as_pathname().map(Path::to_owned);
        Ok(Self { inner: UnixListener::from_std(listener)?, backend, path })
    }

    /// Whether the socket has been removed, so that no backend can connect.
    pub(crate) fn is_removed(&self) -> bool {
        let missing = |error: io::Error| error.kind() == ErrorKind::NotFound;
        self.path.as_ref().is_some_and(|path| path.symlink_metadata().is_err_and(missing))
    }

    /// Removes the socket.
    pub(crate) fn remove(&self) {
        if let Some(path) = &self.path {
            // The backend removes it too: this process's user may have no access to the directory.
            let _ = std::fs::remove_file(path);
        }
    }

    /// Waits for the next backend.
    pub(crate) async fn accept(&self, session: SessionId) -> Link {
        loop {
            let Ok((stream, _)) = self.inner.accept().await else {
                // Out of descriptors. Retry: one is freed when a process or command ends.
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                continue;
            };
            if stream.peer_cred().is_ok_and(|peer| peer.uid() == self.backend.as_raw()) {
                return Link::new(stream, session, self.path.is_none());
            }
        }
    }
}

/// A connection from a backend.
pub(crate) struct Link {
    stream: UnixStream,
    channel: Channel,
    broken: bool,
    /// The other side is a relay in this process's container.
    relayed: bool,
}

impl Link {
    fn new(stream: UnixStream, session: SessionId, relayed: bool) -> Self {
        Self { stream, channel: Channel::new(session), broken: false, relayed }
    }

    /// Queues a message, which [`Link::next`] writes. A message that cannot be queued breaks the link.
    pub(crate) fn say(&mut self, message: impl Into<FromHost>) {
        let full = self.channel.to_write().len() > MAX_QUEUED;
        self.broken |= full || self.channel.say(&message.into()).is_err();
    }

    /// Queues the log lines that have not been sent.
    pub(crate) fn say_logs(&mut self) {
        for line in log::take() {
            self.say(line);
        }
    }

    /// Writes as much as possible without waiting.
    fn flush(&mut self) {
        if !self.broken {
            self.channel.flush(|bytes| self.stream.try_write(bytes));
        }
    }

    /// The next message, or `None` when the link has ended. Cancel safe.
    pub(crate) async fn next(&mut self) -> Option<ToHost> {
        loop {
            match self.channel.message() {
                Ok(Some(message)) => return Some(message),
                Ok(None) => {}
                Err(_) => return None,
            }
            // A backend of another major version needs only the preface, and leaves this host alone.
            if self.broken || self.channel.other().is_some_and(|other| !other.fits()) {
                self.flush();
                return None;
            }
            if !self.transfer().await {
                return None;
            }
        }
    }

    /// Waits until the stream is readable or writable, then reads or writes; false when the link has ended.
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

    /// Writes until the queue is empty or the link breaks.
    pub(crate) async fn flushed(&mut self) {
        loop {
            self.flush();
            if self.broken || self.channel.to_write().is_empty() || self.stream.writable().await.is_err() {
                return;
            }
        }
    }

    /// Writes the last messages. In a container, also waits until the backend has closed the link: the relay, which is to
    /// deliver them, ends with this process.
    pub(crate) async fn finished(&mut self) {
        self.flushed().await;
        while self.relayed && self.next().await.is_some() {}
    }
}

/// The next message, or `None` when the link has ended; pending without a link.
pub(crate) async fn next(link: &mut Option<Link>) -> Option<ToHost> {
    match link {
        Some(link) => link.next().await,
        None => pending().await,
    }
}
