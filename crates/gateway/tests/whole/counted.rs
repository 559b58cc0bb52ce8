//! The requests that one frame causes, as counted by the services that serve them.

use serde_json::json;

use super::{
    support::{Stack, until},
    terminal::Session,
};

const FRAMES: u64 = 20;

#[tokio::test]
async fn a_frame_is_one_call_of_the_backend_and_one_push_and_no_read() {
    let stack = Stack::whole().flag("--count-backend-calls", "").flag("--concurrency", "1").start().await;
    let session = Session::new(&stack).await;
    let mut client = stack.connect_with(&session.query()).await;
    assert_eq!(client.json().await["type"], "connected");
    for _ in 0..FRAMES {
        client.send(r#"{"type":"ping"}"#).await;
        assert_eq!(client.json().await["type"], "pong");
    }
    // A push is counted with its response, possibly after the client has received it. `connected` is a push too, and
    // may have been retried, as pushes before the end of the handshake get 410.
    let pushes = FRAMES + 1;
    let state = until("all pushes", || async {
        let state = stack.state().await;
        (state["pushes"]["200"].as_u64() >= Some(pushes)).then_some(state)
    })
    .await;
    assert_eq!(state["pushes"]["200"], pushes);
    assert_eq!(state["invocations"]["$default"], FRAMES);
    assert_eq!(state["backendCalls"], json!({ "/api/ws/connect": 1, "/api/ws/message": FRAMES }));
    // The process cached the record when it wrote it.
    assert_eq!(state["dynamodb"], json!({ "PutItem": 1 }));
    session.end().await;
}
