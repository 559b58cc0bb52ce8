//! Sizes, times and rates (sections 6 and 7).

use std::time::{Duration, Instant};

use serde_json::json;
use tokio_tungstenite::tungstenite::{
    Message,
    protocol::frame::{
        Frame,
        coding::{Data, OpCode},
    },
};

use crate::support::{Client, Stack, http};

fn part(data: Data, bytes: usize, last: bool) -> Message {
    Message::Frame(Frame::message("x".repeat(bytes), OpCode::Data(data), last))
}

/// Sends a text message in frames of these sizes.
async fn send_in_parts(client: &mut Client, sizes: &[usize]) {
    for (index, size) in sizes.iter().enumerate() {
        let data = if index == 0 { Data::Text } else { Data::Continue };
        client.message(part(data, *size, index + 1 == sizes.len())).await;
    }
}

#[tokio::test]
async fn a_frame_over_32_kib_closes_with_1009() {
    let stack = Stack::scripted().start().await;
    let mut client = stack.connect().await;
    client.send("x".repeat(32_768)).await;
    assert_eq!(client.text().await.len(), 32_768);
    client.send("x".repeat(32_769)).await;
    assert_eq!(client.closed().await.0, 1009);
    let id = stack.events()[0]["requestContext"]["connectionId"].as_str().unwrap().to_owned();
    assert_eq!(stack.disconnect_event(&id).await["requestContext"]["disconnectStatusCode"], 1009);
}

#[tokio::test]
async fn a_message_over_128_kib_closes_with_1009() {
    let stack = Stack::scripted().start().await;
    let mut client = stack.connect().await;
    send_in_parts(&mut client, &[32_768; 4]).await;
    assert_eq!(client.text().await.len(), 131_072);
    send_in_parts(&mut client, &[32_768, 32_768, 32_768, 32_768, 1]).await;
    assert_eq!(client.closed().await.0, 1009);
}

#[tokio::test]
async fn long_messages_to_the_client_come_in_frames_of_32_kib() {
    let stack = Stack::scripted().start().await;
    let host = stack.websocket.trim_start_matches("ws://").trim_end_matches("/prod");
    let mut raw = crate::wrong_use::Raw::open(host).await;
    let id = stack.events()[0]["requestContext"]["connectionId"].as_str().unwrap().to_owned();
    let pushed = http("POST", &stack.connection_url(&id), &[], "y".repeat(70_000)).await;
    assert_eq!(pushed.status, 200);
    // RFC 6455, 5.2: text not final, continuation not final, continuation final, lengths in 16 bits.
    for (head, length) in [(0x01, 32_768_u16), (0x00, 32_768), (0x80, 4_464)] {
        let header = raw.read(4).await;
        assert_eq!((header[0], header[1]), (head, 126));
        assert_eq!(u16::from_be_bytes([header[2], header[3]]), length);
        assert!(raw.read(length.into()).await.iter().all(|byte| *byte == b'y'));
    }
}

#[tokio::test]
async fn a_binary_frame_closes_with_1003() {
    let stack = Stack::scripted().start().await;
    let mut client = stack.connect().await;
    client.message(Message::binary(vec![1, 2, 3])).await;
    assert_eq!(client.closed().await.0, 1003);
    let state = stack.until_state("$disconnect", |state| state["invocations"]["$disconnect"] == 1).await;
    assert_eq!(state["invocations"]["$default"], 0);
}

#[tokio::test]
async fn an_idle_connection_is_closed_with_1001() {
    let stack = Stack::scripted().flag("--idle-timeout", "0.4").start().await;
    let mut client = stack.connect().await;
    let began = Instant::now();
    assert_eq!(client.closed().await, (1001, "Going away".to_owned()));
    assert!(began.elapsed() >= Duration::from_millis(300));
    let id = stack.events()[0]["requestContext"]["connectionId"].as_str().unwrap().to_owned();
    let event = stack.disconnect_event(&id).await;
    assert_eq!(event["requestContext"]["disconnectStatusCode"], 1001);
    assert_eq!(event["requestContext"]["disconnectReason"], "Going away");
}

