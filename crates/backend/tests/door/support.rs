//! A real `backend` process on a free port, and a server that receives its pushes. Both stop on drop.

use std::{
    collections::BTreeMap,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::{
    Router,
    body::Bytes,
    extract::{Path, State},
    http::{Method, StatusCode},
    routing::any,
};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use nix::sys::signal::Signal;
use reqwest::{RequestBuilder, Response};
use serde_json::{Value, json};
use shellbridge_protocol::{
    bridge::{BridgeKeys, CONNECT_PATH, MESSAGE_PATH},
    times::UnixSecs,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    net::TcpListener,
    process::{Child, ChildStdout, Command},
    sync::watch,
    task::JoinHandle,
    time::timeout,
};

pub(crate) const BRIDGE_SECRET: &str = "a bridge secret of the tests of 32 bytes and more";
pub(crate) const JWT_SECRET: &str = "a secret of users' tokens of 32 bytes and more";
pub(crate) const ADMIN_TOKEN: &str = "the-platform-s-own-token-of-32-bytes-and-more";
pub(crate) const ORIGIN: &str = "https://app.example.org";
pub(crate) const ISSUER: &str = "https://issuer.example.org";
pub(crate) const AUDIENCE: &str = "shellbridge";
pub(crate) const BACKEND: &str = env!("CARGO_BIN_EXE_backend");
/// Longest wait: debug builds on a busy machine are slow.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A request to `@connections`.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) method: Method,
    pub(crate) connection: String,
    pub(crate) frame: Value,
}

/// A stand-in for `@connections` that records requests.
pub(crate) struct Gateway {
    pub(crate) url: String,
    calls: watch::Receiver<Vec<Call>>,
    /// Status of the following responses; 0 means 200.
    pub(crate) fail_with: Arc<AtomicU16>,
    server: JoinHandle<()>,
}

#[derive(Clone)]
struct Notes {
    calls: Arc<watch::Sender<Vec<Call>>>,
    fail_with: Arc<AtomicU16>,
}

