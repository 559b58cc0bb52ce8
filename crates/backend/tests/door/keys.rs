//! Users' tokens verified with public keys: a PEM, or a fetched JWK set.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use axum::{Router, extract::State, http::StatusCode, routing::get};
use jsonwebtoken::{Algorithm, EncodingKey, Header, jwk::Jwk};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle};

use crate::support::{ADMIN_TOKEN, Backend, Settings, claims, hs, hs256, rs256, unsigned};

const ED: &str = include_str!("../../../protocol/src/access/keys/ed.pem");
const RSA_PUBLIC: &str = include_str!("../../../protocol/src/access/keys/rsa.pub.pem");
const RSA: &str = include_str!("../../../protocol/src/access/keys/rsa.pem");

/// A server of a JWK set.
struct Issuer {
    url: String,
    /// The set it serves; `None`: it answers 500.
    set: Arc<Mutex<Option<Value>>>,
    asked: Arc<AtomicUsize>,
    server: JoinHandle<()>,
}

impl Issuer {
    async fn start(set: Option<Value>) -> Self {
        let set = Arc::new(Mutex::new(set));
        let asked = Arc::new(AtomicUsize::new(0));
        let state = (set.clone(), asked.clone());
        let router = Router::new().route("/jwks", get(answer)).with_state(state);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/jwks", listener.local_addr().unwrap());
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, set, asked, server }
    }

    fn settings(&self) -> Settings {
        Settings::new().without("JWT_SECRET").set("JWKS_URL", &self.url).set("JWKS_ALLOW_PRIVATE", "true")
    }
}

impl Drop for Issuer {
    fn drop(&mut self) {
        self.server.abort();
    }
}

type Answers = (Arc<Mutex<Option<Value>>>, Arc<AtomicUsize>);

async fn answer(State((set, asked)): State<Answers>) -> (StatusCode, String) {
    asked.fetch_add(1, Ordering::Relaxed);
    match &*set.lock().unwrap() {
        Some(set) => (StatusCode::OK, set.to_string()),
        None => (StatusCode::INTERNAL_SERVER_ERROR, String::new()),
    }
}

fn key() -> EncodingKey {
    EncodingKey::from_ed_pem(ED.as_bytes()).unwrap()
}

fn jwks(kid: &str) -> Value {
    let mut jwk = Jwk::from_encoding_key(&key(), Algorithm::EdDSA).unwrap();
    jwk.common.key_id = Some(kid.to_owned());
    json!({ "keys": [jwk] })
}

fn token(kid: &str, user: &str) -> String {
    let header = Header { kid: Some(kid.to_owned()), ..Header::new(Algorithm::EdDSA) };
    jsonwebtoken::encode(&header, &claims(user), &key()).unwrap()
}

async fn status(backend: &Backend, token: &str) -> (u16, Value) {
    let response = backend.get("/api/sessions/s").bearer_auth(token).send().await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

#[tokio::test]
async fn tokens_are_verified_with_a_jwk_set_that_is_fetched_once() {
    let issuer = Issuer::start(Some(jwks("one"))).await;
    let backend = issuer.settings().start().await;
    assert_eq!(issuer.asked.load(Ordering::Relaxed), 0, "the set is fetched on first use");
    let session = backend.session("alice", "s").await;
    assert_eq!(session["token"], Value::Null, "there is no key to sign with");
    assert_eq!(status(&backend, &token("one", "alice")).await.0, 200);
    assert_eq!(status(&backend, &token("one", "mallory")).await.0, 404);
    for wrong in [
        token("two", "alice"),
        token("three", "alice"),
        unsigned(&token("one", "alice")),
        rs256(&claims("alice")),
        hs256(&claims("alice"), &jwks("one").to_string()),
    ] {
        assert_eq!(status(&backend, &wrong).await.0, 401);
    }
    assert_eq!(issuer.asked.load(Ordering::Relaxed), 1, "unknown key ids trigger a fetch at most every 30 s");
    let share = backend.post("/api/sessions/s/share").bearer_auth(ADMIN_TOKEN).json(&json!({}));
    assert_eq!(share.send().await.unwrap().status(), 501);
}

#[tokio::test]
async fn tokens_are_refused_until_the_keys_can_be_fetched() {
    let issuer = Issuer::start(None).await;
    let backend = issuer.settings().start().await;
    backend.session("alice", "s").await;
    let (refused, frame) = status(&backend, &token("one", "alice")).await;
    assert_eq!(
        (refused, &frame["code"], &frame["retryable"]),
        (503, &json!("BACKEND_UNAVAILABLE"), &json!(true))
    );
    let verdict = backend.get("/api/diagnostics/websocket?sessionId=s").bearer_auth(token("one", "alice"));
    let verdict: Value = verdict.send().await.unwrap().json().await.unwrap();
    assert_eq!((&verdict["ok"], &verdict["code"]), (&json!(false), &json!("BACKEND_UNAVAILABLE")));
    assert_eq!(backend.get("/api/sessions/s").send().await.unwrap().status(), 401, "no token, no fetch");
    *issuer.set.lock().unwrap() = Some(jwks("one"));
    let until = std::time::Instant::now() + crate::support::PATIENCE;
    while status(&backend, &token("one", "alice")).await.0 != 200 {
        assert!(std::time::Instant::now() < until, "the fetch is retried every second");
    }
}

#[tokio::test]
async fn a_set_at_a_private_address_is_not_fetched() {
    let issuer = Issuer::start(Some(jwks("one"))).await;
    let url = issuer.url.replace("http:", "https:");
    let backend = Settings::new().without("JWT_SECRET").set("JWKS_URL", &url).start().await;
    backend.session("alice", "s").await;
    assert_eq!(status(&backend, &token("one", "alice")).await.0, 503);
    assert_eq!(issuer.asked.load(Ordering::Relaxed), 0);
    backend.terminate();
    let (_, log) = backend.ended().await;
    assert!(log.contains("an address that is not public needs JWKS_ALLOW_PRIVATE=true"), "{log}");
}

#[tokio::test]
async fn minted_tokens_carry_the_key_id_from_the_set() {
    let issuer = Issuer::start(Some(jwks("one"))).await;
    let backend = issuer.settings().set("JWT_PRIVATE_KEY", ED).start().await;
    let session = backend.session("alice", "s").await;
    let minted = session["token"].as_str().unwrap();
    assert_eq!(jsonwebtoken::decode_header(minted).unwrap().kid.as_deref(), Some("one"));
    assert_eq!(status(&backend, minted).await.0, 200);

    let backend = issuer.settings().set("JWT_PRIVATE_KEY", RSA).start().await;
    let session = backend.session("alice", "s").await;
    assert_eq!(session["token"], Value::Null, "no verifier would accept it");
}

/// If a public key were accepted as an HMAC secret, anyone could sign tokens with it.
#[tokio::test]
async fn regression_a_public_key_is_not_an_hmac_secret() {
    let settings = Settings::new().without("JWT_SECRET").set("JWT_PUBLIC_KEY", RSA_PUBLIC);
    let backend = settings.set("JWT_PRIVATE_KEY", &RSA.replace('\n', "\\n")).start().await;
    let session = backend.session("alice", "s").await;
    assert_eq!(status(&backend, session["token"].as_str().unwrap()).await.0, 200);
    assert_eq!(status(&backend, &rs256(&claims("alice"))).await.0, 200);
    for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
        for secret in [RSA_PUBLIC, RSA_PUBLIC.trim(), &RSA_PUBLIC.replace('\n', "\\n")] {
            assert_eq!(status(&backend, &hs(algorithm, &claims("alice"), secret)).await.0, 401);
        }
    }
}
