//! Backend outages: stopped, hung, slow, and responding with garbage.

use std::time::{Duration, Instant};

use serde_json::Value;
use shellbridge_lambda::Limits;
use tokio::{io::AsyncWriteExt, net::TcpListener};

use crate::{
    bed::{Bed, connect_event, disconnect_event, good_backend, message_event, posts, token},
    fake::Fake,
};

const PING: &str = r#"{"type":"ping","id":"p1"}"#;

/// Sends a ping; returns the only frame posted and the time it took.
async fn failure(bed: &Bed) -> (Value, Duration) {
    let started = Instant::now();
    let mut answers = bed.answers(PING).await;
    assert_eq!(answers.len(), 1, "{answers:?}");
    (answers.remove(0), started.elapsed())
}

fn assert_unavailable(error: &Value) {
    assert_eq!((&error["type"], &error["code"]), (&"error".into(), &"BACKEND_UNAVAILABLE".into()));
    assert_eq!((&error["retryable"], &error["ref"]), (&true.into(), &"p1".into()));
}

/// A connection whose backend has stopped, and the backend's address.
async fn without_backend() -> (Bed, std::net::SocketAddr) {
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = gone.local_addr().unwrap();
    drop(gone);
    let bed = Bed::with(|config| config.backend_url = Some(format!("http://{address}"))).await;
    put_record(&bed).await;
    (bed, address)
}

/// Stores the record that `$connect` would store.
async fn put_record(bed: &Bed) {
    use aws_sdk_dynamodb::types::AttributeValue::{Bool, N, S};
    bed.dynamo
        .put_item()
        .table_name(crate::bed::TABLE)
        .item("connectionId", S(crate::bed::CONNECTION.into()))
        .item("sessionId", S("session-1".into()))
        .item("userId", S("ann".into()))
        .item("readOnly", Bool(false))
        .item("connectedAt", N("1701245041796".into()))
        .item("tokenExpiresAt", N((crate::bed::now() + 60).to_string()))
        .item("expiresAt", N((crate::bed::now() + 60).to_string()))
        .item("callbackUrl", S("https://x".into()))
        .send()
        .await
        .unwrap();
}

#[tokio::test]
async fn a_stopped_backend_fails_fast_and_recovers_within_1_s() {
    let (bed, address) = without_backend().await;
    let (error, took) = failure(&bed).await;
    assert_unavailable(&error);
    assert!(took < Duration::from_secs(2), "{took:?}");
    // At three attempts per frame, the second frame opens the circuit.
    failure(&bed).await;
    bed.log.lines();
    let (error, _) = failure(&bed).await;
    assert_unavailable(&error);
    let line = bed.log.lines().remove(0);
    assert_eq!(line["Outcome"], "backend_circuit_open");
    assert!(line["BackendMs"].as_f64().unwrap() < 50.0, "{line}");
    assert_eq!(bed.items().await.len(), 1, "the connection stays");

    Fake::start_on(TcpListener::bind(address).await.unwrap(), good_backend);
    assert_works_within_1_s(&bed).await;
}

async fn assert_works_within_1_s(bed: &Bed) {
    let back = Instant::now();
    while bed.answers(PING).await[0]["type"] != "pong" {
        assert!(back.elapsed() < Duration::from_secs(1));
    }
}

#[tokio::test]
async fn a_stopped_backend_rejects_handshakes_with_503() {
    let (bed, _) = without_backend().await;
    bed.dynamo
        .delete_item()
        .table_name(crate::bed::TABLE)
        .key("connectionId", aws_sdk_dynamodb::types::AttributeValue::S(crate::bed::CONNECTION.into()))
        .send()
        .await
        .unwrap();
    let response = bed.handle(connect_event(&token(&serde_json::json!({})))).await;
    assert_eq!(response.status_code, 503);
    assert!(bed.items().await.is_empty());
}

/// Sends more frames than would open the circuit; all time out.
async fn timing_out(url: String) -> Bed {
    let bed = Bed::with(|config| {
        config.backend_url = Some(url);
        config.limits = Limits { backend: Duration::from_millis(100), ..config.limits };
    })
    .await;
    put_record(&bed).await;
    for _ in 0..7 {
        let (error, took) = failure(&bed).await;
        assert_eq!((&error["code"], &error["retryable"]), (&"BACKEND_TIMEOUT".into(), &true.into()));
        assert!((Duration::from_millis(100)..Duration::from_secs(2)).contains(&took), "{took:?}");
    }
    bed
}

#[tokio::test]
async fn a_hung_backend_times_out_without_opening_the_circuit() {
    let (listener, url) = hung().await;
    let bed = timing_out(url).await;
    Fake::start_on(listener, good_backend);
    assert_works_within_1_s(&bed).await;
}

#[tokio::test]
async fn a_slow_backend_times_out_and_its_late_response_is_dropped() {
    let (listener, url) = hung().await;
    let awake = tokio::sync::watch::Sender::new(false);
    let asleep = awake.subscribe();
    let handler = async move || {
        asleep.clone().wait_for(|awake| *awake).await.unwrap();
        r#"{"type":"pong","timestamp":1}"#
    };
    tokio::spawn(async move { axum::serve(listener, axum::Router::new().fallback(handler)).await.unwrap() });
    let bed = timing_out(url).await;
    awake.send_replace(true);
    assert_works_within_1_s(&bed).await;
    assert!(bed.connections.taken().is_empty(), "late responses are not posted");
}

