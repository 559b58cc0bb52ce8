//! Injected faults.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use crate::support::{Client, DEADLINE, Stack, http};

fn connection_url(stack: &Stack) -> String {
    let id = stack.events()[0]["requestContext"]["connectionId"].as_str().unwrap().to_owned();
    stack.connection_url(&id)
}

#[tokio::test]
async fn dropped_events_are_never_invoked_nor_reported() {
    let stack = Stack::scripted().flag("--drop", "1").start().await;
    let mut client = stack.connect().await;
    client.send("lost").await;
    stack.until_state("the message", |state| state["messagesIn"] == 1).await;
    stack.faults(json!({ "drop": 0 })).await;
    client.send("found").await;
    assert_eq!(client.text().await, "found");
    assert_eq!(stack.state().await["invocations"]["$default"], 1);
}

#[tokio::test]
async fn repeated_events_come_twice_with_the_same_ids() {
    let stack = Stack::scripted().flag("--repeat", "1").start().await;
    let mut client = stack.connect().await;
    client.send_json(&json!({ "do": "event" })).await;
    let (first, second) = (client.json().await, client.json().await);
    assert_eq!(first, second);
    assert_eq!(stack.state().await["invocations"]["$default"], 2);
}

#[tokio::test]
async fn shares_are_met_and_reproduced_by_the_seed() {
    let mut runs = Vec::new();
    for seed in ["5", "5", "6"] {
        let stack = Stack::scripted().flag("--seed", seed).flag("--drop", "0.5").start().await;
        let mut client = stack.connect().await;
        for n in 0..60 {
            client.send(n.to_string()).await;
        }
        stack.until_state("all messages", |state| state["messagesIn"] == 60).await;
        let state = stack
            .until_state("answers", |state| state["invocations"]["$default"] == state["messagesOut"])
            .await;
        let mut kept = Vec::new();
        for _ in 0..state["messagesOut"].as_u64().unwrap() {
            kept.push(client.text().await.parse::<u32>().unwrap());
        }
        kept.sort_unstable();
        assert!((15..45).contains(&kept.len()), "{kept:?}");
        runs.push(kept);
    }
    assert_eq!(runs[0], runs[1]);
    assert_ne!(runs[0], runs[2]);
}

#[tokio::test]
async fn reordered_events_are_overtaken_by_later_ones() {
    let stack = Stack::scripted().flag("--reorder", "0.3").flag("--concurrency", "1").start().await;
    let mut client = stack.connect().await;
    for n in 0..100 {
        client.send(n.to_string()).await;
    }
    let mut order = Vec::new();
    for _ in 0..100 {
        order.push(client.text().await.parse::<u32>().unwrap());
    }
    assert!(!order.is_sorted());
    order.sort_unstable();
    assert_eq!(order, (0..100).collect::<Vec<_>>());
}

#[tokio::test]
async fn delay_is_added_to_messages_alone() {
    let stack = Stack::scripted().flag("--delay-ms", "400").start().await;
    let began = Instant::now();
    let mut client = stack.connect().await;
    assert!(began.elapsed() < Duration::from_millis(350));
    client.send("late").await;
    assert_eq!(client.text().await, "late");
    assert!(began.elapsed() >= Duration::from_millis(400));
}

#[tokio::test]
async fn pushes_fail_in_turn_without_delivery() {
    let stack = Stack::scripted().start().await;
    let mut client = stack.connect().await;
    let url = connection_url(&stack);
    stack.faults(json!({ "pushFail": 1 })).await;
    let mut statuses = Vec::new();
    for _ in 0..6 {
        statuses.push(http("POST", &url, &[], "lost").await.status);
    }
    assert_eq!(statuses, [429, 500, 410, 429, 500, 410]);
    // GET and DELETE are not affected.
    assert_eq!(http("GET", &url, &[], "").await.status, 200);
    stack.faults(json!({ "pushFail": 0 })).await;
    assert_eq!(http("POST", &url, &[], "first").await.status, 200);
    assert_eq!(client.text().await, "first");
    assert_eq!(stack.state().await["pushes"], json!({ "200": 1, "410": 2, "429": 2, "500": 2 }));
}

#[tokio::test]
async fn failing_pushes_may_be_delivered_anyway() {
    let stack = Stack::scripted().start().await;
    let mut client = stack.connect().await;
    let url = connection_url(&stack);
    stack.faults(json!({ "pushFail": 1, "pushFailAfterDelivery": 1, "pushFailStatus": 503 })).await;
    assert_eq!(http("POST", &url, &[], "delivered").await.status, 503);
    assert_eq!(client.text().await, "delivered");
}

#[tokio::test]
async fn connections_are_cut_at_their_age_cleanly_or_by_reset() {
    let stack = Stack::scripted().start().await;
    let mut open = stack.connect().await;
    // Open connections too.
    stack.faults(json!({ "cutEveryMs": 200 })).await;
    assert_eq!(open.closed().await, (1001, "Going away".to_owned()));
    stack.faults(json!({ "cutAbruptly": true })).await;
    let mut client = stack.connect().await;
    let error = tokio::time::timeout(DEADLINE, client.next()).await.unwrap();
    let reset = matches!(&error, Err(tokio_tungstenite::tungstenite::Error::Io(error)) if error.kind() == std::io::ErrorKind::ConnectionReset)
        || matches!(&error, Err(tokio_tungstenite::tungstenite::Error::Protocol(_)));
    assert!(reset, "{error:?}");
    let state = stack.until_state("cuts", |state| state["invocations"]["$disconnect"] == 2).await;
    assert_eq!(state["cuts"], 2);
}

#[tokio::test]
async fn connections_are_cut_after_a_number_of_messages() {
    let stack = Stack::scripted().flag("--cut-every-frames", "6").start().await;
    let mut client = stack.connect().await;
    let mut echoed = 0;
    loop {
        client.send("x").await;
        match client.next().await {
            Ok(Some(Message::Text(_))) => echoed += 1,
            Ok(Some(Message::Close(Some(frame)))) => {
                assert_eq!(u16::from(frame.code), 1001);
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    // Three in each direction.
    assert_eq!(echoed, 3);
}

#[tokio::test]
async fn function_processes_are_killed_during_invocations() {
    let stack = Stack::scripted().flag("--kill-function-every-ms", "100").start().await;
    let mut client = Client::connect(&stack.websocket).await;
    let (mut answered, mut failed, mut pids) = (0, 0, BTreeMap::new());
    let began = Instant::now();
    while failed < 3 {
        assert!(began.elapsed() < DEADLINE, "{answered} answered, {failed} failed");
        client.send_json(&json!({ "do": "pid", "after": 5 })).await;
        let text = client.text().await;
        if text.contains("Internal server error") {
            failed += 1;
        } else {
            answered += 1;
            *pids.entry(text).or_insert(0) += 1;
        }
    }
    assert!(answered > 0 && pids.len() > 1, "{pids:?}");
    stack.faults(json!({ "killFunctionEveryMs": 0 })).await;
    let state = stack.state().await;
    assert!(state["function"]["kills"].as_u64() >= Some(3), "{state}");
}
