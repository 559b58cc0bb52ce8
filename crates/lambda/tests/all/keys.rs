//! Where keys come from: PEM, JWK sets, stored secrets; and settings that are refused.

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
    fake::{Asked, Fake},
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
    // The public key, which everybody knows, as an HMAC secret.
    let confused = sign(&Header::new(Algorithm::HS256), &claims(&json!({})), RSA.1);
    assert_eq!(bed.handle(connect_event(&confused)).await.status_code, 401);
    let key = EncodingKey::from_rsa_pem(RSA.0.as_bytes()).unwrap();
    let good = jsonwebtoken::encode(&Header::new(Algorithm::RS256), &claims(&json!({})), &key).unwrap();
    assert_eq!(bed.handle(connect_event(&good)).await.status_code, 200);
}

#[tokio::test]
async fn regression_unsigned_tokens_in_development() {
    // There is no development mode: the same process that takes a signed token refuses an unsigned one,
    // whatever the environment calls itself, and without a key it does not start.
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
async fn a_key_set_is_fetched_once_and_unknown_kids_do_not_hammer_its_source() {
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
    let asked = source.taken();
    assert_eq!(asked.len(), 1, "the first fetch was less than 30 s ago");
    assert_eq!(asked[0].path, "/keys.json");
}

#[tokio::test]
async fn a_key_set_from_a_private_address_is_not_asked_for() {
    let source = Fake::start(|_| (200, "{}".to_owned())).await;
    let port = source.url.rsplit(':').next().unwrap();
    for host in ["127.0.0.1", "localhost", "[::1]", "0x7f.1", "[::ffff:127.0.0.1]", "169.254.169.254"] {
        let bed = with_jwks(&format!("https://{host}:{port}/"), false).await;
        assert_eq!(bed.handle(connect_event(&token(&json!({})))).await.status_code, 503, "{host}");
    }
    assert!(source.taken().is_empty());
}

#[tokio::test]
async fn a_key_set_that_is_garbage_huge_or_elsewhere_opens_nothing() {
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
    Fake::start(move |asked: &Asked| get_parameter(asked, &parameters)).await
}

fn get_parameter(asked: &Asked, parameters: &Parameters) -> (u16, String) {
    assert_eq!(asked.header("x-amz-target"), "AmazonSSM.GetParameter");
    let signed = asked.header("authorization");
    assert!(signed.starts_with("AWS4-HMAC-SHA256 ") && signed.contains("/ssm/aws4_request"), "{signed}");
    let asked = asked.json();
    assert_eq!(asked["WithDecryption"], true);
    let name = asked["Name"].as_str().unwrap();
    match parameters(name) {
        Some(value) => {
            (200, json!({"Parameter":{"Name":name,"Type":"SecureString","Value":value}}).to_string())
        }
        None => (400, json!({"__type":"ParameterNotFound","message":"no"}).to_string()),
    }
}

#[tokio::test]
async fn stored_secrets_are_read_when_first_needed_and_again_after_a_rotation() {
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
        config.limits = Limits { reread: Duration::ZERO, ..config.limits };
    })
    .await;
    assert!(store.taken().is_empty(), "nothing at start");
    bed.connected().await;
    bed.send(r#"{"type":"ping"}"#).await;
    assert_eq!(store.taken().len(), 2, "each once");

    let new = "new-secret-new-secret-new-secret-";
    store.always(move |asked| {
        let name = asked.json()["Name"].clone();
        let value = if name == "/jwt" { new } else { BRIDGE_SECRET };
        (200, json!({"Parameter":{"Name":name,"Type":"SecureString","Value":value}}).to_string())
    });
    let rotated = sign(&Header::new(Algorithm::HS256), &claims(&json!({})), new);
    assert_eq!(bed.handle(connect_event(&rotated)).await.status_code, 200);
    assert_eq!(bed.handle(connect_event(&token(&json!({})))).await.status_code, 401);
}

/// A store whose `/jwt` is what `value` holds at the time.
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

