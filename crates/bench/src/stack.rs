//! Runs the whole stack as processes on free ports; dropping it stops them.
//!
//! The gateway's tests deliberately have a separate starter: theirs runs the programs that cargo built for the test and
//! panics with the log. This one runs release builds with known secrets and reports missing programs.

use std::{
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::process;

/// Timeout of the start, on a busy machine.
const START_WITHIN: Duration = Duration::from_secs(30);
/// Time without changes after which nothing is in flight: an acknowledgement waits up to 200 ms.
const QUIET: Duration = Duration::from_millis(200);
/// Timeout of becoming quiet.
const QUIET_WITHIN: Duration = Duration::from_secs(30);
/// The gateway gives the backend 25 s to stop.
const STOP_WITHIN: Duration = Duration::from_secs(30);
/// Secrets of local stacks, which are reachable only from this machine. Fixed, so that a second function can join a stack.
pub const SECRETS: [(&str, &str); 3] = [
    ("BRIDGE_SECRET", "bench-bridge-secret-bench-bridge-secret"),
    ("JWT_SECRET", "bench-users-secret-bench-users-secret"),
    ("ADMIN_TOKEN", "bench-admin-token-bench-admin-token"),
];
/// Variables to unset, because they would change how tokens are verified or which origins may connect.
const UNSET: [&str; 7] = [
    "JWT_PUBLIC_KEY",
    "JWT_PRIVATE_KEY",
    "JWKS_URL",
    "JWT_SECRET_ARN",
    "BRIDGE_SECRET_ARN",
    "ALLOWED_ORIGINS",
    "FRONTEND_URL",
];
/// Rate limits high enough for a closed loop.
const RATES: [(&str, &str); 2] = [("RATE_LIMIT_CONNECTION", "1000000"), ("RATE_LIMIT_USER", "10000000")];

/// The programs of a local stack.
#[derive(Debug, Args)]
pub struct ProgramArgs {
    /// Directory of `gateway` and `backend`; by default that of this program
    #[arg(long, global = true)]
    pub bin: Option<PathBuf>,
    /// The function; by default the deployed build, `target/function/websocket-handler`, if it exists
    #[arg(long, global = true)]
    pub function: Option<PathBuf>,
}

impl ProgramArgs {
    /// The programs.
    pub fn find(&self) -> anyhow::Result<Programs> {
        Programs::find(self.bin.clone(), self.function.clone())
    }
}

/// The programs of a stack.
#[derive(Debug, Clone)]
pub struct Programs {
    /// Directory of `gateway`, `backend` and `session-host`.
    pub directory: PathBuf,
    /// The function's executable.
    pub function: PathBuf,
}

impl Programs {
    /// Finds the programs next to this one; the function in its deployed profile, if built.
    pub fn find(directory: Option<PathBuf>, function: Option<PathBuf>) -> anyhow::Result<Self> {
        let own = std::env::current_exe().context("path of this program")?;
        let directory = directory.unwrap_or_else(|| own.parent().unwrap_or(Path::new(".")).to_owned());
        let deployed = directory.join("../function/websocket-handler");
        let function = function.unwrap_or_else(|| {
            let small = deployed.is_file() && directory.file_name().is_some_and(|name| name == "release");
            if small { deployed } else { directory.join("websocket-handler") }
        });
        let [gateway, backend, host] =
            ["gateway", "backend", "session-host"].map(|name| directory.join(name));
        for program in [&gateway, &backend, &host, &function] {
            ensure!(program.is_file(), "{} does not exist; run `make build` first", program.display());
        }
        Ok(Self { directory, function })
    }

    /// A stack without rate limits.
    pub fn stack(&self) -> Builder {
        Builder { programs: self.clone(), flags: Vec::new(), variables: Vec::new() }
    }
}

/// Configures a stack.
#[derive(Debug)]
pub struct Builder {
    programs: Programs,
    flags: Vec<String>,
    variables: Vec<(String, String)>,
}

impl Builder {
    /// Adds a flag of `gateway`, with its value unless that is empty.
    #[must_use]
    pub fn flag(mut self, name: &str, value: &str) -> Self {
        self.flags.extend([name, value].into_iter().filter(|word| !word.is_empty()).map(str::to_owned));
        self
    }

    /// Sets an environment variable of all programs.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Starts everything and waits until it is ready.
    pub async fn start(self) -> anyhow::Result<Stack> {
        tokio::task::spawn_blocking(move || self.start_blocking()).await?
    }

    fn start_blocking(self) -> anyhow::Result<Stack> {
        let directory = TempDir::new().context("a directory for the log")?;
        let log = std::fs::File::create(directory.path().join("log")).context("the log")?;
        let gateway = self.programs.directory.join("gateway");
        let mut command = Command::new(&gateway);
        for name in UNSET {
            command.env_remove(name);
        }
        command
            .args(["--listen", "127.0.0.1:0", "--control", "127.0.0.1:0", "--backend-port", "0"])
            .args(["--request-rate", "0", "--connect-rate", "0", "--stop-with-parent"])
            .arg("--backend")
            .arg(self.programs.directory.join("backend"))
            .arg("--function")
            .arg(&self.programs.function)
            .args(&self.flags)
            .envs(SECRETS)
            .envs(RATES)
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log);
        let mut child = command.spawn().with_context(|| format!("starting {}", gateway.display()))?;
        let stdout = child.stdout.take().context("the gateway's stdout")?;
        let mut stack = Stack {
            child,
            directory,
            page: String::new(),
            websocket: String::new(),
            control: String::new(),
            dynamodb: String::new(),
            management: String::new(),
            http: reqwest::Client::new(),
        };
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _gone = sender.send(line);
            }
        });
        let until = Instant::now() + START_WITHIN;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let Ok(line) = lines.recv_timeout(left) else {
                bail!("the stack did not start; its log ends:\n{}", stack.log_end());
            };
            let (name, value) = line.split_once(' ').unwrap_or((&line, ""));
            let place = match name {
                "page" => &mut stack.page,
                "websocket" => &mut stack.websocket,
                "control" => &mut stack.control,
                "dynamodb" => &mut stack.dynamodb,
                "management" => &mut stack.management,
                "ready" => return Ok(stack),
                _ => continue,
            };
            value.trim().clone_into(place);
        }
    }
}