impl Gateway {
    pub(crate) async fn start() -> Self {
        let (sender, calls) = watch::channel(Vec::new());
        let fail_with = Arc::new(AtomicU16::new(0));
        let notes = Notes { calls: Arc::new(sender), fail_with: fail_with.clone() };
        let router = Router::new().route("/@connections/{id}", any(note)).with_state(notes);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, calls, fail_with, server }
    }

    /// All calls so far.
    pub(crate) fn calls(&self) -> Vec<Call> {
        self.calls.borrow().clone()
    }

    /// Waits for a call, past or future.
    pub(crate) async fn until(&self, what: &str, wanted: impl Fn(&Call) -> bool) -> Call {
        let mut calls = self.calls.clone();
        let found = timeout(PATIENCE, calls.wait_for(|calls| calls.iter().any(&wanted))).await;
        let calls = found.unwrap_or_else(|_| panic!("no {what} in {:?}", self.calls())).unwrap();
        calls.iter().find(|call| wanted(call)).cloned().unwrap()
    }

    /// Waits for a frame of this type.
    pub(crate) async fn frame(&self, kind: &str) -> Value {
        self.until(kind, |call| call.frame["type"] == kind).await.frame
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn note(State(notes): State<Notes>, Path(id): Path<String>, method: Method, body: Bytes) -> StatusCode {
    let status = notes.fail_with.load(Ordering::Relaxed);
    let frame = serde_json::from_slice(&body).unwrap_or_default();
    notes.calls.send_modify(|calls| calls.push(Call { method, connection: id, frame }));
    StatusCode::from_u16(status).unwrap_or(StatusCode::OK)
}

/// Settings of a backend, with defaults for tests.
pub(crate) struct Settings {
    variables: BTreeMap<String, String>,
    descriptors: Option<u32>,
}

impl Settings {
    pub(crate) fn new() -> Self {
        let set = [
            ("BIND", "127.0.0.1"),
            ("PORT", "0"),
            ("BRIDGE_SECRET", BRIDGE_SECRET),
            ("JWT_SECRET", JWT_SECRET),
            ("ADMIN_TOKEN", ADMIN_TOKEN),
            ("ALLOWED_ORIGINS", ORIGIN),
            ("AWS_REGION", "eu-west-1"),
            ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "test"),
            ("AWS_EC2_METADATA_DISABLED", "true"),
            ("PATH", "/usr/bin:/bin"),
        ];
        let variables = set.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        Self { variables, descriptors: None }
    }

    pub(crate) fn set(mut self, name: &str, value: &str) -> Self {
        self.variables.insert(name.to_owned(), value.to_owned());
        self
    }

    pub(crate) fn without(mut self, name: &str) -> Self {
        self.variables.remove(name);
        self
    }

    /// Limits its open descriptors.
    pub(crate) fn descriptors(mut self, limit: u32) -> Self {
        self.descriptors = Some(limit);
        self
    }

    /// Directs pushes to `gateway`.
    pub(crate) fn pushing_to(self, gateway: &Gateway) -> Self {
        let url = gateway.url.clone();
        self.set("AWS_ENDPOINT_URL_APIGATEWAYMANAGEMENTAPI", &url)
    }

    fn command(&self, home: &TempDir, (program, arguments): (&str, &[String])) -> Command {
        let mut command = match self.descriptors {
            None => Command::new(program),
            Some(limit) => {
                let mut shell = Command::new("/bin/sh");
                shell.args(["-c", "ulimit -n \"$0\"; exec \"$@\"", &limit.to_string(), program]);
                shell
            }
        };
        command
            .args(arguments)
            .env_clear()
            .env("RUN_DIR", home.path().join("run"))
            .envs(&self.variables)
            // Avoids the start-up files of the user who runs the tests.
            .env("HOME", home.path())
            .current_dir(home.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    /// Starts a backend.
    pub(crate) async fn start(self) -> Backend {
        self.start_by((BACKEND, &[])).await
    }

    /// Starts a backend through another program.
    pub(crate) async fn start_by(self, program: (&str, &[String])) -> Backend {
        let home = TempDir::new().unwrap();
        let mut child = self.command(&home, program).spawn().unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap()).lines();
        let (said, log_so_far) = watch::channel(String::new());
        let log = tokio::spawn(async move {
            while let Some(line) = stderr.next_line().await.unwrap() {
                said.send_modify(|log| log.extend([&line, "\n"]));
            }
            said.borrow().clone()
        });
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap();
        let Some(line) = line else { panic!("it did not start: {}", log.await.unwrap()) };
        let url = url_of(&line);
        // A connection per request: the backend closes one on which it refused a large body.
        let http = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).timeout(PATIENCE);
        let http = http.build().unwrap();
        Backend { child, url, http, lines, log_so_far, log, _home: home }
    }

    /// Runs a backend that must fail to start; returns its exit code and stderr.
    pub(crate) async fn fails(self) -> (i32, String) {
        self.fails_by((BACKEND, &[])).await
    }

    /// The same, through another program.
    pub(crate) async fn fails_by(self, program: (&str, &[String])) -> (i32, String) {
        let home = TempDir::new().unwrap();
        let output = self.command(&home, program).spawn().unwrap().wait_with_output();
        let output = timeout(PATIENCE, output).await.expect("it exits").unwrap();
        assert!(output.stdout.is_empty(), "it never listened");
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    }
}

/// Starts a backend with the default settings, and the gateway that it pushes to.
pub(crate) async fn started() -> (Gateway, Backend) {
    let gateway = Gateway::start().await;
    let backend = Settings::new().pushing_to(&gateway).start().await;
    (gateway, backend)
}

/// A running backend.
pub(crate) struct Backend {
    child: Child,
    pub(crate) url: String,
    pub(crate) http: reqwest::Client,
    lines: Lines<BufReader<ChildStdout>>,
    log_so_far: watch::Receiver<String>,
    log: JoinHandle<String>,
    _home: TempDir,
}

