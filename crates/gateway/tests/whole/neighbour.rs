//! One session floods its terminal with what costs the most; others type on as if it did not.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::json;
use shellbridge_protocol::{
    client::Client,
    limits::{MAX_COLS, MAX_ROWS},
};

use super::{
    support::{self, Stack, http},
    terminal::{Session, Terminal},
};

/// Keys of a round, and rounds with and without a flood, in turns.
const KEYS: usize = 50;
const ROUNDS: usize = 3;
/// Between two keys; many times what one takes.
const PACE: Duration = Duration::from_millis(10);
/// What a key takes at most where a machine does other things too: `bench neighbour` has the true bound.
const BUSY: Duration = Duration::from_millis(10);
/// The same of `/health`.
const HEALTH_WITHIN: Duration = Duration::from_secs(1);
/// How often to measure: other work on the machine spoils some, a flood that is felt spoils all.
const TRIES: usize = 5;

fn terminal(stack: &Stack, session: &Session, name: &str, (cols, rows): (u16, u16)) -> Terminal {
    let mut terminal = Terminal::new(stack, session, name);
    terminal.client = Client::new(format!("{name:->16}"), cols, rows);
    terminal
}

/// Types into `cat` and says how long each key took to its echo.
async fn keys(terminal: &mut Terminal) -> Vec<Duration> {
    let mut took = Vec::new();
    for _ in 0..KEYS {
        let (typed, from) = (Instant::now(), terminal.output.len());
        terminal.client.write(b"x");
        terminal.drive(support::DEADLINE, |terminal| terminal.output.len() > from).await;
        took.push(typed.elapsed());
        tokio::time::sleep(PACE).await;
    }
    let from = terminal.output.len();
    terminal.client.write(b"\n");
    terminal.drive(support::DEADLINE, |terminal| terminal.output.len() >= from + 2 * 2 + KEYS).await;
    took
}

fn at(mut all: Vec<Duration>, percent: usize) -> Duration {
    all.sort();
    all[all.len() * percent / 100]
}

/// Starts the flood in a task; what it gives back stops that.
async fn flood(mut terminal: Terminal, flood: &'static str) -> impl AsyncFnOnce() -> Terminal {
    terminal.client.write(flood.as_bytes());
    terminal.client.write(b"\n");
    let stop = Arc::new(AtomicBool::new(false));
    let told = stop.clone();
    let mut seen = 0;
    // The flood flows before anything is measured.
    terminal.drive(support::DEADLINE, |terminal| terminal.output.len() > 100_000).await;
    let flooding = tokio::spawn(async move {
        terminal
            .drive(Duration::from_mins(2), |terminal| {
                seen += terminal.output.len();
                terminal.output.clear();
                told.load(Ordering::Relaxed)
            })
            .await;
        terminal.client.write(b"\x03");
        terminal.run("echo sto''pped", "stopped").await;
        terminal
    });
    async move || {
        stop.store(true, Ordering::Relaxed);
        flooding.await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn regression_a_flood_of_one_session_leaves_the_others_their_terminals() {
    let stack = Stack::whole().start().await;
    let health = format!("{}health", stack.page.clone().unwrap());
    for (size, line) in [
        ((MAX_COLS, MAX_ROWS), r"yes $'\e[41m\e[2J\e[500S'"),
        ((MAX_COLS, MAX_ROWS), r#"yes "$(printf '\e[500S%.0s' {1..4000})""#),
        ((80, 24), r"yes $'\e[41m\e[2J\e[500S'"),
        ((80, 24), "yes"),
    ] {
        let typing = Session::with(&stack, json!({"shell": "/bin/cat"})).await;
        let flooding = Session::with(&stack, json!({"shell": "/bin/bash"})).await;
        let mut typist = terminal(&stack, &typing, "typist", size);
        let mut flooder = terminal(&stack, &flooding, "flooder", size);
        flooder.run("PS1=; stty -echo; echo re''ady", "ready").await;
        let mut felt = true;
        for _ in 0..TRIES {
            let (mut quiet, mut flooded, mut healths) = (Vec::new(), Vec::new(), Vec::new());
            for _ in 0..ROUNDS {
                quiet.extend(keys(&mut typist).await);
                let stop = flood(flooder, line).await;
                flooded.extend(keys(&mut typist).await);
                for _ in 0..5 {
                    let asked = Instant::now();
                    assert_eq!(http("GET", &health, &[], "").await.status, 200);
                    healths.push(asked.elapsed());
                }
                flooder = stop().await;
            }
            let (quiet, flooded, health) = (at(quiet, 90), at(flooded, 90), at(healths, 90));
            println!("{line} at {size:?}: keys {quiet:?}, flooded {flooded:?}, /health {health:?}");
            felt = flooded > 5 * quiet.max(BUSY) || health > HEALTH_WITHIN;
            if !felt {
                break;
            }
        }
        assert!(!felt, "{line} at {size:?} is felt by the others");
        typing.end().await;
        flooding.end().await;
    }
}
