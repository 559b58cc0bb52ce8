//! Runs one command of a session, outside its interactive shell.

use std::{
    collections::BTreeMap,
    fs::File,
    io::ErrorKind,
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::fs::FileExt as _,
    },
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use rustix::{
    fs::{MemfdFlags, memfd_create},
    io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd},
};
use shellbridge_protocol::{frame::Exit, limits::MAX_COMMAND_RESULT};
use shellbridge_session::link::ShellSpec;
use tokio::{io::AsyncReadExt, net::unix::pipe, process::Child};

use crate::{process, pty};

/// Largest state read from a command, bytes. No hand-made environment is larger.
const MAX_STATE: usize = 256 * 1024;
/// Lowest number of the state file's descriptor. Scripts use one-digit descriptors, and shells use those from 10 up.
const STATE_DESCRIPTOR: i32 = 100;

/// Evaluates the command in this shell, so that its exports and working directory can be recorded when it ends.
///
/// `$1` is the state file. It receives the environment with each variable NUL-terminated, another NUL, the working
/// directory, and a final `.` that marks the file as complete.
const WRAPPER: &str = r#"__sb_file=$1 __sb_command=$2
shift 2
trap '__sb_code=$?; { command -p env -0; printf "\0"; pwd -P; printf .; } >|"$__sb_file" 2>/dev/null; exit "$__sb_code"' EXIT
eval "$__sb_command""#;

/// State carried from one command of a session to the next.
#[derive(Debug, Clone)]
pub(crate) struct CommandState {
    shell: PathBuf,
    cwd: PathBuf,
    env: BTreeMap<String, String>,
}

/// The result of a command.
#[derive(Debug)]
pub(crate) struct Finished {
    /// stdout and stderr in the order written.
    pub(crate) output: Vec<u8>,
    /// The output exceeded [`MAX_COMMAND_RESULT`] and was cut.
    pub(crate) truncated: bool,
    /// Exit status.
    pub(crate) exit: Exit,
    /// Running time.
    pub(crate) took: Duration,
    /// The command was killed at its time limit.
    pub(crate) timed_out: bool,
    /// State for the next command.
    pub(crate) state: CommandState,
}

impl CommandState {
    /// Initial state.
    pub(crate) fn new(spec: &ShellSpec) -> Self {
        Self {
            shell: pty::posix_shell(Path::new(&spec.shell)),
            cwd: PathBuf::from(&spec.cwd),
            env: spec.env.clone(),
        }
    }

    /// Applies the state that the wrapper wrote. The state stays as it was after a command that replaced the shell
    /// (`exec`), which writes none, and after a killed one, which may leave it incomplete.
    fn take(&mut self, left: &[u8]) {
        let Some(left) = left.strip_suffix(b"\n.") else { return };
        let Some(end) = left.iter().rposition(|byte| *byte == 0) else { return };
        let (env, cwd) = left.split_at(end);
        let cwd = PathBuf::from(String::from_utf8_lossy(cwd.get(1..).unwrap_or_default()).into_owned());
        if cwd.is_absolute() {
            self.cwd = cwd;
        }
        let env: BTreeMap<_, _> = env
            .split(|byte| *byte == 0)
            .filter_map(|pair| std::str::from_utf8(pair).ok()?.split_once('='))
            // Each shell sets these itself.
            .filter(|(name, _)| !matches!(*name, "_" | "SHLVL"))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        // Empty only if `env` failed.
        if !env.is_empty() {
            self.env = env;
        }
    }
}

/// Anonymous in-memory file that receives the wrapper's state.
///
/// The command controls its descriptor but cannot substitute another file, such as an endless one, a FIFO without a
/// writer, or one that only the host may read. Reading never blocks.
struct StateFile(File);

impl StateFile {
    fn new() -> rustix::io::Result<Self> {
        let file = memfd_create("state", MemfdFlags::CLOEXEC)?;
        Ok(Self(fcntl_dupfd_cloexec(file, STATE_DESCRIPTOR)?.into()))
    }

