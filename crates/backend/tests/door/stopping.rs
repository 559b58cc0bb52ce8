//! Graceful shutdown on SIGTERM, which every platform sends.

use std::{path::Path, time::Instant};

use serde_json::{Value, json};
use shellbridge_protocol::bridge::DISCONNECT_PATH;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    time::timeout,
};

use crate::support::{ADMIN_TOKEN, PATIENCE, Settings, bridge_token, started};

#[tokio::test]
async fn sigterm_notifies_clients_ends_shells_and_exits_in_time() {
    let (gateway, backend) = started().await;
    backend.session("alice", "s").await;
    backend.connect("s", "alice", "c").await;
    gateway.frame("connected").await;
    assert_eq!(backend.get("/ready").send().await.unwrap().status(), 200);
    let shells = backend.shells();
    assert_eq!(shells.len(), 1);

    let started = Instant::now();
    backend.terminate();
    let notice = gateway.frame("notice").await;
    assert_eq!(notice["code"], "DRAINING");
    // It answers until clients have had time to read that.
    let ready = backend.get("/ready").send().await.unwrap();
    assert_eq!(ready.status(), 503);
    assert_eq!(ready.json::<Value>().await.unwrap()["notReady"], json!(["stopping"]));
    assert_eq!(backend.get("/health").send().await.unwrap().status(), 200, "it is still alive");
    let more = backend.post("/api/sessions").bearer_auth(ADMIN_TOKEN).json(&json!({"userId": "bob"}));
    let refused = more.send().await.unwrap();
    assert_eq!(refused.status(), 503);
    assert_eq!(refused.json::<Value>().await.unwrap()["code"], "BACKEND_UNAVAILABLE");
    let ping = backend.frame("s", "alice", "c", json!({"type": "ping"})).await;
    assert_eq!(ping.status(), 200, "its sessions still run");

    let (code, log) = backend.ended().await;
    assert_eq!(code, 0, "{log}");
    assert!(started.elapsed().as_secs() < 25, "{log}");
    for shell in shells {
        assert!(!Path::new(&format!("/proc/{shell}")).exists(), "{shell} lives on");
    }
    gateway.until("DELETE", |call| call.method == "DELETE" && call.connection == "c").await;
}

#[tokio::test]
async fn a_shell_that_ignores_hangups_does_not_delay_shutdown() {
    let (_gateway, backend) = started().await;
    backend.session("alice", "s").await;
    let trap = json!({"type": "command", "id": "1", "command": "trap '' HUP TERM; (trap '' HUP TERM; read x < /dev/tty; while :; do sleep 1000; done) & echo $!"});
    // The result may exceed the time of a reply; it only matters that the command runs.
    let stubborn = backend.frame("s", "alice", "c", trap).await;
    assert!(stubborn.status().is_success());
    backend.terminate();
    let (code, log) = backend.ended().await;
    assert_eq!(code, 0, "{log}");
}

#[tokio::test]
async fn failing_pushes_do_not_delay_shutdown() {
    let (gateway, backend) = started().await;
    backend.session("alice", "s").await;
    gateway.fail_with.store(500, std::sync::atomic::Ordering::Relaxed);
    backend.connect("s", "alice", "c").await;
    gateway.frame("connected").await;
    let started = Instant::now();
    backend.terminate();
    let (code, log) = backend.ended().await;
    assert_eq!(code, 0, "{log}");
    assert!(started.elapsed().as_secs() < 25, "{log}");
}

#[tokio::test]
async fn without_sessions_shutdown_is_immediate() {
    let backend = Settings::new().start().await;
    let started = Instant::now();
    backend.terminate();
    let (code, log) = backend.ended().await;
    assert_eq!(code, 0, "{log}");
    assert!(started.elapsed().as_secs() < 2, "{log}");
}

#[tokio::test]
async fn a_request_in_flight_is_answered_before_the_process_ends() {
    let backend = Settings::new().start().await;
    let address = backend.url.strip_prefix("http://").unwrap().to_owned();
    let body = json!({"connectionId": "c", "sessionId": "s", "userId": "alice"}).to_string();
    let token = bridge_token(DISCONNECT_PATH, "c", body.as_bytes());
    let head = format!(
        "POST {DISCONNECT_PATH} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\n\
         x-connection-id: c\r\nauthorization: Bearer {token}\r\ncontent-length: {}\r\n\
         expect: 100-continue\r\n\r\n",
        body.len()
    );
    let (first, rest) = body.split_at(body.len() / 2);
    let mut request = BufReader::new(TcpStream::connect(&address).await.unwrap());
    request.write_all(head.as_bytes()).await.unwrap();
    let mut line = String::new();
    request.read_line(&mut line).await.unwrap();
    assert_eq!(line, "HTTP/1.1 100 Continue\r\n", "the handler waits for the body");
    request.write_all(first.as_bytes()).await.unwrap();

    backend.terminate();
    // There are no sessions to wait for. Once the listener is closed, only requests in flight delay the exit.
    let refused = async {
        while TcpStream::connect(&address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, refused).await.expect("it stops listening");
    request.write_all(rest.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let read = timeout(PATIENCE, request.read_to_string(&mut answer)).await.expect("an answer, then the end");
    assert!(read.is_ok(), "{read:?}");
    assert!(answer.starts_with("\r\nHTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.ends_with(r#"{"success":true}"#), "{answer}");

    let (code, log) = backend.ended().await;
    assert_eq!(code, 0, "{log}");
    assert!(!log.contains("cut off"), "{log}");
}
