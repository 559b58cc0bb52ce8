//! Invalid input gets a clear error and loses nothing.

use serde_json::{Value, json};
use shellbridge_protocol::{
    bridge::{BridgeKeys, CONNECTION_ID_HEADER, MESSAGE_PATH},
    times::UnixSecs,
};

use super::{
    leaks,
    support::{Client, Stack, http, until},
    terminal::{Session, Terminal},
};

const BRIDGE_SECRET: &str = "bridge-bridge-bridge-bridge-bridge";
const JWT_SECRET: &str = "secret-secret-secret-secret-secret";

/// Reads frames up to the first of this type.
pub(crate) async fn frame(client: &mut Client, kind: &str) -> Value {
    loop {
        let frame = client.json().await;
        if frame["type"] == kind {
            return frame;
        }
    }
}

async fn stack() -> Stack {
    Stack::whole().env("BRIDGE_SECRET", BRIDGE_SECRET).env("JWT_SECRET", JWT_SECRET).start().await
}

pub(crate) fn token(algorithm: jsonwebtoken::Algorithm, secret: &str, claims: &Value) -> String {
    let key = jsonwebtoken::EncodingKey::from_secret(secret.as_bytes());
    jsonwebtoken::encode(&jsonwebtoken::Header::new(algorithm), claims, &key).unwrap()
}

pub(crate) fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    since.as_secs().try_into().unwrap()
}