#[tokio::test]
async fn protocol_pings_are_answered_and_are_no_activity() {
    let stack = Stack::scripted().flag("--idle-timeout", "0.6").start().await;
    let mut client = stack.connect().await;
    let began = Instant::now();
    // Pings until the gateway closes. Were they activity, it would not.
    for count in 0..200_u8 {
        client.message(Message::Ping(vec![count].into())).await;
        match client.next().await {
            Ok(Some(Message::Pong(payload))) => assert_eq!(payload, vec![count]),
            Ok(Some(Message::Close(Some(frame)))) => {
                assert_eq!(u16::from(frame.code), 1001);
                assert!(count > 3, "pings were answered before");
                assert!(began.elapsed() < Duration::from_secs(5));
                return;
            }
            other => panic!("{other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("pings kept the connection open");
}

#[tokio::test]
async fn messages_in_either_direction_are_activity() {
    let stack = Stack::scripted().flag("--idle-timeout", "0.6").start().await;
    let (mut sender, mut receiver) = (stack.connect().await, stack.connect().await);
    let id = stack.events()[1]["requestContext"]["connectionId"].as_str().unwrap().to_owned();
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(1500) {
        sender.send("x").await;
        assert_eq!(sender.text().await, "x");
        assert_eq!(http("POST", &stack.connection_url(&id), &[], "y").await.status, 200);
        assert_eq!(receiver.text().await, "y");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn a_connection_ends_at_its_maximum_age() {
    let stack = Stack::scripted().flag("--max-duration", "0.8").start().await;
    let mut client = stack.connect().await;
    let began = Instant::now();
    loop {
        client.send("x").await;
        match client.next().await {
            Ok(Some(Message::Text(_))) => {}
            Ok(Some(Message::Close(Some(frame)))) => {
                assert_eq!(u16::from(frame.code), 1001);
                break;
            }
            other => panic!("{other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(began.elapsed() < Duration::from_secs(5));
    }
}

#[tokio::test]
async fn messages_over_the_rate_get_an_error_frame() {
    let stack = Stack::scripted().flag("--request-rate", "1").flag("--request-burst", "3").start().await;
    let mut client = stack.connect().await;
    for _ in 0..8 {
        client.send("x").await;
    }
    let mut throttled = 0;
    for _ in 0..8 {
        throttled += usize::from(client.text().await.contains("Too Many Requests"));
    }
    assert!((4..=5).contains(&throttled), "{throttled}");
    let id = stack.events()[0]["requestContext"]["connectionId"].as_str().unwrap().to_owned();
    let answer = http("POST", &stack.connection_url(&id), &[], "x").await;
    assert_eq!(answer.status, 429);
    assert_eq!(answer.headers["x-amzn-errortype"], "LimitExceededException");
}

#[tokio::test]
async fn only_pushes_to_a_slow_reader_get_429() {
    let stack = Stack::scripted().flag("--request-rate", "0").start().await;
    // It never reads, so the kernel's buffers fill, then the gateway's.
    let _slow = stack.connect().await;
    let mut other = stack.connect().await;
    let id =
        |index: usize| stack.events()[index]["requestContext"]["connectionId"].as_str().unwrap().to_owned();
    let slow_url = stack.connection_url(&id(0));
    let big = "z".repeat(131_072);
    let mut pushed = 0;
    let refused = loop {
        let answer = http("POST", &slow_url, &[], big.clone()).await;
        if answer.status != 200 {
            break answer;
        }
        pushed += 1;
        assert!(pushed < 1000, "nothing stops a push to a client that never reads");
    };
    assert_eq!(refused.status, 429);
    assert_eq!(http("POST", &stack.connection_url(&id(1)), &[], "fine").await.status, 200);
    assert_eq!(other.text().await, "fine");
    // Closing it has a timeout too.
    assert_eq!(http("DELETE", &slow_url, &[], "").await.status, 204);
    stack.until_state("the slow one gone", |state| state["connections"] == 1).await;
    assert_eq!(stack.state().await["pushes"], json!({ "200": pushed + 1, "429": 1 }));
}
