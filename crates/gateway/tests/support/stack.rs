//! A `gateway` process with everything it starts, on free ports, stopped when dropped.

use std::{
    ffi::OsString,
    io::{BufRead as _, BufReader, Read as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, mpsc},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use super::{Client, http, until};

/// Start timeout, for debug builds on a busy machine.
const START_WITHIN: Duration = Duration::from_mins(2);
/// The gateway gives the backend 27 s to stop; the rest is for a busy machine.
const STOP_WITHIN: Duration = Duration::from_mins(1);

/// Defaults of the tests: free ports.
const DEFAULTS: [(&str, &str); 3] =
    [("--listen", "127.0.0.1:0"), ("--control", "127.0.0.1:0"), ("--backend-port", "0")];

/// A binary of the workspace in the directory of `gateway`, such as `backend` or `websocket-handler`.
pub fn sibling(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_gateway")).with_file_name(name);
    assert!(path.is_file(), "{} is missing: `cargo build` it first", path.display());
    path
}

/// An example of this crate, built by `cargo test -p shellbridge-gateway`.
pub fn example(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_gateway")).with_file_name("examples").join(name);
    assert!(path.is_file(), "{} is missing: `cargo build -p shellbridge-gateway --examples`", path.display());
    path
}

/// A command that runs another one without capabilities; nothing for users that have none.
pub fn without_capabilities() -> Vec<String> {
    let root = rustix::process::geteuid().is_root();
    if root { vec!["setpriv".to_owned(), "--bounding-set=-all".to_owned()] } else { Vec::new() }
}

/// A program, run by a wrapper if there is one.
pub fn wrapped(wrapper: &[String], program: &str) -> Command {
    let Some((first, rest)) = wrapper.split_first() else { return Command::new(program) };
    let mut command = Command::new(first);
    command.args(rest).arg(program);
    command
}

/// What to start.
#[derive(Debug)]
pub struct StackBuilder {
    arguments: Vec<OsString>,
    environment: Vec<(String, String)>,
    /// A command that runs the gateway, such as `setpriv`.
    wrapper: Vec<String>,
}

/// A running gateway.
#[derive(Debug)]
pub struct Stack {
    child: Child,
    log: Arc<Mutex<String>>,
    directory: TempDir,
    /// The page's address, if a backend was started.
    pub page: Option<String>,
    /// `ws://127.0.0.1:PORT/prod`
    pub websocket: String,
    /// `http://127.0.0.1:PORT/`
    pub control: String,
    /// `http://127.0.0.1:PORT`
    pub dynamodb: String,
    /// `http://127.0.0.1:PORT/prod`
    pub management: String,
}

impl StackBuilder {
    /// A flag, with its value if it has one: `.flag("--tls", "")`, `.flag("--idle-timeout", "1")`.
    pub fn flag(mut self, name: &str, value: impl AsRef<std::ffi::OsStr>) -> Self {
        self.arguments.push(name.into());
        if !value.as_ref().is_empty() {
            self.arguments.push(value.as_ref().into());
        }
        self
    }

    /// A variable of the environment of everything that is started.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A hard limit on the gateway's open descriptors.
    pub fn descriptors(mut self, limit: u32) -> Self {
        let script = "ulimit -n \"$0\"; exec \"$@\"";
        self.wrapper = ["sh", "-c", script, &limit.to_string()].map(str::to_owned).into();
        self
    }

    /// Runs the gateway without capabilities, as for any user but root.
    pub fn without_capabilities(mut self) -> Self {
        self.wrapper = without_capabilities();
        self
    }

    fn has(&self, name: &str) -> bool {
        self.arguments.iter().any(|argument| argument == name)
    }

    fn command(&self, directory: &Path) -> Command {
        let mut command = wrapped(&self.wrapper, env!("CARGO_BIN_EXE_gateway"));
        command
            .args(
                DEFAULTS.iter().filter(|(name, _)| !self.has(name)).flat_map(|(name, value)| [*name, *value]),
            )
            .arg("--stop-with-parent")
            .args(&self.arguments)
            .env("EVENT_LOG", directory.join("events"))
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs a gateway that fails to start; returns its exit status and stderr.
    pub fn fails(self) -> (ExitStatus, String) {
        let directory = TempDir::new().unwrap();
        let mut child = self.command(directory.path()).spawn().unwrap();
        let status = wait(&mut child, START_WITHIN).expect("the gateway ends by itself");
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (status, said)
    }

    /// Starts everything and waits for `ready`.
    pub async fn start(self) -> Stack {
        tokio::task::spawn_blocking(move || self.start_blocking()).await.unwrap()
    }

    fn start_blocking(self) -> Stack {
        let directory = TempDir::new().unwrap();
        let mut child = self.command(directory.path()).spawn().unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let (stderr, sink) = (child.stderr.take().unwrap(), Arc::clone(&log));
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let mut log = sink.lock().unwrap();
                log.push_str(&line);
                log.push('\n');
            }
        });
        let stdout = child.stdout.take().unwrap();
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _gone = sender.send(line);
            }
        });
        let mut stack = Stack {
            child,
            log,
            directory,
            page: None,
            websocket: String::new(),
            control: String::new(),
            dynamodb: String::new(),
            management: String::new(),
        };
        let until = Instant::now() + START_WITHIN;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let line = receiver
                .recv_timeout(left)
                .unwrap_or_else(|error| panic!("no `ready` of the gateway: {error}"));
            let (name, value) = line.split_once(' ').unwrap_or((&line, ""));
            let value = value.trim().to_owned();
            match name {
                "page" => stack.page = Some(value),
                "websocket" => stack.websocket = value,
                "control" => stack.control = value,
                "dynamodb" => stack.dynamodb = value,
                "management" => stack.management = value,
                "ready" => return stack,
                other => panic!("unexpected line of the gateway: {other}"),
            }
        }
    }
}

