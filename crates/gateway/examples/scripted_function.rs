//! A function that follows the test's script: the query at `$connect`, the body of each message.
//!
//! It uses the real `lambda_runtime`. It first appends each event to the file that `EVENT_LOG` names.

#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::{collections::BTreeMap, io::Write as _, time::Duration};

use lambda_runtime::{Error, LambdaEvent, service_fn};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    if std::env::var_os("CRASH_AT_START").is_some() {
        std::process::exit(3);
    }
    lambda_runtime::run(service_fn(handle)).await
}

async fn handle(event: LambdaEvent<Value>) -> Result<Value, Error> {
    let (event, context) = event.into_parts();
    log(&event);
    let script = match event["requestContext"]["eventType"].as_str() {
        Some("CONNECT") => event["queryStringParameters"].clone(),
        Some("MESSAGE") => {
            let body = event["body"].as_str().unwrap_or_default();
            match serde_json::from_str(body) {
                Ok(Value::Object(script)) => Value::Object(script),
                _ => json!({ "do": "echo" }),
            }
        }
        _ => return Ok(json!({ "statusCode": 200 })),
    };
    let number = |name: &str| match &script[name] {
        Value::String(text) => text.parse().ok(),
        value => value.as_u64(),
    };
    let status = number("status").unwrap_or(200);
    // A handshake has no body.
    let body = event["body"].as_str().or(script["text"].as_str()).unwrap_or_default().to_owned();
    let ok = |body: String| Ok(json!({ "statusCode": status, "body": body }));
    if let Some(ms) = number("after") {
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }
    match script["do"].as_str().unwrap_or("answer") {
        "answer" => match script["protocol"].as_str() {
            Some(protocol) => {
                Ok(json!({ "statusCode": status, "headers": { "Sec-WebSocket-Protocol": protocol } }))
            }
            None => ok(body),
        },
        "echo" => ok(body),
        "event" => ok(event.to_string()),
        "pid" => ok(std::process::id().to_string()),
        "environment" => {
            let mut variables: BTreeMap<String, String> = std::env::vars().collect();
            variables.insert("working directory".to_owned(), std::env::current_dir()?.display().to_string());
            ok(json!(variables).to_string())
        }
        "env" => ok(std::env::var(script["name"].as_str().unwrap_or_default()).unwrap_or_default()),
        "context" => ok(json!({
            "deadline": context.deadline,
            "requestId": context.request_id,
            "arn": context.invoked_function_arn,
            "memory": context.env_config.memory,
            "trace": context.xray_trace_id,
        })
        .to_string()),
        "error" => Err("asked to fail".into()),
        "panic" => panic!("asked to panic"),
        "exit" => std::process::exit(7),
        "malformed" => Ok(json!({ "status": "fine" })),
        "memory" => {
            let hog = vec![1_u8; 512 * 1024 * 1024];
            tokio::time::sleep(Duration::from_mins(1)).await;
            ok(hog.len().to_string())
        }
        "push" => {
            let id = event["requestContext"]["connectionId"].as_str().unwrap_or_default();
            let pushed = push(id, script["text"].as_str().unwrap_or_default()).await?;
            log(&json!({ "pushed": pushed }));
            ok(pushed.to_string())
        }
        other => Err(format!("no such script: {other}").into()),
    }
}

fn log(value: &Value) {
    let Some(path) = std::env::var_os("EVENT_LOG") else { return };
    let opened = std::fs::OpenOptions::new().append(true).create(true).open(path);
    // One write per line, so that processes do not interleave.
    opened.unwrap().write_all(format!("{value}\n").as_bytes()).unwrap();
}

/// `PostToConnection` by hand; returns the status.
async fn push(id: &str, text: &str) -> Result<u16, Error> {
    let endpoint = std::env::var("AWS_ENDPOINT_URL_APIGATEWAYMANAGEMENTAPI")?;
    let (host, stage) = endpoint.trim_start_matches("http://").split_once('/').unwrap_or_default();
    let mut stream = TcpStream::connect(host).await?;
    let request = format!(
        "POST /{stage}/@connections/{id} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}",
        text.len()
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer.split(' ').nth(1).unwrap_or_default().parse()?)
}
