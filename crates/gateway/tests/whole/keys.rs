//! User tokens verified with a JWK set, which function and backend fetch independently.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Response, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use jsonwebtoken::{Algorithm, EncodingKey, Header, jwk::Jwk};
use serde_json::{Value, json};
use tokio::{net::TcpListener, time};

use super::support::{Client, Stack, http};

/// The function asks again for a `kid` that it does not know 30 s after it asked last. This is longer.
const ASKED_AGAIN_WITHIN: Duration = Duration::from_secs(45);

struct Signer {
    kid: &'static str,
    key: EncodingKey,
}

impl Signer {
    fn new(kid: &'static str) -> Self {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        Self { kid, key: EncodingKey::from_ec_der(&pair.serialize_der()) }
    }

    fn jwk(&self) -> Value {
        let mut jwk = Jwk::from_encoding_key(&self.key, Algorithm::ES256).unwrap();
        jwk.common.key_id = Some(self.kid.to_owned());
        json!(jwk)
    }

    /// The owner's token for ten minutes.
    fn token(&self) -> String {
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(self.kid.to_owned());
        let claims = json!({"sub": "developer", "exp": super::wrong::now() + 600});
        jsonwebtoken::encode(&header, &claims, &self.key).unwrap()
    }
}

/// Serves the set.
struct Source {
    url: String,
    set: Arc<Mutex<Value>>,
    asked: Arc<Mutex<usize>>,
}

impl Source {
    async fn start(set: Value) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/keys.json", listener.local_addr().unwrap());
        let (set, asked) = (Arc::new(Mutex::new(set)), Arc::<Mutex<usize>>::default());
        let source = Self { url, set: Arc::clone(&set), asked: Arc::clone(&asked) };
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (set, asked) = (Arc::clone(&set), Arc::clone(&asked));
                let service = service_fn(move |_| {
                    *asked.lock().unwrap() += 1;
                    let set = set.lock().unwrap().to_string();
                    async { Ok::<_, Infallible>(Response::new(Full::<Bytes>::from(set))) }
                });
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        source
    }

    fn holds(&self, signers: &[&Signer]) {
        *self.set.lock().unwrap() = set(signers);
    }

    fn asked(&self) -> usize {
        *self.asked.lock().unwrap()
    }
}

fn set(signers: &[&Signer]) -> Value {
    json!({ "keys": signers.iter().map(|signer| signer.jwk()).collect::<Vec<_>>() })
}

#[tokio::test]
async fn keys_of_the_set_are_accepted_and_a_new_key_takes_one_more_fetch() {
    let (first, second) = (Signer::new("first"), Signer::new("second"));
    // A forged token with the first key's id, and one with an unknown id.
    let strangers = [Signer::new("first"), Signer::new("stranger")];
    let source = Source::start(set(&[&first])).await;
    let stack = Stack::whole()
        .flag("--concurrency", "1")
        .env("JWKS_URL", &source.url)
        .env("JWKS_ALLOW_PRIVATE", "true")
        .start()
        .await;
    let page = stack.page.clone().unwrap();
    let made = http("POST", &format!("{page}api/dev/sessions"), &[], "{}").await;
    assert_eq!((made.status, &made.json()["token"]), (201, &Value::Null), "nothing to mint it with");
    let session = made.json()["sessionId"].as_str().unwrap().to_owned();
    let enters = async |signer: &Signer| {
        let url = format!("{}?sessionId={session}&token={}", stack.websocket, signer.token());
        match Client::try_connect(&url, &[]).await {
            Ok(mut client) => {
                assert_eq!(client.json().await["type"], "connected");
                Ok(())
            }
            Err(refusal) => Err(refusal.status),
        }
    };
    let are_refused = async || {
        for stranger in &strangers {
            assert_eq!(enters(stranger).await, Err(401), "{}", stranger.kid);
        }
    };

    assert_eq!(enters(&first).await, Ok(()));
    are_refused().await;
    source.holds(&[&first, &second]);
    let enters_in_the_end = async {
        let mut tries = time::interval(Duration::from_millis(200));
        loop {
            tries.tick().await;
            match enters(&second).await {
                Ok(()) => return,
                Err(status) => assert_eq!(status, 401),
            }
        }
    };
    time::timeout(ASKED_AGAIN_WITHIN, enters_in_the_end).await.expect("the set is fetched again");
    are_refused().await;
    assert_eq!(enters(&first).await, Ok(()));
    assert_eq!(source.asked(), 2, "the function asked at the first token, and once for the unknown kid");

    let status = async |signer: &Signer| {
        let bearer = format!("Bearer {}", signer.token());
        http("GET", &format!("{page}api/sessions/{session}"), &[("authorization", &bearer)], "").await.status
    };
    assert_eq!(status(&second).await, 200);
    for stranger in &strangers {
        assert_eq!(status(stranger).await, 401, "{}", stranger.kid);
    }
    assert_eq!(source.asked(), 3, "the backend once");
}
