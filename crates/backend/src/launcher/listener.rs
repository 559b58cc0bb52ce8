//! Listening sockets that outlive a crash of the backend.
//!
//! Init listens on the backend's addresses, and each backend inherits the sockets. Otherwise a shell could bind the port of a
//! crashed backend, and receive the requests, and with them the tokens, that are meant for the next one.

use std::{
    future::poll_fn,
    net::{SocketAddr, TcpListener},
    os::fd::AsRawFd,
    process::Command,
    task::Poll,
};

use anyhow::{Context as _, ensure};
use listenfd::ListenFd;
use parking_lot::Mutex;
use rustix::{
    io::{FdFlags, fcntl_setfd},
    net::listen,
};

/// Variables by which a process finds inherited sockets (`sd_listen_fds(3)`); the second is `listenfd`'s.
const COUNT: &str = "LISTEN_FDS";
const FIRST: &str = "LISTEN_FDS_FIRST_FD";
/// Connections that may wait to be accepted. The kernel caps it (`net.core.somaxconn`).
const BACKLOG: i32 = 1024;

/// The init's sockets.
pub(super) struct Sockets {
    all: Vec<tokio::net::TcpListener>,
    first: Option<i32>,
}

impl Sockets {
    /// Listens on these addresses. Call before anything else opens descriptors: theirs have to be consecutive.
    pub(super) fn listen(addresses: &[SocketAddr]) -> anyhow::Result<Vec<TcpListener>> {
        let listen = |address: &SocketAddr| -> std::io::Result<TcpListener> {
            let listener = TcpListener::bind(address)?;
            listen(&listener, BACKLOG)?;
            listener.set_nonblocking(true)?;
            // Every backend inherits it. An init starts nothing else that lives while it serves.
            fcntl_setfd(&listener, FdFlags::empty())?;
            Ok(listener)
        };
        let all: Vec<_> = addresses
            .iter()
            .map(|address| listen(address).with_context(|| format!("cannot listen on {address}")))
            .collect::<Result<_, _>>()?;
        let consecutive = all.windows(2).all(|two| match two {
            [one, next] => one.as_raw_fd() + 1 == next.as_raw_fd(),
            _ => true,
        });
        ensure!(consecutive, "the listening sockets have no consecutive descriptors");
        Ok(all)
    }

    /// Call within a runtime.
    pub(super) fn new(all: Vec<TcpListener>) -> std::io::Result<Self> {
        let first = all.first().map(AsRawFd::as_raw_fd);
        let all = all.into_iter().map(tokio::net::TcpListener::from_std).collect::<Result<_, _>>()?;
        Ok(Self { all, first })
    }

    /// Passes the sockets to a backend.
    pub(super) fn pass(&self, command: &mut Command) {
        if let Some(first) = self.first {
            command.env(COUNT, self.all.len().to_string()).env(FIRST, first.to_string());
        }
    }

    /// Closes connections as they come, until dropped: no backend will serve them soon.
    pub(super) async fn refuse(&self) {
        poll_fn::<(), _>(|context| {
            for listener in &self.all {
                while let Poll::Ready(Ok(_)) = listener.poll_accept(context) {}
            }
            Poll::Pending
        })
        .await;
    }
}

/// The sockets that an init has passed to this process.
static INHERITED: Mutex<Option<ListenFd>> = Mutex::new(None);

/// Finds the sockets that the init has passed. Call before any thread is started: this changes the environment.
pub(super) fn inherit() {
    *INHERITED.lock() = Some(ListenFd::from_env());
}

/// Takes the `n`th socket that an init has passed.
///
/// # Errors
/// When it is no TCP socket.
pub(crate) fn inherited(n: usize) -> std::io::Result<Option<TcpListener>> {
    INHERITED.lock().as_mut().map_or(Ok(None), |all| all.take_tcp_listener(n))
}
