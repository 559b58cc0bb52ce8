//! Tests of several real `backend` processes that share a real Redis.
//!
//! Modules that start Redis are named `redis_*`, so that `make test` can skip them where it is not installed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

mod redis_failures;
mod redis_owners;
mod redis_releases;
mod redis_routing;
mod server;
#[allow(dead_code, reason = "each test binary uses a part")]
#[path = "../door/support.rs"]
mod support;

use std::{
    path::Path,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use server::Redis;
use support::{ADMIN_TOKEN, Backend, Call, Gateway, Settings};

/// Longest wait where time is not the point. A busy machine is slow.
pub(crate) const LONG: Duration = Duration::from_secs(90);

/// Settings of an instance that shares this Redis.
pub(crate) fn settings(redis_url: &str, gateway: &Gateway) -> Settings {
    let settings = Settings::new().pushing_to(gateway).set("REDIS_URL", redis_url);
    settings.set("INSTANCE_URL", "http://127.0.0.1:0")
}

/// Starts an instance and waits for its lease.
pub(crate) async fn instance(redis: &Redis, gateway: &Gateway) -> Backend {
    ready(settings(&redis.url(), gateway).start().await).await
}

/// The same, in a given `RUN_DIR`.
pub(crate) async fn instance_in(run_dir: &Path, redis: &Redis, gateway: &Gateway) -> Backend {
    let settings = settings(&redis.url(), gateway).set("RUN_DIR", run_dir.to_str().unwrap());
    ready(settings.start().await).await
}

pub(crate) async fn ready(backend: Backend) -> Backend {
    until("ready", async || backend.get("/ready").send().await.is_ok_and(|answer| answer.status() == 200))
        .await;
    backend
}

/// Waits for a condition, and returns how long it took.
pub(crate) async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) -> Duration {
    let started = Instant::now();
    while !condition().await {
        assert!(started.elapsed() < LONG, "not {what} after {LONG:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    started.elapsed()
}

/// Creates a session with an id of the server's choice.
pub(crate) async fn create(backend: &Backend) -> String {
    let body = json!({"userId": "alice", "shell": "/bin/sh"});
    let request = backend.post("/api/sessions").bearer_auth(ADMIN_TOKEN).json(&body);
    let answer = request.send().await.unwrap();
    assert_eq!(answer.status(), 201, "{}", answer.text().await.unwrap());
    answer.json::<Value>().await.unwrap()["sessionId"].as_str().unwrap().to_owned()
}

/// Runs a command of a session, with the session's id as its connection, through any instance; repeats it while the
/// answer says that a retry helps.
pub(crate) async fn run(backend: &Backend, gateway: &Gateway, session: &str, command: &str) -> String {
    let id = uuid::Uuid::new_v4().to_string();
    let frame = json!({"type": "command", "id": id, "command": command});
    let started = Instant::now();
    loop {
        assert!(started.elapsed() < LONG, "no answer to {command:?}");
        let answer = backend.frame(session, "alice", session, frame.clone()).await;
        let result = match answer.status().as_u16() {
            200 => answer.json::<Value>().await.unwrap(),
            503 => {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
            204 => {
                let late = |call: &Call| call.connection == session && call.frame["id"] == id;
                gateway.until("late result", late).await.frame
            }
            other => panic!("{other}: {}", answer.text().await.unwrap()),
        };
        return result["result"].as_str().unwrap_or_else(|| panic!("{result}")).trim().to_owned();
    }
}

/// PID of the session's host.
pub(crate) async fn host(backend: &Backend, gateway: &Gateway, session: &str) -> u32 {
    run(backend, gateway, session, "echo $PPID").await.parse().unwrap()
}

/// Status of `GET /api/sessions/{id}`.
pub(crate) async fn status(backend: &Backend, session: &str) -> u16 {
    let path = format!("/api/sessions/{session}");
    backend.get(&path).bearer_auth(ADMIN_TOKEN).send().await.unwrap().status().as_u16()
}

/// Value of a metric without labels.
pub(crate) async fn metric(backend: &Backend, name: &str) -> Option<u64> {
    let metrics = backend.metrics().await;
    metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

/// Whether a connection was told that its session is invalid.
pub(crate) fn told(gateway: &Gateway, connection: &str) -> bool {
    gateway
        .calls()
        .iter()
        .any(|call| call.connection == connection && call.frame["code"] == "SESSION_INVALID")
}
