//! Deployments: releases that drain, and ECS task protection.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use axum::{Json, Router, extract::State, routing::put};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::{
    create, host, instance, instance_in, metric, ready,
    redis_owners::IN_TIME,
    run,
    server::Redis,
    settings, status,
    support::{ADMIN_TOKEN, Gateway, now},
    told, until,
};

#[tokio::test]
async fn an_instance_of_an_older_release_creates_no_sessions_and_keeps_those_it_has() {
    let (redis, gateway) = (Redis::start(), Gateway::start().await);
    let of = |release: &str| settings(&redis.url(), &gateway).set("RELEASE", release).set("DRAIN_MAX", "300");
    let old = ready(of("blue").start().await).await;
    let kept = create(&old).await;
    old.connect(&kept, "alice", &kept).await;
    let shell = host(&old, &gateway, &kept).await;
    let new = ready(of("green").start().await).await;
    until("draining", async || metric(&old, "shellbridge_draining").await == Some(1)).await;
    assert_eq!(metric(&new, "shellbridge_draining").await, Some(0));
    let created = create(&old).await;
    let owner: String = redis.ask(&["HGET", &format!("{{sb}}:s:{created}"), "instance"]);
    let other: String = redis.ask(&["HGET", &format!("{{sb}}:s:{kept}"), "instance"]);
    assert_ne!(owner, other, "created at the newer one");
    assert_eq!(host(&new, &gateway, &kept).await, shell, "and found from there");
    // It ends after DRAIN_MAX, and its client is told five minutes before.
    let notice =
        gateway.until("notice", |call| call.connection == kept && call.frame["code"] == "SESSION_EXPIRING");
    notice.await;
    let path = format!("/api/sessions/{kept}");
    let shown: Value = old.get(&path).bearer_auth(ADMIN_TOKEN).send().await.unwrap().json().await.unwrap();
    let ends = shown["expiresAt"].as_i64().unwrap() / 1000 - now();
    assert!((0..=300).contains(&ends), "{ends} s");
}

#[tokio::test]
async fn a_session_of_an_older_release_ends_after_drain_max() {
    let (redis, gateway) = (Redis::start(), Gateway::start().await);
    let of = |release: &str| settings(&redis.url(), &gateway).set("RELEASE", release).set("DRAIN_MAX", "2");
    let old = ready(of("blue").start().await).await;
    let s = create(&old).await;
    old.connect(&s, "alice", &s).await;
    let new = ready(of("green").start().await).await;
    gateway.until("end", |call| call.connection == s && call.frame["code"] == "SESSION_EXPIRED").await;
    until("gone", async || [404, 503].contains(&status(&new, &s).await)).await;
}

#[tokio::test]
async fn instances_are_replaced_one_by_one_without_the_end_of_a_session() {
    // On a busy machine, a restart may take longer than the lease.
    for _ in 0..10 {
        if replaced().await {
            return;
        }
    }
    panic!("no three restarts within the lease");
}

/// False if a restart took too long to tell.
async fn replaced() -> bool {
    let (redis, gateway) = (Redis::start(), Gateway::start().await);
    let run_dirs = tempfile::TempDir::new().unwrap();
    let start = async |n: usize| instance_in(&run_dirs.path().join(n.to_string()), &redis, &gateway).await;
    let mut backends = Vec::new();
    let mut sessions = Vec::new();
    for n in 0..3 {
        let backend = start(n).await;
        let s = create(&backend).await;
        backend.connect(&s, "alice", &s).await;
        sessions.push((s.clone(), host(&backend, &gateway, &s).await));
        backends.push(backend);
    }
    for n in 0..3 {
        let crashed = Instant::now();
        backends.remove(0).crash().await;
        backends.push(start(n).await);
        if crashed.elapsed() > IN_TIME {
            return false;
        }
        for (session, shell) in &sessions {
            let through = &backends[0];
            assert_eq!(host(through, &gateway, session).await, *shell, "replaced {n}");
            assert_eq!(run(through, &gateway, session, "echo typed").await, "typed");
        }
    }
    assert!(sessions.iter().all(|(session, _)| !told(&gateway, session)));
    true
}

#[tokio::test]
async fn sigterm_releases_sessions_and_lease_at_once() {
    let (redis, gateway) = (Redis::start(), Gateway::start().await);
    let (a, b) = (instance(&redis, &gateway).await, instance(&redis, &gateway).await);
    let s = create(&a).await;
    a.terminate();
    let (code, _) = a.ended().await;
    assert_eq!(code, 0);
    assert!(!redis.ask::<bool>(&["EXISTS", &format!("{{sb}}:s:{s}")]));
    until("absence counts", async || status(&b, &s).await == 404).await;
    assert_eq!(redis.ask::<Vec<String>>(&["ZRANGE", "{sb}:instances", "0", "-1"]).len(), 1);
}

type Asked = Arc<Mutex<Vec<Value>>>;

#[tokio::test]
async fn an_ecs_task_is_protected_from_its_first_session_to_its_last() {
    async fn protect(State(asked): State<Asked>, Json(body): Json<Value>) -> Json<Value> {
        asked.lock().unwrap().push(body);
        Json(json!({"protection": {"ProtectionEnabled": true}}))
    }
    let asked = Asked::default();
    let router = Router::new().route("/task-protection/v1/state", put(protect)).with_state(asked.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let agent = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    let gateway = Gateway::start().await;
    let backend =
        crate::support::Settings::new().pushing_to(&gateway).set("ECS_AGENT_URI", &agent).start().await;
    let last = || asked.lock().unwrap().last().cloned();
    let s = create(&backend).await;
    until("protected", async || last().is_some_and(|body| body["ProtectionEnabled"] == true)).await;
    assert_eq!(last().unwrap()["ExpiresInMinutes"], 60);
    backend.delete(&format!("/api/sessions/{s}")).bearer_auth(ADMIN_TOKEN).send().await.unwrap();
    until("released", async || last().is_some_and(|body| body["ProtectionEnabled"] == false)).await;
    assert_eq!(asked.lock().unwrap().len(), 2);
    backend.counts("shellbridge_task_protection_total{outcome=\"granted\"} 1").await;
}

#[tokio::test]
async fn a_refused_protection_is_normal() {
    let refuse =
        async || Json(json!({"failure": {"Arn": "a", "Detail": "d", "Reason": "DEPLOYMENT_BLOCKED"}}));
    let router = Router::new().route("/task-protection/v1/state", put(refuse));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let agent = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    let gateway = Gateway::start().await;
    let backend =
        crate::support::Settings::new().pushing_to(&gateway).set("ECS_AGENT_URI", &agent).start().await;
    let s = create(&backend).await;
    backend.counts("shellbridge_task_protection_total{outcome=\"refused\"} 1").await;
    backend.logs("DEPLOYMENT_BLOCKED").await;
    assert_eq!(status(&backend, &s).await, 200);
    tokio::time::timeout(Duration::from_mins(1), async { backend.connect(&s, "alice", &s).await })
        .await
        .unwrap();
}
