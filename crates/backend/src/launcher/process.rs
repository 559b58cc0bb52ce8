//! Hosts, one per session: processes that listen on a Unix socket in `RUN_DIR`, or containers (`container`).

use std::{
    io,
    os::{fd::OwnedFd, unix::net::UnixListener},
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use anyhow::ensure;
use shellbridge_protocol::ids::SessionId;
use tokio::{net::UnixStream, process::Child, time::timeout};

use super::{
    container::{self, Container, Containers},
    reap::{self, Known},
    run_dir::RunDir,
    space::{NotStarted, Space},
    user::{User, Users, program_or_default},
};

/// How long a killed host may take to exit.
const KILLED: Duration = Duration::from_secs(5);

/// Starts hosts, and finds those of an earlier backend.
pub(crate) struct Launcher {
    program: PathBuf,
    run_dir: RunDir,
    /// With a user per session.
    users: Option<Arc<Users>>,
    /// With a container per session.
    containers: Option<Arc<Containers>>,
}

/// Where a session's files are, if it has a user of its own.
#[derive(Debug)]
pub(crate) struct Account {
    pub(crate) name: String,
    pub(crate) home: PathBuf,
    pub(crate) tmp: PathBuf,
}

/// A host and the stream to it.
pub(crate) struct Host {
    pub(crate) stream: UnixStream,
    pub(crate) process: Process,
}

/// What a host runs as. It keeps running when this is dropped.
#[derive(Debug)]
pub(crate) enum Process {
    Child(Box<Local>),
    Container(Container),
}

/// A host's process on this machine.
#[derive(Debug)]
pub(crate) struct Local {
    socket: PathBuf,
    /// `None` if an earlier backend started it.
    child: Option<(Child, Known)>,
    /// The session's own user.
    user: Option<User>,
}

impl Launcher {
    /// `run_dir` is `RUN_DIR`, `program` is `SESSION_HOST`. With `users`, `SHELL_UIDS` and `SHELL_HOMES`, each session has a
    /// user.
    ///
    /// # Errors
    /// When the program does not exist, the directory cannot be created or locked, or no other user can be assumed.
    pub(crate) fn new(
        run_dir: Option<&str>,
        program: Option<&str>,
        users: Option<(&str, Option<&str>)>,
    ) -> anyhow::Result<Self> {
        let program = program_or_default(program)?;
        ensure!(program.is_file(), "SESSION_HOST: {} is not a file", program.display());
        let run_dir = RunDir::open(run_dir.map(Path::new))?;
        let users = users.map(|(uids, homes)| Users::open(&program, uids, homes)).transpose()?;
        Ok(Self { program, run_dir, users, containers: None })
    }

    /// Gives each session a container.
    ///
    /// # Errors
    /// When the engine does not answer, or the program of the hosts in containers does not exist.
    pub(crate) async fn with_containers(mut self, settings: container::Settings<'_>) -> anyhow::Result<Self> {
        self.containers = Some(Arc::new(Containers::new(settings, self.run_dir.secret()).await?));
        Ok(self)
    }

    /// The containers, with a container per session.
    pub(crate) const fn containers(&self) -> Option<&Arc<Containers>> {
        self.containers.as_ref()
    }

    /// A secret that lives as long as the hosts.
    pub(crate) const fn secret(&self) -> &[u8] {
        self.run_dir.secret()
    }

    /// Identity of this instance: a uuid that lives as long as the hosts, and a generation, higher at each call.
    ///
    /// # Errors
    /// When it cannot be stored.
    pub(crate) fn next_generation(&self) -> io::Result<(String, u64)> {
        self.run_dir.next_generation()
    }

    /// Starts a host: in `user` mode as a user of its own, in `container` mode in a container that is labelled with the
    /// session's id.
    ///
    /// The host gets its socket as stdin, since it may lack permission to create one in `RUN_DIR`. It gets no environment.
    ///
    /// # Errors
    /// See [`NotStarted`].
    pub(crate) async fn start(&self, session: &SessionId, space: &Space) -> Result<Host, NotStarted> {
        if let Some(containers) = &self.containers {
            let (stream, container) = containers.start(session, space).await?;
            return Ok(Host { stream, process: Process::Container(container) });
        }
        let user = match &self.users {
            Some(users) => Some(users.take().await?.ok_or(NotStarted::Full)?),
            None => None,
        };
        let socket = self.run_dir.new_socket(user.as_ref().map(User::uid));
        let mut process = Local { socket, child: None, user };
        let connected = async {
            let listener = UnixListener::bind(&process.socket)?;
            process.child = Some(match &process.user {
                Some(user) => user.start(OwnedFd::from(listener).into(), &space.limits).await?,
                None => self.start_as_parent(listener)?,
            });
            UnixStream::connect(&process.socket).await
        };
        match connected.await {
            Ok(stream) => Ok(Host { stream, process: Process::Child(Box::new(process)) }),
            Err(error) => {
                process.kill().await;
                Err(error.into())
            }
        }
    }

    fn start_as_parent(&self, listener: UnixListener) -> io::Result<(Child, Known)> {
        // It holds a copy of the listener, until this returns: connections are refused once the host is gone.
        let mut command = tokio::process::Command::new(&self.program);
        command
            .env_clear()
            .current_dir("/")
            .stdin(OwnedFd::from(listener))
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        reap::start(|| command.spawn())
    }

    /// Connects to the hosts of an earlier backend, and ends what those left that are gone.
    pub(crate) async fn left(&self) -> Vec<Host> {
        let mut hosts = Vec::new();
        let mut alive = Vec::new();
        for (socket, uid) in self.run_dir.sockets() {
            let user = self.users.as_ref().zip(uid).map(|(users, uid)| users.left(uid));
            alive.extend(uid);
            hosts.extend(Local { socket, child: None, user }.connect().await);
        }
        if let Some(users) = &self.users {
            for uid in users.all_left().into_iter().filter(|uid| !alive.contains(uid)) {
                tokio::spawn(users.left(uid).end());
            }
        }
        hosts
    }
}

impl Host {
    /// The session's own account, if it has one.
    pub(crate) fn account(&self) -> Option<Account> {
        let Process::Child(process) = &self.process else { return None };
        let user = process.user.as_ref()?;
        Some(Account { name: format!("user-{}", user.uid()), home: user.home(), tmp: user.tmp() })
    }
}

impl Process {
    /// No process: the test acts as the host.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn of_nobody() -> Self {
        Self::Child(Box::new(Local { socket: PathBuf::new(), child: None, user: None }))
    }

    /// Connects again. If the host is gone, removes what is left of it and returns `None`. Waits for a container engine
    /// that does not answer.
    pub(crate) async fn connect(self) -> Option<Host> {
        match self {
            Self::Child(process) => process.connect().await,
            Self::Container(container) => {
                let stream = container.connect().await;
                if stream.is_none() {
                    container.remove().await;
                }
                Some(Host { stream: stream?, process: Self::Container(container) })
            }
        }
    }

    /// A new stream to a host whose stream has ended, if the host may live on: that of a container passes through an engine,
    /// which may have been restarted.
    pub(crate) async fn reconnect(&self) -> Option<UnixStream> {
        match self {
            Self::Child(_) => None,
            Self::Container(container) => container.connect().await,
        }
    }

    /// Waits for the exit of a host whose session has ended, and kills it after `within`. Removes a container at once: the
    /// host has ended all processes, and this would end any other.
    pub(crate) async fn ended(&mut self, within: Duration) {
        match self {
            Self::Child(process) => process.ended(within).await,
            Self::Container(container) => container.remove().await,
        }
    }

    /// Kills a host, and all processes of its session.
    pub(crate) async fn kill(&mut self) {
        match self {
            Self::Child(process) => process.kill().await,
            Self::Container(container) => container.remove().await,
        }
    }
}

