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
async fn frames_of_a_connection_overtake_each_other() {
    let stack = Stack::scripted().start().await;
    let mut client = stack.connect().await;
    let slow = json!({ "do": "echo", "after": 600 }).to_string();
    let began = Instant::now();
    let order = answers(&mut client, &[slow.clone(), "quick".to_owned()]).await;
    assert_eq!(order, ["quick".to_owned(), slow.clone()]);
    // Four slow frames in four processes take the time of one.
    answers(&mut client, &vec![slow; 4]).await;
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}
