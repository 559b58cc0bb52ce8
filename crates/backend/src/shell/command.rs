//! Runs one command of a session apart from its interactive shell.

use std::{
    collections::BTreeMap,
    io::Read,
    os::{fd::OwnedFd, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use shellbridge_protocol::{frame::Exit, limits::MAX_COMMAND_RESULT};
use tokio::{io::AsyncReadExt, net::unix::pipe, process::Child};

use super::{
    environment::ShellSpec,
    process::{self, Leader},
};

/// Bytes of the state a command leaves behind that are looked at; more is no environment of a person's making.
const MAX_STATE: u64 = 256 * 1024;

/// Runs the command in this shell, so that what it exports and where it goes can be seen at its end.
///
/// `$1` is the file for that: the working directory, then the environment, separated by NULs.
const WRAPPER: &str = r#"__sb_file=$1 __sb_command=$2
shift 2
trap '__sb_code=$?; { pwd -P; command -p env -0; } >|"$__sb_file" 2>/dev/null; exit "$__sb_code"' EXIT
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
        Self { shell: posix_shell(&spec.shell), cwd: spec.cwd.clone(), env: spec.env.clone() }
    }

    /// Reads what the wrapper left, if it came to that: a command that replaced the shell leaves nothing.
    fn read(&mut self, file: &Path) {
        let mut text = Vec::new();
        let read = std::fs::File::open(file).and_then(|file| file.take(MAX_STATE).read_to_end(&mut text));
        let Some(end) = text.iter().position(|byte| *byte == b'\n') else { return };
        if read.is_err() || text.len() as u64 >= MAX_STATE {
            return;
        }
        let (cwd, env) = text.split_at(end);
        let cwd = PathBuf::from(String::from_utf8_lossy(cwd).into_owned());
        if cwd.is_absolute() {
            self.cwd = cwd;
        }
        let env: BTreeMap<_, _> = env
            .get(1..)
            .unwrap_or_default()
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

/// A command that was started.
pub(crate) struct Running {
    child: Child,
    reader: pipe::Receiver,
    file: PathBuf,
    state: CommandState,
    group: Leader,
    started: Instant,
}

impl Running {
    /// Starts `command` in a process group of its own, with nothing to read.
    ///
    /// # Errors
    /// When there is no more process, descriptor or memory to be had.
    pub(crate) fn start(state: CommandState, command: &str) -> std::io::Result<Self> {
        let file = std::env::temp_dir().join(format!("shellbridge-{}", uuid::Uuid::new_v4().simple()));
        // It will hold the session's variables: for this user's eyes only.
        std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&file)?;
        let (reader, writer) = std::io::pipe()?;
        let mut shell = tokio::process::Command::new(&state.shell);
        shell
            .args(["-c", WRAPPER, "sh"])
            .arg(&file)
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
        let child = shell.spawn()?;
        let group = Leader::new(child.id().map_or(0, u32::cast_signed));
        let reader = pipe::Receiver::from_owned_fd(OwnedFd::from(reader))?;
        Ok(Self { child, reader, file, state, group, started: Instant::now() })
    }

    /// Its process group, in which it may leave something behind.
    pub(crate) const fn group(&self) -> Leader {
        self.group
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
                    let _ = killpg(Pid::from_raw(self.group.pid()), Signal::SIGKILL);
                }
            }
        };
        output.drain(&self.reader);
        self.state.read(&self.file);
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

impl Drop for Running {
    fn drop(&mut self) {
        // Not there when the shell was replaced or killed.
        let _ = std::fs::remove_file(&self.file);
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
    use super::super::environment::ShellRequest;
    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    fn state() -> CommandState {
        let shell = Some(PathBuf::from("/bin/sh"));
        CommandState::new(&ShellSpec::new(ShellRequest { shell, ..ShellRequest::default() }).unwrap())
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
        let group = running.group();
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
        let group = running.group();
        let done = running.finish(LONG).await.unwrap();
        assert_eq!(text(&done), "started\n");
        assert!(process::has_members(group));
        process::end_all([group].into()).await;
        assert!(!process::has_members(group));
    }

    #[tokio::test]
    async fn long_output_is_cut_and_the_command_not_stopped() {
        let done = run(state(), "head -c 300000 /dev/zero | tr '\\0' x; exit 7").await;
        assert_eq!((done.output.len(), done.truncated, done.exit.exit_code), (MAX_COMMAND_RESULT, true, 7));
    }
}
