//! Host processes: one per session, each listening on a Unix socket in `RUN_DIR`.

use std::{
    io,
    os::{fd::OwnedFd, unix::net::UnixListener},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use tokio::{net::UnixStream, process::Child, time::timeout};

use super::{
    limits::Limits,
    reap::{self, Known},
    run_dir::RunDir,
};

/// Default program, in the directory of this one, unless `SESSION_HOST` names another.
const PROGRAM: &str = "session-host";
/// How long a killed host may take to exit.
const KILLED: Duration = Duration::from_secs(5);

/// Starts hosts, and finds those of an earlier backend.
pub(crate) struct Launcher {
    program: PathBuf,
    run_dir: RunDir,
}

/// What a session's host may use.
#[derive(Debug, Clone)]
pub(crate) struct Space {
    /// Its limits, within the server's maxima.
    pub(crate) limits: Limits,
    /// Image of its container. `None`: `SHELL_IMAGE`.
    pub(crate) image: Option<String>,
}

/// A host and the stream to it.
pub(crate) struct Host {
    pub(crate) stream: UnixStream,
    pub(crate) process: Process,
}

/// A host's process. It keeps running when this is dropped.
#[derive(Debug)]
pub(crate) struct Process {
    socket: PathBuf,
    /// `None` if an earlier backend started it.
    child: Option<(Child, Known)>,
}

impl Launcher {
    /// `run_dir` is `RUN_DIR`, `program` is `SESSION_HOST`.
    ///
    /// # Errors
    /// When the program does not exist, or the directory cannot be created or locked.
    pub(crate) fn new(run_dir: Option<&str>, program: Option<&str>) -> anyhow::Result<Self> {
        let program = match program {
            Some(program) => PathBuf::from(program),
            None => std::env::current_exe().context("SESSION_HOST")?.with_file_name(PROGRAM),
        };
        ensure!(program.is_file(), "SESSION_HOST: {} is not a file", program.display());
        Ok(Self { program, run_dir: RunDir::open(run_dir.map(Path::new))? })
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

    /// Starts a host.
    ///
    /// The host gets its socket as stdin, since it may lack permission to create one in `RUN_DIR`. It gets no environment
    /// and no arguments.
    ///
    /// # Errors
    /// When the system is out of processes, descriptors or memory.
    pub(crate) async fn start(&self, _space: &Space) -> io::Result<Host> {
        let socket = self.run_dir.new_socket();
        let listener = UnixListener::bind(&socket)?;
        let mut command = tokio::process::Command::new(&self.program);
        command
            .env_clear()
            .current_dir("/")
            .stdin(OwnedFd::from(listener))
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let started = reap::start(|| command.spawn());
        // It holds a copy of the listener. Close it, so that connections are refused once the host is gone.
        drop(command);
        let mut process = Process { socket, child: None };
        let connected = async {
            process.child = Some(started?);
            UnixStream::connect(&process.socket).await
        };
        match connected.await {
            Ok(stream) => Ok(Host { stream, process }),
            Err(error) => {
                process.kill().await;
                Err(error)
            }
        }
    }

    /// Connects to the hosts of an earlier backend.
    pub(crate) async fn left(&self) -> Vec<Host> {
        let mut hosts = Vec::new();
        for socket in self.run_dir.sockets() {
            hosts.extend(Process { socket, child: None }.connect().await);
        }
        hosts
    }
}

impl Process {
    /// No process: the test acts as the host.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn of_nobody() -> Self {
        Self { socket: PathBuf::new(), child: None }
    }

    /// Connects again. If the host is gone, removes its socket and returns `None`.
    pub(crate) async fn connect(self) -> Option<Host> {
        match UnixStream::connect(&self.socket).await {
            Ok(stream) => Some(Host { stream, process: self }),
            Err(error) => {
                if error.kind() == io::ErrorKind::ConnectionRefused {
                    self.forget();
                } else {
                    tracing::warn!(%error, "cannot connect to a session's host");
                }
                None
            }
        }
    }

    /// Waits for the exit of a host whose session has ended, and kills it after `within`.
    pub(crate) async fn ended(&mut self, within: Duration) {
        if let Some((child, _)) = &mut self.child
            && timeout(within, child.wait()).await.is_err()
        {
            tracing::warn!("a session's host did not exit; killing it");
            self.kill().await;
        }
        self.forget();
    }

    /// Kills a host. [`orphans`](super::orphans) ends the processes it leaves. A host of an earlier backend is not killed:
    /// it ends by itself once its socket is removed.
    pub(crate) async fn kill(&mut self) {
        self.forget();
        if let Some((child, _)) = &mut self.child {
            let _ = child.start_kill();
            if timeout(KILLED, child.wait()).await.is_err() {
                tracing::warn!("a session's host cannot be killed");
            }
        }
    }

    fn forget(&self) {
        // The host also removes it, if it has permission.
        let _ = std::fs::remove_file(&self.socket);
    }
}
