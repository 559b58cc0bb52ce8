//! Rate limits and metrics.

use std::time::Instant;

use serde_json::{Value, json};

use crate::support::{ADMIN_TOKEN, Backend, Settings, connect_body, started};
use shellbridge_protocol::bridge::CONNECT_PATH;

/// Sends frames over these connections until one is refused; returns the number accepted, and the refusal.
async fn flood(backend: &Backend, user: &str, connections: usize, most: usize) -> (usize, Option<Value>) {
    let mut taken = 0;
    for n in 0..most {
        let connection = format!("{user}-{}", n % connections);
        let response = backend.frame("s", user, &connection, json!({"type": "echo"})).await;
        if response.status() == 429 {
            return (taken, Some(response.json().await.unwrap()));
        }
        assert_eq!(response.status(), 200);
        taken += 1;
    }
    (taken, None)
}

#[tokio::test]
async fn a_flooding_connection_is_limited_and_others_are_not() {
    let backend = Settings::new().set("RATE_LIMIT_CONNECTION", "20").start().await;
    backend.session("alice", "s").await;
    let started = Instant::now();
    let (taken, refusal) = flood(&backend, "alice", 1, 10_000).await;
    let refusal = refusal.expect("10,000 frames exceed 20 per second");
    assert_eq!(
        (&refusal["type"], &refusal["code"], &refusal["retryable"], &refusal["ref"]),
        (&json!("error"), &json!("RATE_LIMITED"), &json!(true), &json!("echo"))
    );
    #[allow(clippy::cast_precision_loss)]
    let (taken, allowed) = (taken as f64, 20.0 * (1.0 + started.elapsed().as_secs_f64()));
    assert!((20.0..=allowed).contains(&taken), "{taken} of {allowed}");
    let other = backend.frame("s", "alice", "another", json!({"type": "echo"})).await;
    assert_eq!(other.status(), 200);
    backend.counts("shellbridge_rate_limited_total{by=\"connection\"} 1").await;
    // The limit recovers.
    while backend.frame("s", "alice", "alice-0", json!({"type": "echo"})).await.status() != 200 {
        assert!(started.elapsed().as_secs() < 30);
    }
}

#[tokio::test]
async fn connections_of_a_user_share_a_limit() {
    let backend = Settings::new().set("RATE_LIMIT_USER", "20").start().await;
    backend.session("alice", "s").await;
    let (taken, refusal) = flood(&backend, "alice", 10, 10_000).await;
    assert!(taken >= 20);
    assert_eq!(refusal.expect("10,000 frames exceed 20 per second")["code"], "RATE_LIMITED");
    backend.counts("shellbridge_rate_limited_total{by=\"user\"} 1").await;
    let frame = backend.frame("s", "bob", "c", json!({"type": "echo"})).await;
    assert_eq!(frame.status(), 404, "another user is not limited, only refused the session");
}

#[tokio::test]
async fn metrics_count_requests_frames_and_pushes() {
    let (gateway, backend) = started().await;
    backend.session("alice", "s").await;
    let refused =
        backend.signed(CONNECT_PATH, "c", &connect_body("none", "alice", "c")).send().await.unwrap();
    assert_eq!(refused.status(), 404);
    let refused = backend.signed(CONNECT_PATH, "c", &connect_body("s", "bob", "c")).send().await.unwrap();
    assert_eq!(refused.status(), 403);
    let unsigned = backend.post(CONNECT_PATH).send().await.unwrap();
    assert_eq!(unsigned.status(), 401);
    gateway.fail_with.store(500, std::sync::atomic::Ordering::Relaxed);
    backend.connect("s", "alice", "c").await;
    gateway.frame("connected").await;
    backend.counts("shellbridge_push_retries_total").await;
    gateway.fail_with.store(0, std::sync::atomic::Ordering::Relaxed);
    for frame in
        [json!({"type": "ping"}), json!({"type": "ping"}), json!({"type": "made-up-by-a-client"}), json!({})]
    {
        assert_eq!(backend.frame("s", "alice", "c", frame).await.status(), 200);
    }
    let malformed = json!({"type": "resize", "cols": "wide"});
    assert_eq!(backend.frame("s", "alice", "c", malformed).await.status(), 200);
    for line in [
        "shellbridge_connects_total 1",
        "shellbridge_connect_refusals_total{cause=\"no_session\"} 1",
        "shellbridge_connect_refusals_total{cause=\"not_owner\"} 1",
        "shellbridge_bridge_refusals_total{cause=\"no_token\"} 1",
        "shellbridge_frames_total{type=\"ping\"} 2",
        "shellbridge_frames_total{type=\"unknown\"} 2",
        "shellbridge_frames_total{type=\"malformed\"} 1",
        "shellbridge_replies_total{kind=\"frame\"} 4",
        "shellbridge_replies_total{kind=\"error\"} 1",
        "shellbridge_pushes_total{outcome=\"delivered\"} 1",
        "shellbridge_push_seconds_count 1",
        "shellbridge_time_to_connect_seconds_count 1",
        "shellbridge_bytes_total{direction=\"in\"}",
        "shellbridge_bytes_total{direction=\"out\"}",
        "shellbridge_request_seconds_count{route=\"/api/ws/message\",status=\"2xx\"} 5",
        "shellbridge_sessions{sandbox=\"none\"} 1",
        "shellbridge_connections 1",
    ] {
        backend.counts(line).await;
    }
    let metrics = backend.metrics().await;
    assert!(!metrics.contains("made-up-by-a-client") && !metrics.contains("alice"), "{metrics}");
    let response = backend.get("/metrics").bearer_auth(ADMIN_TOKEN).send().await.unwrap();
    assert!(response.headers()["content-type"].to_str().unwrap().starts_with("text/plain; version=0.0.4"));
}
