//! Owners that die, pause, or come back.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use serde_json::json;
use tempfile::TempDir;

use crate::{
    LONG, create, host, instance, instance_in, metric, run,
    server::Redis,
    status,
    support::{ADMIN_TOKEN, Gateway, lives, signal},
    told, until,
};

/// A restart that takes no longer is within the lease: 12 s, less the time since the last renewal.
pub(crate) const IN_TIME: Duration = Duration::from_secs(8);

fn run_dir(home: &TempDir) -> PathBuf {
    home.path().join("run")
}

#[tokio::test]
async fn the_connections_of_a_dead_owner_are_told_and_others_do_not_notice() {
    let (redis, gateway) = (Redis::start(), Gateway::start().await);
    let home = TempDir::new().unwrap();
    let a = instance_in(&run_dir(&home), &redis, &gateway).await;
    let b = instance(&redis, &gateway).await;
    let (busy, idle, other) = (create(&a).await, create(&a).await, create(&b).await);
    for session in [&busy, &idle, &other] {
        b.connect(session, "alice", session).await;
    }
    // From here on, b may judge that a session is gone.
    until("absence counts", async || status(&b, "nowhere").await == 404).await;
    let kept = host(&b, &gateway, &other).await;
    assert_eq!(run(&b, &gateway, &busy, "echo busy").await, "busy");
    a.crash().await;
    let killed = Instant::now();
    until("told", async || {
        let ping = b.frame(&other, "alice", &other, json!({"type": "ping"})).await.status();
        assert!([200, 503].contains(&ping.as_u16()), "{ping}");
        told(&gateway, &busy) && told(&gateway, &idle)
    })
    .await;
    let took = killed.elapsed();
    println!("SESSION_INVALID {took:?} after the owner's death");
    assert!(took < Duration::from_mins(1), "20 s on an idle machine: {took:?}");
    until("gone", async || status(&b, &busy).await == 404).await;
    assert_eq!(host(&b, &gateway, &other).await, kept);
    assert!(!told(&gateway, &other));
    // The owner comes back too late: it ends what was reported as gone.
    let a = instance_in(&run_dir(&home), &redis, &gateway).await;
    until("given up", async || metric(&a, "shellbridge_sessions_lost_total").await == Some(2)).await;
    assert_eq!(status(&b, &busy).await, 404);
}

#[tokio::test]
async fn a_restart_within_the_lease_goes_unnoticed() {
    let (redis, gateway) = (Redis::start(), Gateway::start().await);
    let home = TempDir::new().unwrap();
    let a = instance_in(&run_dir(&home), &redis, &gateway).await;
    let b = instance(&redis, &gateway).await;
    let (mut a, mut s) = (a, String::new());
    let (mut before, mut epoch) = (0, String::new());
    // On a busy machine, a restart may take longer than the lease.
    for attempt in 1.. {
        s = create(&a).await;
        b.connect(&s, "alice", &s).await;
        before = host(&b, &gateway, &s).await;
        epoch = redis.ask(&["HGET", &format!("{{sb}}:s:{s}"), "epoch"]);
        let crashed = Instant::now();
        a.crash().await;
        a = instance_in(&run_dir(&home), &redis, &gateway).await;
        if crashed.elapsed() < IN_TIME {
            break;
        }
        assert!(attempt < 10, "no restart within the lease");
    }
    assert_eq!(host(&b, &gateway, &s).await, before, "the same shell, at the instance's new address");
    assert_eq!(host(&a, &gateway, &s).await, before);
    let after: String = redis.ask(&["HGET", &format!("{{sb}}:s:{s}"), "epoch"]);
    assert_eq!(epoch, after);
    assert!(!told(&gateway, &s));
}

#[tokio::test]
async fn a_paused_owner_never_has_a_second_shell_beside_it() {
    let (redis, gateway) = (Redis::start(), Gateway::start().await);
    let (a, b) = (instance(&redis, &gateway).await, instance(&redis, &gateway).await);
    a.session("alice", "s").await;
    let unclaimed = create(&a).await;
    for session in ["s", &unclaimed] {
        a.connect(session, "alice", session).await;
    }
    let first = host(&a, &gateway, "s").await;
    until("absence counts", async || status(&b, "nowhere").await == 404).await;
    let paused = Instant::now();
    signal(a.pid(), Signal::SIGSTOP);
    // Until the lease is over and the session is buried, its id is not free.
    let body = json!({"userId": "alice", "sessionId": "s", "shell": "/bin/sh"});
    let mut free = None;
    until("free", async || {
        let request = b.post("/api/sessions").bearer_auth(ADMIN_TOKEN).json(&body);
        let answer = request.send().await.unwrap().status().as_u16();
        assert!([201, 409, 503].contains(&answer), "{answer}");
        free = (answer == 201).then(Instant::now);
        free.is_some()
    })
    .await;
    let free = free.unwrap() - paused;
    // The last renewal is less than 10 s old when the pause begins, and the lease lasts 12 s.
    assert!(free > Duration::from_secs(1), "{free:?} is before the end of the lease");
    assert!(told(&gateway, "s"), "its connections were told first");
    b.connect("s", "alice", "new").await;
    while paused.elapsed() < Duration::from_secs(30) {
        let ping = b.frame("s", "alice", "new", json!({"type": "ping"})).await;
        assert!([200, 503].contains(&ping.status().as_u16()), "{}", ping.status());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let calls = gateway.calls().len();
    signal(a.pid(), Signal::SIGCONT);
    // Its shell ends at once, and it pushes nothing.
    until("ended", async || !lives(first)).await;
    assert_eq!(status(&a, "s").await, 200, "at its new owner");
    let late: Vec<_> =
        gateway.calls().split_off(calls).into_iter().filter(|call| call.connection == "s").collect();
    assert!(late.is_empty(), "{late:?}");
    assert!(paused.elapsed() < LONG + LONG);
}