#[tokio::test]
async fn invalid_frames_get_an_error_and_the_connection_stays() {
    let stack = stack().await;
    let session = Session::new(&stack).await;
    let mut client = stack.connect_with(&session.query()).await;
    assert_eq!(frame(&mut client, "connected").await["protocol"], 1);
    for text in ["not json", "[1]", "7", "{\"type\":\"resize\",\"cols\":\"x\",\"rows\":1}"] {
        client.send(text).await;
        let error = frame(&mut client, "error").await;
        assert_eq!(
            (error["code"].as_str(), error["retryable"].as_bool()),
            (Some("BAD_FRAME"), Some(false)),
            "{text}"
        );
    }
    client.send(r#"{"type":"reboot"}"#).await;
    assert_eq!(frame(&mut client, "unknown_command").await["received"], "reboot");
    client.send(r#"{"action":"x","type":"ping","timestamp":1.5}"#).await;
    assert_eq!(frame(&mut client, "pong").await["echo"], 1.5);
    let echo = json!({"type":"echo","sessionId":"kept from the backend","x":[1,null,"é"]});
    client.send_json(&echo).await;
    assert_eq!(frame(&mut client, "echo").await["received"], json!({"type":"echo","x":[1,null,"é"]}));
    client.send(r#"{"type":"input","clientId":"0123456789abcdef","offset":0,"data":"x"}"#).await;
    let error = frame(&mut client, "error").await;
    assert_eq!((error["code"].as_str(), error["ref"].as_str()), (Some("NOT_ATTACHED"), Some("input")));
}

#[tokio::test]
async fn a_frame_over_the_limit_closes_at_the_gateway() {
    let stack = stack().await;
    let session = Session::new(&stack).await;
    let mut client = stack.connect_with(&session.query()).await;
    client.send(format!("{{\"type\":\"echo\",\"x\":\"{}\"}}", "x".repeat(32 * 1024))).await;
    assert_eq!(client.closed().await.0, 1009);
}

#[tokio::test]
async fn a_handshake_is_refused_with_the_cause_s_status() {
    use jsonwebtoken::Algorithm::{HS256, HS384};
    let stack = stack().await;
    let session = Session::new(&stack).await;
    let id = session.id.as_str();
    let user = |claims: Value| token(HS256, JWT_SECRET, &claims);
    let owner = "developer";
    let later = now() + 600;
    let none = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJkZXZlbG9wZXIiLCJleHAiOjk5OTk5OTk5OTl9.";
    for (status, session, token) in [
        (401, id, String::new()),
        (401, id, "nonsense".to_owned()),
        (401, id, none.to_owned()),
        (401, id, token(HS256, "another-another-another-another-xx", &json!({"sub":owner,"exp":later}))),
        (401, id, token(HS384, JWT_SECRET, &json!({"sub":owner,"exp":later}))),
        (401, id, user(json!({"sub":owner,"exp":now() - 31}))),
        (401, id, user(json!({"sub":owner}))),
        (403, id, user(json!({"sub":owner,"sessionId":"other","exp":later}))),
        (403, id, user(json!({"sub":"somebody","exp":later}))),
        (403, id, user(json!({"sub":"somebody","readOnly":true,"exp":later}))),
        (404, "unknown", user(json!({"sub":owner,"exp":later}))),
        (400, "", user(json!({"sub":owner,"exp":later}))),
    ] {
        let url = format!("{}?sessionId={session}&token={token}", stack.websocket);
        let refusal = Client::try_connect(&url, &[]).await.unwrap_err();
        assert_eq!(refusal.status, status, "sessionId={session} token={token}");
        let body: Value = serde_json::from_str(&refusal.body).expect("a body that says why");
        let codes: &[&str] = match status {
            400 | 404 => &["SESSION_INVALID"],
            401 => &["MISSING_AUTH", "UNAUTHORIZED", "TOKEN_EXPIRED"],
            _ => &["FORBIDDEN"],
        };
        assert!(codes.contains(&body["code"].as_str().unwrap()), "{status}: {body}");
    }
    let url = format!("{}?{}", stack.websocket, session.query());
    let refusal = Client::try_connect(&url, &[("origin", "https://evil.example")]).await.unwrap_err();
    assert_eq!(refusal.status, 403);
    assert_eq!(stack.state().await["dynamodb"]["PutItem"], Value::Null, "nothing was written");
    let viewer = user(json!({"sub":"somebody","readOnly":true,"sessionId":id,"exp":later}));
    let mut client = stack.connect_with(&format!("sessionId={id}&token={viewer}")).await;
    assert_eq!(frame(&mut client, "connected").await["readOnly"], true);
}

#[tokio::test]
async fn only_requests_signed_by_the_lambda_are_accepted_once_and_in_size() {
    let stack = stack().await;
    let session = Session::new(&stack).await;
    let page = stack.page.clone().unwrap();
    let url = format!("{}{}", page.trim_end_matches('/'), MESSAGE_PATH);
    let keys = BridgeKeys::parse(BRIDGE_SECRET).unwrap();
    let body = |frame: &str| {
        let bridge = json!({"messageId":"m=","connectedAt":now() * 1000,"callbackUrl":"https://x",
            "tokenExpiresAt":now() + 60,"readOnly":false});
        let envelope = json!({"connectionId":"c=","sessionId":session.id,"userId":"developer","timestamp":1,
            "bridge":bridge});
        let mut all: serde_json::Map<_, _> = serde_json::from_str(frame).unwrap();
        all.extend(envelope.as_object().unwrap().clone());
        serde_json::to_string(&all).unwrap()
    };
    let send = async |token: String, id: &str, body: String| {
        let headers = [("authorization", format!("Bearer {token}")), (CONNECTION_ID_HEADER, id.to_owned())];
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        http("POST", &url, &headers, body).await
    };
    let ping = body(r#"{"type":"ping"}"#);
    let sign = |body: &str, jti: &str| {
        keys.sign(MESSAGE_PATH, &"c=".into(), body.as_bytes(), UnixSecs(now()), jti.into()).unwrap()
    };
    assert_eq!(http("POST", &url, &[], ping.clone()).await.status, 401, "unsigned");
    assert_eq!(send(session.token.clone(), "c=", ping.clone()).await.status, 401, "a user's token");
    assert_eq!(send(sign(&ping, "1"), "d=", ping.clone()).await.status, 401, "another connection");
    assert_eq!(send(sign("{}", "2"), "c=", ping.clone()).await.status, 401, "another body");
    let token = sign(&ping, "3");
    let answer = send(token.clone(), "c=", ping.clone()).await;
    assert_eq!((answer.status, answer.json()["type"].as_str()), (200, Some("pong")));
    assert_eq!(send(token, "c=", ping).await.status, 401, "a replay");
    let large = body(&format!("{{\"type\":\"echo\",\"x\":\"{}\"}}", "x".repeat(34_000)));
    assert_eq!(send(sign(&large, "4"), "c=", large.clone()).await.json()["code"], "TOO_LARGE");
    let larger = body(&format!("{{\"type\":\"echo\",\"x\":\"{}\"}}", "x".repeat(60_000)));
    assert_eq!(send(sign(&larger, "5"), "c=", larger.clone()).await.status, 413);
    let unknown = ping_for(&body(r#"{"type":"ping"}"#), "unknown");
    let answer = send(sign(&unknown, "6"), "c=", unknown.clone()).await;
    assert_eq!((answer.status, answer.json()["code"].as_str()), (404, Some("SESSION_INVALID")));
}

fn ping_for(body: &str, session: &str) -> String {
    let mut body: Value = serde_json::from_str(body).unwrap();
    body["sessionId"] = session.into();
    body.to_string()
}

#[tokio::test]
async fn an_unavailable_backend_is_reported_and_the_connection_stays() {
    let directory = tempfile::TempDir::new().unwrap();
    let host = leaks::own_host(&directory);
    let stack = Stack::whole().env("SESSION_HOST", host.to_str().unwrap()).start().await;
    let session = Session::new(&stack).await;
    let mut client = stack.connect_with(&session.query()).await;
    frame(&mut client, "connected").await;
    std::fs::remove_file(host).unwrap();
    leaks::kill(leaks::backend(&stack).await);
    // Until the next backend has failed to start, connections wait for it: init holds the socket.
    until("a failing start", || async { stack.log().contains("is not a file").then_some(()) }).await;
    // Twice, to show that the first left the connection open.
    let mut unavailable = 0;
    for _ in 0..10 {
        client.send(r#"{"type":"ping"}"#).await;
        let error = frame(&mut client, "error").await;
        assert_eq!((error["retryable"].as_bool(), error["ref"].as_str()), (Some(true), Some("ping")));
        match error["code"].as_str().unwrap() {
            "BACKEND_UNAVAILABLE" => unavailable += 1,
            // A machine on which a start takes ten seconds to fail: a connection waits while one is tried.
            code => assert_eq!(code, "BACKEND_TIMEOUT", "{error}"),
        }
        if unavailable == 2 {
            break;
        }
    }
    assert_eq!(unavailable, 2, "a connection that is closed is no timeout");
    let url = format!("{}?{}", stack.websocket, session.query());
    assert_eq!(Client::try_connect(&url, &[]).await.unwrap_err().status, 503);
}

#[tokio::test]
async fn commands_run_apart_from_the_shell_and_long_ones_are_answered_by_push() {
    let stack = stack().await;
    let session = Session::new(&stack).await;
    let mut client = stack.connect_with(&session.query()).await;
    client.send(r#"{"type":"command","id":"1","command":"cd /usr; export A=b; echo $A; exit 3"}"#).await;
    let result = frame(&mut client, "command_result").await;
    assert_eq!(
        (result["result"].as_str(), result["exitCode"].as_i64(), result["id"].as_str()),
        (Some("b\n"), Some(3), Some("1"))
    );
    client.send(r#"{"type":"command","id":"2","command":"pwd; echo $A; sleep 2.5"}"#).await;
    let result = frame(&mut client, "command_result").await;
    assert_eq!(result["result"], "/usr\nb\n");
    assert!(result["durationMs"].as_u64().unwrap() >= 2500);
    client.send(r#"{"type":"command","id":"3","command":"sleep 60","timeoutMs":100}"#).await;
    let error = frame(&mut client, "error").await;
    assert_eq!((error["code"].as_str(), error["ref"].as_str()), (Some("COMMAND_TIMEOUT"), Some("3")));
    client.send(r#"{"type":"history"}"#).await;
    assert_eq!(frame(&mut client, "history").await["history"].as_array().unwrap().len(), 3);
    client.send(r#"{"type":"clear"}"#).await;
    frame(&mut client, "clear_ack").await;
    client.send(r#"{"type":"history"}"#).await;
    assert_eq!(frame(&mut client, "history").await["history"], json!([]));
}

#[tokio::test]
async fn two_viewers_see_the_same_and_a_view_only_one_cannot_type() {
    let stack = stack().await;
    let session = Session::new(&stack).await;
    let url = format!("{}api/sessions/{}/share", stack.page.clone().unwrap(), session.id);
    let shared = http("POST", &url, &[("authorization", &session.bearer())], "{}").await;
    assert_eq!(shared.status, 201);
    let mut viewer_session = Session::new(&stack).await;
    viewer_session.id.clone_from(&session.id);
    viewer_session.token = shared.json()["token"].as_str().unwrap().to_owned();
    let mut writer = Terminal::new(&stack, &session, "writer");
    let mut viewer = Terminal::new(&stack, &viewer_session, "viewer");
    writer.run("echo to''gether", "together").await;
    viewer
        .drive(super::support::DEADLINE, |viewer| {
            String::from_utf8_lossy(&viewer.output).contains("together")
        })
        .await;
    viewer.client.write(b"echo no\n");
    viewer
        .drive(super::support::DEADLINE, |viewer| format!("{:?}", viewer.others).contains("ReadOnly"))
        .await;
}
