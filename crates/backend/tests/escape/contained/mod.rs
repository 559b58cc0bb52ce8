//! Sessions in containers of a real engine.

mod engine;
mod limits;
mod lives;
mod starts;
mod table;

use std::{collections::BTreeMap, path::Path};

use reqwest::StatusCode;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::timeout;

use self::engine::{Engine, IMAGE};
use crate::support::{ADMIN_TOKEN, BACKEND, Backend, Call, Gateway, PATIENCE, Settings};

const CLIENT: &str = "client-of-container-tests";

/// An engine, a directory for one backend after the other, and the gateway that they push to.
pub(crate) struct Site {
    engine: Engine,
    run_dir: TempDir,
    gateway: Gateway,
}

impl Site {
    async fn new() -> Self {
        let host = Path::new(BACKEND).with_file_name("session-host-static");
        assert!(host.is_file(), "{} is missing: make contained", host.display());
        let engine = tokio::task::spawn_blocking(Engine::start).await.unwrap();
        Self { engine, run_dir: TempDir::new().unwrap(), gateway: Gateway::start().await }
    }

    fn settings(&self) -> Settings {
        Settings::new()
            .pushing_to(&self.gateway)
            .set("RUN_DIR", self.run_dir.path().join("run").to_str().unwrap())
            .set("SHELL_SANDBOX", "container")
            .set("SHELL_IMAGE", IMAGE)
            .set("DOCKER_HOST", &self.engine.address())
    }

    /// A site with a running backend.
    async fn started() -> (Self, Backend) {
        let site = Self::new().await;
        let backend = site.settings().start().await;
        (site, backend)
    }

    /// Living processes of all containers, by PID on this machine.
    fn processes(&self) -> Vec<u32> {
        let ids: Vec<String> =
            self.engine.containers().iter().map(|one| one["Id"].as_str().unwrap().to_owned()).collect();
        let entries = std::fs::read_dir("/proc").unwrap().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        pids.filter(|pid| {
            let cgroup = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
            ids.iter().any(|id| cgroup.contains(id)) && crate::support::lives(*pid)
        })
        .collect()
    }

    /// PID on this machine of a process with this PID in the container of a session.
    fn outer(&self, session: &str, inner: &str) -> u32 {
        let containers = self.engine.containers();
        let container =
            containers.iter().find(|one| one["Labels"]["shellbridge.session"] == session).unwrap();
        let id = container["Id"].as_str().unwrap();
        let is = |pid: &u32| {
            let read =
                |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
            let status = read("status");
            let pids = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap_or_default();
            read("cgroup").contains(id) && pids.split_ascii_whitespace().last() == Some(inner)
        };
        self.processes().into_iter().find(is).unwrap_or_else(|| panic!("no process {inner} in {session}"))
    }

    /// Waits until there is no container.
    async fn empties(&self) {
        until("no container", || self.engine.containers().is_empty()).await;
    }
}

/// Polls for a condition. Listing containers takes the engine a while.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let holding = async {
        while !tokio::task::block_in_place(&mut holds) {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    assert!(timeout(PATIENCE * 2, holding).await.is_ok(), "not so: {what}");
}

/// Asks for a session.
async fn create(backend: &Backend, name: &str, more: Value) -> (StatusCode, Value) {
    let mut body = json!({"userId": name, "sessionId": name});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let made = backend.post("/api/sessions").bearer_auth(ADMIN_TOKEN).json(&body).send().await.unwrap();
    (made.status(), made.json().await.unwrap_or_default())
}

/// Creates a session with a connection of the same name.
async fn session(backend: &Backend, name: &str, more: Value) {
    let (status, body) = create(backend, name, more).await;
    assert_eq!(status, 201, "{body}");
    backend.connect(name, name, name).await;
}

/// Ends a session.
async fn delete(backend: &Backend, name: &str) {
    let url = format!("/api/sessions/{name}");
    let deleted = backend.delete(&url).bearer_auth(ADMIN_TOKEN).send().await.unwrap();
    assert_eq!(deleted.status(), 204, "{}", deleted.text().await.unwrap());
}

