//! What only the platform may do: use `ADMIN_TOKEN`, read metrics, rotate secrets.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{ADMIN_TOKEN, Gateway, JWT_SECRET, Settings, claims, hs256};

#[tokio::test]
async fn regression_wrong_admin_tokens_are_delayed_and_the_right_one_is_not() {
    let backend = Settings::new().start().await;
    let ask = async |token: &str| {
        let started = Instant::now();
        let request = backend.post("/api/sessions").bearer_auth(token).json(&json!({"userId": "u"}));
        (request.send().await.unwrap().status().as_u16(), started.elapsed())
    };
    let started = Instant::now();
    for _ in 0..7 {
        assert_eq!(ask("a guess of thirty-two bytes or so").await.0, 401);
    }
    // 10 ms, doubling: 10 + 20 + … + 640.
    assert!(started.elapsed() >= Duration::from_millis(1270), "{:?}", started.elapsed());
    let (guess, right) = tokio::join!(ask("another"), ask(ADMIN_TOKEN));
    assert_eq!((guess.0, right.0), (401, 201));
    assert!(right.1 < guess.1, "the right one is not delayed: {:?}, {:?}", right.1, guess.1);
    let status = async |path: &str| {
        let request = backend.get(path).bearer_auth("a guess elsewhere");
        request.send().await.unwrap().status().as_u16()
    };
    for path in ["/api/sessions/s", "/ready", "/metrics"] {
        let started = Instant::now();
        let answered = status(path).await;
        assert_eq!(answered, if path == "/ready" { 200 } else { 401 });
        assert!(started.elapsed() >= Duration::from_millis(900), "{path} does not bypass the delay");
    }
    backend.counts("shellbridge_wrong_admin_tokens_total 11").await;
}

#[tokio::test]
async fn regression_metrics_and_the_number_of_sessions_are_for_the_platform() {
    let backend = Settings::new().start().await;
    backend.session("alice", "s").await;
    assert_eq!(backend.get("/metrics").send().await.unwrap().status(), 401);
    let users = backend.get("/metrics").bearer_auth(hs256(&claims("alice"), JWT_SECRET));
    assert_eq!(users.send().await.unwrap().status(), 401);
    assert!(backend.metrics().await.contains("\nshellbridge_sessions{sandbox=\"none\"} 1\n"));
    let ready: Value = backend.get("/ready").send().await.unwrap().json().await.unwrap();
    assert_eq!(ready, json!({"status": "ready"}));
    let ready = backend.get("/ready").bearer_auth(ADMIN_TOKEN).send().await.unwrap();
    assert_eq!(ready.json::<Value>().await.unwrap(), json!({"status": "ready", "sessions": 1}));
}

#[tokio::test]
async fn metrics_bind_serves_metrics_without_a_token() {
    // All of 127/8 is this machine; the address is unique to this process.
    let [.., high, low] = std::process::id().to_be_bytes();
    let at = format!("127.{}.{}.{}:9090", 100 + high / 2, low, 1 + high % 2);
    let backend = Settings::new().without("ADMIN_TOKEN").set("METRICS_BIND", &at).start().await;
    let ask = async |url: String| backend.http.get(url).send().await.unwrap();
    let metrics = ask(format!("http://{at}/metrics")).await;
    assert_eq!(metrics.status(), 200);
    assert!(metrics.text().await.unwrap().contains("\nshellbridge_sessions{sandbox=\"none\"} 0\n"));
    for path in ["/", "/health", "/api/sessions/s"] {
        assert_eq!(ask(format!("http://{at}{path}")).await.status(), 404, "{path}");
    }
    assert_eq!(ask(format!("{}/metrics", backend.url)).await.status(), 401, "ADMIN_TOKEN is unset");
    backend.terminate();
    let (code, log) = backend.ended().await;
    assert_eq!(code, 0, "{log}");
}

/// Replacing `JWT_SECRET` or `ADMIN_TOKEN` used to break every client with the old one.
#[tokio::test]
async fn regression_secrets_rotate_under_a_living_session() {
    let (old, new) = (JWT_SECRET, "the next secret of users' tokens, of 32 bytes and more");
    // Commas separate keys, so a key contains none.
    let new = new.replace(',', ";");
    let next_admin = "the-platform-s-next-token-of-32-bytes-and-more";
    let gateway = Gateway::start().await;
    let backend = Settings::new()
        .set("JWT_SECRET", &format!("{new}, {old}"))
        .set("ADMIN_TOKEN", &format!("{next_admin},{ADMIN_TOKEN}"))
        .pushing_to(&gateway)
        .start()
        .await;
    // Created by a platform that still uses the old token.
    let session = backend.session("alice", "s").await;
    backend.connect("s", "alice", "c").await;
    let minted = session["token"].as_str().unwrap().to_owned();
    let status = async |token: &str| {
        backend.get("/api/sessions/s").bearer_auth(token).send().await.unwrap().status().as_u16()
    };
    let of = |secret: &str| hs256(&claims("alice"), secret);
    for token in [minted.as_str(), &of(old), &of(&new), ADMIN_TOKEN, next_admin] {
        assert_eq!(status(token).await, 200, "{token}");
    }
    for token in [of(&format!("{new}, {old}")), of("neither"), format!("{next_admin},{ADMIN_TOKEN}")] {
        assert_eq!(status(&token).await, 401, "{token}");
    }
    let by_new = jsonwebtoken::DecodingKey::from_secret(new.as_bytes());
    let rules = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::HS256);
    jsonwebtoken::decode::<Value>(&minted, &by_new, &rules).expect("the new key signs");
    let ping = backend.frame("s", "alice", "c", json!({"type": "ping"})).await;
    assert_eq!(ping.status(), 200, "the session still runs");
}
