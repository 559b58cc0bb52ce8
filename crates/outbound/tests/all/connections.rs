//! `@connections`: what is sent, what answers mean, what is tried again.

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

/// A request as it arrived.
#[derive(Debug, Clone)]
struct Arrived {
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
}

impl Arrived {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    fn key(&self) -> &str {
        self.header("authorization").split(['=', '/']).nth(1).unwrap()
    }
}

/// An `@connections` that gives these answers, then 200.
#[derive(Debug, Clone, Default)]
struct Api {
    answers: Arc<Mutex<VecDeque<u16>>>,
    arrived: Arc<Mutex<Vec<Arrived>>>,
}

impl Api {
    async fn start(answers: &[u16]) -> (Self, String) {
        let api =
            Self { answers: Arc::new(Mutex::new(answers.iter().copied().collect())), ..Self::default() };
        let this = api.clone();
        let take = async move |uri: Uri, headers: HeaderMap, body: Bytes| {
            this.arrived.lock().unwrap().push(Arrived { uri, headers, body });
            let status = this.answers.lock().unwrap().pop_front().unwrap_or(200);
            StatusCode::from_u16(status).unwrap()
        };
        (api, serve(Router::new().fallback(take)).await)
    }

    fn taken(&self) -> Vec<Arrived> {
        std::mem::take(&mut *self.arrived.lock().unwrap())
    }
}

/// Gives a new key each time it is asked, after a moment.
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

