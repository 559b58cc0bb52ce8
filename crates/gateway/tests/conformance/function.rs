//! The function service: real processes with the Runtime API, and Invoke endpoints.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use http::Response;
use serde_json::{Value, json};
use shellbridge_gateway::clock::unix_ms;

use crate::support::{Client, Invoke, Refusal, Stack, example, function_error, until};

#[tokio::test]
async fn the_deadline_is_true() {
    let stack = Stack::scripted().flag("--function-timeout", "7").start().await;
    let mut client = stack.connect().await;
    let before = unix_ms().0;
    client.send_json(&json!({ "do": "context" })).await;
    let context = client.json().await;
    let deadline = context["deadline"].as_u64().unwrap();
    assert!((before + 7000..=unix_ms().0 + 7000).contains(&deadline));
    assert_eq!(context["arn"], "arn:aws:lambda:us-east-1:000000000000:function:scripted_function");
    assert_eq!(context["memory"], 128);
    assert!(context["trace"].as_str().unwrap().starts_with("Root=1-"));
}

#[tokio::test]
async fn a_process_gets_one_event_at_a_time_and_the_rest_wait() {
    let stack = Stack::scripted().flag("--concurrency", "2").start().await;
    let mut client = stack.connect().await;
    let began = Instant::now();
    for _ in 0..6 {
        client.send_json(&json!({ "do": "pid", "after": 200 })).await;
    }
    let mut pids = BTreeSet::new();
    for _ in 0..6 {
        pids.insert(client.text().await);
    }
    assert_eq!(pids.len(), 2);
    assert!(began.elapsed() >= Duration::from_millis(600), "{:?}", began.elapsed());
    let state = stack.state().await;
    assert_eq!(state["function"], json!({ "coldStarts": 2, "crashes": 0, "kills": 0 }));
}

#[tokio::test]
async fn waiting_in_the_queue_counts_against_the_integration_timeout() {
    let stack =
        Stack::scripted().flag("--concurrency", "1").flag("--integration-timeout", "0.5").start().await;
    let (mut busy, mut waiting) = (stack.connect().await, stack.connect().await);
    busy.send_json(&json!({ "after": 1500 })).await;
    stack.until_state("the slow one", |state| state["invocations"]["$default"] == 1).await;
    let given_up = json!({ "do": "pid", "n": 1 });
    waiting.send_json(&given_up).await;
    assert!(waiting.text().await.contains("Internal server error"));
    // What has timed out in the queue is not invoked later.
    assert!(busy.text().await.contains("Internal server error"));
    // The queue is in order: had the event stayed in it, it would be invoked before this one.
    let later = json!({ "do": "pid", "n": 2 });
    for tries in 0.. {
        waiting.send_json(&later).await;
        if waiting.text().await.parse::<u32>().is_ok() {
            break;
        }
        assert!(tries < 20, "the process is never free again");
    }
    let events = stack.events();
    let handed_out = |script: &Value| {
        let body = Value::from(script.to_string());
        events.iter().any(|event| event["body"] == body)
    };
    assert!(handed_out(&later) && !handed_out(&given_up));
}

#[tokio::test]
async fn the_queue_is_bounded_and_beyond_it_events_are_throttled() {
    let stack = Stack::scripted().flag("--concurrency", "1").flag("--request-rate", "0").start().await;
    let mut client = stack.connect().await;
    client.send_json(&json!({ "do": "echo", "after": 2000 })).await;
    stack.until_state("the slow one", |state| state["invocations"]["$default"] == 1).await;
    for _ in 0..10_005 {
        client.send("x").await;
    }
    for _ in 0..5 {
        assert!(client.text().await.contains("Internal server error"));
    }
    assert!(client.text().await.contains("after"), "and the rest is answered");
    for _ in 0..10_000 {
        assert_eq!(client.text().await, "x");
    }
}

