//! An interactive shell on a PTY of its own.

use futures_util::FutureExt as _;
use pty_process::{OwnedReadPty, OwnedWritePty};
use shellbridge_protocol::{frame::Exit, size::Size};
use tokio::{io::AsyncReadExt as _, process::Child};

use super::{
    environment::ShellSpec,
    process::{self, Leader},
    reap::{self, WaitedFor},
};

/// A running shell: the two ends of its PTY, and its process.
pub(crate) struct Shell {
    pub(crate) reader: OwnedReadPty,
    pub(crate) writer: OwnedWritePty,
    /// The shell itself; what it started may outlive it.
    pub(crate) child: Child,
    leader: Leader,
    _waited_for: WaitedFor,
}

impl Shell {
    /// Starts the shell as a login shell of a new POSIX session, with nothing of the backend's environment.
    pub(crate) fn start(spec: &ShellSpec, size: Size) -> Result<Self, pty_process::Error> {
        let (pty, pts) = pty_process::open()?;
        pty.resize(pty_process::Size::new(size.rows, size.cols))?;
        let name = spec.shell.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let (child, waited_for) = reap::start(|| {
            pty_process::Command::new(&spec.shell)
                // A leading dash makes it a login shell, as after `ssh`.
                .arg0(format!("-{name}"))
                .env_clear()
                .envs(&spec.env)
                .current_dir(&spec.cwd)
                .kill_on_drop(true)
                .spawn(pts)
        })?;
        waited_for.yield_as_session();
        let leader = Leader::new(waited_for.pid());
        let (reader, writer) = pty.into_split();
        Ok(Self { reader, writer, child, leader, _waited_for: waited_for })
    }

    /// The leader of its POSIX session.
    pub(crate) const fn leader(&self) -> Leader {
        self.leader
    }

    /// Tells the programs on the PTY how large the terminal is.
    pub(crate) fn resize(&self, size: Size) {
        if let Err(error) = self.writer.resize(pty_process::Size::new(size.rows, size.cols)) {
            tracing::warn!(%error, "the terminal cannot be resized");
        }
    }
}

/// Waits for output, then takes all that is there, since the kernel gives a page at most. Nothing is lost when it is
/// dropped: it does not wait again once it has something.
pub(crate) async fn read(reader: &mut OwnedReadPty, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut count = reader.read(buffer).await?;
    // An error and the end come again at the next read.
    while let Some(room) = buffer.get_mut(count..).filter(|room| !room.is_empty())
        && let Some(Ok(more @ 1..)) = reader.read(room).now_or_never()
    {
        count += more;
    }
    Ok(count)
}

/// How a shell ended, from what waiting for it gave.
pub(crate) fn exit_of(status: std::io::Result<std::process::ExitStatus>) -> Exit {
    status.map_or_else(
        |error| {
            tracing::error!(%error, "a shell cannot be waited for");
            Exit { exit_code: -1, signal: None }
        },
        process::exit,
    )
}