    /// Path of the file for a process that inherited the descriptor.
    fn path(&self) -> String {
        format!("/proc/self/fd/{}", self.0.as_raw_fd())
    }

    /// Sets whether child processes inherit the descriptor.
    fn inherit(&self, inherit: bool) -> rustix::io::Result<()> {
        fcntl_setfd(&self.0, if inherit { FdFlags::empty() } else { FdFlags::CLOEXEC })
    }

    /// The content, or `None` if it exceeds [`MAX_STATE`]. A background process may still be writing.
    fn read(&self) -> Option<Vec<u8>> {
        let mut text = vec![0; usize::try_from(self.0.metadata().ok()?.len()).ok()?.min(MAX_STATE + 1)];
        let mut len = 0;
        while let Some(room) = text.get_mut(len..).filter(|room| !room.is_empty()) {
            match self.0.read_at(room, len as u64) {
                Ok(0) => break,
                Ok(count) => len += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return None,
            }
        }
        text.truncate(len);
        (len <= MAX_STATE).then_some(text)
    }
}

/// A running command.
pub(crate) struct Running {
    child: Child,
    reader: pipe::Receiver,
    file: StateFile,
    state: CommandState,
    /// PID, equal to the process group ID.
    pid: i32,
    started: Instant,
}

impl Running {
    /// Starts `command` in a new process group, with `/dev/null` as stdin.
    ///
    /// # Errors
    /// When the system is out of processes, descriptors or memory.
    pub(crate) fn start(state: CommandState, command: &str) -> std::io::Result<Self> {
        let file = StateFile::new()?;
        let (reader, writer) = std::io::pipe()?;
        let mut shell = tokio::process::Command::new(&state.shell);
        shell
            .args(["-c", WRAPPER, "sh"])
            .arg(file.path())
            // What a fuzzer types must not run.
            .arg(if cfg!(fuzzing) { "exit 3" } else { command })
            .env_clear()
            .envs(&state.env)
            .current_dir(if state.cwd.is_dir() { &state.cwd } else { Path::new("/") })
            .stdin(Stdio::null())
            .stdout(writer.try_clone()?)
            .stderr(writer)
            .process_group(0)
            .kill_on_drop(true);
        // `shell` holds the pipe's write ends until this function returns; held longer, the reader would never see EOF.
        file.inherit(true)?;
        let child = shell.spawn();
        file.inherit(false)?;
        let child = child?;
        let pid = child.id().map_or(0, u32::cast_signed);
        pty::yields(pid);
        let reader = pipe::Receiver::from_owned_fd(OwnedFd::from(reader))?;
        Ok(Self { child, reader, file, state, pid, started: Instant::now() })
    }

    /// PID of the command.
    pub(crate) const fn pid(&self) -> i32 {
        self.pid
    }

    /// Waits for the command, and kills its process group after `timeout`.
    ///
    /// The command ends when its shell does. Background processes are not awaited, and their later output is discarded.
    ///
    /// # Errors
    /// When waiting for the process or reading its output fails.
    pub(crate) async fn finish(mut self, timeout: Duration) -> std::io::Result<Finished> {
        let mut output = Output::default();
        let mut timed_out = false;
        let deadline = tokio::time::sleep(timeout);
        tokio::pin!(deadline);
        let mut open = true;
        let status = loop {
            tokio::select! {
                status = self.child.wait() => break status?,
                read = output.read(&mut self.reader), if open => open = read?,
                () = &mut deadline, if !timed_out => {
                    timed_out = true;
                    // Fails only if the group has already exited.
                    let _ = killpg(Pid::from_raw(self.pid), Signal::SIGKILL);
                }
            }
        };
        output.drain(&self.reader);
        if let Some(left) = self.file.read() {
            self.state.take(&left);
        }
        Ok(Finished {
            output: std::mem::take(&mut output.kept),
            truncated: output.truncated,
            exit: process::exit(status),
            took: self.started.elapsed(),
            timed_out,
            state: self.state.clone(),
        })
    }
}

