//! Routing and route responses (section 3).

use serde_json::{Value, json};
use shellbridge_gateway::id;

use crate::support::{Client, Stack};

async fn connection_id(client: &mut Client) -> String {
    client.send_json(&json!({ "do": "event" })).await;
    client.json().await["requestContext"]["connectionId"].as_str().unwrap().to_owned()
}

fn assert_error_frame(text: &str, message: &str, connection_id: &str) {
    let prefix = format!(r#"{{"message": "{message}", "connectionId":"{connection_id}", "requestId":""#);
    assert!(text.starts_with(&prefix), "{text}");
    let frame: Value = serde_json::from_str(text).unwrap();
    assert!(id::is_well_formed(frame["requestId"].as_str().unwrap()));
    assert_eq!(frame.as_object().unwrap().len(), 3);
}

#[tokio::test]
async fn exact_route_then_default() {
    let stack = Stack::scripted()
        .flag("--routes", "$connect,$disconnect,$default,join")
        .flag("--route-responses", "join")
        .start()
        .await;
    let mut client = stack.connect().await;
    for (message, route) in [
        (json!({ "action": "join", "do": "event" }), "join"),
        (json!({ "action": "part", "do": "event" }), "$default"),
        (json!({ "do": "event" }), "$default"),
    ] {
        client.send_json(&message).await;
        assert_eq!(client.json().await["requestContext"]["routeKey"], route, "{message}");
    }
    client.send("no json").await;
    assert_eq!(client.text().await, "no json");
    let state = stack.state().await;
    assert_eq!((&state["invocations"]["join"], &state["invocations"]["$default"]), (&json!(1), &json!(3)));
}

#[tokio::test]
async fn no_route_is_a_forbidden_frame_and_the_socket_stays() {
    let stack = Stack::scripted()
        .flag("--routes", "$connect,$disconnect,join")
        .flag("--route-responses", "join")
        .start()
        .await;
    let mut client = stack.connect().await;
    client.send_json(&json!({ "action": "join", "do": "event" })).await;
    let id = client.json().await["requestContext"]["connectionId"].as_str().unwrap().to_owned();
    for message in [r#"{"action":"part"}"#, "no json", "{}"] {
        client.send(message).await;
        assert_error_frame(&client.text().await, "Forbidden", &id);
    }
    client.send_json(&json!({ "action": "join", "do": "pid" })).await;
    client.text().await.parse::<u32>().unwrap();
}

#[tokio::test]
async fn a_failing_integration_is_an_error_frame_and_the_socket_stays() {
    // On one-way and two-way routes.
    for builder in [Stack::scripted(), Stack::scripted().flag("--route-responses", "other")] {
        let stack = builder.flag("--integration-timeout", "1").start().await;
        let mut client = stack.connect().await;
        let connect = &stack.events()[0];
        let id = connect["requestContext"]["connectionId"].as_str().unwrap();
        for script in ["error", "panic", "exit", "malformed"] {
            client.send_json(&json!({ "do": script })).await;
            assert_error_frame(&client.text().await, "Internal server error", id);
        }
        client.send_json(&json!({ "after": 5000 })).await;
        assert_error_frame(&client.text().await, "Internal server error", id);
    }
}

#[tokio::test]
async fn a_one_way_route_is_silent_at_any_status() {
    let stack = Stack::with_function(&crate::support::example("scripted_function")).start().await;
    let mut client = stack.connect().await;
    let id = stack.events()[0]["requestContext"]["connectionId"].as_str().unwrap().to_owned();
    for status in [200, 301, 400, 500] {
        client.send_json(&json!({ "do": "echo", "status": status })).await;
    }
    stack.until_state("four invocations", |state| state["invocations"]["$default"] == 4).await;
    client.send_json(&json!({ "do": "push", "text": "the only message" })).await;
    assert_eq!(client.text().await, "the only message");
    assert!(id::is_well_formed(&id));
    assert_eq!(stack.state().await["messagesOut"], 1);
}

#[tokio::test]
async fn a_route_response_is_the_body_verbatim_at_any_status() {
    let stack = Stack::scripted().start().await;
    let mut client = stack.connect().await;
    for status in [200, 404, 500] {
        let message = format!(r#"{{"do": "echo",  "status": {status}, "text": "ü\n"}}"#);
        client.send(message.clone()).await;
        assert_eq!(client.text().await, message);
    }
}

#[tokio::test]
async fn other_selection_expressions_work() {
    let stack = Stack::scripted()
        .flag("--route-selection-expression", "${request.body.service}/${request.body.verb}")
        .flag("--routes", "$connect,$default,chat/send")
        .flag("--route-responses", "chat/send")
        .start()
        .await;
    let mut client = stack.connect().await;
    client.send_json(&json!({ "service": "chat", "verb": "send", "do": "event" })).await;
    assert_eq!(client.json().await["requestContext"]["routeKey"], "chat/send");
    assert!(!connection_id(&mut client).await.is_empty());
}
