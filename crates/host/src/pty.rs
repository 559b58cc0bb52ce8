//! An interactive shell on a PTY of its own.

use std::path::Path;

use futures_util::FutureExt as _;
use pty_process::{OwnedReadPty, OwnedWritePty};
use rustix::process::{Pid, setpriority_process};
use shellbridge_protocol::{frame::Exit, size::Size};
use shellbridge_session::link::ShellSpec;
use tokio::{io::AsyncReadExt as _, process::Child};

use crate::{log, process};

/// Steps of `nice` by which shells yield to the backend, so that one that keeps a processor busy delays no other session's
/// keys. At 10, the processes that carry its output preempted it at every write, which halved the output of one session.
const NICE: i32 = 5;

/// A running shell: the two ends of its PTY, and its process.
pub(crate) struct Shell {
    pub(crate) reader: OwnedReadPty,
    pub(crate) writer: OwnedWritePty,
    /// The shell itself; what it started may outlive it.
    pub(crate) child: Child,
    /// Its number, which is that of its POSIX session.
    pub(crate) pid: i32,
}

impl Shell {
    /// Starts the shell as a login shell of a new POSIX session, with nothing of the host's environment.
    pub(crate) fn start(spec: &ShellSpec, size: Size) -> Result<Self, pty_process::Error> {
        let (pty, pts) = pty_process::open()?;
        pty.resize(pty_process::Size::new(size.rows, size.cols))?;
        let name = Path::new(&spec.shell).file_name().unwrap_or_default().to_string_lossy();
        let child = pty_process::Command::new(&spec.shell)
            // A leading dash makes it a login shell, as after `ssh`.
            .arg0(format!("-{name}"))
            .env_clear()
            .envs(&spec.env)
            .current_dir(&spec.cwd)
            .spawn(pts)?;
        let pid = child.id().map_or(0, u32::cast_signed);
        yields(pid);
        // Its session is weighed against the others', and its processes among themselves, where the kernel does that
        // (sched(7), "The autogroup feature"). It takes ten of these a second.
        let _ = std::fs::write(format!("/proc/{pid}/autogroup"), NICE.to_string());
        let (reader, writer) = pty.into_split();
        Ok(Self { reader, writer, child, pid })
    }

    /// Tells the programs on the PTY how large the terminal is.
    pub(crate) fn resize(&self, size: Size) {
        if let Err(error) = self.writer.resize(pty_process::Size::new(size.rows, size.cols)) {
            log::warn(format_args!("the terminal cannot be resized: {error}"));
        }
    }
}

/// Puts a child behind others. What it starts inherits that.
pub(crate) fn yields(pid: i32) {
    // It may have ended already.
    let _ = setpriority_process(Pid::from_raw(pid), NICE);
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
            log::warn(format_args!("a shell cannot be waited for: {error}"));
            Exit { exit_code: -1, signal: None }
        },
        process::exit,
    )
}
