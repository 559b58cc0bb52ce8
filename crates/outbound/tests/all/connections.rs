//! `@connections`: requests, statuses, retries.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::{
    Credentials,
    provider::{self, ProvideCredentials, SharedCredentialsProvider, future},
};
use aws_sdk_apigatewaymanagement::primitives::Blob;
use aws_sigv4::{
    http_request::{SignableBody, SignableRequest, SigningSettings, sign},
    sign::v4::SigningParams,
};
use aws_smithy_types::date_time::{DateTime, Format};
use axum::{
    Router,
    body::Bytes,
    http::{HeaderMap, StatusCode, Uri},
};
use shellbridge_outbound::{ConnectionError, Http, Patience, Pool};
use tokio::time::Instant;

use crate::serve;

const ID: &str = "L0SM9cOFvHcCIhw=";

/// A request as the server received it.
#[derive(Debug, Clone)]
struct Received {
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
}

impl Received {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    fn key(&self) -> &str {
        self.header("authorization").split(['=', '/']).nth(1).unwrap()
    }
}

/// A server for `@connections` that statuses with these statuses, then 200.
#[derive(Debug, Clone, Default)]
struct Api {
    statuses: Arc<Mutex<VecDeque<u16>>>,
    received: Arc<Mutex<Vec<Received>>>,
}

impl Api {
    async fn start(statuses: &[u16]) -> (Self, String) {
        let api =
            Self { statuses: Arc::new(Mutex::new(statuses.iter().copied().collect())), ..Self::default() };
        let this = api.clone();
        let take = async move |uri: Uri, headers: HeaderMap, body: Bytes| {
            this.received.lock().unwrap().push(Received { uri, headers, body });
            let status = this.statuses.lock().unwrap().pop_front().unwrap_or(200);
            StatusCode::from_u16(status).unwrap()
        };
        (api, serve(Router::new().fallback(take)).await)
    }

    fn taken(&self) -> Vec<Received> {
        std::mem::take(&mut *self.received.lock().unwrap())
    }
}

/// Returns a new key for each call, after a moment.
#[derive(Debug, Clone, Default)]
struct Keys(Arc<AtomicU32>);

impl ProvideCredentials for Keys {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async {
            let key = format!("key-{}", self.0.fetch_add(1, Relaxed));
            tokio::time::sleep(Duration::from_millis(20)).await;
            provider::Result::Ok(Credentials::new(key, "secret", Some("to/ken==".to_owned()), None, "test"))
        })
    }
}

fn config(keys: &Keys) -> SdkConfig {
    SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("eu-west-1"))
        .credentials_provider(SharedCredentialsProvider::new(keys.clone()))
        .http_client(http())
        .build()
}

fn http() -> Http {
    Http::new(Duration::from_secs(1))
}

fn pool(keys: &Keys) -> Pool {
    Pool::new(&config(keys), http(), Duration::from_secs(1))
}

fn patience(until: Duration) -> Patience {
    Patience { until: Instant::now() + until, opening_until: None }
}

