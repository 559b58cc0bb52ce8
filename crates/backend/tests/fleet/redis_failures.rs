//! A Redis that is gone, refuses, restarts without data or fails over.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};

use crate::{
    create, host, instance, metric, ready, run,
    server::Redis,
    settings, status,
    support::{ADMIN_TOKEN, Backend, Gateway, signal},
    told, until,
};

/// What `/ready` says to the platform.
async fn not_ready(backend: &Backend) -> Option<(Value, String)> {
    let answer = backend.get("/ready").bearer_auth(ADMIN_TOKEN).send().await.unwrap();
    if answer.status() == 200 {
        return None;
    }
    let answer: Value = answer.json().await.unwrap();
    let error = answer["redis"].as_str().unwrap_or_default().to_owned();
    Some((answer["notReady"].clone(), error))
}

/// Waits until `/ready` gives this cause.
async fn says(backend: &Backend, cause: &str) {
    until(cause, async || {
        not_ready(backend).await.is_some_and(|(which, error)| which[0] == "redis" && error.contains(cause))
    })
    .await;
}

#[tokio::test]
async fn a_redis_that_is_gone_at_the_start_is_named_and_found_later() {
    let (mut redis, gateway) = (Redis::start(), Gateway::start().await);
    redis.kill();
    let backend = settings(&redis.url(), &gateway).start().await;
    says(&backend, "cannot connect to Redis at 127.0.0.1").await;
    let anyone: Value = backend.get("/ready").send().await.unwrap().json().await.unwrap();
    assert!(anyone.get("redis").is_none(), "the cause is for the platform only: {anyone}");
    let body = serde_json::json!({"userId": "alice"});
    let refused = backend.post("/api/sessions").bearer_auth(ADMIN_TOKEN).json(&body).send().await.unwrap();
    assert_eq!(refused.status(), 503);
    redis.restart();
    let backend = ready(backend).await;
    create(&backend).await;
}

#[tokio::test]
async fn a_wrong_password_and_a_refused_tls_are_named() {
    let (redis, gateway) = (Redis::with(&["--requirepass", "hush-hush"]), Gateway::start().await);
    let at = |user: &str| format!("redis://{user}127.0.0.1:{}", redis.port);
    for user in ["", ":wrong@", "default:wrong@"] {
        let backend = settings(&at(user), &gateway).start().await;
        says(&backend, "refuses the user or password").await;
    }
    let tls = settings(&format!("rediss://127.0.0.1:{}", redis.port), &gateway).start().await;
    says(&tls, "over TLS").await;
    let right = ready(settings(&at("default:hush-hush@"), &gateway).start().await).await;
    create(&right).await;
}

#[tokio::test]
async fn an_outage_and_a_restart_without_data_are_pauses() {
    let (mut redis, gateway) = (Redis::start(), Gateway::start().await);
    let (a, b) = (instance(&redis, &gateway).await, instance(&redis, &gateway).await);
    let s = create(&a).await;
    b.connect(&s, "alice", &s).await;
    let shell = host(&b, &gateway, &s).await;
    redis.kill();
    // Longer than the lease: the owner serves nothing.
    until("fenced", async || {
        let answer = a.frame(&s, "alice", &s, serde_json::json!({"type": "ping"})).await;
        answer.status() == 503
    })
    .await;
    assert!(not_ready(&a).await.is_some());
    redis.restart();
    let found = until("found again", async || status(&b, &s).await == 200).await;
    println!("found {found:?} after Redis's restart without data");
    assert!(found < Duration::from_mins(1), "10 s on an idle machine: {found:?}");
    assert_eq!(host(&b, &gateway, &s).await, shell);
    // While it serves, a loss of all data is repaired by the next renewal.
    let _: () = redis.ask(&["FLUSHALL"]);
    let found =
        until("registered again", async || redis.ask::<bool>(&["EXISTS", &format!("{{sb}}:s:{s}")])).await;
    println!("registered {found:?} after FLUSHALL");
    assert_eq!(run(&b, &gateway, &s, "echo here").await, "here");
    // A store that hangs is no store.
    signal(redis.pid(), Signal::SIGSTOP);
    until("fenced", async || not_ready(&a).await.is_some() && not_ready(&b).await.is_some()).await;
    signal(redis.pid(), Signal::SIGCONT);
    until("found again", async || status(&b, &s).await == 200).await;
    assert_eq!(host(&b, &gateway, &s).await, shell);
    assert!(!told(&gateway, &s));
    assert_eq!(metric(&a, "shellbridge_leased").await, Some(1));
    assert!(metric(&a, "shellbridge_fenced_seconds_total").await.is_some());
}

/// An endpoint that leads to one server, and after a failover to another.
async fn endpoint() -> (String, watch::Sender<u16>) {
    let (lead, to) = watch::channel(0);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("redis://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut to = to.clone();
            tokio::spawn(async move {
                let port = *to.borrow_and_update();
                let Ok(mut server) = TcpStream::connect(("127.0.0.1", port)).await else { return };
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                    _ = to.changed() => {}
                }
            });
        }
    });
    (url, lead)
}

#[tokio::test]
async fn a_failover_to_a_replica_that_misses_the_last_writes_loses_no_session() {
    let (mut primary, replica, gateway) = (Redis::start(), Redis::start(), Gateway::start().await);
    let (url, lead) = endpoint().await;
    lead.send(primary.port).unwrap();
    let a = ready(settings(&url, &gateway).start().await).await;
    let b = ready(settings(&url, &gateway).start().await).await;
    let replicated = create(&a).await;
    let _: () = replica.ask(&["REPLICAOF", "127.0.0.1", &primary.port.to_string()]);
    until("replicated", async || replica.ask::<bool>(&["EXISTS", &format!("{{sb}}:s:{replicated}")])).await;
    let _: () = replica.ask(&["REPLICAOF", "NO", "ONE"]);
    let missed = create(&b).await;
    let sessions = [replicated, missed];
    let mut shells = Vec::new();
    for session in &sessions {
        b.connect(session, "alice", session).await;
        shells.push(host(&a, &gateway, session).await);
    }
    let epoch: u64 = primary.ask(&["GET", "{sb}:epoch"]);
    primary.kill();
    lead.send(replica.port).unwrap();
    let found = until("found again", async || {
        status(&a, &sessions[0]).await == 200
            && status(&b, &sessions[0]).await == 200
            && status(&a, &sessions[1]).await == 200
            && status(&b, &sessions[1]).await == 200
            && replica.ask::<bool>(&["EXISTS", &format!("{{sb}}:s:{}", sessions[1])])
    })
    .await;
    println!("found {found:?} after the failover");
    assert!(found < Duration::from_mins(1), "10 s on an idle machine: {found:?}");
    for (session, shell) in sessions.iter().zip(shells) {
        assert_eq!(host(&a, &gateway, session).await, shell);
        assert!(!told(&gateway, session));
    }
    create(&a).await;
    assert!(replica.ask::<u64>(&["GET", "{sb}:epoch"]) > epoch, "epochs only rise");
}
