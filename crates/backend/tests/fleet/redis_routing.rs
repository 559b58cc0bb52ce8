//! Requests reach their session through any instance, in at most one hop.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use shellbridge_protocol::bridge::MESSAGE_PATH;

use crate::{
    create, host, instance, run,
    server::Redis,
    status,
    support::{ADMIN_TOKEN, Backend, Gateway, bridge_token, message_body},
    until,
};

fn hop(answer: &reqwest::Response) -> Option<&str> {
    answer.headers().get("x-shellbridge-hop").map(|hops| hops.to_str().unwrap())
}

#[tokio::test]
async fn a_session_is_reached_through_any_instance() {
    let (redis, gateway) = (Redis::start(), Gateway::start().await);
    let (a, b) = (instance(&redis, &gateway).await, instance(&redis, &gateway).await);
    let s = create(&a).await;
    b.connect(&s, "alice", &s).await;
    assert_eq!(host(&b, &gateway, &s).await, host(&a, &gateway, &s).await);
    for (backend, hops) in [(&a, "0"), (&b, "1")] {
        let answer = backend.frame(&s, "alice", &s, json!({"type": "ping"})).await;
        assert_eq!((answer.status().as_u16(), hop(&answer)), (200, Some(hops)));
    }
    // The API by path.
    let path = format!("/api/sessions/{s}");
    let shown: Value = b.get(&path).bearer_auth(ADMIN_TOKEN).send().await.unwrap().json().await.unwrap();
    assert_eq!((&shown["sessionId"], &shown["connections"]), (&json!(s), &json!(1)));
    let share =
        b.post(&format!("{path}/share")).bearer_auth(ADMIN_TOKEN).json(&json!({})).send().await.unwrap();
    assert_eq!(share.status(), 201);
    let share: Value = share.json().await.unwrap();
    let token = share["token"].as_str().unwrap();
    let diagnosis = format!("/api/diagnostics/websocket?sessionId={s}");
    let diagnosed: Value = b.get(&diagnosis).bearer_auth(token).send().await.unwrap().json().await.unwrap();
    assert_eq!(diagnosed["ok"], true, "{diagnosed}");
    let extended = b.post(&format!("{path}/extend")).bearer_auth(ADMIN_TOKEN).json(&json!({"seconds": 60}));
    assert_eq!(extended.send().await.unwrap().status(), 200);
    let shares = b.delete(&format!("{path}/shares")).bearer_auth(ADMIN_TOKEN).send().await.unwrap();
    assert_eq!(shares.status(), 204);
    // Without a token, no instance asks another.
    assert_eq!(b.get(&path).send().await.unwrap().status(), 401);
    b.counts("shellbridge_hops_total{outcome=\"answered\"}").await;
    assert_eq!(b.delete(&path).bearer_auth(ADMIN_TOKEN).send().await.unwrap().status(), 204);
    until("gone everywhere", async || status(&a, &s).await == 404 && status(&b, &s).await == 404).await;
}

#[tokio::test]
async fn a_request_is_accepted_once_by_all_instances_together() {
    let (redis, gateway) = (Redis::start(), Gateway::start().await);
    let (a, b) = (instance(&redis, &gateway).await, instance(&redis, &gateway).await);
    let s = create(&a).await;
    a.connect(&s, "alice", &s).await;
    for (first, second) in [(&a, &b), (&b, &a), (&b, &b)] {
        let body = message_body(&s, "alice", &s, json!({"type": "ping"})).to_string();
        let token = bridge_token(MESSAGE_PATH, &s, body.as_bytes());
        let send = |to: &Backend| to.bridge(MESSAGE_PATH, &s, &token, body.clone()).send();
        assert_eq!(send(first).await.unwrap().status(), 200);
        assert_eq!(send(second).await.unwrap().status(), 401, "a replay");
    }
}

#[tokio::test]
async fn a_request_takes_no_second_hop() {
    let (redis, gateway) = (Redis::start(), Gateway::start().await);
    let (a, b) = (instance(&redis, &gateway).await, instance(&redis, &gateway).await);
    let s = create(&a).await;
    let path = format!("/api/sessions/{s}");
    let hopped = b.get(&path).header("x-shellbridge-hop", "1").bearer_auth(ADMIN_TOKEN).send().await.unwrap();
    assert_eq!(hopped.status(), 503);
    let error: Value = hopped.json().await.unwrap();
    assert_eq!((&error["code"], &error["retryable"]), (&json!("BACKEND_UNAVAILABLE"), &json!(true)));
    // Nor does one that is not signed get anywhere.
    let body = message_body(&s, "alice", &s, json!({"type": "ping"})).to_string();
    let unsigned = b.bridge(MESSAGE_PATH, &s, "nonsense", body).send().await.unwrap();
    assert_eq!(unsigned.status(), 401);
}

/// The wait until absence counts is part of the test: before, the answer is 503.
#[tokio::test]
async fn an_unknown_session_is_reported_once_absence_counts_and_an_id_is_taken_once() {
    let (redis, gateway) = (Redis::start(), Gateway::start().await);
    let (a, b) = (instance(&redis, &gateway).await, instance(&redis, &gateway).await);
    assert_eq!(status(&a, "nowhere").await, 503, "nothing counts right after the start");
    until("absence counts", async || status(&a, "nowhere").await == 404).await;
    // Of the client's choice: waits until absence counts at b, too.
    b.session("alice", "chosen").await;
    let body = json!({"userId": "alice", "sessionId": "chosen", "shell": "/bin/sh"});
    let again = a.post("/api/sessions").bearer_auth(ADMIN_TOKEN).json(&body).send().await.unwrap();
    assert_eq!(again.status(), 409);
    assert_eq!(status(&a, "chosen").await, 200);
}

/// Prints how much a hop costs. Asserts nothing about time: other tests run meanwhile.
#[tokio::test]
async fn the_cost_of_a_hop_is_measured() {
    const PINGS: usize = 200;
    let (redis, gateway) = (Redis::start(), Gateway::start().await);
    let (a, b) = (instance(&redis, &gateway).await, instance(&redis, &gateway).await);
    let s = create(&a).await;
    a.connect(&s, "alice", &s).await;
    assert_eq!(run(&b, &gateway, &s, "echo warm").await, "warm");
    let mut took = [Vec::new(), Vec::new()];
    for _ in 0..PINGS {
        for (backend, took) in [&a, &b].into_iter().zip(&mut took) {
            let started = Instant::now();
            assert_eq!(backend.frame(&s, "alice", &s, json!({"type": "ping"})).await.status(), 200);
            took.push(started.elapsed());
        }
    }
    let [here, hopped]: [Duration; 2] = took.map(|mut took| {
        took.sort_unstable();
        took[PINGS / 2]
    });
    println!(
        "ping p50: {here:?} without a hop, {hopped:?} with one: {:.2}×",
        hopped.as_secs_f64() / here.as_secs_f64()
    );
}