/// The SDK is the oracle: its client for URI, type and body, its signer for the signature.
#[tokio::test]
async fn requests_equal_those_of_the_sdk() {
    let (api, server) = Api::start(&[]).await;
    let keys = Keys::default();
    for path in ["/prod", "", "/$default/", "/a%20b/../st-age_1", "//prod//"] {
        let url = format!("{server}{path}");
        let sdk = aws_sdk_apigatewaymanagement::config::Builder::from(&config(&keys)).endpoint_url(&url);
        let sdk = aws_sdk_apigatewaymanagement::Client::from_conf(sdk.build());
        let client = pool(&keys).get(&url).unwrap();
        for (id, body) in [(ID, r#"{"type":"pong"}"#), ("a-b_c~", "é\u{1f600}\n"), ("a/b@c%20?&#=:", "")] {
            sdk.post_to_connection().connection_id(id).data(Blob::new(body)).send().await.unwrap();
            client.post(&id.into(), Bytes::from_static(body.as_bytes())).await.unwrap();
            let [oracle, post] = api.taken().try_into().unwrap();
            for received in [&oracle, &post] {
                assert_eq!(sdk_signature(received), received.header("authorization"), "{id} {received:?}");
            }
            assert_eq!(oracle.body, post.body);
            assert_eq!(oracle.header("content-type"), post.header("content-type"));
            // The SDK leaves dots and empty segments in the path, and signs it without.
            if path.len() < 10 && path != "//prod//" {
                assert_eq!(oracle.uri, post.uri);
            }
        }
    }
}

/// The signature that the SDK's signer computes at the same time over the same headers.
fn sdk_signature(received: &Received) -> String {
    let signed = received.header("authorization").split("SignedHeaders=").nth(1).unwrap();
    let signed: Vec<_> = signed.split(',').next().unwrap().split(';').collect();
    let added = ["host", "x-amz-date", "x-amz-security-token"];
    let headers =
        signed.iter().filter(|name| !added.contains(name)).map(|name| (*name, received.header(name)));
    let date = received.header("x-amz-date");
    let at = |from: usize, to: usize| date.get(from..to).unwrap();
    let time = format!("{}-{}-{}T{}:{}:{}Z", at(0, 4), at(4, 6), at(6, 8), at(9, 11), at(11, 13), at(13, 15));
    let time = SystemTime::try_from(DateTime::from_str(&time, Format::DateTime).unwrap()).unwrap();
    let token = Some(received.header("x-amz-security-token").to_owned());
    let identity = Credentials::new(received.key(), "secret", token, None, "test").into();
    let params = SigningParams::builder()
        .identity(&identity)
        .region("eu-west-1")
        .name("execute-api")
        .time(time)
        .settings(SigningSettings::default());
    let uri = format!("http://{}{}", received.header("host"), received.uri);
    let request = SignableRequest::new("POST", uri, headers, SignableBody::Bytes(&received.body)).unwrap();
    let (signed, _) = sign(request, &params.build().unwrap().into()).unwrap().into_parts();
    signed.headers().find(|(name, _)| *name == "authorization").unwrap().1.to_owned()
}

#[tokio::test]
async fn a_post_is_retried_only_if_a_retry_may_help() {
    for (statuses, posts, delivered) in [
        (&[429, 500, 503][..], 4, true),
        // The credentials are new, so others would not help.
        (&[403], 1, false),
        (&[400], 1, false),
        (&[404], 1, false),
        (&[302], 1, false),
        (&[410], 1, false),
        (&[413], 1, false),
    ] {
        let (api, url) = Api::start(statuses).await;
        let client = pool(&Keys::default()).get(&url).unwrap();
        let mut retries = 0;
        let frame = Bytes::from_static(b"{}");
        let patience = patience(Duration::from_secs(10));
        let posted = client.deliver(&ID.into(), frame, patience, |_| retries += 1).await;
        assert_eq!(posted.is_ok(), delivered, "{statuses:?}: {posted:?}");
        assert_eq!((api.taken().len(), retries), (posts, posts - 1), "{statuses:?}");
    }
}

#[tokio::test]
async fn rejected_cached_credentials_are_renewed_once() {
    for (statuses, keys_used, delivered) in [
        (&[200, 403, 200][..], &["key-0", "key-0", "key-1"][..], true),
        (&[200, 403, 403], &["key-0", "key-0", "key-1"], false),
    ] {
        let (api, url) = Api::start(statuses).await;
        let client = pool(&Keys::default()).get(&url).unwrap();
        client.post(&ID.into(), Bytes::new()).await.unwrap();
        let posted =
            client.deliver(&ID.into(), Bytes::new(), patience(Duration::from_secs(10)), |_| {}).await;
        assert_eq!(posted.is_ok(), delivered, "{posted:?}");
        let received = api.taken();
        assert_eq!(received.iter().map(Received::key).collect::<Vec<_>>(), keys_used);
    }
}

#[tokio::test]
async fn a_410_is_retried_while_the_handshake_may_be_in_progress() {
    let (api, url) = Api::start(&[410, 410]).await;
    let client = pool(&Keys::default()).get(&url).unwrap();
    let opening_until = Some(Instant::now() + Duration::from_secs(10));
    let patience = Patience { opening_until, ..patience(Duration::from_secs(10)) };
    client.deliver(&ID.into(), Bytes::new(), patience, |_| {}).await.unwrap();
    assert_eq!(api.taken().len(), 3);
}

#[tokio::test]
async fn a_post_ends_by_its_deadline() {
    let (api, busy) = Api::start(&[503; 1_000]).await;
    let hung = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let hung_url = format!("http://{}", hung.local_addr().unwrap());
    for (url, late) in [(&busy, false), (&hung_url, true)] {
        let client = pool(&Keys::default()).get(url).unwrap();
        let started = std::time::Instant::now();
        let within = Duration::from_millis(400);
        let error = client.deliver(&ID.into(), Bytes::new(), patience(within), |_| {}).await.unwrap_err();
        assert_eq!(matches!(error, ConnectionError::Timeout), late, "{error:?}");
        assert!(
            error.is_retryable() && started.elapsed() < Duration::from_secs(5),
            "{:?}",
            started.elapsed()
        );
    }
    assert!(api.taken().len() > 2);
}

/// A backend has thousands of connections, whose credentials expire at the same moment.
#[tokio::test]
async fn concurrent_posts_fetch_credentials_once() {
    let (api, url) = Api::start(&[]).await;
    let keys = Keys::default();
    let client = pool(&keys).get(&url).unwrap();
    let all = || async {
        let id = ID.into();
        let posts =
            (0..50).map(|_| client.deliver(&id, Bytes::new(), patience(Duration::from_secs(10)), |_| {}));
        futures_util::future::try_join_all(posts).await.unwrap();
    };
    all().await;
    assert_eq!(keys.0.load(Relaxed), 1);
    api.statuses.lock().unwrap().extend([403; 50]);
    all().await;
    assert_eq!(keys.0.load(Relaxed), 2, "every rejection was of the same key");
}

#[tokio::test]
async fn a_connection_exists_unless_the_status_is_410() {
    let (_, url) = Api::start(&[200, 404, 410, 500]).await;
    let client = pool(&Keys::default()).get(&url).unwrap();
    for exists in [true, true, false, true] {
        assert_eq!(client.exists(&ID.into()).await, exists);
    }
}

#[tokio::test]
async fn closing_a_closed_connection_succeeds() {
    let (_, url) = Api::start(&[204, 410, 500]).await;
    let client = pool(&Keys::default()).get(&url).unwrap();
    for closed in [true, true, false] {
        assert_eq!(client.close(&ID.into()).await.is_ok(), closed);
    }
}

#[tokio::test]
async fn invalid_settings_are_errors() {
    let pool = pool(&Keys::default());
    for invalid in ["ws.example.org", "", "mailto:a@b", "http://"] {
        assert!(matches!(pool.get(invalid), Err(ConnectionError::Url(_))), "{invalid}");
    }
    for (key, token) in [("A\nB", None), ("AKID", Some("a\nb".to_owned()))] {
        let provider = SharedCredentialsProvider::new(Credentials::new(key, "secret", token, None, "test"));
        let config = config(&Keys::default()).to_builder().credentials_provider(provider).build();
        let client = Pool::new(&config, http(), Duration::from_secs(1)).get("http://127.0.0.1:9").unwrap();
        let error = client.post(&ID.into(), Bytes::new()).await.unwrap_err();
        assert!(matches!(error, ConnectionError::Unsigned(_)) && !error.is_retryable(), "{error:?}");
    }
    let nowhere = SdkConfig::builder().behavior_version(BehaviorVersion::latest()).build();
    let client = Pool::new(&nowhere, http(), Duration::from_secs(1)).get("http://127.0.0.1:9").unwrap();
    let error = client.post(&ID.into(), Bytes::new()).await.unwrap_err();
    assert!(!error.is_retryable(), "{error:?}");
}
