//! The opening handshake (section 2).

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::json;

use crate::support::{Client, Refusal, Stack};

async fn refused(stack: &Stack, query: &str) -> u16 {
    let url = format!("{}?{query}", stack.websocket);
    let Refusal { status, body } = Client::try_connect(&url, &[]).await.expect_err("a refusal");
    assert_eq!(body, "");
    status
}

#[tokio::test]
async fn the_functions_status_passes_through() {
    let stack = Stack::scripted().start().await;
    for status in [301, 400, 401, 403, 404, 409, 501, 503] {
        assert_eq!(refused(&stack, &format!("status={status}")).await, status);
    }
    for status in [200, 201, 204, 299] {
        stack.connect_with(&format!("status={status}")).await;
    }
    assert_eq!(stack.state().await["invocations"]["$connect"], 12);
}

#[tokio::test]
async fn a_refusal_has_the_functions_body_where_connect_has_a_route_response() {
    for (routes, passed) in [("$default", ""), ("$connect", "because")] {
        let stack = Stack::scripted().flag("--route-responses", routes).start().await;
        let url = format!("{}?status=403&text=because", stack.websocket);
        let Refusal { status, body } = Client::try_connect(&url, &[]).await.expect_err("a refusal");
        assert_eq!((status, body.as_str()), (403, passed), "{routes}");
    }
}

#[tokio::test]
async fn a_failing_function_is_502() {
    let stack = Stack::scripted().start().await;
    for script in ["do=error", "do=panic", "do=malformed", "do=exit", "status=42"] {
        assert_eq!(refused(&stack, script).await, 502, "{script}");
    }
    assert_eq!(stack.state().await["connections"], 0);
    stack.connect().await;
}

#[tokio::test]
async fn the_integration_timeout_is_504() {
    let stack = Stack::scripted().flag("--integration-timeout", "0.3").start().await;
    let began = Instant::now();
    assert_eq!(refused(&stack, "after=5000").await, 504);
    assert!(began.elapsed() < Duration::from_secs(3));
}

#[tokio::test]
async fn the_functions_own_timeout_is_502() {
    let stack = Stack::scripted().flag("--function-timeout", "0.3").start().await;
    assert_eq!(refused(&stack, "after=5000").await, 502);
}

#[tokio::test]
async fn a_subprotocol_is_only_the_functions_choice() {
    let stack = Stack::scripted().start().await;
    let offer = [("Sec-WebSocket-Protocol", "shellbridge.v1, bearer.x")];
    // This client offers nothing: one whose offer is not answered fails the handshake itself.
    let silent = Client::connect(&stack.websocket).await;
    assert!(!silent.headers.contains_key("sec-websocket-protocol"));
    let url = format!("{}?protocol=shellbridge.v1", stack.websocket);
    let client = Client::try_connect(&url, &offer).await.unwrap();
    assert_eq!(client.headers["sec-websocket-protocol"], "shellbridge.v1");
    let connect = &stack.events()[1];
    assert_eq!(
        connect["headers"]["Sec-WebSocket-Protocol"]
            .as_str()
            .or(connect["headers"]["sec-websocket-protocol"].as_str()),
        Some("shellbridge.v1, bearer.x")
    );
    // Without the function's choice there is none.
    let host = stack.websocket.trim_start_matches("ws://").trim_end_matches("/prod");
    let request = crate::wrong_use::handshake(host, "/prod", "Sec-WebSocket-Protocol: shellbridge.v1\r\n");
    let answer = crate::wrong_use::exchange(host, request.as_bytes()).await;
    assert!(
        answer.starts_with("HTTP/1.1 101 ")
            && !answer.to_ascii_lowercase().contains("sec-websocket-protocol")
    );
}

#[tokio::test]
async fn the_id_is_unknown_to_connections_before_the_101() {
    let stack = Stack::scripted().start().await;
    let mut client = stack.connect_with("do=push&text=early").await;
    let noted = stack.until_event("the push", |event| event.get("pushed").is_some()).await;
    assert_eq!(noted["pushed"], 410);
    // The same push works after the handshake.
    client.send_json(&json!({ "do": "push", "text": "now" })).await;
    assert_eq!(client.text().await, "now");
    assert_eq!(client.text().await, "200");
}

#[tokio::test]
async fn no_frame_is_handled_before_connect_returned() {
    let stack = Stack::scripted().start().await;
    let host = stack.websocket.trim_start_matches("ws://").trim_end_matches("/prod");
    let mut request = crate::wrong_use::handshake(host, "/prod?after=300", "").into_bytes();
    // A masked text frame "hi" sent along with the handshake.
    request.extend([0x81, 0x82, 0, 0, 0, 0, b'h', b'i']);
    let answer = crate::wrong_use::exchange_until(host, &request, b"\x81\x02hi").await;
    assert!(answer.starts_with("HTTP/1.1 101 "));
    let kinds: Vec<String> =
        stack.events().iter().map(|event| event["requestContext"]["eventType"].to_string()).collect();
    assert_eq!(kinds[..2], ["\"CONNECT\"", "\"MESSAGE\""]);
}

#[tokio::test]
async fn connect_without_an_integration_is_accepted() {
    let stack = Stack::scripted().flag("--routes", "$default").start().await;
    let mut client = stack.connect_with("status=403").await;
    client.send("hello").await;
    assert_eq!(client.text().await, "hello");
    client.stream.close(None).await.unwrap();
    stack.until_state("no connection", |state| state["connections"] == 0).await;
    let invocations = &stack.state().await["invocations"];
    assert_eq!(invocations, &json!({ "$connect": 0, "$default": 1, "$disconnect": 0 }));
}

#[tokio::test]
async fn connections_over_the_rate_get_429() {
    let stack = Stack::scripted().flag("--connect-rate", "3").start().await;
    let attempts = join_all((0..10).map(|_| Client::try_connect(&stack.websocket, &[]))).await;
    let refused = attempts.iter().filter_map(|attempt| attempt.as_ref().err());
    let statuses: Vec<u16> = refused.map(|refusal| refusal.status).collect();
    assert!((5..=7).contains(&statuses.len()), "{statuses:?}");
    assert!(statuses.iter().all(|status| *status == 429));
}

#[tokio::test]
async fn a_rejected_connect_has_no_disconnect() {
    let stack = Stack::scripted().start().await;
    assert_eq!(refused(&stack, "status=401").await, 401);
    let client = stack.connect().await;
    drop(client);
    let state = stack.until_state("$disconnect", |state| state["invocations"]["$disconnect"] == 1).await;
    assert_eq!(state["invocations"]["$connect"], 2);
}

#[tokio::test]
async fn a_client_that_leaves_during_connect_gets_a_disconnect_event() {
    use tokio::io::AsyncWriteExt as _;
    let stack = Stack::scripted().start().await;
    let host = stack.websocket.trim_start_matches("ws://").trim_end_matches("/prod");
    let mut impatient = tokio::net::TcpStream::connect(host).await.unwrap();
    impatient.write_all(crate::wrong_use::handshake(host, "/prod?after=300", "").as_bytes()).await.unwrap();
    let connect = stack.until_event("$connect", |event| !event["requestContext"].is_null()).await;
    drop(impatient);
    let event = stack.disconnect_event(connect["requestContext"]["connectionId"].as_str().unwrap()).await;
    assert_eq!(event["requestContext"]["disconnectStatusCode"], 1006);
}
