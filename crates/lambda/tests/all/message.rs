//! `$default`.

use std::{
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::{Duration, SystemTime},
};

use aws_credential_types::{
    Credentials,
    provider::{self, ProvideCredentials, future},
};
use aws_sigv4::{
    http_request::{SignableBody, SignableRequest, SigningSettings, sign},
    sign::v4::SigningParams,
};
use aws_smithy_types::date_time::{DateTime, Format};
use serde_json::{Value, json};
use shellbridge_protocol::limits::TOKEN_LEEWAY;

use crate::{bed::*, fake::Request};

#[tokio::test]
async fn a_frame_is_signed_and_forwarded_and_its_response_posted_verbatim() {
    let bed = Bed::new().await;
    bed.connected().await;
    bed.backend.next([(200, "{\"type\":\"pong\",  \"timestamp\":1.50}")]);
    let response = bed.send(r#"{"type":"ping","timestamp":7,"sessionId":"evil"}"#).await;
    assert_eq!(serde_json::to_value(&response).unwrap(), json!({"statusCode":200}));

    let requests = bed.backend.taken();
    assert_eq!(requests.len(), 1);
    let mut body = requests[0].json();
    assert!(body["timestamp"].as_i64().unwrap() / 1_000 - now() <= 1);
    body["timestamp"] = 0.into();
    let bridge = body["bridge"].take();
    assert_eq!(
        body,
        json!({"type":"ping","timestamp":0,"connectionId":CONNECTION,"sessionId":"session-1","userId":"ann",
            "bridge":null})
    );
    assert_eq!(bridge["messageId"], "PJqCFfHyKRcCHlw=");
    assert_eq!(bridge["clientTimestamp"], 7);
    assert_eq!(bridge["callbackUrl"], bed.connections.url);
    assert_eq!(bridge["readOnly"], false);

    let posted = bed.connections.taken();
    assert_eq!(posted.len(), 1);
    let path = percent_encoding::percent_decode_str(&posted[0].path).decode_utf8().unwrap();
    assert_eq!(path, format!("/@connections/{CONNECTION}"));
    assert_eq!(posted[0].body, "{\"type\":\"pong\",  \"timestamp\":1.50}");
}

/// The signature that the SDK's signer computes for a received post.
fn signature(posted: &Request, key: &str) -> String {
    let secret = format!("secret of {key}");
    let date = posted.header("x-amz-date");
    let at = |from: usize, to: usize| date.get(from..to).unwrap();
    let time = format!("{}-{}-{}T{}:{}:{}Z", at(0, 4), at(4, 6), at(6, 8), at(9, 11), at(11, 13), at(13, 15));
    let time = SystemTime::try_from(DateTime::from_str(&time, Format::DateTime).unwrap()).unwrap();
    assert!(time.elapsed().unwrap() < Duration::from_mins(1));
    let identity = Credentials::new(key, secret, None, None, "test").into();
    let params = SigningParams::builder()
        .identity(&identity)
        .region("us-east-1")
        .name("execute-api")
        .time(time)
        .settings(SigningSettings::default());
    let uri = format!("http://{}{}", posted.header("host"), posted.path);
    let headers = std::iter::once(("content-type", posted.header("content-type")));
    let request = SignableRequest::new("POST", uri, headers, SignableBody::Bytes(&posted.body)).unwrap();
    let (signed, _) = sign(request, &params.build().unwrap().into()).unwrap().into_parts();
    signed.headers().find(|(name, _)| *name == "authorization").unwrap().1.to_owned()
}

/// Returns a new key for each call, valid for `good_for`.
#[derive(Debug)]
struct Rotating {
    calls: AtomicU32,
    good_for: Duration,
}

impl ProvideCredentials for Rotating {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        let key = format!("key-{}", self.calls.fetch_add(1, Relaxed));
        let (secret, expiry) = (format!("secret of {key}"), SystemTime::now() + self.good_for);
        let credentials = Credentials::new(key, secret, None, Some(expiry), "test");
        future::ProvideCredentials::ready(provider::Result::Ok(credentials))
    }
}

