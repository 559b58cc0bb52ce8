//! Runs one command of a session apart from its interactive shell.

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

/// Bytes of the state a command leaves behind that are looked at; more is no environment of a person's making.
const MAX_STATE: usize = 256 * 1024;
/// The descriptor that holds the state has at least this number: scripts use those of one digit, shells those from 10 on.
const STATE_DESCRIPTOR: i32 = 100;

/// Runs the command in this shell, so that what it exports and where it goes can be seen at its end.
///
/// `$1` is the file for that: the environment, each variable ended by a NUL, another NUL, the working directory, and a
/// mark that says that it is complete.
const WRAPPER: &str = r#"__sb_file=$1 __sb_command=$2
shift 2
trap '__sb_code=$?; { command -p env -0; printf "\0"; pwd -P; printf .; } >|"$__sb_file" 2>/dev/null; exit "$__sb_code"' EXIT
eval "$__sb_command""#;

/// What lasts from one command of a session to the next.
#[derive(Debug, Clone)]
pub(crate) struct CommandState {
    shell: PathBuf,
    cwd: PathBuf,
    env: BTreeMap<String, String>,
}

/// How a command went.
#[derive(Debug)]
pub(crate) struct Finished {
    /// stdout and stderr in the order written.
    pub(crate) output: Vec<u8>,
    /// There was more output than is kept.
    pub(crate) truncated: bool,
    /// How it ended.
    pub(crate) exit: Exit,
    /// How long it ran.
    pub(crate) took: Duration,
    /// It was killed at its time limit.
    pub(crate) timed_out: bool,
    /// What the next command starts with.
    pub(crate) state: CommandState,
}

impl CommandState {
    /// Where the first command starts.
    pub(crate) fn new(spec: &ShellSpec) -> Self {
        Self {
            shell: posix_shell(Path::new(&spec.shell)),
            cwd: PathBuf::from(&spec.cwd),
            env: spec.env.clone(),
        }
    }

    /// Takes what the wrapper left, if it came to that: a command that replaced the shell leaves nothing, and one that
    /// was killed no whole.
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
            // The shell's own bookkeeping, which starts anew in each.
            .filter(|(name, _)| !matches!(*name, "_" | "SHLVL"))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        // Nothing at all is the word of an `env` that failed.
        if !env.is_empty() {
            self.env = env;
        }
    }
}

/// The user's shell if it reads POSIX scripts, else `/bin/sh`.
fn posix_shell(shell: &Path) -> PathBuf {
    let posix = ["sh", "bash", "dash", "ash", "ksh", "mksh", "zsh"];
    let name = shell.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if posix.contains(&name) { shell.to_owned() } else { PathBuf::from("/bin/sh") }
}

/// A file in memory without a name, into which the wrapper writes the state.
///
/// The command may do with its descriptor what it likes; it cannot put another file in place of this one, such as one
/// that never ends, that nobody writes to, or that only the host may read. Reading it waits for nobody.
struct StateFile(File);

impl StateFile {
    fn new() -> rustix::io::Result<Self> {
        let file = memfd_create("state", MemfdFlags::CLOEXEC)?;
        Ok(Self(fcntl_dupfd_cloexec(file, STATE_DESCRIPTOR)?.into()))
    }

    /// Its path for a process that has inherited it.
    fn path(&self) -> String {
        format!("/proc/self/fd/{}", self.0.as_raw_fd())
    }

    /// Whether what is started now inherits it.
    fn inherit(&self, inherit: bool) -> rustix::io::Result<()> {
        fcntl_setfd(&self.0, if inherit { FdFlags::empty() } else { FdFlags::CLOEXEC })
    }

    /// What is in it, unless that is more than any state. Something in the background may write to it meanwhile.
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

/// A command that was started.
pub(crate) struct Running {
    child: Child,
    reader: pipe::Receiver,
    file: StateFile,
    state: CommandState,
    /// Its number, which is that of its process group.
    pid: i32,
    started: Instant,
}

impl Running {
    /// Starts `command` in a process group of its own, with nothing to read.
    ///
    /// # Errors
    /// When there is no more process, descriptor or memory to be had.
    pub(crate) fn start(state: CommandState, command: &str) -> std::io::Result<Self> {
        let file = StateFile::new()?;
        let (reader, writer) = std::io::pipe()?;
        let mut shell = tokio::process::Command::new(&state.shell);
        shell
            .args(["-c", WRAPPER, "sh"])
            .arg(file.path())
            .arg(command)
            .env_clear()
            .envs(&state.env)
            .current_dir(if state.cwd.is_dir() { &state.cwd } else { Path::new("/") })
            .stdin(Stdio::null())
            .stdout(writer.try_clone()?)
            .stderr(writer)
            .process_group(0)
            .kill_on_drop(true);
        // `shell` holds the writing ends, and goes at the end of this function; the reader would never see their end.
        file.inherit(true)?;
        let child = shell.spawn();
        file.inherit(false)?;
        let child = child?;
        let pid = child.id().map_or(0, u32::cast_signed);
        pty::yields(pid);
        let reader = pipe::Receiver::from_owned_fd(OwnedFd::from(reader))?;
        Ok(Self { child, reader, file, state, pid, started: Instant::now() })
    }

