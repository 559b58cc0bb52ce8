//! Sources of keys: PEM, JWK sets, stored secrets; and invalid settings.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use jsonwebtoken::{Algorithm, EncodingKey, Header, jwk::Jwk};
use serde_json::{Value, json};
use shellbridge_lambda::{App, AwsSettings, Config, Limits};
use tokio::net::TcpListener;

use crate::{
    bed::*,
    fake::{Fake, Request},
};

const RSA: (&str, &str) = (
    include_str!("../../../protocol/src/access/keys/rsa.pem"),
    include_str!("../../../protocol/src/access/keys/rsa.pub.pem"),
);
const ED: &str = include_str!("../../../protocol/src/access/keys/ed.pem");
const EC: &str = include_str!("../../../protocol/src/access/keys/ec.pem");

#[tokio::test]
async fn regression_hs256_and_rs256_accepted_with_one_key() {
    let bed = Bed::with(|config| {
        config.jwt_secret = None;
        config.jwt_public_key = Some(RSA.1.to_owned());
    })
    .await;
    // An HMAC whose secret is the public key.
    let confused = sign(&Header::new(Algorithm::HS256), &claims(&json!({})), RSA.1);
    assert_eq!(bed.handle(connect_event(&confused)).await.status_code, 401);
    let key = EncodingKey::from_rsa_pem(RSA.0.as_bytes()).unwrap();
    let good = jsonwebtoken::encode(&Header::new(Algorithm::RS256), &claims(&json!({})), &key).unwrap();
    assert_eq!(bed.handle(connect_event(&good)).await.status_code, 200);
}

#[tokio::test]
async fn regression_unsigned_tokens_in_development() {
    // No development mode exists: a process that accepts signed tokens rejects unsigned ones in every environment, and a
    // process without a key does not start.
    let none = Config { jwt_secret: None, backend_url: Some("http://localhost".into()), ..config() };
    assert!(App::new(none, AwsSettings::Environment, std::io::sink()).is_err());
    let bed = Bed::new().await;
    let signed = token(&json!({}));
    let claims = signed.split('.').nth(1).unwrap();
    for unsigned in [format!("eyJhbGciOiJub25lIn0.{claims}."), format!("eyJhbGciOiJIUzI1NiJ9.{claims}.")] {
        assert_eq!(bed.handle(connect_event(&unsigned)).await.status_code, 401);
    }
}

fn jwk(pem: &EncodingKey, algorithm: Algorithm, kid: &str) -> Value {
    let mut jwk = Jwk::from_encoding_key(pem, algorithm).unwrap();
    jwk.common.key_id = Some(kid.to_owned());
    json!(jwk)
}

fn token_by(key: &EncodingKey, algorithm: Algorithm, kid: &str) -> String {
    let mut header = Header::new(algorithm);
    header.kid = Some(kid.to_owned());
    jsonwebtoken::encode(&header, &claims(&json!({})), key).unwrap()
}

async fn with_jwks(url: &str, allow_private: bool) -> Bed {
    Bed::with(|config| {
        config.jwt_secret = None;
        config.jwks_url = Some(url.to_owned());
        config.jwks_allow_private = allow_private;
        config.limits = Limits { jwks: Duration::from_millis(300), ..config.limits };
    })
    .await
}

#[tokio::test]
async fn a_jwk_set_is_fetched_once_however_many_unknown_kids_arrive() {
    let ed = EncodingKey::from_ed_pem(ED.as_bytes()).unwrap();
    let ec = EncodingKey::from_ec_pem(EC.as_bytes()).unwrap();
    let set = json!({"keys":[jwk(&ed, Algorithm::EdDSA, "a"), jwk(&ec, Algorithm::ES256, "b")]}).to_string();
    let source = Fake::start(move |_| (200, set.clone())).await;
    let bed = with_jwks(&format!("{}/keys.json", source.url), true).await;
    for (key, algorithm, kid, status) in [
        (&ed, Algorithm::EdDSA, "a", 200),
        (&ec, Algorithm::ES256, "b", 200),
        (&ed, Algorithm::EdDSA, "b", 401),
        (&ed, Algorithm::EdDSA, "unknown", 401),
        (&ed, Algorithm::EdDSA, "unknown", 401),
    ] {
        let token = token_by(key, algorithm, kid);
        assert_eq!(bed.handle(connect_event(&token)).await.status_code, status, "{kid}");
    }
    let requests = source.taken();
    assert_eq!(requests.len(), 1, "the first fetch was less than 30 s ago");
    assert_eq!(requests[0].path, "/keys.json");
}