/// With one value, every token in use became invalid the moment that `JWT_SECRET` was replaced.
#[tokio::test]
async fn regression_jwt_secret_rotates_under_a_living_connection() {
    let (old, new) = (JWT_SECRET, "new-secret-new-secret-new-secret-");
    let value = Arc::new(Mutex::new(old.to_owned()));
    let (store, endpoints) = jwt_store(&value).await;
    let bed = Bed::with_endpoints(endpoints, |config| {
        config.jwt_secret = None;
        config.jwt_secret_arn = Some("/jwt".to_owned());
        config.limits = Limits { reread: Duration::ZERO, ..config.limits };
    })
    .await;
    bed.connected().await;
    let status = async |secret: &str| bed.handle(token_of(secret)).await.status_code;
    assert_eq!((status(old).await, status(new).await), (200, 401));
    *value.lock().unwrap() = format!("{new},{old}");
    // A client with an old token reconnects, one with a new one arrives, and who is connected does not notice.
    assert_eq!((status(old).await, status(new).await, status(old).await), (200, 200, 200));
    bed.send(r#"{"type":"ping"}"#).await;
    assert_eq!(bed.backend.taken().last().unwrap().path, "/api/ws/message");
    assert_eq!(status("neither-neither-neither-neither-").await, 401);
    assert!(store.taken().len() >= 2);
}

#[tokio::test]
async fn a_key_that_was_taken_out_of_a_stored_secret_stops_counting() {
    let (old, new) = (JWT_SECRET, "new-secret-new-secret-new-secret-");
    let value = Arc::new(Mutex::new(format!("{new},{old}")));
    let (store, endpoints) = jwt_store(&value).await;
    let with = |keep| {
        Bed::with_endpoints(endpoints.clone(), move |config| {
            config.jwt_secret = None;
            config.jwt_secret_arn = Some("/jwt".to_owned());
            config.limits = Limits { keep, ..config.limits };
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
    assert_eq!(short.handle(token_of(new)).await.status_code, 200, "the store's outage is not ours");
}

#[tokio::test]
async fn a_bridge_secret_rotated_first_at_the_backend_is_read_again_after_its_401() {
    let old = "old-bridge-old-bridge-old-bridge-old-";
    let store = parameter_store(move |_| Some(old.to_owned())).await;
    let mut endpoints = Endpoints::default();
    endpoints.0.insert("SSM", store.url.clone());
    let bed = Bed::with_endpoints(endpoints, |config| {
        config.bridge_secret = None;
        config.bridge_secret_arn = Some("/bridge".to_owned());
        config.limits = Limits { reread: Duration::ZERO, ..config.limits };
    })
    .await;
    store.next([(200, r#"{"Parameter":{"Value":"old-bridge-old-bridge-old-bridge-old-"}}"#)]);
    store.always(|_| (200, json!({"Parameter":{"Value":BRIDGE_SECRET}}).to_string()));
    assert_eq!(bed.handle(connect_event(&token(&json!({})))).await.status_code, 200);
    assert_eq!(bed.backend.taken().len(), 2);
}

#[tokio::test]
async fn failed_signatures_do_not_hammer_the_store() {
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
async fn secrets_that_cannot_be_read_refuse_with_503_and_write_nothing() {
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
        assert_eq!(store.taken().len(), 1, "the store is not hammered");
    }
}

/// Secrets Manager's ARNs, whole and partial, and what Parameter Store has.
#[tokio::test]
async fn a_secret_is_read_by_its_whole_arn_and_by_a_partial_one() {
    const JWT: (&str, &str) = ("jwt", "jwt-a1B2c3");
    const ENDS_LIKE_AN_ARN: (&str, &str) = ("jwt-secret", "jwt-secret-d4E5f6");
    let (not_there, denied) = ("ParameterNotFound", "AccessDeniedException");
    // What it is asked for, which secrets there are, what it says of others; whether it is read, and in how many calls.
    for (asked, there, otherwise, read, calls) in [
        ("jwt-a1B2c3", &[JWT][..], not_there, true, 1),
        ("jwt", &[JWT], not_there, true, 1),
        ("jwt-secret-d4E5f6", &[ENDS_LIKE_AN_ARN], not_there, true, 1),
        ("jwt-secret", &[ENDS_LIKE_AN_ARN], not_there, true, 2),
        ("jwt-secret", &[ENDS_LIKE_AN_ARN], denied, true, 2),
        ("jwt-secret", &[ENDS_LIKE_AN_ARN, JWT], not_there, true, 2),
        // Another one of the same name, and another one that only begins like it.
        ("jwt-g7H8i9", &[JWT], not_there, false, 2),
        ("jwt-secret", &[JWT], not_there, false, 2),
        ("jwt-secret", &[], denied, false, 2),
        ("jwt-secret", &[ENDS_LIKE_AN_ARN], "InvalidKeyId", false, 1),
    ] {
        let arn = |secret: &str| format!("arn:aws:secretsmanager:us-east-1:123456789012:secret:{secret}");
        let store = Fake::start(move |asked| {
            let name = asked.json()["Name"].as_str().unwrap().to_owned();
            let secret = name.strip_prefix("/aws/reference/secretsmanager/").unwrap();
            match there.iter().find(|(name, _)| *name == secret) {
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
            config.jwt_secret_arn = Some(arn(asked));
        })
        .await;
        let status = bed.handle(connect_event(&token(&json!({})))).await.status_code;
        assert_eq!(status, if read { 200 } else { 503 }, "{asked} of {there:?}");
        assert_eq!(store.taken().len(), calls, "{asked} of {there:?}");
    }
}

#[tokio::test]
async fn a_store_that_does_not_answer_at_first_is_asked_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut endpoints = Endpoints::default();
    endpoints.0.insert("SSM", format!("http://{}", listener.local_addr().unwrap()));
    let store = tokio::spawn(async move {
        // Taken, and never answered.
        let hung = listener.accept().await.unwrap();
        let store = Fake::start_on(listener, |asked| get_parameter(asked, &|_| Some(JWT_SECRET.to_owned())));
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
async fn a_stored_secret_that_is_the_other_one_is_refused() {
    // Which are stored, and what their store holds. The bridge's has a second key, of a rotation.
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
            config.limits = Limits { reread: Duration::ZERO, ..config.limits };
        })
        .await;
        let which = format!("stored: JWT_SECRET {jwt_stored}, BRIDGE_SECRET {bridge_stored}");
        assert_eq!(bed.handle(connect_event(&token(&json!({})))).await.status_code, 503, "{which}");
        assert!(bed.backend.taken().is_empty() && bed.items().await.is_empty(), "{which}");

        store.always(|asked| {
            let name = asked.json()["Name"].clone();
            let value = if name == "/jwt" { "other-secret-other-secret-other-s" } else { BRIDGE_SECRET };
            (200, json!({"Parameter":{"Name":name,"Type":"SecureString","Value":value}}).to_string())
        });
        let jwt = if jwt_stored { "other-secret-other-secret-other-s" } else { JWT_SECRET };
        let token = sign(&Header::new(Algorithm::HS256), &claims(&json!({})), jwt);
        assert_eq!(bed.handle(connect_event(&token)).await.status_code, 200, "put right; {which}");
    }
}

#[test]
fn settings_that_it_must_not_run_with_are_refused() {
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
