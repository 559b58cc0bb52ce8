//! Many connections at once: 10,000 idle ones, and 1,000 that exchange a frame per second each.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::time::{Duration, Instant};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use shellbridge_gateway::descriptors;
use support::{DEADLINE, Stack, http};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::Mutex,
};

/// One test at a time: each loads the machine fully.
static ALONE: Mutex<()> = Mutex::const_new(());

/// Concurrent handshakes.
const AT_ONCE: usize = 100;

fn busy() -> support::StackBuilder {
    Stack::scripted().flag("--connect-rate", "0").flag("--request-rate", "0").env("RUST_LOG", "warn")
}

/// A WebSocket without the buffers of a real client.
async fn open(host: &str) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect(host).await?;
    stream.set_nodelay(true)?;
    let request = format!(
        "GET /prod HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
    Ok(stream)
}

async fn open_many(stack: &Stack, count: usize) -> Vec<TcpStream> {
    let host = stack.websocket.trim_start_matches("ws://").trim_end_matches("/prod");
    let opening = stream::iter(0..count).map(|_| open(host)).buffer_unordered(AT_ONCE).try_collect();
    tokio::time::timeout(Duration::from_secs(90), opening).await.expect("in time").unwrap()
}

/// Resident memory of a process, MiB.
fn resident_mib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_idle_connections_take_under_600_mb() {
    const COUNT: usize = 10_000;
    let _alone = ALONE.lock().await;
    descriptors::raise_limit();
    let stack = busy().start().await;
    let streams = open_many(&stack, COUNT).await;
    let state = stack.until_state("all connections", |state| state["connections"] == COUNT).await;
    assert_eq!(state["invocations"]["$connect"], COUNT);
    let used = resident_mib(stack.pid());
    eprintln!("{COUNT} idle connections: {used} MiB");
    assert!(used < 600, "{used} MiB");
    // All still work, even at the same time.
    let ids: Vec<String> = stack
        .events()
        .iter()
        .map(|event| event["requestContext"]["connectionId"].as_str().unwrap().to_owned())
        .collect();
    for id in ids.iter().step_by(COUNT / 50) {
        assert_eq!(http("POST", &stack.connection_url(id), &[], "hello").await.status, 200);
    }
    drop(streams);
    let state = stack.until_state("no connections", |state| state["connections"] == 0).await;
    assert_eq!(state["messagesOut"], 50);
    stack.until_state("every $disconnect", |state| state["invocations"]["$disconnect"] == COUNT).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_connections_exchange_a_frame_a_second_each() {
    const COUNT: u32 = 1_000;
    const SECONDS: u32 = 8;
    let _alone = ALONE.lock().await;
    descriptors::raise_limit();
    let stack = busy().start().await;
    let streams = open_many(&stack, COUNT as usize).await;
    let started = tokio::time::Instant::now();
    let exchanges = streams.into_iter().zip(0..COUNT).map(|(mut stream, index)| {
        tokio::spawn(async move {
            let mut slowest = Duration::ZERO;
            for second in 0..SECONDS {
                // Spread over the second.
                tokio::time::sleep_until(
                    started + Duration::from_secs(second.into()) + Duration::from_secs(1) * index / COUNT,
                )
                .await;
                let text = format!("{index:06}.{second:03}");
                let mut frame = vec![0x81, 0x8a, 0, 0, 0, 0];
                frame.extend(text.as_bytes());
                let sent = Instant::now();
                stream.write_all(&frame).await.unwrap();
                let mut echo = [0; 12];
                tokio::time::timeout(DEADLINE, stream.read_exact(&mut echo))
                    .await
                    .expect("an echo in time")
                    .unwrap();
                assert_eq!(&echo[2..], text.as_bytes());
                slowest = slowest.max(sent.elapsed());
            }
            slowest
        })
    });
    let mut slowest: Vec<Duration> = Vec::new();
    for exchange in exchanges.collect::<Vec<_>>() {
        slowest.push(exchange.await.unwrap());
    }
    slowest.sort_unstable();
    eprintln!(
        "slowest echo of a connection: median {:?}, worst {:?}",
        slowest[slowest.len() / 2],
        slowest[slowest.len() - 1]
    );
    let state = stack.state().await;
    assert_eq!(state["messagesIn"], COUNT * SECONDS);
    assert_eq!(state["messagesOut"], COUNT * SECONDS);
}
