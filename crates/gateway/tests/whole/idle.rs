//! API Gateway's idle limit: ten minutes on AWS, two seconds in this test.

use std::time::Duration;

use futures_util::SinkExt as _;
use tokio::time::{Instant, interval, timeout};
use tokio_tungstenite::tungstenite::Message;

use super::{
    support::{Client, DEADLINE, Stack, until},
    terminal::{Session, Terminal},
};

const LIMIT: Duration = Duration::from_secs(2);
const PING_EVERY: Duration = Duration::from_millis(400);
/// A pause between two pings after which the gateway may have seen none for its limit. Only a busy machine makes it.
const LATE: Duration = Duration::from_secs(1);

#[tokio::test]
async fn pings_keep_a_connection_open_and_a_silent_one_is_cut_and_resumed() {
    let stack = Stack::whole().flag("--idle-timeout", LIMIT.as_secs().to_string()).start().await;
    tokio::join!(pings(&stack), is_cut(&stack));
}

/// Pings for three times the limit, until no ping was late.
async fn pings(stack: &Stack) {
    let session = Session::new(stack).await;
    let pinged = async {
        loop {
            let mut client = stack.connect_with(&session.query()).await;
            if ping(&mut client).await {
                return client;
            }
        }
    };
    let mut client = timeout(DEADLINE * 2, pinged).await.expect("pings in time");
    // Only the pings kept it open.
    assert_eq!(client.closed().await, (1001, "Going away".to_owned()));
}

/// Returns whether every ping was in time.
async fn ping(client: &mut Client) -> bool {
    let (began, mut last) = (Instant::now(), Instant::now());
    let mut tick = interval(PING_EVERY);
    let mut expected = "connected";
    while began.elapsed() < LIMIT * 3 {
        let frame = client.next().await;
        if last.elapsed() > LATE {
            return false;
        }
        let Ok(Some(Message::Text(text))) = frame else { panic!("{frame:?}") };
        let frame: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(frame["type"], expected);
        expected = "pong";
        tick.tick().await;
        if client.stream.send(Message::text(r#"{"type":"ping"}"#)).await.is_err() || last.elapsed() > LATE {
            return false;
        }
        last = Instant::now();
    }
    true
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