/// The SDK is the oracle: its client for URI, type and body, its signer for the signature of what arrived.
#[tokio::test]
async fn requests_are_what_the_sdk_would_send() {
    let (api, server) = Api::start(&[]).await;
    let keys = Keys::default();
    for path in ["/prod", "", "/$default/", "/a%20b/../st-age_1", "//prod//"] {
        let url = format!("{server}{path}");
        let sdk = aws_sdk_apigatewaymanagement::config::Builder::from(&config(&keys)).endpoint_url(&url);
        let sdk = aws_sdk_apigatewaymanagement::Client::from_conf(sdk.build());
        let ours = pool(&keys).get(&url).unwrap();
        for (id, body) in [(ID, r#"{"type":"pong"}"#), ("a-b_c~", "é\u{1f600}\n"), ("a/b@c%20?&#=:", "")] {
            sdk.post_to_connection().connection_id(id).data(Blob::new(body)).send().await.unwrap();
            ours.post(id, Bytes::from_static(body.as_bytes())).await.unwrap();
            let [theirs, ours] = api.taken().try_into().unwrap();
            for arrived in [&theirs, &ours] {
                assert_eq!(signed_again(arrived), arrived.header("authorization"), "{id} {arrived:?}");
            }
            assert_eq!(theirs.body, ours.body);
            assert_eq!(theirs.header("content-type"), ours.header("content-type"));
            // The SDK leaves dots and empty segments in the path, and signs it without.
            if path.len() < 10 && path != "//prod//" {
                assert_eq!(theirs.uri, ours.uri);
            }
        }
    }
}

/// What the SDK's signer says of a request with the same time and the same signed headers.
fn signed_again(arrived: &Arrived) -> String {
    let signed = arrived.header("authorization").split("SignedHeaders=").nth(1).unwrap();
    let signed: Vec<_> = signed.split(',').next().unwrap().split(';').collect();
    let added = ["host", "x-amz-date", "x-amz-security-token"];
    let headers =
        signed.iter().filter(|name| !added.contains(name)).map(|name| (*name, arrived.header(name)));
    let date = arrived.header("x-amz-date");
    let at = |from: usize, to: usize| date.get(from..to).unwrap();
    let time = format!("{}-{}-{}T{}:{}:{}Z", at(0, 4), at(4, 6), at(6, 8), at(9, 11), at(11, 13), at(13, 15));
    let time = SystemTime::try_from(DateTime::from_str(&time, Format::DateTime).unwrap()).unwrap();
    let token = Some(arrived.header("x-amz-security-token").to_owned());
    let identity = Credentials::new(arrived.key(), "secret", token, None, "test").into();
    let params = SigningParams::builder()
        .identity(&identity)
        .region("eu-west-1")
        .name("execute-api")
        .time(time)
        .settings(SigningSettings::default());
    let uri = format!("http://{}{}", arrived.header("host"), arrived.uri);
    let request = SignableRequest::new("POST", uri, headers, SignableBody::Bytes(&arrived.body)).unwrap();
    let (signed, _) = sign(request, &params.build().unwrap().into()).unwrap().into_parts();
    signed.headers().find(|(name, _)| *name == "authorization").unwrap().1.to_owned()
}

#[tokio::test]
async fn a_post_is_repeated_only_where_that_may_help() {
    for (answers, posts, delivered) in [
        (&[429, 500, 503][..], 4, true),
        // With credentials just fetched: others would fare no better.
        (&[403], 1, false),
        (&[400], 1, false),
        (&[404], 1, false),
        (&[302], 1, false),
        (&[410], 1, false),
        (&[413], 1, false),
    ] {
        let (api, url) = Api::start(answers).await;
        let client = pool(&Keys::default()).get(&url).unwrap();
        let mut repeats = 0;
        let frame = Bytes::from_static(b"{}");
        let patience = patience(Duration::from_secs(10));
        let posted = client.deliver(ID, frame, patience, |_| repeats += 1).await;
        assert_eq!(posted.is_ok(), delivered, "{answers:?}: {posted:?}");
        assert_eq!((api.taken().len(), repeats), (posts, posts - 1), "{answers:?}");
    }
}

#[tokio::test]
async fn kept_credentials_that_are_refused_are_exchanged_and_tried_once_more() {
    for (answers, keys_used, delivered) in [
        (&[200, 403, 200][..], &["key-0", "key-0", "key-1"][..], true),
        (&[200, 403, 403], &["key-0", "key-0", "key-1"], false),
    ] {
        let (api, url) = Api::start(answers).await;
        let client = pool(&Keys::default()).get(&url).unwrap();
        client.post(ID, Bytes::new()).await.unwrap();
        let posted = client.deliver(ID, Bytes::new(), patience(Duration::from_secs(10)), |_| {}).await;
        assert_eq!(posted.is_ok(), delivered, "{posted:?}");
        let arrived = api.taken();
        assert_eq!(arrived.iter().map(Arrived::key).collect::<Vec<_>>(), keys_used);
    }
}

#[tokio::test]
async fn a_connection_that_opens_may_be_gone_for_a_moment() {
    let (api, url) = Api::start(&[410, 410]).await;
    let client = pool(&Keys::default()).get(&url).unwrap();
    let opening_until = Some(Instant::now() + Duration::from_secs(10));
    let patience = Patience { opening_until, ..patience(Duration::from_secs(10)) };
    client.deliver(ID, Bytes::new(), patience, |_| {}).await.unwrap();
    assert_eq!(api.taken().len(), 3);
}

#[tokio::test]
async fn a_post_ends_with_its_deadline_whether_answered_or_not() {
    let (api, busy) = Api::start(&[503; 1_000]).await;
    let hung = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let hung_url = format!("http://{}", hung.local_addr().unwrap());
    for (url, late) in [(&busy, false), (&hung_url, true)] {
        let client = pool(&Keys::default()).get(url).unwrap();
        let started = std::time::Instant::now();
        let within = Duration::from_millis(400);
        let error = client.deliver(ID, Bytes::new(), patience(within), |_| {}).await.unwrap_err();
        assert_eq!(matches!(error, ConnectionError::Late), late, "{error:?}");
        assert!(
            error.is_retryable() && started.elapsed() < Duration::from_secs(5),
            "{:?}",
            started.elapsed()
        );
    }
    assert!(api.taken().len() > 2);
}

/// A backend has thousands of connections, and their credentials expire at the same moment.
#[tokio::test]
async fn many_posts_fetch_credentials_once() {
    let (api, url) = Api::start(&[]).await;
    let keys = Keys::default();
    let client = pool(&keys).get(&url).unwrap();
    let all = || async {
        let posts =
            (0..50).map(|_| client.deliver(ID, Bytes::new(), patience(Duration::from_secs(10)), |_| {}));
        futures_util::future::try_join_all(posts).await.unwrap();
    };
    all().await;
    assert_eq!(keys.0.load(Relaxed), 1);
    api.answers.lock().unwrap().extend([403; 50]);
    all().await;
    assert_eq!(keys.0.load(Relaxed), 2, "all were refused the same key");
}

#[tokio::test]
async fn what_cannot_be_told_of_a_connection_is_that_it_exists() {
    let (_, url) = Api::start(&[200, 404, 410, 500]).await;
    let client = pool(&Keys::default()).get(&url).unwrap();
    for exists in [true, true, false, true] {
        assert_eq!(client.exists(ID).await, exists);
    }
}

#[tokio::test]
async fn a_connection_is_ended_or_found_ended() {
    let (_, url) = Api::start(&[204, 410, 500]).await;
    let client = pool(&Keys::default()).get(&url).unwrap();
    for ended in [true, true, false] {
        assert_eq!(client.close(ID).await.is_ok(), ended);
    }
}

#[tokio::test]
async fn settings_that_cannot_work_are_errors_and_no_panics() {
    let pool = pool(&Keys::default());
    for wrong in ["ws.example.org", "", "mailto:a@b", "http://"] {
        assert!(matches!(pool.get(wrong), Err(ConnectionError::Url(_))), "{wrong}");
    }
    for (key, token) in [("A\nB", None), ("AKID", Some("a\nb".to_owned()))] {
        let provider = SharedCredentialsProvider::new(Credentials::new(key, "secret", token, None, "test"));
        let config = config(&Keys::default()).to_builder().credentials_provider(provider).build();
        let client = Pool::new(&config, http(), Duration::from_secs(1)).get("http://127.0.0.1:9").unwrap();
        let error = client.post(ID, Bytes::new()).await.unwrap_err();
        assert!(matches!(error, ConnectionError::Unsigned(_)) && !error.is_retryable(), "{error:?}");
    }
    let nowhere = SdkConfig::builder().behavior_version(BehaviorVersion::latest()).build();
    let client = Pool::new(&nowhere, http(), Duration::from_secs(1)).get("http://127.0.0.1:9").unwrap();
    let error = client.post(ID, Bytes::new()).await.unwrap_err();
    assert!(!error.is_retryable(), "{error:?}");
}