impl Backend {
    pub(crate) fn get(&self, path: &str) -> RequestBuilder {
        self.http.get(format!("{}{path}", self.url))
    }

    pub(crate) fn post(&self, path: &str) -> RequestBuilder {
        self.http.post(format!("{}{path}", self.url))
    }

    pub(crate) fn delete(&self, path: &str) -> RequestBuilder {
        self.http.delete(format!("{}{path}", self.url))
    }

    /// A request signed as by the Lambda.
    pub(crate) fn signed(&self, path: &str, connection: &str, body: &Value) -> RequestBuilder {
        let body = body.to_string();
        self.bridge(path, connection, &bridge_token(path, connection, body.as_bytes()), body)
    }

    /// The same, with a given token.
    pub(crate) fn bridge(
        &self,
        path: &str,
        connection: &str,
        token: &str,
        body: impl Into<reqwest::Body>,
    ) -> RequestBuilder {
        self.post(path)
            .header("content-type", "application/json")
            .header("x-connection-id", connection)
            .bearer_auth(token)
            .body(body)
    }

    /// Creates a session with `ADMIN_TOKEN`, whose shell reads no start-up files.
    pub(crate) async fn session(&self, user: &str, id: &str) -> Value {
        let body = json!({"userId": user, "sessionId": id, "shell": "/bin/sh"});
        let response = self.post("/api/sessions").bearer_auth(ADMIN_TOKEN).json(&body).send().await.unwrap();
        assert_eq!(response.status(), 201);
        response.json().await.unwrap()
    }

    /// Sends a connect request as the Lambda does.
    pub(crate) async fn connect(&self, session: &str, user: &str, connection: &str) {
        let body = connect_body(session, user, connection);
        let response = self.signed(CONNECT_PATH, connection, &body).send().await.unwrap();
        assert_eq!(response.status(), 200, "{}", response.text().await.unwrap());
    }

    /// Sends a client's frame as the Lambda does.
    pub(crate) async fn frame(&self, session: &str, user: &str, connection: &str, frame: Value) -> Response {
        let body = message_body(session, user, connection, frame);
        self.signed(MESSAGE_PATH, connection, &body).send().await.unwrap()
    }

    pub(crate) async fn metrics(&self) -> String {
        self.get("/metrics").bearer_auth(ADMIN_TOKEN).send().await.unwrap().text().await.unwrap()
    }

    /// Polls the metrics for a line with this prefix: some are counted only after the response.
    pub(crate) async fn counts(&self, line: &str) {
        let until = async {
            while !self.metrics().await.lines().any(|found| found.starts_with(line)) {
                tokio::task::yield_now().await;
            }
        };
        let counted = timeout(PATIENCE, until).await.is_ok();
        assert!(counted, "no {line:?} in\n{}", self.metrics().await);
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    /// Its living child processes.
    pub(crate) fn shells(&self) -> Vec<u32> {
        let parent = self.pid();
        let processes = std::fs::read_dir("/proc").unwrap();
        let pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
        pids.filter(|pid| {
            let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
            let mut fields = stat.rsplit_once(')').unwrap().1.split_ascii_whitespace();
            fields.next() != Some("Z") && fields.next().and_then(|ppid| ppid.parse().ok()) == Some(parent)
        })
        .collect()
    }

    /// Waits for these words in the log.
    pub(crate) async fn logs(&self, words: &str) {
        let mut log = self.log_so_far.clone();
        let found = timeout(PATIENCE, log.wait_for(|log| log.contains(words))).await;
        assert!(found.is_ok_and(|found| found.is_ok()), "no {words:?} in {}", *self.log_so_far.borrow());
    }

    /// Waits until the backend that an init started again listens.
    pub(crate) async fn listens_again(&mut self) {
        let line = timeout(PATIENCE, self.lines.next_line()).await;
        let line =
            line.unwrap_or_else(|_| panic!("not started again: {}", *self.log_so_far.borrow())).unwrap();
        self.url = url_of(&line.expect("its init lives"));
    }

    pub(crate) fn terminate(&self) {
        signal(self.pid(), Signal::SIGTERM);
    }

    /// Kills it, as a crash would.
    pub(crate) async fn crash(mut self) {
        self.child.kill().await.unwrap();
    }

    /// Waits for its exit; returns the exit code and the log.
    pub(crate) async fn ended(mut self) -> (i32, String) {
        let status = timeout(PATIENCE, self.child.wait()).await.expect("it exits").unwrap();
        let code = status.code().expect("not killed by a signal");
        (code, timeout(PATIENCE, self.log).await.expect("no other process holds its stderr").unwrap())
    }
}

fn url_of(line: &str) -> String {
    line.strip_prefix("listening ").unwrap().to_owned()
}

pub(crate) fn signal(pid: u32, signal: Signal) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.cast_signed()), signal).unwrap();
}