    /// The number of its process.
    pub(crate) const fn pid(&self) -> i32 {
        self.pid
    }

    /// Waits for it, at most for `timeout`; then its whole process group is killed.
    ///
    /// The command ends when the shell does. What it left in the background is not waited for, and writes to nobody.
    ///
    /// # Errors
    /// When the kernel does not let it be waited for.
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
                    // Gone already is as good.
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

/// The beginning of what a command writes. The rest is read, so that the command is not stopped, and dropped.
#[derive(Default)]
struct Output {
    kept: Vec<u8>,
    truncated: bool,
}

impl Output {
    /// Reads once; false at the end. Cancel safe.
    async fn read(&mut self, reader: &mut pipe::Receiver) -> std::io::Result<bool> {
        let mut buffer = [0; 8192];
        let count = reader.read(&mut buffer).await?;
        self.keep(buffer.get(..count).unwrap_or_default());
        Ok(count > 0)
    }

    /// Takes what is there at once.
    fn drain(&mut self, reader: &pipe::Receiver) {
        let mut buffer = [0; 8192];
        // A background process may write without end: no more than is kept anyway.
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
    async fn both_outputs_come_in_the_order_written() {
        let done = run(state(), "echo a; echo b >&2; echo c; exit 3").await;
        assert_eq!((text(&done), done.exit.exit_code), ("a\nb\nc\n", 3));
    }

    #[tokio::test]
    async fn directory_and_exported_variables_last() {
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
    async fn a_path_that_leads_nowhere_loses_no_other_variable() {
        let done = run(state(), "export PATH=/nowhere LAST=ing").await;
        assert_eq!(
            text(&run(done.state, "echo $LAST $PATH; test -n \"$HOME\" && echo home").await),
            "ing /nowhere\nhome\n"
        );
    }

    /// In place of its file, the command left one that nobody writes to, one of the host's own, one without end.
    /// The first was waited for by a worker, for ever.
    #[tokio::test]
    async fn regression_no_file_of_the_command_s_is_opened_for_its_state() {
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
    async fn a_command_that_goes_without_its_state_leaves_it_as_it_was() {
        let before = state();
        for (command, said) in [
            ("export A=1; exec echo replaced", "replaced\n"),
            ("export A=1; trap 'echo bye' EXIT", "bye\n"),
            ("export A=1; kill -9 $$", ""),
            // More than is taken of it, in variables that a process may have.
            ("big=$(head -c 120000 /dev/zero | tr '\\0' x); export A=$big B=$big C=$big; echo big", "big\n"),
            // More than a process may have, so that there is no `env` to tell of it.
            ("export A=$(head -c 200000 /dev/zero | tr '\\0' x); echo larger", "larger\n"),
        ] {
            let done = run(before.clone(), command).await;
            assert_eq!((text(&done), &done.state.env), (said, &before.env), "{command}");
        }
    }

    #[tokio::test]
    async fn scripts_may_use_the_descriptors_that_scripts_use() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        let open: Vec<_> = (3..10).map(|n| format!("exec {n}>{}; ", file.display())).collect();
        let done = run(state(), &format!("{} export A=1; echo mine >&9", open.concat())).await;
        assert_eq!(done.state.env["A"], "1");
        assert_eq!(std::fs::read_to_string(file).unwrap(), "mine\n");
    }

    #[tokio::test]
    async fn what_waits_for_itself_at_its_end_is_killed_at_the_time_limit() {
        let dir = tempfile::tempdir().unwrap();
        let command = format!("__sb_file={}/fifo; mkfifo \"$__sb_file\"; echo set", dir.path().display());
        let running = Running::start(state(), &command).unwrap();
        let done = running.finish(Duration::from_millis(500)).await.unwrap();
        assert!(done.timed_out);
        assert_eq!(text(&done), "set\n");
    }

    #[tokio::test]
    async fn what_goes_on_writing_to_the_state_stops_nobody() {
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
    async fn a_syntax_error_is_an_exit_code_and_no_hang() {
        let done = run(state(), "if then (").await;
        assert_ne!(done.exit.exit_code, 0);
        assert!(!done.output.is_empty());
    }

    #[tokio::test]
    async fn input_is_empty_and_not_waited_for() {
        assert_eq!(text(&run(state(), "cat; read x; echo done").await), "done\n");
    }

    #[tokio::test]
    async fn at_its_time_limit_the_whole_group_is_killed() {
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
    async fn a_background_process_does_not_hold_the_command() {
        let running = Running::start(state(), "sleep 600 & echo started").unwrap();
        let group = running.pid();
        let done = running.finish(LONG).await.unwrap();
        assert_eq!(text(&done), "started\n");
        assert!(process::has_members(group));
        killpg(Pid::from_raw(group), Signal::SIGKILL).unwrap();
    }

    #[tokio::test]
    async fn long_output_is_cut_and_the_command_not_stopped() {
        let done = run(state(), "head -c 300000 /dev/zero | tr '\\0' x; exit 7").await;
        assert_eq!((done.output.len(), done.truncated, done.exit.exit_code), (MAX_COMMAND_RESULT, true, 7));
    }
}