#[tokio::test]
async fn a_crashed_process_is_restarted() {
    let stack = Stack::scripted().flag("--concurrency", "1").start().await;
    let mut client = stack.connect().await;
    let mut pids = BTreeSet::new();
    for _ in 0..3 {
        client.send_json(&json!({ "do": "pid" })).await;
        pids.insert(client.text().await);
        client.send_json(&json!({ "do": "exit" })).await;
        assert!(client.text().await.contains("Internal server error"));
    }
    assert_eq!(pids.len(), 3);
    let state = stack.until_state("the last start", |state| state["function"]["coldStarts"] == 4).await;
    assert_eq!(state["function"]["crashes"], 3);
}

#[tokio::test]
async fn a_panic_costs_no_process() {
    let stack = Stack::scripted().flag("--concurrency", "1").start().await;
    let mut client = stack.connect().await;
    client.send_json(&json!({ "do": "panic" })).await;
    assert!(client.text().await.contains("Internal server error"));
    assert_eq!(stack.state().await["function"], json!({ "coldStarts": 1, "crashes": 0, "kills": 0 }));
}

#[tokio::test]
async fn a_hung_process_is_killed_at_its_timeout() {
    let stack = Stack::scripted().flag("--concurrency", "1").flag("--function-timeout", "0.3").start().await;
    let mut client = stack.connect().await;
    client.send_json(&json!({ "do": "pid" })).await;
    let pid = client.text().await;
    client.send_json(&json!({ "after": 60_000 })).await;
    assert!(client.text().await.contains("Internal server error"));
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    client.send_json(&json!({ "do": "pid" })).await;
    assert_ne!(client.text().await, pid);
    assert_eq!(stack.state().await["function"]["kills"], 1);
}

#[tokio::test]
async fn a_process_over_its_memory_is_killed() {
    let stack = Stack::scripted().flag("--concurrency", "1").start().await;
    let mut client = stack.connect().await;
    client.send_json(&json!({ "do": "memory" })).await;
    assert!(client.text().await.contains("Internal server error"));
    until("the message", || async { stack.log().contains("over its memory limit").then_some(()) }).await;
}

#[tokio::test]
async fn a_function_that_does_not_start_is_502_at_once() {
    let stack = Stack::scripted().env("CRASH_AT_START", "1").start().await;
    let began = Instant::now();
    let Refusal { status, .. } = Client::try_connect(&stack.websocket, &[]).await.expect_err("a refusal");
    assert_eq!(status, 502);
    assert!(began.elapsed() < Duration::from_secs(10));
}

/// The environment that a function process sees.
async fn environment(stack: &Stack) -> BTreeMap<String, String> {
    let mut client = stack.connect().await;
    client.send_json(&json!({ "do": "environment" })).await;
    serde_json::from_str(&client.text().await).unwrap()
}

