//! What is logged of a request, and what never is.

use serde_json::{Value, json};
use shellbridge_protocol::bridge::{CONNECT_PATH, MESSAGE_PATH};

use crate::support::{
    ADMIN_TOKEN, BRIDGE_SECRET, Gateway, JWT_SECRET, Settings, bridge_token, claims, connect_body, hs256,
    message_body,
};

/// Marks of typed input and secrets: none may appear in the log.
const KEYSTROKES: &str = "keystrokes-that-must-not-be-logged";
const COMMAND: &str = "command-that-must-not-be-logged";
const VARIABLE: &str = "variable-that-must-not-be-logged";
const QUERY: &str = "query-that-must-not-be-logged";
const BAD_BODY: &str = "body-that-must-not-be-logged";

async fn check_log(level: &str) {
    let gateway = Gateway::start().await;
    let backend = Settings::new().set("RUST_LOG", level).pushing_to(&gateway).start().await;
    let secret = hs256(&claims("alice"), JWT_SECRET);
    let body = json!({"userId": "alice", "sessionId": "s", "shell": "/bin/sh", "env": {"MARK": VARIABLE}});
    let request = backend.post("/api/sessions").bearer_auth(ADMIN_TOKEN).json(&body);
    let session: Value = request.send().await.unwrap().json().await.unwrap();
    let minted = session["token"].as_str().unwrap().to_owned();
    let request = backend
        .get(&format!("/api/sessions/s?token={QUERY}"))
        .bearer_auth(&secret)
        .header("x-request-id", "request-of-alice")
        .header("x-amzn-trace-id", "Root=1-67891233-abcdef012345678912345678;Sampled=1")
        .header("origin", "https://page.example");
    assert_eq!(request.send().await.unwrap().status(), 200);
    let request =
        backend.get(&format!("/api/diagnostics/websocket?sessionId=s&x={QUERY}")).bearer_auth(&minted);
    assert_eq!(request.send().await.unwrap().status(), 200);

    let connect = connect_body("s", "alice", "connection-of-alice").to_string();
    let bridge = bridge_token(CONNECT_PATH, "connection-of-alice", connect.as_bytes());
    let request = || backend.bridge(CONNECT_PATH, "connection-of-alice", &bridge, connect.clone());
    assert_eq!(request().send().await.unwrap().status(), 200);
    assert_eq!(request().send().await.unwrap().status(), 401, "a replay");
    let frame = async |frame: Value| backend.frame("s", "alice", "connection-of-alice", frame).await;
    let attach = json!({"type": "attach", "clientId": "0123456789abcdef", "cols": 80, "rows": 24});
    assert_eq!(frame(attach).await.status(), 200);
    let input = format!("echo {KEYSTROKES}\n");
    let input = json!({"type": "input", "clientId": "0123456789abcdef", "offset": 0, "data": input});
    assert!(frame(input).await.status().is_success());
    gateway
        .until("echo", |call| call.frame["data"].as_str().is_some_and(|data| data.contains(KEYSTROKES)))
        .await;
    let command = json!({"type": "command", "id": "1", "command": format!("echo {COMMAND} >&2; exit 3")});
    assert!(frame(command).await.status().is_success());
    // Refusals are logged, but not the refused content.
    assert!(frame(json!({"type": "resize", "cols": BAD_BODY})).await.status().is_success());
    for body in [
        format!("{{\"sessionId\":\"{BAD_BODY}"),
        json!([BAD_BODY]).to_string(),
        message_body("s", "alice", "connection-of-alice", json!({"x": BAD_BODY}))
            .to_string()
            .replace("true", "1"),
    ] {
        let token = bridge_token(MESSAGE_PATH, "connection-of-alice", body.as_bytes());
        backend.bridge(MESSAGE_PATH, "connection-of-alice", &token, body).send().await.unwrap();
    }
    backend.post("/api/sessions").bearer_auth(ADMIN_TOKEN).body(BAD_BODY).send().await.unwrap();
    backend.post("/api/sessions").bearer_auth(format!("{ADMIN_TOKEN}x")).json(&body).send().await.unwrap();
    // Failed pushes are logged.
    gateway.fail_with.store(410, std::sync::atomic::Ordering::Relaxed);
    backend.terminate();
    let (code, log) = backend.ended().await;
    assert_eq!(code, 0, "{log}");

    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    // Regardless of RUST_LOG, because libraries log headers and bodies.
    let own = |line: &Value| line["target"].as_str().unwrap().starts_with("shellbridge_backend");
    let foreign = lines.iter().find(|line| !own(line) && line["level"] != "WARN" && line["level"] != "ERROR");
    assert_eq!(foreign, None);
    let request = lines.iter().find(|line| line["span"]["request_id"] == "request-of-alice");
    let request = request.unwrap_or_else(|| panic!("{log}"));
    assert_eq!(
        (&request["method"], &request["path"], &request["status"], &request["origin"]),
        (&json!("GET"), &json!("/api/sessions/s"), &json!(200), &json!("https://page.example"))
    );
    assert!(request["duration_ms"].as_f64().unwrap() > 0.0);
    assert_eq!(request["span"]["session_id"], "s");
    assert_eq!(request["span"]["trace_id"], "Root=1-67891233-abcdef012345678912345678;Sampled=1");
    let connects = lines.iter().filter(|line| line["path"] == CONNECT_PATH && line["message"] == "request");
    let statuses: Vec<_> = connects.clone().map(|line| line["status"].as_u64().unwrap()).collect();
    assert_eq!(statuses, [200, 401]);
    assert!(connects.clone().all(|line| line["span"]["connection_id"] == "connection-of-alice"));

    let signature = |token: &str| token.rsplit('.').next().unwrap().to_owned();
    for (what, secret) in [
        ("keystrokes", KEYSTROKES),
        ("a command", COMMAND),
        ("a variable", VARIABLE),
        ("a query", QUERY),
        ("a body", BAD_BODY),
        ("BRIDGE_SECRET", BRIDGE_SECRET),
        ("JWT_SECRET", JWT_SECRET),
        ("ADMIN_TOKEN", ADMIN_TOKEN),
        ("a user's token", &signature(&secret)),
        ("a minted token", &signature(&minted)),
        ("a bridge token", &signature(&bridge)),
    ] {
        let line = log.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "{what} is in the log at {level}");
    }
}

#[tokio::test]
async fn no_secret_and_no_keystroke_is_logged_at_debug() {
    check_log("debug").await;
}

#[tokio::test]
async fn no_secret_and_no_keystroke_is_logged_at_trace() {
    check_log("trace,hyper=trace,aws_smithy_runtime=trace,reqwest=trace").await;
}