#[tokio::test]
async fn a_jwk_set_at_a_private_address_is_not_fetched() {
    let source = Fake::start(|_| (200, "{}".to_owned())).await;
    let port = source.url.rsplit(':').next().unwrap();
    for host in ["127.0.0.1", "localhost", "[::1]", "0x7f.1", "[::ffff:127.0.0.1]", "169.254.169.254"] {
        let bed = with_jwks(&format!("https://{host}:{port}/"), false).await;
        assert_eq!(bed.handle(connect_event(&token(&json!({})))).await.status_code, 503, "{host}");
    }
    assert!(source.taken().is_empty());
}

#[tokio::test]
async fn a_jwk_set_that_is_invalid_huge_or_redirected_admits_no_token() {
    let target = Fake::start(|_| (200, "{}".to_owned())).await;
    for answer in [
        (200, "<html>".to_owned()),
        (500, "{}".to_owned()),
        (302, String::new()),
        (200, format!("{{\"keys\":[],\"x\":\"{}\"}}", "x".repeat(300_000))),
    ] {
        let source = Fake::start(move |_| answer.clone()).await;
        let bed = with_jwks(&source.url, true).await;
        assert_eq!(bed.handle(connect_event(&token(&json!({})))).await.status_code, 503);
        assert!(bed.items().await.is_empty());
    }
    assert!(target.taken().is_empty());
}

type Parameters = dyn Fn(&str) -> Option<String> + Send + Sync;

/// Parameter Store with the given parameters.
async fn parameter_store(parameters: impl Fn(&str) -> Option<String> + Send + Sync + 'static) -> Fake {
    Fake::start(move |request: &Request| get_parameter(request, &parameters)).await
}

fn get_parameter(request: &Request, parameters: &Parameters) -> (u16, String) {
    assert_eq!(request.header("x-amz-target"), "AmazonSSM.GetParameter");
    let signed = request.header("authorization");
    assert!(signed.starts_with("AWS4-HMAC-SHA256 ") && signed.contains("/ssm/aws4_request"), "{signed}");
    let body = request.json();
    assert_eq!(body["WithDecryption"], true);
    let name = body["Name"].as_str().unwrap();
    match parameters(name) {
        Some(value) => {
            (200, json!({"Parameter":{"Name":name,"Type":"SecureString","Value":value}}).to_string())
        }
        None => (400, json!({"__type":"ParameterNotFound","message":"no"}).to_string()),
    }
}