/// The first [`MAX_COMMAND_RESULT`] bytes of a command's output. The rest is read and dropped, so that the command does
/// not block.
#[derive(Default)]
struct Output {
    kept: Vec<u8>,
    truncated: bool,
}

impl Output {
    /// Reads once; false at EOF. Cancel safe.
    async fn read(&mut self, reader: &mut pipe::Receiver) -> std::io::Result<bool> {
        let mut buffer = [0; 8192];
        let count = reader.read(&mut buffer).await?;
        self.keep(buffer.get(..count).unwrap_or_default());
        Ok(count > 0)
    }

    /// Reads the output that is available without waiting.
    fn drain(&mut self, reader: &pipe::Receiver) {
        let mut buffer = [0; 8192];
        // Bounded, because a background process may write forever.
        while self.kept.len() < MAX_COMMAND_RESULT
            && let Ok(count @ 1..) = reader.try_read(&mut buffer)
        {
            self.keep(buffer.get(..count).unwrap_or_default());
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = MAX_COMMAND_RESULT.saturating_sub(self.kept.len());
        self.truncated |= bytes.len() > room;
        self.kept.extend(bytes.iter().take(room));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    fn state() -> CommandState {
        let env = [("PATH", "/usr/bin:/bin"), ("HOME", "/")].map(|(name, value)| (name.into(), value.into()));
        CommandState::new(&ShellSpec { shell: "/bin/sh".into(), cwd: "/".into(), env: env.into() })
    }

    async fn run(state: CommandState, command: &str) -> Finished {
        Running::start(state, command).unwrap().finish(LONG).await.unwrap()
    }

    fn text(finished: &Finished) -> &str {
        std::str::from_utf8(&finished.output).unwrap()
    }

    #[tokio::test]
    async fn stdout_and_stderr_are_interleaved_in_the_order_written() {
        let done = run(state(), "echo a; echo b >&2; echo c; exit 3").await;
        assert_eq!((text(&done), done.exit.exit_code), ("a\nb\nc\n", 3));
    }

    #[tokio::test]
    async fn directory_and_exported_variables_persist_between_commands() {
        let done = run(
            state(),
            "cd /usr; export SHELLBRIDGE_TEST='a\nb'; unexported=1; export -n unexported 2>/dev/null",
        )
        .await;
        let done = run(done.state, "pwd; echo \"$SHELLBRIDGE_TEST\"; echo \"[$unexported]\"; false").await;
        assert_eq!((text(&done), done.exit.exit_code), ("/usr\na\nb\n[]\n", 1));
        let done = run(done.state, "unset SHELLBRIDGE_TEST; exit 5").await;
        assert_eq!(done.exit.exit_code, 5);
        assert_eq!(text(&run(done.state, "echo \"[$SHELLBRIDGE_TEST]\"; pwd").await), "[]\n/usr\n");
    }

    #[tokio::test]
    async fn an_invalid_path_variable_does_not_lose_the_others() {
        let done = run(state(), "export PATH=/nowhere LAST=ing").await;
        assert_eq!(
            text(&run(done.state, "echo $LAST $PATH; test -n \"$HOME\" && echo home").await),
            "ing /nowhere\nhome\n"
        );
    }

    /// The command replaces the state file by a FIFO without a writer, a file of the host, or an endless one. The FIFO
    /// used to block a worker forever.
    #[tokio::test]
    async fn regression_the_state_is_never_read_from_a_substituted_file() {
        for file in ["mkfifo", "ln -s /proc/self/environ", "ln -s /dev/zero"] {
            let command = format!(
                "export A=1; cd /usr; trap - EXIT; rm -f \"$__sb_file\"; {file} \"$__sb_file\"; exit 3"
            );
            let before = state();
            let done = run(before.clone(), &command).await;
            assert_eq!(done.exit.exit_code, 3);
            assert_eq!((&done.state.cwd, &done.state.env), (&before.cwd, &before.env), "{file}");
        }
    }

    #[tokio::test]
    async fn a_command_that_writes_no_complete_state_leaves_it_unchanged() {
        let before = state();
        for (command, said) in [
            ("export A=1; exec echo replaced", "replaced\n"),
            ("export A=1; trap 'echo bye' EXIT", "bye\n"),
            ("export A=1; kill -9 $$", ""),
            // Over `MAX_STATE` in all, although each variable is small enough for the kernel.
            ("big=$(head -c 120000 /dev/zero | tr '\\0' x); export A=$big B=$big C=$big; echo big", "big\n"),
            // Over the kernel's limit for one variable, so that `env` cannot be executed.
            ("export A=$(head -c 200000 /dev/zero | tr '\\0' x); echo larger", "larger\n"),
        ] {
            let done = run(before.clone(), command).await;
            assert_eq!((text(&done), &done.state.env), (said, &before.env), "{command}");
        }
    }

    #[tokio::test]
    async fn the_state_file_leaves_one_digit_descriptors_to_scripts() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        let open: Vec<_> = (3..10).map(|n| format!("exec {n}>{}; ", file.display())).collect();
        let done = run(state(), &format!("{} export A=1; echo mine >&9", open.concat())).await;
        assert_eq!(done.state.env["A"], "1");
        assert_eq!(std::fs::read_to_string(file).unwrap(), "mine\n");
    }

    #[tokio::test]
    async fn an_exit_trap_that_blocks_is_killed_at_the_time_limit() {
        let dir = tempfile::tempdir().unwrap();
        let command = format!("__sb_file={}/fifo; mkfifo \"$__sb_file\"; echo set", dir.path().display());
        let running = Running::start(state(), &command).unwrap();
        let done = running.finish(Duration::from_millis(500)).await.unwrap();
        assert!(done.timed_out);
        assert_eq!(text(&done), "set\n");
    }

    #[tokio::test]
    async fn endless_writes_to_the_state_file_do_not_block_the_host() {
        let before = state();
        let command =
            "while :; do head -c 1000000 /dev/zero >\"$__sb_file\"; done 2>/dev/null & sleep 0.1; exit 4";
        let running = Running::start(before.clone(), command).unwrap();
        let group = running.pid();
        let done = running.finish(LONG).await.unwrap();
        assert_eq!(done.exit.exit_code, 4);
        killpg(Pid::from_raw(group), Signal::SIGKILL).unwrap();
        assert_eq!(text(&run(done.state, "echo $HOME").await).trim(), before.env["HOME"]);
    }

    #[tokio::test]
    async fn a_syntax_error_yields_an_exit_code_and_does_not_hang() {
        let done = run(state(), "if then (").await;
        assert_ne!(done.exit.exit_code, 0);
        assert!(!done.output.is_empty());
    }

    #[tokio::test]
    async fn stdin_is_empty_and_never_blocks() {
        assert_eq!(text(&run(state(), "cat; read x; echo done").await), "done\n");
    }

    #[tokio::test]
    async fn the_time_limit_kills_the_whole_process_group() {
        let running = Running::start(state(), "sleep 600 & sleep 600; echo no").unwrap();
        let group = running.pid();
        let done = running.finish(Duration::from_millis(200)).await.unwrap();
        assert!(done.timed_out);
        assert_eq!(done.exit.signal.as_deref(), Some("SIGKILL"));
        assert_eq!(text(&done), "");
        while process::has_members(group) {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_background_process_does_not_delay_the_result() {
        let running = Running::start(state(), "sleep 600 & echo started").unwrap();
        let group = running.pid();
        let done = running.finish(LONG).await.unwrap();
        assert_eq!(text(&done), "started\n");
        assert!(process::has_members(group));
        killpg(Pid::from_raw(group), Signal::SIGKILL).unwrap();
    }

    #[tokio::test]
    async fn long_output_is_truncated_without_stopping_the_command() {
        let done = run(state(), "head -c 300000 /dev/zero | tr '\\0' x; exit 7").await;
        assert_eq!((done.output.len(), done.truncated, done.exit.exit_code), (MAX_COMMAND_RESULT, true, 7));
    }
}