/// A running stack.
#[derive(Debug)]
pub struct Stack {
    child: Child,
    directory: TempDir,
    http: reqwest::Client,
    /// `http://127.0.0.1:PORT/`: the backend.
    pub page: String,
    /// `ws://127.0.0.1:PORT/prod`
    pub websocket: String,
    /// `http://127.0.0.1:PORT/`
    pub control: String,
    /// `http://127.0.0.1:PORT`
    pub dynamodb: String,
    /// `http://127.0.0.1:PORT/prod`
    pub management: String,
}

impl Stack {
    /// `GET /__state`: the gateway's counters.
    pub async fn state(&self) -> anyhow::Result<Value> {
        let url = format!("{}__state", self.control);
        let body = self.http.get(url).send().await?.error_for_status()?.bytes().await?;
        Ok(serde_json::from_slice(&body)?)
    }

    /// `POST /__faults`: the faults that the gateway injects.
    pub async fn set_faults(&self, faults: &Value) -> anyhow::Result<()> {
        let url = format!("{}__faults", self.control);
        self.http.post(url).body(faults.to_string()).send().await?.error_for_status()?;
        Ok(())
    }

    /// The processes: `gateway`, `backend` and its init, each session's host, and each instance of the function.
    pub fn processes(&self) -> Vec<(Role, u32)> {
        let mut all = vec![(Role::Gateway, self.child.id())];
        for (pid, name) in process::children(self.child.id()) {
            // The kernel truncates names to 15 bytes.
            match name.as_str() {
                "backend" => all.extend(Self::backend(pid)),
                "websocket-handl" => all.push((Role::Function, pid)),
                _ => {}
            }
        }
        all
    }

    /// The process id of the instances' Redis.
    pub fn redis(&self) -> Option<u32> {
        let children = process::children(self.child.id());
        children.into_iter().find_map(|(pid, name)| (name == "redis-server").then_some(pid))
    }

    /// A backend or its init, and what is below it.
    fn backend(pid: u32) -> Vec<(Role, u32)> {
        let children = process::children(pid).into_iter().flat_map(|(pid, name)| match name.as_str() {
            "backend" => Self::backend(pid),
            "session-host" => vec![(Role::Host, pid)],
            _ => Vec::new(),
        });
        let children: Vec<_> = children.collect();
        let above = children.iter().any(|(role, _)| *role == Role::Backend);
        std::iter::once((if above { Role::Init } else { Role::Backend }, pid)).chain(children).collect()
    }

    /// A home directory for shells, without start-up files.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The log of all processes.
    pub fn log(&self) -> anyhow::Result<String> {
        let text = std::fs::read(self.directory.path().join("log")).context("the log")?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    fn log_end(&self) -> String {
        let log = self.log().unwrap_or_default();
        log.get(log.floor_char_boundary(log.len().saturating_sub(2_000))..).unwrap_or_default().to_owned()
    }
}

/// Samples until the result stops changing: an acknowledgement, or the response to a delivered push, may still be in
/// flight.
pub async fn at_rest<T: PartialEq>(sample: impl AsyncFn() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let started = Instant::now();
    let mut last = sample().await?;
    loop {
        ensure!(started.elapsed() < QUIET_WITHIN, "the stack does not become quiet");
        tokio::time::sleep(QUIET).await;
        let now = sample().await?;
        if now == last {
            return Ok(now);
        }
        last = now;
    }
}

/// The role of a process in a stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The stand-in for API Gateway, Lambda and `DynamoDB`.
    Gateway,
    /// One process of the function.
    Function,
    /// The backend.
    Backend,
    /// The backend's init. The backend's figures include it.
    Init,
    /// The host of one session. The backend's figures include its hosts.
    Host,
}

impl Drop for Stack {
    fn drop(&mut self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            let _gone = kill_process(pid, Signal::TERM);
        }
        let until = Instant::now() + STOP_WITHIN;
        while let Ok(None) = self.child.try_wait() {
            if Instant::now() > until {
                let _gone = self.child.kill();
                let _gone = self.child.wait();
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
