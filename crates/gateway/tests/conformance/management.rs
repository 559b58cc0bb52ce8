//! `@connections` (section 5), with the real SDKs.

use std::time::Duration;

use aws_sdk_apigatewaymanagement::{
    Client as Sdk,
    config::{BehaviorVersion, Credentials, Region, retry::RetryConfig},
    error::{ProvideErrorMetadata as _, SdkError},
    primitives::Blob,
};
use serde_json::json;
use shellbridge_outbound::Http;

use crate::{
    sdks::sdk,
    support::{Client, Stack, http},
};

fn rust_sdk(stack: &Stack) -> Sdk {
    let config = aws_sdk_apigatewaymanagement::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new("local", "local", None, None, "test"))
        .endpoint_url(&stack.management)
        .retry_config(RetryConfig::disabled())
        .http_client(Http::new(Duration::from_secs(2)))
        .build();
    Sdk::from_conf(config)
}

fn id(stack: &Stack) -> String {
    stack.events()[0]["requestContext"]["connectionId"].as_str().unwrap().to_owned()
}

/// A well-formed id of no connection.
const UNKNOWN: &str = "PJqB0fHsqRcCHlw=";

#[tokio::test]
async fn the_rust_sdk_posts_gets_and_deletes() {
    let stack = Stack::scripted().start().await;
    let mut client = Client::try_connect(&stack.websocket, &[("User-Agent", "a browser")]).await.unwrap();
    let (sdk, id) = (rust_sdk(&stack), id(&stack));
    sdk.post_to_connection().connection_id(&id).data(Blob::new("hällo")).send().await.unwrap();
    assert_eq!(client.text().await, "hällo");
    sdk.post_to_connection().connection_id(&id).data(Blob::new("")).send().await.unwrap();
    assert_eq!(client.text().await, "");
    let found = sdk.get_connection().connection_id(&id).send().await.unwrap();
    let identity = found.identity().unwrap();
    assert_eq!((identity.source_ip(), identity.user_agent()), (Some("127.0.0.1"), Some("a browser")));
    assert!(
        found.connected_at().unwrap().to_millis().unwrap()
            <= found.last_active_at().unwrap().to_millis().unwrap()
    );
    sdk.delete_connection().connection_id(&id).send().await.unwrap();
    assert_eq!(client.closed().await, (1000, "Connection Closed Normally".to_owned()));
}

#[tokio::test]
async fn the_rust_sdk_understands_every_error() {
    let stack = Stack::scripted().flag("--request-burst", "6").flag("--request-rate", "1").start().await;
    let _client = stack.connect().await;
    let (sdk, id) = (rust_sdk(&stack), id(&stack));
    let post = |id: &str, data: Blob| sdk.post_to_connection().connection_id(id).data(data).send();
    let gone = post(UNKNOWN, Blob::new("x")).await.unwrap_err();
    assert!(gone.as_service_error().unwrap().is_gone_exception(), "{gone:?}");
    let large = post(&id, Blob::new("x".repeat(131_073))).await.unwrap_err();
    assert!(large.as_service_error().unwrap().is_payload_too_large_exception(), "{large:?}");
    post(&id, Blob::new("x".repeat(131_072))).await.unwrap();
    let malformed = post("nonsense", Blob::new("x")).await.unwrap_err();
    assert_eq!(malformed.raw_response().unwrap().status().as_u16(), 400);
    assert_eq!(malformed.as_service_error().unwrap().message(), Some("Invalid connectionId: nonsense"));
    let gone = sdk.get_connection().connection_id(UNKNOWN).send().await.unwrap_err();
    assert!(gone.as_service_error().unwrap().is_gone_exception());
    let gone = sdk.delete_connection().connection_id(UNKNOWN).send().await.unwrap_err();
    assert!(gone.as_service_error().unwrap().is_gone_exception());
    let limited = loop {
        match post(&id, Blob::new("x")).await {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(
        matches!(&limited, SdkError::ServiceError(error) if error.err().is_limit_exceeded_exception()),
        "{limited:?}"
    );
}

#[tokio::test]
async fn boto3_agrees() {
    let stack = Stack::scripted().start().await;
    let mut client = stack.connect().await;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/conformance/management.py");
    let (management, id) = (stack.management.clone(), id(&stack));
    let run = tokio::task::spawn_blocking(move || {
        std::process::Command::new(sdk("python/bin/python"))
            .args([script, &management, &id, UNKNOWN])
            .output()
            .unwrap()
    });
    let output = run.await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(client.text().await, "hällo");
    assert_eq!(client.closed().await.0, 1000);
}

#[tokio::test]
async fn every_encoding_of_the_path_is_accepted() {
    let stack = Stack::scripted().start().await;
    let mut client = stack.connect().await;
    let id = id(&stack);
    for path in [
        format!("@connections/{id}"),
        format!("%40connections/{id}"),
        format!("@connections/{}", id.replace('=', "%3D")),
        format!("%40connections/{}", id.replace('=', "%3d")),
    ] {
        let answer = http("POST", &format!("{}/{path}", stack.management), &[], path.clone()).await;
        assert_eq!((answer.status, answer.body.len()), (200, 0), "{path}");
        assert!(answer.headers.contains_key("x-amzn-requestid"));
        assert_eq!(client.text().await, path);
    }
}

#[tokio::test]
async fn answers_have_the_statuses_and_bodies_of_aws() {
    let stack = Stack::scripted().start().await;
    let _client = stack.connect().await;
    let gone = http("POST", &stack.connection_url(UNKNOWN), &[], "x").await;
    assert_eq!((gone.status, gone.body.len()), (410, 0));
    assert_eq!(gone.headers["x-amzn-errortype"], "GoneException");
    let malformed = http("GET", &stack.connection_url("x"), &[], "").await;
    assert_eq!((malformed.status, malformed.json()), (400, json!({ "message": "Invalid connectionId: x" })));
    // Without the stage.
    let url = stack.connection_url(&id(&stack)).replace("/prod/", "/");
    let forbidden = http("POST", &url, &[], "x").await;
    assert_eq!((forbidden.status, forbidden.json()), (403, json!({ "message": "Forbidden" })));
    let large = http("POST", &stack.connection_url(UNKNOWN), &[], "x".repeat(131_073)).await;
    assert_eq!(large.status, 413);
    assert!(large.json()["message"].is_string());
    let url = stack.connection_url(&id(&stack));
    assert_eq!(http("PUT", &url, &[], "x").await.status, 405);
    assert_eq!(http("POST", &url, &[], vec![0xff, 0xfe]).await.status, 400);
    let found = http("GET", &url, &[], "").await.json();
    let keys: Vec<&String> = found.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["connectedAt", "identity", "lastActiveAt"]);
    assert_eq!(found["identity"], json!({ "sourceIp": "127.0.0.1", "userAgent": null }));
    let at = found["connectedAt"].as_str().unwrap();
    assert!(at.len() == 24 && at.ends_with('Z') && at.as_bytes()[10] == b'T', "{at}");
}