/// Posts a frame for each status and returns the keys that signed the posts.
async fn keys_of_posts(good_for: Duration, answers: &[u16]) -> Vec<String> {
    let bed = Bed::with_credentials(Rotating { calls: AtomicU32::new(0), good_for }).await;
    bed.connected().await;
    let mut keys = Vec::new();
    for &answer in answers {
        bed.connections.next([(answer, "")]);
        bed.send(r#"{"type":"ping"}"#).await;
        let posted = bed.connections.taken();
        let authorization = posted[0].header("authorization");
        let key = authorization.split(['=', '/']).nth(1).unwrap().to_owned();
        assert_eq!(authorization, signature(&posted[0], &key));
        keys.push(key);
    }
    keys
}

#[tokio::test]
async fn posts_have_valid_signatures_and_a_403_renews_the_credentials() {
    let keys = keys_of_posts(Duration::from_mins(2), &[200, 403, 200, 200]).await;
    assert!(keys[0] == keys[1] && keys[1] != keys[2] && keys[2] == keys[3], "{keys:?}");
}

#[tokio::test]
async fn credentials_about_to_expire_are_renewed() {
    let keys = keys_of_posts(Duration::from_secs(5), &[200, 200]).await;
    assert_ne!(keys[0], keys[1]);
}

#[tokio::test]
async fn an_empty_response_posts_nothing() {
    let bed = Bed::new().await;
    bed.connected().await;
    bed.backend.next([(204, "")]);
    assert_eq!(bed.answers(r#"{"type":"ack","outputOffset":1}"#).await, Vec::<Value>::new());
}

#[tokio::test]
async fn regression_event_headers_read_where_message_events_have_none() {
    for event in [
        include_str!("../events/message.json"),
        include_str!("../events/message-2019.json"),
        include_str!("../events/message-authorizer.json"),
    ] {
        let bed = Bed::new().await;
        bed.connected().await;
        let mut event: Value = serde_json::from_str(event).unwrap();
        event["body"] = r#"{"type":"ping"}"#.into();
        event["requestContext"]["routeKey"] = "ping".into();
        assert_eq!(bed.handle(event).await.status_code, 200);
        assert_eq!(posts(&bed.connections.taken()), [json!({"type":"pong","timestamp":1})]);
    }
}

#[tokio::test]
async fn malformed_frames_are_answered_without_the_backend() {
    let bed = Bed::new().await;
    bed.connected().await;
    let large = format!(r#"{{"type":"input","data":"{}"}}"#, "x".repeat(32_768));
    for (frame, code, reference) in [
        ("hello", "BAD_FRAME", Value::Null),
        ("", "BAD_FRAME", Value::Null),
        ("[1]", "BAD_FRAME", Value::Null),
        ("null", "BAD_FRAME", Value::Null),
        ("{\"type\":\"ping\"", "BAD_FRAME", Value::Null),
        (large.as_str(), "TOO_LARGE", "input".into()),
    ] {
        let answers = bed.answers(frame).await;
        assert_eq!(answers.len(), 1);
        assert_eq!((&answers[0]["type"], &answers[0]["code"]), (&"error".into(), &code.into()));
        assert_eq!((&answers[0]["ref"], &answers[0]["retryable"]), (&reference, &false.into()));
    }
    assert!(bed.backend.taken().is_empty());
    assert_eq!(bed.items().await.len(), 1, "the connection lives on");
    let fits = format!(r#"{{"type":"input","data":"{}"}}"#, "x".repeat(32_768 - 26));
    assert_eq!(fits.len(), 32_768);
    assert_eq!(bed.answers(&fits).await[0]["type"], "pong");
}

#[tokio::test]
async fn a_frame_without_a_body_or_in_base64_is_answered() {
    let bed = Bed::new().await;
    bed.connected().await;
    for (body, base64, answer) in [
        (Value::Null, false, "error"),
        ("eyJ0eXBlIjoicGluZyJ9".into(), true, "pong"),
        ("!".into(), true, "error"),
        ("/w==".into(), true, "error"),
    ] {
        let mut event = message_event("");
        event["body"] = body;
        event["isBase64Encoded"] = base64.into();
        assert_eq!(bed.handle(event).await.status_code, 200);
        assert_eq!(posts(&bed.connections.taken())[0]["type"], answer);
    }
}

#[tokio::test]
async fn the_record_is_read_once_per_connection_and_process() {
    let bed = Bed::new().await;
    bed.connected().await;
    bed.dynamo.delete_table().table_name(TABLE).send().await.unwrap();
    for _ in 0..3 {
        assert_eq!(bed.answers(r#"{"type":"ping"}"#).await[0]["type"], "pong");
    }
}

#[tokio::test]
async fn a_missing_record_is_session_invalid_and_not_cached() {
    let bed = Bed::new().await;
    bed.send(r#"{"type":"ping"}"#).await;
    let requests = bed.connections.taken();
    let methods: Vec<_> = requests.iter().map(|request| request.method.as_str()).collect();
    assert_eq!(methods, ["POST", "DELETE"]);
    let error = requests[0].json();
    assert_eq!((&error["code"], &error["retryable"]), (&"SESSION_INVALID".into(), &true.into()));
    assert_eq!(error["ref"], "ping");
    assert!(bed.backend.taken().is_empty());

    bed.connected().await;
    assert_eq!(bed.answers(r#"{"type":"ping"}"#).await[0]["type"], "pong");
}

#[tokio::test]
async fn an_unreadable_table_is_retryable_and_keeps_the_connection() {
    let bed = Bed::new().await;
    bed.dynamo.delete_table().table_name(TABLE).send().await.unwrap();
    bed.send(r#"{"type":"ping"}"#).await;
    let requests = bed.connections.taken();
    assert_eq!(requests.len(), 1);
    assert_eq!(requests[0].json()["code"], "BACKEND_UNAVAILABLE");
    assert_eq!(requests[0].json()["retryable"], true);
}

#[tokio::test]
async fn regression_a_token_admitted_within_the_leeway_survives_its_first_frame() {
    let bed = Bed::new().await;
    let event = connect_event(&token(&json!({"exp":now() - 5})));
    assert_eq!(bed.handle(event).await.status_code, 200);
    assert_eq!(bed.answers(r#"{"type":"ping"}"#).await, [json!({"type":"pong","timestamp":1})]);
}

#[tokio::test]
async fn frames_carry_the_token_id_and_a_revoked_token_closes_the_connection() {
    let bed = Bed::new().await;
    let event = connect_event(&token(&json!({"shellbridgeId":"session.token"})));
    assert_eq!(bed.handle(event).await.status_code, 200);
    assert_eq!(bed.backend.taken()[0].json()["tokenId"], "session.token");
    assert_eq!(bed.items().await[0]["tokenId"].as_s().unwrap(), "session.token");
    bed.answers(r#"{"type":"ping","tokenId":"mine","bridge":{"tokenId":"mine"}}"#).await;
    assert_eq!(bed.backend.taken()[0].json()["bridge"]["tokenId"], "session.token");

    let revoked = r#"{"type":"error","code":"TOKEN_EXPIRED","message":"raw","retryable":false}"#;
    bed.backend.next([(403, revoked)]);
    bed.send(r#"{"type":"ping"}"#).await;
    let requests = bed.connections.taken();
    let methods: Vec<_> = requests.iter().map(|request| request.method.as_str()).collect();
    assert_eq!(methods, ["POST", "DELETE"]);
    assert_eq!(requests[0].json()["code"], "TOKEN_EXPIRED");
    assert!(bed.items().await.is_empty());
}

#[tokio::test]
async fn an_expired_token_closes_the_connection() {
    let bed = Bed::new().await;
    let ends = now() + 1;
    let event = connect_event(&token(&json!({"exp":ends - TOKEN_LEEWAY})));
    assert_eq!(bed.handle(event).await.status_code, 200);
    bed.backend.taken();
    while now() <= ends {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    bed.send(r#"{"type":"input","id":"i7"}"#).await;
    let requests = bed.connections.taken();
    let methods: Vec<_> = requests.iter().map(|request| request.method.as_str()).collect();
    assert_eq!(methods, ["POST", "DELETE"]);
    assert_eq!(
        (&requests[0].json()["code"], &requests[0].json()["ref"]),
        (&"TOKEN_EXPIRED".into(), &"i7".into())
    );
    assert!(bed.backend.taken().is_empty() && bed.items().await.is_empty());
}

#[tokio::test]
async fn an_ended_session_closes_the_connection() {
    let bed = Bed::new().await;
    bed.connected().await;
    bed.backend.next([(
        404,
        r#"{"type":"error","code":"SESSION_INVALID","message":"raw words","retryable":false}"#,
    )]);
    bed.send(r#"{"type":"ping"}"#).await;
    let requests = bed.connections.taken();
    let methods: Vec<_> = requests.iter().map(|request| request.method.as_str()).collect();
    assert_eq!(methods, ["POST", "DELETE"]);
    let error = requests[0].json();
    assert_eq!((&error["code"], &error["retryable"]), (&"SESSION_INVALID".into(), &false.into()));
    assert!(!error["message"].as_str().unwrap().contains("raw"));
    assert!(bed.items().await.is_empty());
}

#[tokio::test]
async fn regression_410_deletes_the_connection_posted_to_and_no_other() {
    let bed = Bed::new().await;
    bed.connected().await;
    let mut other = connect_event(&token(&json!({})));
    other["requestContext"]["connectionId"] = "Other0fHsqRcCHk=".into();
    assert_eq!(bed.handle(other).await.status_code, 200);
    bed.connections.next([(410, "")]);
    bed.send(r#"{"type":"ping"}"#).await;
    let items = bed.items().await;
    assert_eq!(items.len(), 1);
    assert_eq!(items[0]["connectionId"].as_s().unwrap(), "Other0fHsqRcCHk=");
    assert_eq!(bed.connections.taken().len(), 1, "a 410 is not retried");
}

#[tokio::test]
async fn a_push_is_retried_on_429_and_5xx_but_not_on_other_4xx() {
    for (failures, tries) in [(vec![429, 500, 503], 4), (vec![403], 1), (vec![400], 1)] {
        let bed = Bed::new().await;
        bed.connected().await;
        bed.connections.next(failures.into_iter().map(|status| (status, "")));
        bed.send(r#"{"type":"ping"}"#).await;
        let requests = bed.connections.taken();
        assert_eq!(requests.len(), tries);
        assert!(requests.iter().all(|request| request.json()["type"] == "pong"));
        assert_eq!(bed.items().await.len(), 1);
    }
}

#[tokio::test]
async fn an_oversized_response_is_an_error_frame() {
    let bed = Bed::new().await;
    bed.connected().await;
    bed.connections.next([(413, r#"{"message":"too large"}"#)]);
    let answers = bed.answers(r#"{"type":"history"}"#).await;
    assert_eq!((&answers[1]["code"], &answers[1]["ref"]), (&"TOO_LARGE".into(), &"history".into()));

    let frame = |size: usize| format!(r#"{{"type":"history","x":"{}"}}"#, "x".repeat(size - 25));
    bed.backend.always(move |_| (200, frame(131_072)));
    assert_eq!(bed.answers(r#"{"type":"history"}"#).await[0]["type"], "history");
    bed.backend.always(move |_| (200, frame(131_073)));
    assert_eq!(bed.answers(r#"{"type":"history"}"#).await[0]["code"], "TOO_LARGE");
}

#[tokio::test]
async fn failing_pushes_stop_at_the_limit() {
    let bed = Bed::with(|config| config.limits.push = std::time::Duration::from_millis(300)).await;
    bed.connected().await;
    bed.connections.always(|_| (503, String::new()));
    let started = std::time::Instant::now();
    assert_eq!(bed.send(r#"{"type":"ping"}"#).await.status_code, 200);
    assert!(started.elapsed() < std::time::Duration::from_secs(2));
}
