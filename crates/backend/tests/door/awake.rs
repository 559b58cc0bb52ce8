//! `KEEP_AWAKE_URL`: the backend calls itself at its public URL.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode, Uri},
};
use serde_json::json;
use tokio::{net::TcpListener, sync::watch, task::JoinHandle, time::timeout};

use crate::support::{ADMIN_TOKEN, Backend, Gateway, PATIENCE, Settings};

const PATH: &str = "/api/keep-awake";

/// Requests to the public URL: received in total, and open.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Seen {
    came: usize,
    open: usize,
}

/// The public URL: forwards requests to the backend and counts them.
struct Front {
    url: String,
    state: Arc<Shared>,
    server: JoinHandle<()>,
}

struct Shared {
    seen: watch::Sender<Seen>,
    backend: Mutex<String>,
    /// `Authorization` of the last request.
    key: Mutex<String>,
    broken: AtomicBool,
}

/// Counts a request as open until dropped.
struct Open<'a>(&'a Shared);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.seen.send_modify(|seen| seen.open -= 1);
    }
}

impl Front {
    async fn start() -> Self {
        let state = Arc::new(Shared {
            seen: watch::Sender::default(),
            backend: Mutex::default(),
            key: Mutex::default(),
            broken: AtomicBool::new(false),
        });
        let router = Router::new().fallback(pass_on).with_state(state.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, state, server }
    }

    /// Starts the backend behind it.
    async fn backend(&self, settings: Settings) -> Backend {
        let backend = settings.set("KEEP_AWAKE_URL", &self.url).start().await;
        self.state.backend.lock().unwrap().clone_from(&backend.url);
        backend
    }

    fn seen(&self) -> Seen {
        *self.state.seen.borrow()
    }

    async fn until(&self, what: &str, wanted: impl Fn(&Seen) -> bool) -> Seen {
        let mut seen = self.state.seen.subscribe();
        let found = timeout(PATIENCE, seen.wait_for(|seen| wanted(seen))).await;
        *found.unwrap_or_else(|_| panic!("not {what}: {:?}", self.seen())).unwrap()
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn pass_on(State(state): State<Arc<Shared>>, uri: Uri, headers: HeaderMap) -> StatusCode {
    let key = headers["authorization"].to_str().unwrap().to_owned();
    state.key.lock().unwrap().clone_from(&key);
    state.seen.send_modify(|seen| *seen = Seen { came: seen.came + 1, open: seen.open + 1 });
    let _open = Open(&state);
    if state.broken.load(Ordering::Relaxed) {
        return StatusCode::BAD_GATEWAY;
    }
    let url = format!("{}{uri}", state.backend.lock().unwrap());
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    http.post(url).header("authorization", key).send().await.unwrap().status()
}

async fn end(backend: &Backend, session: &str) {
    let ended = backend.delete(&format!("/api/sessions/{session}")).bearer_auth(ADMIN_TOKEN);
    assert_eq!(ended.send().await.unwrap().status(), 204);
}

#[tokio::test]
async fn one_request_is_open_exactly_while_shells_run() {
    let (gateway, front) = (Gateway::start().await, Front::start().await);
    let backend = front.backend(Settings::new().pushing_to(&gateway).set("RESUME_GRACE", "0")).await;
    assert_eq!(backend.get("/health").send().await.unwrap().status(), 200);
    assert_eq!(front.seen(), Seen::default(), "no shell runs");
    backend.session("alice", "s").await;
    front.until("open", |seen| seen.open == 1).await;
    backend.session("alice", "t").await;
    end(&backend, "t").await;
    assert_eq!(front.seen(), Seen { came: 1, open: 1 }, "one request is enough");

    let attach = json!({"type": "attach", "clientId": "0123456789abcdef", "cols": 80, "rows": 24});
    assert_eq!(backend.frame("s", "alice", "c", attach).await.status(), 200);
    let exit = json!({"type": "input", "clientId": "0123456789abcdef", "offset": 0, "data": "exit\n"});
    assert!(backend.frame("s", "alice", "c", exit).await.status().is_success());
    let seen = front.until("released", |seen| seen.open == 0).await;
    assert_eq!(seen.came, 1);

    backend.session("alice", "u").await;
    front.until("open again", |seen| *seen == Seen { came: 2, open: 1 }).await;
    backend.terminate();
    let (code, log) = backend.ended().await;
    assert_eq!(code, 0);
    assert!(!log.contains("cut off"), "the request did not delay shutdown: {log}");
}

#[tokio::test]
async fn a_failed_request_is_retried() {
    let front = Front::start().await;
    front.state.broken.store(true, Ordering::Relaxed);
    let backend = front.backend(Settings::new()).await;
    backend.session("alice", "s").await;
    front.until("retried", |seen| seen.came == 2).await;
    front.state.broken.store(false, Ordering::Relaxed);
    front.until("held", |seen| seen.came == 3 && seen.open == 1).await;
    end(&backend, "s").await;
    front.until("released", |seen| seen.open == 0).await;
    backend.terminate();
    let (_, log) = backend.ended().await;
    assert_eq!(log.matches("status 502 Bad Gateway").count(), 2, "{log}");
}

#[tokio::test]
async fn requests_of_other_clients_are_not_held() {
    let backend = Settings::new().start().await;
    assert_eq!(backend.post(PATH).send().await.unwrap().status(), 404, "KEEP_AWAKE_URL is unset");

    let front = Front::start().await;
    let backend = front.backend(Settings::new()).await;
    backend.session("alice", "s").await;
    front.until("open", |seen| seen.open == 1).await;
    assert_eq!(backend.post(PATH).send().await.unwrap().status(), 401);
    assert_eq!(backend.post(PATH).bearer_auth(ADMIN_TOKEN).send().await.unwrap().status(), 401);
    assert_eq!(front.seen(), Seen { came: 1, open: 1 });
    // Even with the key, only one request is held: each releases the previous one.
    let key = front.state.key.lock().unwrap().clone();
    let another = backend.post(PATH).header("authorization", key).send().await.unwrap();
    assert_eq!(another.status(), 204);
    assert!(front.seen().came >= 2, "a newer request of the backend released it");
}