/// Whether a process lives. A zombie does not.
pub(crate) fn lives(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

pub(crate) fn now() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap()
}

pub(crate) fn connect_body(session: &str, user: &str, connection: &str) -> Value {
    json!({
        "connectionId": connection, "sessionId": session, "userId": user, "readOnly": false,
        "connectedAt": now() * 1000, "tokenExpiresAt": now() + 600,
        "callbackUrl": "https://api.execute-api.eu-west-1.amazonaws.com/prod",
    })
}

pub(crate) fn message_body(session: &str, user: &str, connection: &str, frame: Value) -> Value {
    let mut body = frame;
    body["connectionId"] = connection.into();
    body["sessionId"] = session.into();
    body["userId"] = user.into();
    body["timestamp"] = (now() * 1000).into();
    body["bridge"] = json!({
        "messageId": uuid::Uuid::new_v4().to_string(), "connectedAt": now() * 1000, "readOnly": false,
        "callbackUrl": "https://api.execute-api.eu-west-1.amazonaws.com/prod", "tokenExpiresAt": now() + 600,
    });
    body
}

/// A valid bridge token.
pub(crate) fn bridge_token(path: &str, connection: &str, body: &[u8]) -> String {
    let jti = uuid::Uuid::new_v4().to_string();
    BridgeKeys::parse(BRIDGE_SECRET)
        .unwrap()
        .sign(path, &connection.into(), body, UnixSecs(now()), jti)
        .unwrap()
}

/// The claims of a valid bridge token, for tests to alter.
pub(crate) fn bridge_claims(path: &str, connection: &str, body: &[u8]) -> Value {
    let token = bridge_token(path, connection, body);
    jsonwebtoken::dangerous::insecure_decode::<Value>(&token).unwrap().claims
}

/// The claims of a valid user's token.
pub(crate) fn claims(user: &str) -> Value {
    json!({"sub": user, "exp": now() + 600, "iss": ISSUER, "aud": AUDIENCE})
}

pub(crate) fn hs256(claims: &Value, secret: &str) -> String {
    hs(Algorithm::HS256, claims, secret)
}

pub(crate) fn hs(algorithm: Algorithm, claims: &Value, secret: &str) -> String {
    jsonwebtoken::encode(&Header::new(algorithm), claims, &EncodingKey::from_secret(secret.as_bytes()))
        .unwrap()
}

pub(crate) fn rs256(claims: &Value) -> String {
    let key = EncodingKey::from_rsa_pem(include_bytes!("../../../protocol/src/access/keys/rsa.pem")).unwrap();
    jsonwebtoken::encode(&Header::new(Algorithm::RS256), claims, &key).unwrap()
}

/// The same claims with `alg: none` and no signature.
pub(crate) fn unsigned(token: &str) -> String {
    let claims = token.split('.').nth(1).unwrap();
    // {"alg":"none","typ":"JWT"}
    format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{claims}.")
}
