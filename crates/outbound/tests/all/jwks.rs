//! JWK sets: sources, limits, and which tokens wait for a fetch.

use std::{sync::Arc, time::Duration};

use axum::{Router, http::StatusCode, response::Redirect, routing::get};
use jsonwebtoken::{Algorithm, EncodingKey, jwk::Jwk};
use shellbridge_outbound::Jwks;
use shellbridge_protocol::times::UnixSecs;
use tokio::sync::Semaphore;

use crate::serve;

const NOW: UnixSecs = UnixSecs(1_700_000_000);
const WITHIN: Duration = Duration::from_secs(30);

fn key() -> Jwk {
    let pem = include_bytes!("../../../protocol/src/access/keys/ed.pem");
    let mut jwk = Jwk::from_encoding_key(&EncodingKey::from_ed_pem(pem).unwrap(), Algorithm::EdDSA).unwrap();
    jwk.common.key_id = Some("one".to_owned());
    jwk
}

fn set() -> String {
    serde_json::json!({ "keys": [key()] }).to_string()
}

/// A source that answers one request per permit.
struct Source {
    url: String,
    arrived: Arc<Semaphore>,
    permits: Arc<Semaphore>,
}

impl Source {
    async fn start(permits: usize) -> Self {
        let (arrived, permits) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(permits)));
        let (taking, answering) = (Arc::clone(&arrived), Arc::clone(&permits));
        let answer = async move || {
            taking.add_permits(1);
            answering.acquire().await.unwrap().forget();
            set()
        };
        Self { url: serve(Router::new().route("/", get(answer))).await, arrived, permits }
    }

    fn jwks(&self) -> Jwks {
        Jwks::new(&self.url, true, WITHIN).unwrap()
    }

    async fn request(&self) {
        self.arrived.acquire().await.unwrap().forget();
    }
}

/// An invented key id causes a fetch, which must not delay tokens whose keys are cached.
#[tokio::test]
async fn regression_a_slow_source_does_not_delay_tokens_with_cached_keys() {
    let source = Source::start(1).await;
    let jwks = Arc::new(source.jwks());
    assert!(jwks.keys(false, NOW).await.is_some());
    source.request().await;

    let later = NOW.saturating_add(60);
    let unknown = tokio::spawn({
        let jwks = Arc::clone(&jwks);
        async move { jwks.keys(true, later).await.is_some() }
    });
    source.request().await;
    let known = tokio::time::timeout(Duration::from_secs(5), jwks.keys(false, later)).await;
    assert!(known.expect("delayed by another token's fetch").is_some());
    assert!(!unknown.is_finished());
    source.permits.add_permits(1);
    assert!(unknown.await.unwrap());
}

#[tokio::test]
async fn concurrent_tokens_share_one_fetch() {
    let source = Source::start(5).await;
    let jwks = source.jwks();
    let all = futures_util::future::join_all((0..20).map(|_| jwks.keys(true, NOW))).await;
    assert!(all.iter().all(Option::is_some));
    assert_eq!(source.arrived.available_permits(), 1);
}

#[tokio::test]
async fn keys_have_the_kids_of_the_set() {
    let jwks = Source::start(1).await.jwks();
    assert_eq!(jwks.kid_of(&key().algorithm, NOW).await, Some(Some("one".to_owned())));
    let pem = include_bytes!("../../../protocol/src/access/keys/ec.pem");
    let other = Jwk::from_encoding_key(&EncodingKey::from_ec_pem(pem).unwrap(), Algorithm::ES256).unwrap();
    assert_eq!(jwks.kid_of(&other.algorithm, NOW).await, None);
}

#[tokio::test]
async fn redirects_errors_and_oversized_or_late_sets_are_rejected() {
    let good = serve(Router::new().route("/", get(async || set()))).await;
    assert!(Jwks::new(&good, true, WITHIN).unwrap().keys(false, NOW).await.is_some());
    // Each path serves the same set with one fault.
    let elsewhere = Redirect::temporary(&good);
    let huge = format!("{}{}", set(), " ".repeat(300_000));
    let router = Router::new()
        .route("/redirect", get(async move || elsewhere))
        .route("/huge", get(async move || huge))
        .route("/error", get(async || (StatusCode::INTERNAL_SERVER_ERROR, set())))
        .route("/hangs", get(std::future::pending::<String>));
    let url = serve(router).await;
    for path in ["redirect", "huge", "error", "hangs"] {
        let jwks = Jwks::new(&format!("{url}/{path}"), true, Duration::from_millis(500)).unwrap();
        assert!(jwks.keys(false, NOW).await.is_none(), "{path}");
    }
    for invalid in ["", "keys.json", "mailto:a@b", "file:///etc/keys", "http://keys.example"] {
        assert!(Jwks::new(invalid, false, WITHIN).is_err(), "{invalid}");
    }
}
