//! One row per invalid handshake. Each is rejected with its status, without a request to the backend, a record or a push.

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

use crate::bed::*;

const RSA: &str = include_str!("../../../protocol/src/access/keys/rsa.pem");
const ED: &str = include_str!("../../../protocol/src/access/keys/ed.pem");
const EC: &str = include_str!("../../../protocol/src/access/keys/ec.pem");

fn good() -> Value {
    connect_event(&token(&json!({})))
}

fn claiming(change: &Value) -> Value {
    connect_event(&token(change))
}

fn from_origin(origins: &[&str]) -> Value {
    with_header(good(), "Origin", origins)
}

fn asking_for(query: &[(&str, &str)], claims: &Value) -> Value {
    let token = token(claims);
    let mut query = query.to_vec();
    query.push(("token", &token));
    with_query(good(), &query)
}

fn signed(algorithm: Algorithm, key: &EncodingKey) -> Value {
    connect_event(&jsonwebtoken::encode(&Header::new(algorithm), &claims(&json!({})), key).unwrap())
}

/// A hand-made token.
fn raw(header: &str, claims: &str, signature: &str) -> Value {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
    connect_event(&format!("{}.{}.{signature}", BASE64.encode(header), BASE64.encode(claims)))
}

fn with_context(name: &str, value: &Value) -> Value {
    let mut event = good();
    let context = event["requestContext"].as_object_mut().unwrap();
    if value.is_null() {
        context.remove(name)
    } else {
        context.insert(name.to_owned(), value.clone())
    };
    event
}

fn with_crit() -> Value {
    let mut header = Header::new(Algorithm::HS256);
    header.crit = Some(vec!["b64".into()]);
    connect_event(&sign(&header, &claims(&json!({})), JWT_SECRET))
}

fn tampered() -> Value {
    let token = token(&json!({}));
    let other = sign(&Header::new(Algorithm::HS256), &claims(&json!({"sub":"root"})), "x");
    let (head, signature) = token.rsplit_once('.').unwrap();
    let payload = other.split('.').nth(1).unwrap();
    connect_event(&format!("{}.{payload}.{signature}", head.split('.').next().unwrap()))
}

