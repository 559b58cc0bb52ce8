//! A session's own user (`SHELL_SANDBOX=user`): its host is started as that user, and at its end all processes and files
//! of the user are removed. `session-host` does both, in a process that becomes the user.

use std::{
    ffi::{OsStr, OsString},
    io,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use nix::unistd::Uid;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, configure_capability_in_ambient_set, set_capabilities,
};
use tokio::{
    process::{Child, Command},
    runtime::Handle,
    sync::{Semaphore, oneshot},
    time::{sleep, timeout},
};

use super::{
    limits::Limits,
    reap::{self, Known},
    uids::{self, Uids},
};

/// Default program, in the directory of this one, unless `SESSION_HOST` names another.
const PROGRAM: &str = "session-host";
/// Default directory of the homes, unless `SHELL_HOMES` names another.
const HOMES: &str = "/home/sessions";
/// What the backend needs, unless it is root.
const NEEDED: CapabilitySet =
    CapabilitySet::SETUID.union(CapabilitySet::SETGID).union(CapabilitySet::CHOWN).union(CapabilitySet::KILL);
/// Of these, what `session-host` needs until it has become the user.
const PASSED: [CapabilitySet; 3] = [CapabilitySet::SETUID, CapabilitySet::SETGID, CapabilitySet::CHOWN];
const WAYS: &str = "SHELL_SANDBOX=user needs CAP_SETUID, CAP_SETGID, CAP_KILL and CAP_CHOWN. Either run the backend as root \
    with these capabilities, or run `setcap cap_setuid,cap_setgid,cap_kill,cap_chown=ep` on its program, where the \
    platform permits file capabilities (no_new_privs does not), or set SHELL_SANDBOX=none, which runs all shells as the \
    backend's user";
/// How long a helper may take per turn. What it has removed stays removed.
const TURN: Duration = Duration::from_secs(60);
/// How long the end of a session waits for the end of its user, which goes on afterwards.
const WITHIN: Duration = Duration::from_secs(10);
/// Pause before a user is ended again. It doubles up to `LONGEST_PAUSE`.
const PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Helpers that remove files at once.
const CLEARING: usize = 4;
/// Exit code of a helper that succeeded, and of one that leaves something to do.
const DONE: i32 = 0;
const LEFT: i32 = 3;

/// Starts processes as sessions' users.
pub(super) struct Users {
    program: PathBuf,
    uids: Uids,
    /// One at a time: such a helper ends others that run.
    killing: Semaphore,
    clearing: Semaphore,
}

/// How an init finds the users of sessions whose backend is gone.
pub struct UsersLeft {
    program: PathBuf,
    homes: PathBuf,
    helper: u32,
}

/// A user of one session. It is in use until [`User::end`].
pub(super) struct User {
    uid: u32,
    users: Arc<Users>,
}

impl UsersLeft {
    /// From `SESSION_HOST`, `SHELL_UIDS` and `SHELL_HOMES`.
    ///
    /// # Errors
    /// When the range is invalid.
    pub fn new(program: Option<&str>, range: &str, homes: Option<&str>) -> anyhow::Result<Self> {
        let (helper, _) = uids::parse(range)?;
        Ok(Self { program: program_or_default(program)?, homes: homes.unwrap_or(HOMES).into(), helper })
    }

    /// Their ids.
    pub(super) fn uids(&self) -> Vec<u32> {
        uids::taken(&self.homes)
    }

    /// Starts a process that kills those of this user, and returns its PID. One at a time: it ends others of its kind.
    pub(super) fn kill(&self, uid: u32) -> io::Result<i32> {
        let mut command = std::process::Command::new(&self.program);
        let user = uid.to_string();
        command
            .env_clear()
            .current_dir("/")
            .args(["kill", &user, &self.helper.to_string()])
            .stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let started = std::thread::spawn(move || {
            pass_capabilities()?;
            command.spawn()
        });
        let child = started.join().map_err(|_| io::Error::other("the start panicked"))??;
        Ok(child.id().cast_signed())
    }
}

impl Users {
    /// Checks that this process may start others as the users of this range, `SHELL_UIDS`. `homes` is `SHELL_HOMES`.
    pub(super) fn open(program: &Path, range: &str, homes: Option<&str>) -> anyhow::Result<Arc<Self>> {
        let has = capabilities(None).context("capabilities")?.effective;
        ensure!(has.contains(NEEDED), WAYS);
        let uids = Uids::open(range, Path::new(homes.unwrap_or(HOMES)))?;
        // Whether the kernel allows it, too.
        let mut command = std::process::Command::new(program);
        command.env_clear().current_dir("/").args(["try", &uids.helper().to_string()]).stdin(Stdio::null());
        let tried = std::thread::spawn(move || {
            pass_capabilities()?;
            command.output()
        });
        let tried = tried.join().map_err(|_| anyhow::anyhow!("the attempt panicked"))?.context(WAYS)?;
        let said = String::from_utf8_lossy(&tried.stderr).trim().to_owned();
        ensure!(tried.status.success(), "{WAYS} ({said})");
        let (killing, clearing) = (Semaphore::new(1), Semaphore::new(CLEARING));
        Ok(Arc::new(Self { program: program.to_owned(), uids, killing, clearing }))
    }

    /// Takes a user for a new session; `None` if all are in use.
    pub(super) async fn take(self: &Arc<Self>) -> io::Result<Option<User>> {
        let users = self.clone();
        let taken = tokio::task::spawn_blocking(move || users.uids.take()).await;
        let uid = taken.map_err(io::Error::other)??;
        Ok(uid.map(|uid| User { uid, users: self.clone() }))
    }

