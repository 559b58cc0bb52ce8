//! Closing, and the contents of `$disconnect` events (section 6).

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, frame::coding::CloseCode};

use crate::support::{Client, Stack, http};

async fn told(stack: &Stack, index: usize) -> (Value, Value) {
    let connects: Vec<Value> = stack
        .events()
        .into_iter()
        .filter(|event| event["requestContext"]["eventType"] == "CONNECT")
        .collect();
    let id = connects[index]["requestContext"]["connectionId"].as_str().unwrap();
    let event = stack.disconnect_event(id).await;
    let context = &event["requestContext"];
    (context["disconnectStatusCode"].clone(), context["disconnectReason"].clone())
}

fn frame(code: u16, reason: &str) -> CloseFrame {
    CloseFrame { code: CloseCode::from(code), reason: reason.to_owned().into() }
}

#[tokio::test]
async fn a_client_close_is_reported_with_its_code_and_answered() {
    let stack = Stack::scripted().start().await;
    for (index, (close, code, reason)) in [
        (None, 1005, "Client-side close frame status not set"),
        (Some(frame(1000, "")), 1000, ""),
        (Some(frame(1001, "")), 1001, ""),
        (Some(frame(4321, "so long")), 4321, "so long"),
    ]
    .into_iter()
    .enumerate()
    {
        let mut client = stack.connect().await;
        client.stream.close(close).await.unwrap();
        let answered = client.closed().await;
        assert_eq!(answered.0, code);
        assert_eq!(told(&stack, index).await, (json!(code), json!(reason)));
    }
    assert_eq!(stack.state().await["connections"], 0);
}

#[tokio::test]
async fn a_lost_connection_is_reported_as_1006() {
    let stack = Stack::scripted().start().await;
    drop(stack.connect().await);
    assert_eq!(told(&stack, 0).await.0, 1006);
    assert_eq!(stack.state().await["connections"], 0);
}

#[tokio::test]
async fn delete_closes_with_1000_and_disconnect_runs() {
    let stack = Stack::scripted().start().await;
    let mut client = stack.connect().await;
    let id = stack.events()[0]["requestContext"]["connectionId"].as_str().unwrap().to_owned();
    let url = stack.connection_url(&id);
    // Messages posted before the DELETE arrive before the close frame.
    assert_eq!(http("POST", &url, &[], "last words").await.status, 200);
    assert_eq!(http("DELETE", &url, &[], "").await.status, 204);
    assert_eq!(client.text().await, "last words");
    assert_eq!(client.closed().await, (1000, "Connection Closed Normally".to_owned()));
    assert_eq!(told(&stack, 0).await, (json!(1000), json!("Connection Closed Normally")));
    assert_eq!(http("POST", &url, &[], "too late").await.status, 410);
    assert_eq!(http("DELETE", &url, &[], "").await.status, 410);
}

#[tokio::test]
async fn disconnect_can_be_lost() {
    let stack = Stack::scripted().flag("--drop-disconnect", "1").start().await;
    drop(stack.connect().await);
    stack.until_state("no connection", |state| state["connections"] == 0).await;
    stack.faults(json!({ "dropDisconnect": 0 })).await;
    drop(stack.connect().await);
    told(&stack, 1).await;
    assert_eq!(stack.state().await["invocations"]["$disconnect"], 1);
}

#[tokio::test]
async fn a_stopping_gateway_sends_close_frames() {
    let mut stack = Stack::scripted().start().await;
    let mut client = Client::connect(&stack.websocket).await;
    let stopped = tokio::task::spawn_blocking(move || stack.stop(rustix::process::Signal::TERM));
    assert_eq!(client.closed().await.0, 1001);
    assert!(stopped.await.unwrap().success());
}