/// Runs a command in a session and returns its result, from the reply or a push.
async fn done(backend: &Backend, gateway: &Gateway, session: &str, command: &str) -> Value {
    let id = uuid::Uuid::new_v4().to_string();
    let frame = json!({"type": "command", "id": id, "command": command, "timeoutMs": 60_000});
    let answer = backend.frame(session, session, session, frame).await;
    if answer.status() == 200 {
        return answer.json().await.unwrap();
    }
    assert!(answer.status().is_success(), "{command}: {}", answer.text().await.unwrap());
    let late = |call: &Call| call.connection == session && call.frame["id"] == id.as_str();
    gateway.until("late result", late).await.frame
}

/// The output of a command, which must succeed.
async fn run(backend: &Backend, gateway: &Gateway, session: &str, command: &str) -> String {
    let done = done(backend, gateway, session, command).await;
    assert_eq!(done["exitCode"], 0, "{command}: {done}");
    done["result"].as_str().unwrap().trim().to_owned()
}

/// A client of a session that acknowledges all output, and has typed so many bytes.
struct Typist<'a> {
    gateway: &'a Gateway,
    session: &'a str,
    typed: u64,
    attachments: u64,
}

impl<'a> Typist<'a> {
    fn new(gateway: &'a Gateway, session: &'a str) -> Self {
        Self { gateway, session, typed: 0, attachments: 0 }
    }

    async fn sends(&self, backend: &Backend, frame: Value) -> (StatusCode, Value) {
        let answer = backend.frame(self.session, self.session, self.session, frame).await;
        (answer.status(), answer.json().await.unwrap_or_default())
    }

    /// Attaches, once the backend has the session.
    async fn attach(&mut self, backend: &Backend) -> Value {
        self.attachments += 1;
        let (seq, offset) = (self.attachments, self.output().len());
        let frame = json!({"type": "attach", "clientId": CLIENT, "cols": 80, "rows": 24, "outputOffset": offset, "seq": seq});
        let attached = async {
            loop {
                let (status, answer) = self.sends(backend, frame.clone()).await;
                if status == 200 {
                    return answer;
                }
                assert_eq!(status, 503, "{answer}");
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        };
        let attached = timeout(PATIENCE * 2, attached).await.expect("the session is taken over");
        assert_eq!(attached["type"], "attached", "{attached}");
        attached
    }

    async fn types(&mut self, backend: &Backend, data: &str) {
        let frame = json!({"type": "input", "clientId": CLIENT, "offset": self.typed, "data": data});
        let (status, answer) = self.sends(backend, frame).await;
        assert!(status.is_success(), "{answer}");
        self.typed += data.len() as u64;
    }

    /// The output so far without a gap, assembled by offset.
    fn output(&self) -> Vec<u8> {
        let mut pieces = BTreeMap::new();
        for call in self.gateway.calls() {
            if call.connection == self.session && call.frame["type"] == "output" {
                let data = call.frame["data"].as_str().expect("text").as_bytes().to_vec();
                let known = pieces.entry(call.frame["offset"].as_u64().unwrap()).or_insert_with(Vec::new);
                if data.len() > known.len() {
                    *known = data;
                }
            }
        }
        let mut all = Vec::new();
        for (offset, data) in pieces {
            let offset = usize::try_from(offset).unwrap();
            if offset > all.len() {
                break;
            }
            let known = all.len() - offset;
            let both = known.min(data.len());
            assert_eq!(&all[offset..][..both], &data[..both], "a byte changed");
            all.extend(data.into_iter().skip(known));
        }
        all
    }

    async fn ack(&self, backend: &Backend) {
        let ack = json!({"type": "ack", "outputOffset": self.output().len()});
        // Acknowledgements may be lost.
        let _ = self.sends(backend, ack).await;
    }

    /// Acknowledges output until it contains this text.
    async fn reads(&self, backend: &Backend, text: &str) -> String {
        let found = async {
            loop {
                let output = String::from_utf8_lossy(&self.output()).into_owned();
                if output.contains(text) {
                    return output;
                }
                self.ack(backend).await;
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        let found = timeout(PATIENCE * 3, found).await;
        found.unwrap_or_else(|_| panic!("no {text:?} in {} bytes", self.output().len()))
    }
}