    /// The user of a session that an earlier backend started.
    pub(super) fn left(self: &Arc<Self>, uid: u32) -> User {
        User { uid, users: self.clone() }
    }

    /// User ids that an earlier backend left in use.
    pub(super) fn all_left(&self) -> Vec<u32> {
        self.uids.taken()
    }

    /// A command that runs `session-host`.
    fn command<'a>(&self, arguments: impl IntoIterator<Item = &'a OsStr>) -> Command {
        let mut command = Command::new(&self.program);
        command.env_clear().current_dir("/").args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// Runs a helper; returns its exit code.
    async fn run<'a>(&self, arguments: impl IntoIterator<Item = &'a OsStr>) -> io::Result<i32> {
        let mut command = self.command(arguments);
        command.stdin(Stdio::null());
        let (mut child, _known) = start(command).await?;
        let Ok(ended) = timeout(TURN, child.wait()).await else {
            let _ = child.start_kill();
            child.wait().await?;
            return Ok(LEFT);
        };
        Ok(ended?.code().unwrap_or(LEFT))
    }

    /// Ends all processes of a user, and removes its files; false if some are left.
    async fn end(&self, uid: u32) -> io::Result<bool> {
        let place = self.uids.place(uid);
        let (user, helper) =
            (OsString::from(uid.to_string()), OsString::from(self.uids.helper().to_string()));
        {
            let _turn = self.killing.acquire().await;
            match self.run(["kill".as_ref(), user.as_os_str(), &helper]).await? {
                DONE => {}
                LEFT => return Ok(false),
                _ => return Err(io::Error::other("cannot act as the session's user")),
            }
        }
        let _turn = self.clearing.acquire().await;
        match self.run(["clear".as_ref(), user.as_os_str(), place.as_os_str()]).await? {
            DONE => {}
            LEFT => return Ok(false),
            _ => return Err(io::Error::other("cannot remove the user's files")),
        }
        self.uids.give_back(uid).map(|()| true)
    }
}

impl User {
    /// Its user id.
    pub(super) const fn uid(&self) -> u32 {
        self.uid
    }

    /// Its home.
    pub(super) fn home(&self) -> PathBuf {
        self.users.uids.place(self.uid).join("home")
    }

    /// Its directory for temporary files.
    pub(super) fn tmp(&self) -> PathBuf {
        self.users.uids.place(self.uid).join("tmp")
    }

    /// Starts a host as this user. Its stdin is the socket.
    pub(super) async fn start(&self, socket: Stdio, limits: &Limits) -> io::Result<(Child, Known)> {
        let number = |limit: Option<u32>| OsString::from(limit.unwrap_or(0).to_string());
        let place = self.users.uids.place(self.uid).into_os_string();
        let arguments = [
            "serve".into(),
            self.uid.to_string().into(),
            place,
            number(limits.pids),
            number(limits.memory_mb),
            number(limits.disk_mb),
        ];
        let mut command = self.users.command(arguments.iter().map(OsString::as_os_str));
        command.stdin(socket);
        start(command).await
    }

    /// Ends everything of this user. Goes on in the background if that takes long, and until it succeeds.
    pub(super) async fn end(self) {
        let Self { uid, users } = self;
        let ending = tokio::spawn(async move {
            let mut pause = PAUSE;
            let mut warned = false;
            loop {
                match users.end(uid).await {
                    Ok(true) => return,
                    Ok(false) => {}
                    Err(error) if warned => tracing::debug!(%error, uid, "cannot end a session's user"),
                    Err(error) => {
                        warned = true;
                        tracing::error!(%error, uid, "cannot end a session's user; trying again");
                    }
                }
                sleep(pause).await;
                pause = LONGEST_PAUSE.min(pause * 2);
            }
        });
        if timeout(WITHIN, ending).await.is_err() {
            tracing::warn!(uid, "removing what a session left takes long; its user id stays in use");
        }
    }
}

impl std::fmt::Debug for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("User").field("uid", &self.uid).finish_non_exhaustive()
    }
}

/// `SESSION_HOST`, or else the program beside this one.
pub(super) fn program_or_default(program: Option<&str>) -> anyhow::Result<PathBuf> {
    match program {
        Some(program) => Ok(PathBuf::from(program)),
        None => Ok(std::env::current_exe().context("SESSION_HOST")?.with_file_name(PROGRAM)),
    }
}

/// Starts `session-host` with the capabilities that it needs. On a thread that ends, because the sets are per thread: no
/// other child gets them.
async fn start(mut command: Command) -> io::Result<(Child, Known)> {
    let runtime = Handle::current();
    let (tell, told) = oneshot::channel();
    std::thread::Builder::new().name("start".to_owned()).spawn(move || {
        let _inside = runtime.enter();
        let started = pass_capabilities().and_then(|()| reap::start(|| command.spawn()));
        // It holds a copy of the socket; close it before the caller goes on.
        drop(command);
        let _ = tell.send(started);
    })?;
    told.await.map_err(io::Error::other)?
}

/// Makes children of this thread inherit [`PASSED`]. Root's inherit all.
fn pass_capabilities() -> io::Result<()> {
    if Uid::effective().is_root() {
        return Ok(());
    }
    let has = capabilities(None)?;
    let passed = PASSED.into_iter().collect();
    set_capabilities(None, CapabilitySets { inheritable: passed, ..has })?;
    for capability in PASSED {
        configure_capability_in_ambient_set(capability, true)?;
    }
    Ok(())
}
