//! Order of invocations (section 4).

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{Client, Stack};

async fn answers(client: &mut Client, messages: &[String]) -> Vec<String> {
    for message in messages {
        client.send(message.clone()).await;
    }
    let mut answers = Vec::new();
    for _ in messages {
        answers.push(client.text().await);
    }
    answers
}

#[tokio::test]
async fn concurrent_is_the_default_and_frames_overtake_each_other() {
    let stack = Stack::scripted().start().await;
    let mut client = stack.connect().await;
    let slow = json!({ "do": "echo", "after": 600 }).to_string();
    let began = Instant::now();
    let order = answers(&mut client, &[slow.clone(), "quick".to_owned()]).await;
    assert_eq!(order, ["quick".to_owned(), slow.clone()]);
    // Four processes, four slow frames: they take the time of one.
    answers(&mut client, &vec![slow; 4]).await;
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

#[tokio::test]
async fn serial_keeps_the_order_of_a_connection_only() {
    let stack = Stack::scripted().flag("--dispatch", "serial").start().await;
    let (mut client, mut other) = (stack.connect().await, stack.connect().await);
    let mut messages = vec![json!({ "do": "echo", "after": 400 }).to_string()];
    messages.extend((0..20).map(|n| n.to_string()));
    for message in &messages {
        client.send(message.clone()).await;
    }
    let began = Instant::now();
    assert_eq!(answers(&mut other, &["now".to_owned()]).await, ["now"]);
    assert!(began.elapsed() < Duration::from_millis(300));
    for message in &messages {
        assert_eq!(&client.text().await, message);
    }
}

#[tokio::test]
async fn shuffle_changes_the_order_and_loses_nothing() {
    // One process, so that the order of answers is the order of invocations.
    let stack = Stack::scripted().flag("--dispatch", "shuffle").flag("--concurrency", "1").start().await;
    let mut client = stack.connect().await;
    let messages: Vec<String> = (100..200).map(|n| n.to_string()).collect();
    let mut order = answers(&mut client, &messages).await;
    assert_ne!(order, messages);
    order.sort();
    assert_eq!(order, messages);
}
