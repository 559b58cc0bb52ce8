//! An interactive shell on a PTY.

use std::path::{Path, PathBuf};

use futures_util::FutureExt as _;
use pty_process::{OwnedReadPty, OwnedWritePty};
use rustix::process::{Pid, setpriority_process};
use shellbridge_protocol::{frame::Exit, size::Size};
use shellbridge_session::link::ShellSpec;
use tokio::{io::AsyncReadExt as _, process::Child};

use crate::{log, process};

/// The shells' `nice` value, so that a shell that keeps a processor busy does not delay other sessions' keystrokes. At
/// 10, the processes that carry its output preempted it at every write, which halved the throughput of one session.
const NICE: i32 = 5;

/// Variable that hands `init` to [`WITH_INIT`]. Unlike an argument, other users cannot read it.
const INIT: &str = "__sb_init";
/// Runs `init` in a subshell, so that neither `exit` nor Ctrl-C keeps the login shell from starting. The traps are reset
/// in the subshell, and by `exec`. `$1` is the shell, `$2` its option for a login shell, if it has one.
const WITH_INIT: &str = r#"__sb_text=$__sb_init
unset __sb_init
trap : INT QUIT TSTP
(eval "$__sb_text")
unset __sb_text
exec "$@""#;
/// Shells with an option `-l`.
const LOGIN: [&str; 8] = ["sh", "bash", "dash", "ash", "ksh", "mksh", "zsh", "fish"];

/// A running shell: both halves of its PTY, and its process.
pub(crate) struct Shell {
    pub(crate) reader: OwnedReadPty,
    pub(crate) writer: OwnedWritePty,
    /// The shell itself; processes that it started may outlive it.
    pub(crate) child: Child,
    /// PID of the shell, equal to its POSIX session ID.
    pub(crate) pid: i32,
}

impl Shell {
    /// Starts a login shell in a new POSIX session, without the host's environment. Before it, the same program, or
    /// `/bin/sh` in place of one that reads no POSIX scripts, runs `init`.
    pub(crate) fn start(
        spec: &ShellSpec,
        size: Size,
        init: Option<&str>,
    ) -> Result<Self, pty_process::Error> {
        let (pty, pts) = pty_process::open()?;
        pty.resize(pty_process::Size::new(size.rows, size.cols))?;
        let name = Path::new(&spec.shell).file_name().unwrap_or_default().to_string_lossy();
        let command = match init {
            // A leading dash makes it a login shell, as after `ssh`.
            None => pty_process::Command::new(&spec.shell).arg0(format!("-{name}")),
            Some(_) => pty_process::Command::new(posix_shell(Path::new(&spec.shell)))
                .args(["-c", WITH_INIT, "sh", &spec.shell])
                .args(LOGIN.contains(&&*name).then_some("-l")),
        };
        let child = command
            .env_clear()
            .envs(&spec.env)
            .envs(init.map(|init| (INIT, init)))
            .current_dir(&spec.cwd)
            .spawn(pts)?;
        let pid = child.id().map_or(0, u32::cast_signed);
        yields(pid);
        // Where the kernel has autogroups (sched(7), "The autogroup feature"), it schedules a session as a group, and
        // this sets the group's weight. The kernel accepts ten such writes a second.
        let _ = std::fs::write(format!("/proc/{pid}/autogroup"), NICE.to_string());
        let (reader, writer) = pty.into_split();
        Ok(Self { reader, writer, child, pid })
    }

    /// Sets the size of the PTY, which notifies its programs.
    pub(crate) fn resize(&self, size: Size) {
        if let Err(error) = self.writer.resize(pty_process::Size::new(size.rows, size.cols)) {
            log::warn(format_args!("cannot resize the terminal: {error}"));
        }
    }
}

/// The user's shell if it reads POSIX scripts, else `/bin/sh`.
pub(crate) fn posix_shell(shell: &Path) -> PathBuf {
    let posix = ["sh", "bash", "dash", "ash", "ksh", "mksh", "zsh"];
    let name = shell.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if posix.contains(&name) { shell.to_owned() } else { PathBuf::from("/bin/sh") }
}

/// Lowers the priority of a child, which its own children inherit.
pub(crate) fn yields(pid: i32) {
    // The child may already have exited.
    let _ = setpriority_process(Pid::from_raw(pid), NICE);
}

/// Waits for output, then reads all that is available, since the kernel returns at most a page per read. Cancel safe:
/// it does not wait again once it has read anything.
pub(crate) async fn read(reader: &mut OwnedReadPty, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut count = reader.read(buffer).await?;
    // The next read reports an error or EOF again.
    while let Some(room) = buffer.get_mut(count..).filter(|room| !room.is_empty())
        && let Some(Ok(more @ 1..)) = reader.read(room).now_or_never()
    {
        count += more;
    }
    Ok(count)
}

/// Converts the result of waiting for a shell.
pub(crate) fn exit_of(status: std::io::Result<std::process::ExitStatus>) -> Exit {
    status.map_or_else(
        |error| {
            log::warn(format_args!("cannot wait for the shell: {error}"));
            Exit { exit_code: -1, signal: None }
        },
        process::exit,
    )
}
