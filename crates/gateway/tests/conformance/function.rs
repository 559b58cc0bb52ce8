//! The function service: Runtime API for real processes, and Invoke endpoints elsewhere.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use shellbridge_gateway::clock::now_ms;

use crate::support::{Client, Refusal, Stack, example, until};

#[tokio::test]
async fn the_deadline_is_true() {
    let stack = Stack::scripted().flag("--function-timeout", "7").start().await;
    let mut client = stack.connect().await;
    let before = now_ms();
    client.send_json(&json!({ "do": "context" })).await;
    let context = client.json().await;
    let deadline = context["deadline"].as_u64().unwrap();
    assert!((before + 7000..=now_ms() + 7000).contains(&deadline));
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
    // What nobody waits for any more is not handed out later.
    assert!(busy.text().await.contains("Internal server error"));
    // The queue is in order: had it been kept, it would be handed out before one that is answered.
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
async fn a_crashed_process_is_started_again() {
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
    until("the message", || async { stack.log().contains("over its memory").then_some(()) }).await;
}

#[tokio::test]
async fn a_function_that_does_not_start_is_502_at_once() {
    let stack = Stack::scripted().env("CRASH_AT_START", "1").start().await;
    let began = Instant::now();
    let Refusal { status, .. } = Client::try_connect(&stack.websocket, &[]).await.expect_err("a refusal");
    assert_eq!(status, 502);
    assert!(began.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn the_function_has_lambdas_environment() {
    let stack = Stack::scripted().env("AWS_ACCESS_KEY_ID", "given").start().await;
    let mut client = stack.connect().await;
    for (name, value) in [
        ("AWS_LAMBDA_FUNCTION_NAME", "scripted_function"),
        ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128"),
        ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST"),
        ("TABLE_NAME", "WebSocketConnections"),
        ("AWS_ENDPOINT_URL_DYNAMODB", stack.dynamodb.as_str()),
        ("AWS_ENDPOINT_URL_APIGATEWAYMANAGEMENTAPI", stack.management.as_str()),
        ("AWS_ACCESS_KEY_ID", "given"),
    ] {
        client.send_json(&json!({ "do": "env", "name": name })).await;
        assert_eq!(client.text().await, value, "{name}");
    }
    client.send_json(&json!({ "do": "env", "name": "BRIDGE_SECRET" })).await;
    assert!(client.text().await.len() >= 32);
}

/// An Invoke endpoint as `cargo lambda watch` has one.
async fn invoke_endpoint() -> String {
    use http_body_util::{BodyExt as _, Full};
    use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let service = service_fn(|request: Request<Incoming>| async {
                assert_eq!(request.uri().path(), "/2015-03-31/functions/f/invocations");
                let event = request.into_body().collect().await.unwrap().to_bytes();
                let event: Value = serde_json::from_slice(&event).unwrap();
                let body = event["body"].as_str().unwrap_or_default();
                let answer = match body {
                    "unhandled" => Response::builder()
                        .header("X-Amz-Function-Error", "Unhandled")
                        .body(json!({ "errorMessage": "x" }).to_string()),
                    "status" => {
                        Response::builder().status(500).body(json!({ "statusCode": 200 }).to_string())
                    }
                    _ => Response::builder().body(json!({ "statusCode": 200, "body": body }).to_string()),
                };
                Ok::<_, std::convert::Infallible>(answer.unwrap().map(Full::<bytes::Bytes>::from))
            });
            tokio::spawn(
                http1::Builder::new().serve_connection(hyper_util::rt::TokioIo::new(stream), service),
            );
        }
    });
    format!("http://{address}/2015-03-31/functions/f/invocations")
}

#[tokio::test]
async fn an_invoke_endpoint_serves_as_well() {
    let url = invoke_endpoint().await;
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
