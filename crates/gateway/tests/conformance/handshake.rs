//! The opening handshake: apigateway-websocket.md, section 2.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use support::{Client, Refusal, Stack};

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
}