/// Accepts connections and never answers.
async fn hung() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    (listener, url)
}

#[tokio::test]
async fn regression_no_timeout_on_any_call() {
    // Each of the four dependencies hangs. Some production timeouts exceed this invocation's deadline, which must hold.
    const LIFE: Duration = Duration::from_secs(2);
    let within_life = async |bed: &Bed, event| {
        let started = Instant::now();
        let response = bed.handle_within(event, LIFE).await;
        assert!(started.elapsed() < LIFE, "{:?}", started.elapsed());
        response.status_code
    };
    let (_listener, url) = hung().await;
    let handshake = || connect_event(&token(&serde_json::json!({})));

    let backend = async {
        let bed = Bed::with(|config| config.backend_url = Some(url.clone())).await;
        assert_eq!(within_life(&bed, handshake()).await, 503);
        put_record(&bed).await;
        assert_eq!(within_life(&bed, message_event(PING)).await, 200);
        assert_eq!(posts(&bed.connections.taken())[0]["code"], "BACKEND_TIMEOUT");
    };
    let table = async {
        let bed = Bed::with_hung_dynamo(&url).await;
        assert_eq!(within_life(&bed, handshake()).await, 503);
        assert_eq!(within_life(&bed, message_event(PING)).await, 200);
        assert_eq!(posts(&bed.connections.taken())[0]["code"], "BACKEND_UNAVAILABLE");
        assert_eq!(within_life(&bed, disconnect_event()).await, 200);
    };
    let connections = async {
        let bed = Bed::with(|config| config.callback_endpoint = Some(url.clone())).await;
        bed.connected().await;
        assert_eq!(within_life(&bed, message_event(PING)).await, 200);
    };
    let keys = async {
        let bed = Bed::with(|config| {
            config.jwt_secret = None;
            config.jwks_url = Some(url.clone());
            config.jwks_allow_private = true;
            config.limits.jwks = Duration::from_mins(1);
        })
        .await;
        assert_eq!(within_life(&bed, handshake()).await, 503);
    };
    tokio::join!(backend, table, connections, keys);
}

#[tokio::test]
async fn garbage_counts_as_unavailable_and_never_reaches_the_client() {
    for (status, body) in [
        (200, "<html>secret words</html>"),
        (200, "\"secret words\""),
        (200, "[\"secret words\"]"),
        (200, "{\"secret words\":"),
        (200, ""),
        (201, "secret words"),
        (302, "secret words"),
        (404, "secret words"),
        (404, "{\"secret\":\"words\"}"),
        (500, "secret words"),
        (418, "secret words"),
    ] {
        let bed = Bed::new().await;
        bed.connected().await;
        bed.backend.next([(status, body)]);
        let (error, took) = failure(&bed).await;
        assert_unavailable(&error);
        assert!(!error.to_string().contains("secret"));
        assert!(took < Duration::from_secs(2));
        assert_eq!(bed.backend.taken().len(), 1);
        assert_eq!(bed.items().await.len(), 1, "the connection stays");
    }
}

#[tokio::test]
async fn a_server_without_http_counts_as_unavailable() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"SSH-2.0-OpenSSH_9.9\r\n").await;
        }
    });
    let bed = Bed::with(|config| config.backend_url = Some(url)).await;
    put_record(&bed).await;
    let (error, took) = failure(&bed).await;
    assert_unavailable(&error);
    assert!(took < Duration::from_secs(2));
}

#[tokio::test]
async fn statuses_map_to_codes() {
    for (status, body, code, retryable, attempts) in [
        (429, "", "RATE_LIMITED", true, 1),
        (413, "", "TOO_LARGE", false, 1),
        (504, "", "BACKEND_TIMEOUT", true, 1),
        (502, "", "BACKEND_UNAVAILABLE", true, 3),
        (503, "{}", "BACKEND_UNAVAILABLE", true, 3),
        (401, "", "INTERNAL", false, 2),
        (403, r#"{"type":"error","code":"FORBIDDEN"}"#, "FORBIDDEN", false, 1),
        (500, r#"{"type":"error","code":"INTERNAL"}"#, "INTERNAL", false, 1),
        (500, r#"{"type":"error","code":"FROM_THE_FUTURE"}"#, "INTERNAL", false, 1),
    ] {
        let bed = Bed::new().await;
        bed.connected().await;
        bed.backend.always(move |_| (status, body.to_owned()));
        let (error, took) = failure(&bed).await;
        assert_eq!((&error["code"], &error["retryable"]), (&code.into(), &retryable.into()), "{status}");
        assert_eq!(error["ref"], "p1", "{status}");
        let all = bed.backend.taken();
        assert_eq!(all.len(), attempts, "{status}");
        assert!(took < Duration::from_secs(2));
        let mut tokens: Vec<_> =
            all.iter().map(|request| request.header("authorization").to_owned()).collect();
        tokens.dedup();
        assert_eq!(tokens.len(), attempts, "each attempt has its own token");
        assert!(all.iter().all(|request| request.body == all[0].body), "and all have the same message id");
    }
}

#[tokio::test]
async fn transient_failures_are_invisible_to_the_client() {
    let bed = Bed::new().await;
    bed.connected().await;
    bed.backend.next([(503, ""), (502, "")]);
    assert_eq!(bed.answers(PING).await[0]["type"], "pong");
    bed.backend.next([(401, "")]);
    assert_eq!(bed.answers(PING).await[0]["type"], "pong");
}