impl Stack {
    /// A stack with the scripted function, whose response the client gets.
    pub fn scripted() -> StackBuilder {
        Self::with_function(&example("scripted_function")).flag("--route-responses", "$default")
    }

    /// The whole stack: the real backend and the real Lambda, which must be built; `WEBSOCKET_HANDLER` names another
    /// build of the Lambda, such as the one that is deployed.
    pub fn whole() -> StackBuilder {
        let function =
            std::env::var_os("WEBSOCKET_HANDLER").map_or_else(|| sibling("websocket-handler"), PathBuf::from);
        Self::with_function(&function).flag("--backend", sibling("backend"))
    }

    /// A stack with a function.
    pub fn with_function(program: &Path) -> StackBuilder {
        Self::empty().flag("--function", program)
    }

    /// A stack without a function.
    pub fn empty() -> StackBuilder {
        StackBuilder { arguments: Vec::new(), environment: Vec::new(), wrapper: Vec::new() }
    }

    /// Connects to the stage.
    pub async fn connect(&self) -> Client {
        Client::connect(&self.websocket).await
    }

    /// Connects with a query.
    pub async fn connect_with(&self, query: &str) -> Client {
        Client::connect(&format!("{}?{query}", self.websocket)).await
    }

    /// `GET /__state`.
    pub async fn state(&self) -> Value {
        http("GET", &format!("{}__state", self.control), &[], "").await.json()
    }

    /// Waits for a state.
    pub async fn until_state(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        until(what, || async { Some(self.state().await).filter(&wanted) }).await
    }

    /// `POST /__faults`.
    pub async fn faults(&self, faults: Value) -> Value {
        let answer = http("POST", &format!("{}__faults", self.control), &[], faults.to_string()).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    }

    /// URL of a connection at `@connections`.
    pub fn connection_url(&self, id: &str) -> String {
        format!("{}/@connections/{}", self.management, id.replace('=', "%3D"))
    }

    /// Events that the scripted function received so far, and its other notes.
    pub fn events(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.directory.path().join("events")).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Waits for an event.
    pub async fn until_event(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        until(what, || async { self.events().into_iter().find(&wanted) }).await
    }

    /// Waits for a `$disconnect` event.
    pub async fn disconnect_event(&self, connection_id: &str) -> Value {
        self.until_event("$disconnect", |event| {
            let context = &event["requestContext"];
            context["eventType"] == "DISCONNECT" && context["connectionId"] == connection_id
        })
        .await
    }

    /// The stderr of the gateway and its processes so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// A directory of this stack.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Process id of the gateway.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Signals the gateway and waits for its exit.
    pub fn stop(&mut self, signal: Signal) -> ExitStatus {
        let pid = Pid::from_raw(self.child.id().try_into().unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
        wait(&mut self.child, STOP_WITHIN).expect("the gateway stops")
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let pid = Pid::from_raw(self.child.id().try_into().unwrap()).unwrap();
            let _gone = kill_process(pid, Signal::TERM);
            if wait(&mut self.child, STOP_WITHIN).is_none() {
                let _gone = self.child.kill();
                let _gone = self.child.wait();
            }
        }
        if std::thread::panicking() {
            eprintln!("--- the gateway's log\n{}---", self.log());
        }
    }
}

fn wait(child: &mut Child, within: Duration) -> Option<ExitStatus> {
    let until = Instant::now() + within;
    while Instant::now() < until {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    None
}