impl Local {
    /// Connects again. If the host is gone, removes what is left of it and returns `None`.
    async fn connect(mut self) -> Option<Host> {
        match UnixStream::connect(&self.socket).await {
            Ok(stream) => Some(Host { stream, process: Process::Child(Box::new(self)) }),
            Err(error) => {
                if error.kind() == io::ErrorKind::ConnectionRefused {
                    self.forget();
                    if let Some(user) = self.user.take() {
                        tokio::spawn(user.end());
                    }
                } else {
                    tracing::warn!(%error, "cannot connect to a session's host");
                }
                None
            }
        }
    }

    /// Waits for the exit of a host whose session has ended, and kills it after `within`.
    async fn ended(&mut self, within: Duration) {
        if let Some((child, _)) = &mut self.child
            && timeout(within, child.wait()).await.is_err()
        {
            tracing::warn!("a session's host did not exit; killing it");
            self.kill().await;
        }
        self.forget();
        self.end_user().await;
    }

    /// Kills a host. [`orphans`](super::orphans) ends the processes it leaves, and with a user of its own all that user's end.
    /// A host of an earlier backend is not killed otherwise: it ends by itself once its socket is removed.
    async fn kill(&mut self) {
        self.forget();
        if let Some((child, _)) = &mut self.child {
            let _ = child.start_kill();
            if timeout(KILLED, child.wait()).await.is_err() {
                tracing::warn!("a session's host cannot be killed");
            }
        }
        self.end_user().await;
    }

    async fn end_user(&mut self) {
        if let Some(user) = self.user.take() {
            user.end().await;
        }
    }

    fn forget(&self) {
        // The host also removes it, if it has permission.
        let _ = std::fs::remove_file(&self.socket);
    }
}
