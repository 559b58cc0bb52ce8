//! Functions in other languages: boto3 under AWS's runtime client for Python, and the SDK for JavaScript v3.
//! Lambda's environment is their only configuration.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use http::Response;
use serde_json::json;
use shellbridge_gateway::{
    faults::{FaultSettings, Faults},
    function::{Pool, PoolSettings},
};
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::support::{Client, Invoke, Refusal, Stack, function_error};

/// A file that `sdks.sh` installed.
pub(crate) fn sdk(name: &str) -> PathBuf {
    let target = Path::new(env!("CARGO_BIN_EXE_gateway")).ancestors().nth(2).unwrap();
    let path = target.join("sdks").join(name);
    assert!(path.exists(), "{} is missing: run tests/conformance/sdks.sh", path.display());
    path
}

/// A function in `functions/`, with the settings that a deployment would give it.
struct Sample {
    bootstrap: PathBuf,
    settings: Vec<(&'static str, String)>,
}

impl Sample {
    fn new(name: &str, settings: Vec<(&'static str, String)>) -> Self {
        let bootstrap =
            format!("{}/tests/conformance/functions/{name}/bootstrap", env!("CARGO_MANIFEST_DIR"));
        Self { bootstrap: bootstrap.into(), settings }
    }

    fn python() -> Self {
        let python = sdk("python/bin/python").display().to_string();
        Self::new("python", vec![("PYTHON", python), ("_HANDLER", "function.handler".to_owned())])
    }

    fn node() -> Self {
        Self::new("node", vec![("NODE_PATH", sdk("node/node_modules").display().to_string())])
    }
}

/// Started by the gateway.
async fn with_function(sample: Sample) {
    let mut builder =
        Stack::with_function(&sample.bootstrap).flag("--concurrency", "1").flag("--function-memory", "512");
    for (name, value) in &sample.settings {
        builder = builder.env(name, value);
    }
    exchange(&builder.start().await).await;
}

/// Run by another Lambda service, with the environment that the gateway wrote for it.
async fn with_lambda_url(sample: Sample) {
    let endpoint = Invoke::bind().await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("function.env");
    let stack = Stack::empty().flag("--lambda-url", endpoint.url()).flag("--print-env", &file).start().await;
    let written = std::fs::read_to_string(&file).unwrap();
    let written = written.lines().filter_map(|line| line.split_once('='));
    let settings = sample.settings.iter().map(|(name, value)| (*name, value.as_str()));
    let environment = written.chain(settings).map(|(name, value)| (name.to_owned(), value.to_owned()));

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let pool = Arc::new(Pool::new(
        PoolSettings {
            program: sample.bootstrap.clone(),
            name: "bootstrap".to_owned(),
            region: "us-east-1".to_owned(),
            environment: environment.collect(),
            timeout: Duration::from_secs(20),
            memory: 512 * 1024 * 1024,
        },
        &[listener.local_addr().unwrap()],
        Arc::default(),
        Arc::new(Faults::new(FaultSettings::default(), 1)),
    ));
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    pool.start(vec![listener], &tasks, &stop);
    endpoint.serve(move |event| {
        let pool = Arc::clone(&pool);
        async move {
            match pool.invoke(event).await {
                Ok(answer) => Response::new(answer),
                Err(error) => function_error(&error.to_string()),
            }
        }
    });
    exchange(&stack).await;
    stop.cancel();
    tasks.close();
    tasks.wait().await;
}

/// Handshake, `PostToConnection` from `$default`, and all three events' access to the table.
async fn exchange(stack: &Stack) {
    let Refusal { status, .. } = Client::try_connect(&stack.websocket, &[]).await.expect_err("no name");
    assert_eq!(status, 403);
    let mut client = stack.connect_with("name=J%C3%BCrg").await;
    client.send("hällo").await;
    assert_eq!(client.json().await, json!({ "name": "Jürg", "said": "hällo", "function": "bootstrap" }));
    drop(client);
    let everything = json!({ "PutItem": 1, "GetItem": 1, "DeleteItem": 1 });
    let state = stack.until_state("all requests", |state| state["dynamodb"] == everything).await;
    assert_eq!(state["pushes"], json!({ "200": 1 }));
}

#[tokio::test]
async fn regression_a_python_function_starts_and_answers() {
    with_function(Sample::python()).await;
}

#[tokio::test]
async fn a_python_function_elsewhere_answers() {
    with_lambda_url(Sample::python()).await;
}

#[tokio::test]
async fn a_node_function_starts_and_answers() {
    with_function(Sample::node()).await;
}

#[tokio::test]
async fn a_node_function_elsewhere_answers() {
    with_lambda_url(Sample::node()).await;
}
