//! The backend's process: start and an orderly stop. Its own init (`--init`) starts it again when it crashes.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    sync::watch,
    time::Instant,
};
use tracing::{info, warn};

use super::port;

/// Time for the backend to print its address, on a busy machine.
const START_TIMEOUT: Duration = Duration::from_mins(1);
/// Time for the backend to stop: it ends its shells and notifies clients in 24 s, then its init ends the rest.
const STOP_TIMEOUT: Duration = Duration::from_secs(27);
/// Pause before the backend is started again after its init has exited.
const PAUSE: Duration = Duration::from_millis(500);
/// Attempts to start on a free port, which another process may take first.
const PORT_ATTEMPTS: usize = 5;

/// A running backend, below its init.
#[derive(Debug)]
pub(super) struct Backend {
    /// Its address, without a trailing slash.
    pub(super) url: String,
    /// When it last began to listen.
    pub(super) listening: watch::Receiver<Instant>,
    init: Child,
    pid: Init,
    plan: Plan,
}

/// How to start a backend.
#[derive(Debug, Clone)]
struct Plan {
    program: PathBuf,
    instance: usize,
    variables: Vec<(String, String)>,
}

/// The init of a backend, for signals; also after another start.
#[derive(Debug, Clone, Default)]
pub(super) struct Init(Arc<AtomicU32>);

impl Init {
    /// The backend that runs now.
    pub(super) fn backend(&self) -> Option<Pid> {
        match self.0.load(Relaxed) {
            0 => None,
            init => running(init),
        }
    }

    /// Kills the backend, as the kernel or an operator might; false if it is not running.
    pub(super) fn kill(&self) -> bool {
        self.backend().is_some_and(|pid| kill_process(pid, Signal::KILL).is_ok())
    }
}

impl Backend {
    /// Starts the backend on a port (0: a free one) with the variables for it, and waits until it listens.
    pub(super) async fn start(
        program: &Path,
        instance: usize,
        port: u16,
        mut variables: impl FnMut(u16) -> Vec<(String, String)>,
    ) -> anyhow::Result<Self> {
        let attempts = if port == 0 { PORT_ATTEMPTS } else { 1 };
        let mut attempt = 1;
        loop {
            let variables = variables(if port == 0 { port::free()? } else { port });
            let plan = Plan { program: program.to_owned(), instance, variables };
            match launch(plan, Init::default()).await {
                Ok(backend) => return Ok(backend),
                Err(error) if attempt >= attempts => return Err(error),
                Err(error) => warn!("{error:#}; trying another port"),
            }
            attempt += 1;
        }
    }

    /// Waits until its init exits, and returns the status.
    pub(super) async fn wait(&mut self) -> String {
        match self.init.wait().await {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        }
    }

    /// Starts it again on its port after its init has exited, as after SIGHUP, which leaves the sessions to the next.
    pub(super) async fn again(&mut self) -> anyhow::Result<()> {
        tokio::time::sleep(PAUSE).await;
        *self = launch(self.plan.clone(), self.pid.clone()).await?;
        Ok(())
    }

    /// Its init.
    pub(super) fn init(&self) -> Init {
        self.pid.clone()
    }

    /// The address at which it listens.
    pub(super) fn address(&self) -> anyhow::Result<SocketAddr> {
        self.url.trim_start_matches("http://").parse().with_context(|| format!("the address {}", self.url))
    }

    /// Sends SIGTERM, waits, and kills it after the timeout.
    pub(super) async fn stop(mut self) {
        let pid = self.init.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
        if let Some(Err(error)) = pid.map(|pid| kill_process(pid, Signal::TERM)) {
            warn!(%error, "cannot signal the backend");
        }
        if tokio::time::timeout(STOP_TIMEOUT, self.init.wait()).await.is_err() {
            warn!(timeout = ?STOP_TIMEOUT, "the backend did not stop; killed it");
            if let Err(error) = self.init.kill().await {
                warn!(%error, "cannot kill the backend");
            }
        }
    }
}

/// Starts the program and waits for the line `listening http://…` on its stdout.
async fn launch(plan: Plan, pid: Init) -> anyhow::Result<Backend> {
    let name = plan.program.display();
    let mut init = Command::new(&plan.program)
        .arg("--init")
        .envs(plan.variables.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        // In its own process group, Ctrl-C does not reach it: the gateway stops the backend in order.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("cannot start the backend {name} (--backend)"))?;
    let stdout = init.stdout.take().context("the backend's stdout")?;
    let mut lines = BufReader::new(stdout).lines();
    let url = match tokio::time::timeout(START_TIMEOUT, listening(&mut lines)).await {
        Ok(Ok(Some(url))) => url,
        Ok(Ok(None)) => {
            let status = init.wait().await.context("waiting for the backend")?;
            bail!("the backend {name} exited before it listened: {status}; its messages are above");
        }
        Ok(Err(error)) => return Err(error).context("reading the backend's stdout"),
        Err(_) => bail!("the backend {name} did not print `listening http://…` within {START_TIMEOUT:?}"),
    };
    let (listens, listening_since) = watch::channel(Instant::now());
    pid.0.store(init.id().unwrap_or_default(), Relaxed);
    let (instance, runs) = (plan.instance, pid.clone());
    let log = move |url: &str| {
        info!(instance, pid = runs.backend().map(Pid::as_raw_pid), url, "the backend listens");
    };
    log(&url);
    tokio::spawn(async move {
        // Its stdout stays open; lines between its starts are logs.
        while let Ok(Some(url)) = listening(&mut lines).await {
            log(&url);
            listens.send_replace(Instant::now());
        }
    });
    Ok(Backend { url, listening: listening_since, init, pid, plan })
}

/// The backend that runs below this init. The init's other children are hosts of sessions.
fn running(init: u32) -> Option<Pid> {
    let name = |pid: u32| fs::read(format!("/proc/{pid}/comm")).ok();
    let children = fs::read_to_string(format!("/proc/{init}/task/{init}/children")).ok()?;
    let mut pids = children.split_ascii_whitespace().filter_map(|pid| pid.parse().ok());
    let pid = pids.find(|pid| name(*pid).is_some_and(|child| Some(child) == name(init)))?;
    Pid::from_raw(pid.cast_signed())
}

async fn listening(lines: &mut Lines<BufReader<ChildStdout>>) -> std::io::Result<Option<String>> {
    while let Some(line) = lines.next_line().await? {
        match line.strip_prefix("listening ") {
            Some(url) => return Ok(Some(url.trim().trim_end_matches('/').to_owned())),
            None => eprintln!("{line}"),
        }
    }
    Ok(None)
}