#[tokio::test]
async fn the_function_has_lambdas_environment() {
    let stack = Stack::scripted()
        .flag("--region", "eu-west-1")
        .env("AWS_ACCESS_KEY_ID", "given")
        .env("LANG", "de_DE.UTF-8")
        // Reserved on AWS, where a function's configuration cannot set them.
        .env("AWS_DEFAULT_REGION", "us-west-2")
        .env("AWS_EXECUTION_ENV", "AWS_Lambda_python3.13")
        .env("TZ", "Europe/Zurich")
        .env("LAMBDA_TASK_ROOT", "/elsewhere")
        .start()
        .await;
    let found = environment(&stack).await;
    let function = example("scripted_function");
    let task_root = function.parent().unwrap().to_str().unwrap();
    for (name, value) in [
        ("_HANDLER", "bootstrap"),
        ("AWS_DEFAULT_REGION", "eu-west-1"),
        ("AWS_REGION", "eu-west-1"),
        ("AWS_LAMBDA_FUNCTION_NAME", "scripted_function"),
        ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128"),
        ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST"),
        ("AWS_LAMBDA_INITIALIZATION_TYPE", "provisioned-concurrency"),
        ("AWS_LAMBDA_LOG_GROUP_NAME", "/aws/lambda/scripted_function"),
        ("LAMBDA_TASK_ROOT", task_root),
        ("LAMBDA_RUNTIME_DIR", "/var/runtime"),
        ("TZ", ":UTC"),
        ("LANG", "de_DE.UTF-8"),
        ("PATH", std::env::var("PATH").unwrap().as_str()),
        ("TABLE_NAME", "WebSocketConnections"),
        ("AWS_ENDPOINT_URL_DYNAMODB", stack.dynamodb.as_str()),
        ("AWS_ENDPOINT_URL_APIGATEWAYMANAGEMENTAPI", stack.management.as_str()),
        ("AWS_ACCESS_KEY_ID", "given"),
        // Not a variable; the function reports it with them.
        ("working directory", task_root),
    ] {
        assert_eq!(found.get(name).map(String::as_str), Some(value), "{name}");
    }
    assert!(found["BRIDGE_SECRET"].len() >= 32);
    // A date, then `[$LATEST]` and 32 hexadecimal digits.
    let (date, id) = found["AWS_LAMBDA_LOG_STREAM_NAME"].split_once("/[$LATEST]").unwrap();
    assert_eq!((date.len(), id.len()), (10, 32));
    // Only managed runtimes have it.
    assert!(!found.contains_key("AWS_EXECUTION_ENV"));
    // The runtime client sets `_X_AMZN_TRACE_ID`, from the header of each event.
    assert!(found["_X_AMZN_TRACE_ID"].starts_with("Root=1-"));
}

#[tokio::test]
async fn a_function_without_given_credentials_has_temporary_ones() {
    let mut builder = Stack::scripted();
    for name in ["AWS_ACCESS_KEY_ID", "AWS_PROFILE"] {
        builder = builder.env(name, "");
    }
    let found = environment(&builder.env("_HANDLER", "function.handler").start().await).await;
    for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"] {
        assert_eq!(found[name], "local", "{name}");
    }
    // The handler is a setting of the function.
    assert_eq!(found["_HANDLER"], "function.handler");
}

#[tokio::test]
async fn an_invoke_endpoint_works_too() {
    let endpoint = Invoke::bind().await;
    let url = endpoint.url();
    endpoint.serve(|event| async move {
        let event: Value = serde_json::from_slice(&event).unwrap();
        let body = event["body"].as_str().unwrap_or_default();
        let answer = json!({ "statusCode": 200, "body": body }).to_string();
        match body {
            "unhandled" => function_error("x"),
            // As `cargo lambda watch` reports it.
            "status" => Response::builder().status(500).body(answer.into()).unwrap(),
            _ => Response::new(answer.into()),
        }
    });
    let stack = Stack::empty().flag("--lambda-url", url).flag("--route-responses", "$default").start().await;
    let mut client = stack.connect().await;
    client.send("hello").await;
    assert_eq!(client.text().await, "hello");
    for failing in ["unhandled", "status"] {
        client.send(failing).await;
        assert!(client.text().await.contains("Internal server error"), "{failing}");
    }
}

#[tokio::test]
async fn an_invoke_endpoint_that_is_down_is_502() {
    let url = "http://127.0.0.1:1/2015-03-31/functions/f/invocations";
    let stack = Stack::empty().flag("--lambda-url", url).start().await;
    let Refusal { status, .. } = Client::try_connect(&stack.websocket, &[]).await.expect_err("a refusal");
    assert_eq!(status, 502);
    let (status, said) = Stack::empty().flag("--lambda-url", "https://127.0.0.1/x").fails();
    assert!(!status.success() && said.contains("must be an http:// URL"), "{said}");
    let (status, said) =
        Stack::empty().flag("--function", example("scripted_function").with_file_name("none")).fails();
    assert!(!status.success() && said.contains("no such file (--function)"), "{said}");
}