#[tokio::test]
async fn stored_secrets_are_read_on_first_use_and_after_a_rotation() {
    let store = parameter_store(|name| match name {
        "/jwt" => Some(JWT_SECRET.to_owned()),
        "/aws/reference/secretsmanager/bridge" => Some(format!("{BRIDGE_SECRET}\n")),
        _ => None,
    })
    .await;
    let mut endpoints = Endpoints::default();
    endpoints.0.insert("SSM", store.url.clone());
    let bed = Bed::with_endpoints(endpoints, |config| {
        config.jwt_secret = None;
        config.jwt_secret_arn = Some("/jwt".to_owned());
        config.bridge_secret = None;
        config.bridge_secret_arn =
            Some("arn:aws:secretsmanager:us-east-1:123456789012:secret:bridge-a1B2c3".to_owned());
        config.limits = Limits { secret_reread: Duration::ZERO, ..config.limits };
    })
    .await;
    assert!(store.taken().is_empty(), "nothing at start");
    bed.connected().await;
    bed.send(r#"{"type":"ping"}"#).await;
    assert_eq!(store.taken().len(), 2, "each once");

    let new = "new-secret-new-secret-new-secret-";
    store.always(move |request| {
        let name = request.json()["Name"].clone();
        let value = if name == "/jwt" { new } else { BRIDGE_SECRET };
        (200, json!({"Parameter":{"Name":name,"Type":"SecureString","Value":value}}).to_string())
    });
    let rotated = sign(&Header::new(Algorithm::HS256), &claims(&json!({})), new);
    assert_eq!(bed.handle(connect_event(&rotated)).await.status_code, 200);
    assert_eq!(bed.handle(connect_event(&token(&json!({})))).await.status_code, 401);
}

/// A store whose `/jwt` has the current `value`.
async fn jwt_store(value: &Arc<Mutex<String>>) -> (Fake, Endpoints) {
    let value = value.clone();
    let store = parameter_store(move |_| Some(value.lock().unwrap().clone())).await;
    let mut endpoints = Endpoints::default();
    endpoints.0.insert("SSM", store.url.clone());
    (store, endpoints)
}

fn token_of(secret: &str) -> Value {
    connect_event(&sign(&Header::new(Algorithm::HS256), &claims(&json!({})), secret))
}

/// With a single key, replacing `JWT_SECRET` invalidated every token in use.
#[tokio::test]
async fn regression_jwt_secret_rotates_under_an_open_connection() {
    let (old, new) = (JWT_SECRET, "new-secret-new-secret-new-secret-");
    let value = Arc::new(Mutex::new(old.to_owned()));
    let (store, endpoints) = jwt_store(&value).await;
    let bed = Bed::with_endpoints(endpoints, |config| {
        config.jwt_secret = None;
        config.jwt_secret_arn = Some("/jwt".to_owned());
        config.limits = Limits { secret_reread: Duration::ZERO, ..config.limits };
    })
    .await;
    bed.connected().await;
    let status = async |secret: &str| bed.handle(token_of(secret)).await.status_code;
    assert_eq!((status(old).await, status(new).await), (200, 401));
    *value.lock().unwrap() = format!("{new},{old}");
    // Old and new tokens connect, and the open connection stays.
    assert_eq!((status(old).await, status(new).await, status(old).await), (200, 200, 200));
    bed.send(r#"{"type":"ping"}"#).await;
    assert_eq!(bed.backend.taken().last().unwrap().path, "/api/ws/message");
    assert_eq!(status("neither-neither-neither-neither-").await, 401);
    assert!(store.taken().len() >= 2);
}

#[tokio::test]
async fn a_key_removed_from_a_stored_secret_expires() {
    let (old, new) = (JWT_SECRET, "new-secret-new-secret-new-secret-");
    let value = Arc::new(Mutex::new(format!("{new},{old}")));
    let (store, endpoints) = jwt_store(&value).await;
    let with = |keep| {
        Bed::with_endpoints(endpoints.clone(), move |config| {
            config.jwt_secret = None;
            config.jwt_secret_arn = Some("/jwt".to_owned());
            config.limits = Limits { secret_max_age: keep, ..config.limits };
        })
    };
    let (long, short) = (with(Duration::from_mins(15)).await, with(Duration::ZERO).await);
    for bed in [&long, &short] {
        assert_eq!(bed.handle(token_of(old)).await.status_code, 200);
    }
    *value.lock().unwrap() = new.to_owned();
    assert_eq!(long.handle(token_of(old)).await.status_code, 200, "within the time");
    assert_eq!(short.handle(token_of(old)).await.status_code, 401, "after it");
    assert_eq!(short.handle(token_of(new)).await.status_code, 200);
    store.always(|_| (500, String::new()));
    assert_eq!(short.handle(token_of(new)).await.status_code, 200, "an outage of the store does not matter");
}

#[tokio::test]
async fn a_401_from_the_backend_rereads_the_bridge_secret() {
    let old = "old-bridge-old-bridge-old-bridge-old-";
    let store = parameter_store(move |_| Some(old.to_owned())).await;
    let mut endpoints = Endpoints::default();
    endpoints.0.insert("SSM", store.url.clone());
    let bed = Bed::with_endpoints(endpoints, |config| {
        config.bridge_secret = None;
        config.bridge_secret_arn = Some("/bridge".to_owned());
        config.limits = Limits { secret_reread: Duration::ZERO, ..config.limits };
    })
    .await;
    store.next([(200, r#"{"Parameter":{"Value":"old-bridge-old-bridge-old-bridge-old-"}}"#)]);
    store.always(|_| (200, json!({"Parameter":{"Value":BRIDGE_SECRET}}).to_string()));
    assert_eq!(bed.handle(connect_event(&token(&json!({})))).await.status_code, 200);
    assert_eq!(bed.backend.taken().len(), 2);
}

#[tokio::test]
async fn failed_signatures_do_not_reread_the_store() {
    let store = parameter_store(|_| Some(JWT_SECRET.to_owned())).await;
    let mut endpoints = Endpoints::default();
    endpoints.0.insert("SSM", store.url.clone());
    let bed = Bed::with_endpoints(endpoints, |config| {
        config.jwt_secret = None;
        config.jwt_secret_arn = Some("/jwt".to_owned());
    })
    .await;
    let foreign = sign(&Header::new(Algorithm::HS256), &claims(&json!({})), "x");
    for _ in 0..5 {
        assert_eq!(bed.handle(connect_event(&foreign)).await.status_code, 401);
    }
    assert_eq!(store.taken().len(), 1);
}

#[tokio::test]
async fn unreadable_secrets_reject_with_503_and_write_nothing() {
    let store = parameter_store(|_| None).await;
    for setting in ["jwt", "bridge"] {
        let mut endpoints = Endpoints::default();
        endpoints.0.insert("SSM", store.url.clone());
        let bed = Bed::with_endpoints(endpoints, |config| {
            if setting == "jwt" {
                config.jwt_secret = None;
                config.jwt_secret_arn = Some("/jwt".to_owned());
            } else {
                config.bridge_secret = None;
                config.bridge_secret_arn = Some("/bridge".to_owned());
            }
        })
        .await;
        for _ in 0..5 {
            assert_eq!(bed.handle(connect_event(&token(&json!({})))).await.status_code, 503);
        }
        assert!(bed.items().await.is_empty() && bed.backend.taken().is_empty());
        assert_eq!(store.taken().len(), 1, "the store is read once");
    }
}

/// Secrets Manager's ARNs, complete and partial, against the contents of Parameter Store.
#[tokio::test]
async fn a_secret_is_read_by_complete_and_by_partial_arn() {
    const JWT: (&str, &str) = ("jwt", "jwt-a1B2c3");
    const ENDS_LIKE_AN_ARN: (&str, &str) = ("jwt-secret", "jwt-secret-d4E5f6");
    let (not_there, denied) = ("ParameterNotFound", "AccessDeniedException");
    // Requested name, existing secrets, error code for others; expected: whether it is read, and the number of calls.
    for (requested, existing, otherwise, read, calls) in [
        ("jwt-a1B2c3", &[JWT][..], not_there, true, 1),
        ("jwt", &[JWT], not_there, true, 1),
        ("jwt-secret-d4E5f6", &[ENDS_LIKE_AN_ARN], not_there, true, 1),
        ("jwt-secret", &[ENDS_LIKE_AN_ARN], not_there, true, 2),
        ("jwt-secret", &[ENDS_LIKE_AN_ARN], denied, true, 2),
        ("jwt-secret", &[ENDS_LIKE_AN_ARN, JWT], not_there, true, 2),
        // A recreated secret, and one whose name is a prefix.
        ("jwt-g7H8i9", &[JWT], not_there, false, 2),
        ("jwt-secret", &[JWT], not_there, false, 2),
        ("jwt-secret", &[], denied, false, 2),
        ("jwt-secret", &[ENDS_LIKE_AN_ARN], "InvalidKeyId", false, 1),
    ] {
        let arn = |secret: &str| format!("arn:aws:secretsmanager:us-east-1:123456789012:secret:{secret}");
        let store = Fake::start(move |request| {
            let name = request.json()["Name"].as_str().unwrap().to_owned();
            let secret = name.strip_prefix("/aws/reference/secretsmanager/").unwrap();
            match existing.iter().find(|(name, _)| *name == secret) {
                Some((_, id)) => {
                    (200, json!({"Parameter":{"Name":name,"ARN":arn(id),"Value":JWT_SECRET}}).to_string())
                }
                None => (400, json!({"__type":otherwise}).to_string()),
            }
        })
        .await;
        let mut endpoints = Endpoints::default();
        endpoints.0.insert("SSM", store.url.clone());
        let bed = Bed::with_endpoints(endpoints, |config| {
            config.jwt_secret = None;
            config.jwt_secret_arn = Some(arn(requested));
        })
        .await;
        let status = bed.handle(connect_event(&token(&json!({})))).await.status_code;
        assert_eq!(status, if read { 200 } else { 503 }, "{requested} of {existing:?}");
        assert_eq!(store.taken().len(), calls, "{requested} of {existing:?}");
    }
}

#[tokio::test]
async fn a_read_that_times_out_is_retried() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut endpoints = Endpoints::default();
    endpoints.0.insert("SSM", format!("http://{}", listener.local_addr().unwrap()));
    let store = tokio::spawn(async move {
        // Accepted and never answered.
        let hung = listener.accept().await.unwrap();
        let store =
            Fake::start_on(listener, |request| get_parameter(request, &|_| Some(JWT_SECRET.to_owned())));
        (hung, store)
    });
    let bed = Bed::with_endpoints(endpoints, |config| {
        config.jwt_secret = None;
        config.jwt_secret_arn = Some("/jwt".to_owned());
        config.limits = Limits { aws_attempt: Duration::from_secs(1), ..config.limits };
    })
    .await;
    assert_eq!(bed.handle(connect_event(&token(&json!({})))).await.status_code, 200);
    let (_hung, store) = store.await.unwrap();
    assert_eq!(store.taken().len(), 1);
}

#[tokio::test]
async fn a_stored_secret_equal_to_the_other_is_rejected() {
    // The bridge secret has a second key, as during a rotation, which equals the JWT secret.
    let rotating = format!("{BRIDGE_SECRET}, {JWT_SECRET}");
    for (jwt_stored, bridge_stored) in [(true, true), (true, false), (false, true)] {
        let bridge = rotating.clone();
        let store = parameter_store(move |name| {
            Some(if name == "/jwt" { JWT_SECRET.to_owned() } else { bridge.clone() })
        })
        .await;
        let mut endpoints = Endpoints::default();
        endpoints.0.insert("SSM", store.url.clone());
        let bed = Bed::with_endpoints(endpoints, |config| {
            if jwt_stored {
                config.jwt_secret = None;
                config.jwt_secret_arn = Some("/jwt".to_owned());
            }
            config.bridge_secret = (!bridge_stored).then(|| rotating.clone());
            config.bridge_secret_arn = bridge_stored.then(|| "/bridge".to_owned());
            config.limits = Limits { secret_reread: Duration::ZERO, ..config.limits };
        })
        .await;
        let which = format!("stored: JWT_SECRET {jwt_stored}, BRIDGE_SECRET {bridge_stored}");
        assert_eq!(bed.handle(connect_event(&token(&json!({})))).await.status_code, 503, "{which}");
        assert!(bed.backend.taken().is_empty() && bed.items().await.is_empty(), "{which}");

        store.always(|request| {
            let name = request.json()["Name"].clone();
            let value = if name == "/jwt" { "other-secret-other-secret-other-s" } else { BRIDGE_SECRET };
            (200, json!({"Parameter":{"Name":name,"Type":"SecureString","Value":value}}).to_string())
        });
        let jwt = if jwt_stored { "other-secret-other-secret-other-s" } else { JWT_SECRET };
        let token = sign(&Header::new(Algorithm::HS256), &claims(&json!({})), jwt);
        assert_eq!(bed.handle(connect_event(&token)).await.status_code, 200, "after the correction; {which}");
    }
}

#[test]
fn invalid_settings_are_rejected() {
    let good = || Config { backend_url: Some("https://backend.example".into()), ..config() };
    assert!(App::new(good(), AwsSettings::Environment, std::io::sink()).is_ok());
    for (wrong, config) in [
        ("BACKEND_URL", Config { backend_url: None, ..good() }),
        ("BACKEND_URL", Config { backend_url: Some("backend.example".into()), ..good() }),
        ("BACKEND_URL", Config { backend_url: Some("ftp://backend.example".into()), ..good() }),
        ("BRIDGE_SECRET", Config { bridge_secret: None, ..good() }),
        ("BRIDGE_SECRET", Config { bridge_secret: Some("short".into()), ..good() }),
        ("BRIDGE_SECRET", Config { bridge_secret_arn: Some("/b".into()), ..good() }),
        ("JWT_SECRET", Config { jwt_secret: None, ..good() }),
        ("JWT_SECRET", Config { jwt_secret: Some("short".into()), ..good() }),
        ("JWT_SECRET", Config { jwt_secret: Some(BRIDGE_SECRET.into()), ..good() }),
        ("JWT_SECRET", Config { jwt_public_key: Some(RSA.1.into()), ..good() }),
        ("JWT_PUBLIC_KEY", Config { jwt_secret: None, jwt_public_key: Some("x".into()), ..good() }),
        ("JWKS_URL", Config { jwt_secret: None, jwks_url: Some("http://keys.example".into()), ..good() }),
        ("JWKS_URL", Config { jwt_secret: None, jwks_url: Some("keys.example".into()), ..good() }),
        ("ALLOWED_ORIGINS", Config { allowed_origins: None, ..good() }),
        ("ALLOWED_ORIGINS", Config { allowed_origins: Some("app.example".into()), ..good() }),
    ] {
        let error =
            App::new(config, AwsSettings::Environment, std::io::sink()).err().expect(wrong).to_string();
        assert!(error.contains(wrong), "{wrong}: {error}");
        assert!(!error.contains(BRIDGE_SECRET) && !error.contains(JWT_SECRET));
    }
}
