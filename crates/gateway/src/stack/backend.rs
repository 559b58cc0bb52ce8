//! The backend's process: start, restart, and an orderly stop.

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStdout, Command},
};
use tracing::{info, warn};

use super::environment::Environment;

/// Time for the backend to print its address.
const START_TIMEOUT: Duration = Duration::from_secs(20);
/// Time for the backend to stop: it ends its shells and notifies clients.
const STOP_TIMEOUT: Duration = Duration::from_secs(25);
/// Attempts to start on a free port, which another process may take first.
const PORT_ATTEMPTS: usize = 5;
/// Delay before a restart.
const RESTART_DELAY: Duration = Duration::from_millis(500);

/// A running backend.
#[derive(Debug)]
pub(super) struct Backend {
    /// Its address, without a trailing slash.
    pub(super) url: String,
    program: PathBuf,
    variables: Vec<(String, String)>,
    child: Child,
}

impl Backend {
    /// Starts the backend on a port (0: a free one) and waits until it listens.
    pub(super) async fn start(
        program: &Path,
        port: u16,
        environment: &mut Environment,
    ) -> anyhow::Result<Self> {
        let attempts = if port == 0 { PORT_ATTEMPTS } else { 1 };
        let mut attempt = 1;
        loop {
            environment.backend_port(if port == 0 { free_port()? } else { port });
            let variables = environment.backend();
            match launch(program, &variables).await {
                Ok((child, url)) => return Ok(Self { url, program: program.to_owned(), variables, child }),
                Err(error) if attempt >= attempts => return Err(error),
                Err(error) => warn!("{error:#}; trying another port"),
            }
            attempt += 1;
        }
    }

    /// Waits until the backend exits, and returns its status.
    pub(super) async fn wait(&mut self) -> String {
        match self.child.wait().await {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        }
    }

    /// Restarts it on the same port.
    pub(super) async fn restart(&mut self) -> anyhow::Result<()> {
        tokio::time::sleep(RESTART_DELAY).await;
        (self.child, self.url) = launch(&self.program, &self.variables).await?;
        Ok(())
    }

    /// Kills it, as the kernel or an operator might.
    pub(super) fn kill(&mut self) {
        if let Err(error) = self.child.start_kill() {
            warn!(%error, "cannot kill the backend");
        }
    }

    /// Sends SIGTERM, waits, and kills it after the timeout.
    pub(super) async fn stop(mut self) {
        let pid = self.child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
        if let Some(Err(error)) = pid.map(|pid| kill_process(pid, Signal::TERM)) {
            warn!(%error, "cannot signal the backend");
        }
        if tokio::time::timeout(STOP_TIMEOUT, self.child.wait()).await.is_err() {
            warn!(timeout = ?STOP_TIMEOUT, "the backend did not stop; killed it");
            if let Err(error) = self.child.kill().await {
                warn!(%error, "cannot kill the backend");
            }
        }
    }
}

/// Starts the program and waits for the line `listening http://…` on its stdout.
async fn launch(program: &Path, variables: &[(String, String)]) -> anyhow::Result<(Child, String)> {
    let name = program.display();
    let mut child = Command::new(program)
        .envs(variables.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        // In its own process group, Ctrl-C does not reach it: the gateway stops the backend in order.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("cannot start the backend {name} (--backend)"))?;
    let stdout = child.stdout.take().context("the backend's stdout")?;
    let mut lines = BufReader::new(stdout).lines();
    let url = match tokio::time::timeout(START_TIMEOUT, listening(&mut lines)).await {
        Ok(Ok(Some(url))) => url,
        Ok(Ok(None)) => {
            let status = child.wait().await.context("waiting for the backend")?;
            bail!("the backend {name} exited before it listened: {status}; its messages are above");
        }
        Ok(Err(error)) => return Err(error).context("reading the backend's stdout"),
        Err(_) => bail!("the backend {name} did not print `listening http://…` within {START_TIMEOUT:?}"),
    };
    info!(pid = child.id(), url, "the backend listens");
    tokio::spawn(async move {
        // Its stdout stays open; later lines are logs.
        while let Ok(Some(line)) = lines.next_line().await {
            eprintln!("{line}");
        }
    });
    Ok((child, url))
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

fn free_port() -> anyhow::Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").context("cannot find a free port")?;
    Ok(listener.local_addr()?.port())
}