/// The fault, the event, and the status.
fn rows() -> Vec<(&'static str, Value, u16)> {
    let header = r#"{"alg":"HS256","typ":"JWT"}"#;
    let body = claims(&json!({})).to_string();
    let emptied = with_header(good(), "Sec-WebSocket-Protocol", &["shellbridge.v1, bearer."]);
    vec![
        ("no token", with_query(good(), &[("sessionId", "session-1")]), 401),
        ("empty token", connect_event(""), 401),
        ("empty bearer subprotocol hides a good query", emptied, 401),
        ("token of one part", connect_event("abc"), 401),
        ("token of five parts", connect_event("a.b.c.d.e"), 401),
        ("token of 8 KiB and more", connect_event(&"x".repeat(8_193)), 401),
        ("token that is not base64", connect_event("!.!.!"), 401),
        ("claims that are no object", raw(header, "[]", "x"), 401),
        ("alg none, no signature", raw(r#"{"alg":"none"}"#, &body, ""), 401),
        ("alg None, no signature", raw(r#"{"alg":"None"}"#, &body, ""), 401),
        ("alg none, some signature", raw(r#"{"alg":"none"}"#, &body, "c2ln"), 401),
        ("alg missing", raw(r#"{"typ":"JWT"}"#, &body, "c2ln"), 401),
        ("signature missing", raw(header, &body, ""), 401),
        ("signature of other claims", tampered(), 401),
        ("critical extension", with_crit(), 401),
        (
            "HS256 with another secret",
            connect_event(&sign(&Header::default(), &claims(&json!({})), BRIDGE_SECRET)),
            401,
        ),
        ("HS384", signed(Algorithm::HS384, &EncodingKey::from_secret(JWT_SECRET.as_bytes())), 401),
        ("HS512", signed(Algorithm::HS512, &EncodingKey::from_secret(JWT_SECRET.as_bytes())), 401),
        ("RS256", signed(Algorithm::RS256, &EncodingKey::from_rsa_pem(RSA.as_bytes()).unwrap()), 401),
        ("ES256", signed(Algorithm::ES256, &EncodingKey::from_ec_pem(EC.as_bytes()).unwrap()), 401),
        ("EdDSA", signed(Algorithm::EdDSA, &EncodingKey::from_ed_pem(ED.as_bytes()).unwrap()), 401),
        ("exp missing", claiming(&json!({"exp":null})), 401),
        ("exp as text", claiming(&json!({"exp":"9999999999"})), 401),
        ("exp past the leeway", claiming(&json!({"exp":now() - 40})), 401),
        ("exp negative", claiming(&json!({"exp":-1})), 401),
        ("nbf in the future", claiming(&json!({"nbf":now() + 60})), 401),
        ("sub missing", claiming(&json!({"sub":null})), 401),
        ("sub empty", claiming(&json!({"sub":""})), 401),
        ("sub a number", claiming(&json!({"sub":7})), 401),
        ("readOnly as text", claiming(&json!({"readOnly":"false"})), 401),
        ("iss wrong", claiming(&json!({"iss":"somebody"})), 401),
        ("iss missing", claiming(&json!({"iss":null})), 401),
        ("aud wrong", claiming(&json!({"aud":["others"]})), 401),
        ("aud missing", claiming(&json!({"aud":null})), 401),
        (
            "Authorization: Basic alone",
            with_header(with_query(good(), &[("sessionId", "session-1")]), "Authorization", &["Basic eDp5"]),
            401,
        ),
        ("token for another session", asking_for(&[("sessionId", "session-2")], &json!({})), 403),
        ("no session named", asking_for(&[], &json!({"sessionId":null})), 400),
        ("session named emptily", asking_for(&[("sessionId", "")], &json!({"sessionId":null})), 400),
        (
            "session name of 129 characters",
            asking_for(&[("sessionId", &"s".repeat(129))], &json!({"sessionId":null})),
            400,
        ),
        ("foreign origin", from_origin(&["https://evil.example"]), 403),
        ("origin null", from_origin(&["null"]), 403),
        ("origin empty", from_origin(&[""]), 403),
        ("origin with ours as prefix", from_origin(&["https://app.example.evil.net"]), 403),
        ("origin with ours as suffix", from_origin(&["https://xapp.example"]), 403),
        ("origin with ours as path", from_origin(&["https://evil.net/https://app.example"]), 403),
        ("origin of another scheme", from_origin(&["http://app.example"]), 403),
        ("origin of another port", from_origin(&["https://app.example:8443"]), 403),
        ("two origins", from_origin(&["https://app.example", "https://app.example"]), 403),
        ("origins in one header", from_origin(&["https://app.example, https://evil.example"]), 403),
        ("subdomain of a pattern's evil twin", from_origin(&["https://a.evilpattern.example"]), 403),
        ("no connection id", with_context("connectionId", &Value::Null), 400),
        ("connection id empty", with_context("connectionId", &json!("")), 400),
        ("connection id with a line break", with_context("connectionId", &json!("a\r\nx-evil: 1")), 400),
        ("connection id of 129 characters", with_context("connectionId", &json!("c".repeat(129))), 400),
        ("connection id a number", with_context("connectionId", &json!(7)), 400),
        ("connectedAt missing", with_context("connectedAt", &Value::Null), 400),
        (
            "route and event type missing",
            {
                let mut event = with_context("eventType", &Value::Null);
                event["requestContext"]["routeKey"] = Value::Null;
                event
            },
            400,
        ),
        ("event type unknown", with_context("eventType", &json!("RECONNECT")), 400),
        ("header with a line break", with_header(good(), "X-A", &["a\r\nb"]), 400),
        (
            "headers no object",
            {
                let mut event = good();
                event["headers"] = json!(7);
                event
            },
            400,
        ),
        (
            "query no object",
            {
                let mut event = good();
                event["queryStringParameters"] = json!("token=x");
                event
            },
            400,
        ),
        ("no request context", json!({"headers":{},"isBase64Encoded":false}), 400),
        ("event empty", json!({}), 400),
        ("event an array", json!([1]), 400),
        ("event null", Value::Null, 400),
        (
            "event a REST API's",
            json!({"resource":"/","httpMethod":"GET","requestContext":{"stage":"prod"}}),
            400,
        ),
    ]
}

#[tokio::test]
async fn each_invalid_handshake_is_rejected_and_leaves_no_trace() {
    let bed = Bed::with(|config| {
        config.jwt_issuer = Some("us".into());
        config.jwt_audience = Some("shells".into());
        config.allowed_origins = Some("https://app.example,https://*.pattern.example".into());
    })
    .await;
    let rows = rows();
    assert!(rows.len() >= 60);
    for (wrong, event, status) in rows {
        let response = bed.handle(event).await;
        assert_eq!(response.status_code, status, "{wrong}: {response:?}");
        let body: Value = serde_json::from_str(response.body.as_deref().expect(wrong)).unwrap();
        let codes: &[&str] = match status {
            400 => &["BAD_FRAME", "SESSION_INVALID"],
            401 => &["MISSING_AUTH", "UNAUTHORIZED", "TOKEN_EXPIRED"],
            _ => &["FORBIDDEN", "ORIGIN_NOT_ALLOWED"],
        };
        assert!(codes.contains(&body["code"].as_str().unwrap()), "{wrong}: {body}");
        assert!(body["message"].is_string() && body.to_string().len() < 128, "{wrong}: {body}");
        assert!(bed.backend.taken().is_empty(), "{wrong}: a request to the backend");
        assert!(bed.connections.taken().is_empty(), "{wrong}: a push");
        assert!(bed.items().await.is_empty(), "{wrong}: a record");
    }
    assert_eq!(bed.handle(good()).await.status_code, 200, "the valid handshake succeeds");
}

#[tokio::test]
async fn regression_a_rejected_handshake_has_a_code() {
    let bed = Bed::new().await;
    let wrong = sign(&Header::default(), &claims(&json!({})), BRIDGE_SECRET);
    for (event, code) in [
        (with_query(good(), &[("sessionId", "session-1")]), "MISSING_AUTH"),
        (connect_event("abc"), "UNAUTHORIZED"),
        (connect_event(&wrong), "UNAUTHORIZED"),
        (claiming(&json!({"exp":now() - 40})), "TOKEN_EXPIRED"),
        (asking_for(&[("sessionId", "session-2")], &json!({})), "FORBIDDEN"),
        (asking_for(&[], &json!({"sessionId":null})), "SESSION_INVALID"),
        (from_origin(&["https://evil.example"]), "ORIGIN_NOT_ALLOWED"),
    ] {
        let body = bed.handle(event).await.body.expect(code);
        assert_eq!(serde_json::from_str::<Value>(&body).unwrap()["code"], code, "{body}");
    }
}

#[tokio::test]
async fn malformed_messages_and_disconnects_leave_no_trace() {
    let bed = Bed::new().await;
    for (mut event, name) in [(message_event("{}"), "message"), (disconnect_event(), "disconnect")] {
        event["requestContext"].as_object_mut().unwrap().remove("connectionId");
        assert_eq!(bed.handle(event).await.status_code, 400, "{name}");
    }
    assert!(bed.backend.taken().is_empty() && bed.connections.taken().is_empty());
}
