//! API Gateway's idle limit: ten minutes on AWS, two seconds in this test.

use std::time::Duration;

use tokio::time::{Instant, interval, timeout};

use super::{
    support::{DEADLINE, Stack, until},
    terminal::{Session, Terminal},
};

const LIMIT: Duration = Duration::from_secs(2);
/// Five pings within the limit, so that a busy machine may delay one.
const PING_EVERY: Duration = Duration::from_millis(400);

#[tokio::test]
async fn pings_keep_a_connection_open_and_a_silent_one_is_cut_and_resumed() {
    let stack = Stack::whole().flag("--idle-timeout", LIMIT.as_secs().to_string()).start().await;
    tokio::join!(pings(&stack), is_cut(&stack));
}

/// Pings for three times the limit.
async fn pings(stack: &Stack) {
    let session = Session::new(stack).await;
    let mut client = stack.connect_with(&session.query()).await;
    assert_eq!(client.json().await["type"], "connected");
    let began = Instant::now();
    let mut tick = interval(PING_EVERY);
    while began.elapsed() < LIMIT * 3 {
        tick.tick().await;
        client.send(r#"{"type":"ping"}"#).await;
        assert_eq!(client.json().await["type"], "pong");
    }
    // Only the pings kept it open.
    assert_eq!(client.closed().await, (1001, "Going away".to_owned()));
}

/// Stays silent, is cut, and afterwards receives the bytes written and typed meanwhile, each once.
async fn is_cut(stack: &Stack) {
    let session = Session::with(stack, serde_json::json!({"shell": "/bin/sh"})).await;
    let mut terminal = Terminal::new(stack, &session, "idle");
    let (cut, written) = (stack.directory().join("cut"), stack.directory().join("written"));
    terminal.run("stty raw -echo; printf 'ra''w'", "raw").await;
    let from = terminal.output.len();
    let script = format!(
        "printf 'fir''st'; seq 2000; printf 'si''lent'; until [ -e {} ]; do sleep 0.05; done; seq 3000; : > {}; head -c 5; \
         printf 'la''st'",
        cut.display(),
        written.display(),
    );
    terminal.run(&script, "silent").await;
    let cuts = terminal.cuts;
    terminal.drive(DEADLINE, |terminal| terminal.cuts > cuts).await;
    std::fs::write(cut, "").unwrap();
    until("output while nobody is connected", || async { written.exists().then_some(()) }).await;
    terminal.client.write(b"typed");
    let is_whole = |output: &[u8]| String::from_utf8_lossy(&output[from..]).contains("typedlast");
    terminal.drive(DEADLINE, |terminal| is_whole(&terminal.output)).await;

    let numbers = |last: u32| (1..=last).map(|n| n.to_string() + "\n").collect::<String>();
    let want = format!("first{}silent{}typedlast", numbers(2000), numbers(3000));
    let have = String::from_utf8_lossy(&terminal.output[from..]).into_owned();
    // Prompts come before and after.
    assert!(have.contains(&want), "{have}");
    assert!(!terminal.closed.is_empty() && terminal.closed.iter().all(|code| *code == 1001));
    assert_eq!(terminal.cuts, u64::try_from(terminal.closed.len()).unwrap(), "no other end than a close");
    assert_eq!((terminal.gap, terminal.snapshots.len()), (0, 0));
    timeout(DEADLINE, session.end()).await.unwrap();
}
