//! The function by itself: size, memory, start to its first request for work, start to its first frame answered.

use std::{
    path::Path,
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use axum::{
    Router,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode},
    response::IntoResponse,
    routing::{get, post},
};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    process::{Child, Command},
    sync::{Mutex, mpsc},
    time::timeout,
};

use crate::{
    load::Exchange as _,
    process,
    socket::Socket,
    stack::{SECRETS, Stack},
    target::Target,
};

/// Starts of which the median counts.
pub const STARTS: usize = 20;
/// A start, at most.
const WITHIN: Duration = Duration::from_secs(10);

/// Figures of the function.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Figures {
    /// Bytes of the executable.
    pub binary: u64,
    /// From its start to its first `GET /invocation/next`, median, ms.
    pub ready: f64,
    /// From its start to a `pong` at the client of the frame it was started for: with an empty cache and no connection
    /// to anything; median, ms.
    pub first_frame: f64,
    /// The most resident memory of those processes, bytes.
    pub memory: u64,
}

/// Measures it, beside a stack whose backend, table and `@connections` it uses.
pub async fn measure(stack: &Stack, program: &Path) -> anyhow::Result<Figures> {
    let binary = std::fs::metadata(program)?.len();
    let mut ready = Vec::with_capacity(STARTS);
    for _ in 0..STARTS {
        ready.push(start(stack, program, Vec::new()).await?.0);
    }
    let session = Target::local(stack)?.session("/bin/cat").await?;
    let mut socket = Socket::connect(&session.url, session.insecure).await?;
    let connected: Value = serde_json::from_str(&socket.text().await?)?;
    let id = connected.get("connectionId").and_then(Value::as_str).context("no connectionId")?.to_owned();
    let (mut first_frame, mut memory) = (Vec::with_capacity(STARTS), 0);
    for number in 0..STARTS {
        let event = event(&id, number);
        let begun = Instant::now();
        let (_, child) = start(stack, program, event).await?;
        let number = format!("\"echo\":{number}}}");
        while !timeout(WITHIN, socket.text()).await.context("the first frame")??.contains(&number) {}
        first_frame.push(begun.elapsed());
        memory = memory.max(child.id().map_or(0, process::most_resident));
    }
    Ok(Figures { binary, ready: median_ms(ready), first_frame: median_ms(first_frame), memory })
}

/// Starts it at a Runtime API that has one event for it, or none, and waits until it asks.
async fn start(stack: &Stack, program: &Path, event: Vec<u8>) -> anyhow::Result<(Duration, Child)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    let (asked, mut asking) = mpsc::channel(8);
    let api =
        Arc::new(RuntimeApi { event: Mutex::new(Some(event).filter(|event| !event.is_empty())), asked });
    let app = Router::new()
        .route("/2018-06-01/runtime/invocation/next", get(next))
        .route("/2018-06-01/runtime/invocation/{id}/{verb}", post(|| async { StatusCode::ACCEPTED }))
        .with_state(api);
    tokio::spawn(axum::serve(listener, app).into_future());
    let begun = Instant::now();
    let mut child = Command::new(program)
        .env_clear()
        .envs(SECRETS)
        .env("PATH", "/usr/bin:/bin")
        .env("AWS_LAMBDA_RUNTIME_API", address)
        .env("AWS_LAMBDA_FUNCTION_NAME", "bench")
        .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128")
        .env("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST")
        .env("AWS_LAMBDA_LOG_GROUP_NAME", "bench")
        .env("AWS_LAMBDA_LOG_STREAM_NAME", "bench")
        .env("AWS_REGION", "us-east-1")
        .env("AWS_ACCESS_KEY_ID", "local")
        .env("AWS_SECRET_ACCESS_KEY", "local")
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env("ALLOWED_ORIGINS", "http://127.0.0.1")
        .env("BACKEND_URL", stack.page.trim_end_matches('/'))
        .env("AWS_ENDPOINT_URL_DYNAMODB", &stack.dynamodb)
        .env("AWS_ENDPOINT_URL_APIGATEWAYMANAGEMENTAPI", &stack.management)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("starting {}", program.display()))?;
    tokio::select! {
        at = timeout(WITHIN, asking.recv()) => {
            let at: Instant = at.context("the function did not ask for work")?.context("no Runtime API")?;
            Ok((at - begun, child))
        }
        status = child.wait() => anyhow::bail!("the function ended: {}", status?),
    }
}

/// The Lambda Runtime API (Lambda Developer Guide, *runtimes-api*), of one process and at most one event.
struct RuntimeApi {
    event: Mutex<Option<Vec<u8>>>,
    asked: mpsc::Sender<Instant>,
}

async fn next(State(api): State<Arc<RuntimeApi>>) -> impl IntoResponse {
    let _no_longer_of_interest = api.asked.try_send(Instant::now());
    let Some(event) = api.event.lock().await.take() else { return std::future::pending().await };
    let deadline = unix_ms() + 29_000;
    let mut headers = HeaderMap::new();
    headers.insert(
        "lambda-runtime-aws-request-id",
        HeaderValue::from_static("8476a536-e9f4-11e8-9739-2dfe598c3fcd"),
    );
    headers.insert("lambda-runtime-deadline-ms", HeaderValue::from(deadline));
    headers.insert(
        "lambda-runtime-invoked-function-arn",
        HeaderValue::from_static("arn:aws:lambda:us-east-1:000000000000:function:bench"),
    );
    headers.insert("content-type", HeaderValue::from_static("application/json"));
    (headers, event)
}

/// A `ping` as API Gateway hands it over (Developer Guide, *apigateway-websocket-api-integration-requests*).
fn event(connection_id: &str, number: usize) -> Vec<u8> {
    let now = unix_ms();
    let event = json!({
        "requestContext": {
            "routeKey": "$default", "messageId": format!("bench{number}="), "eventType": "MESSAGE",
            "extendedRequestId": "bench=", "requestTime": "09/Feb/2024:18:11:43 +0000", "messageDirection": "IN",
            "stage": "prod", "connectedAt": now, "requestTimeEpoch": now,
            "identity": {"sourceIp": "127.0.0.1"}, "requestId": format!("bench{number}="),
            "domainName": "bench.execute-api.us-east-1.amazonaws.com", "connectionId": connection_id, "apiId": "bench",
        },
        "body": format!(r#"{{"type":"ping","timestamp":{number}}}"#),
        "isBase64Encoded": false,
    });
    event.to_string().into_bytes()
}

fn unix_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

fn median_ms(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times.get(times.len() / 2).map_or(f64::NAN, |time| time.as_secs_f64() * 1e3)
}

/// What one frame makes happen, by the counters of gateway and backend.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PerFrame {
    /// Requests to the backend.
    pub backend_calls: f64,
    /// Reads of `DynamoDB`, once every process has the record.
    pub dynamodb_reads: f64,
    /// Posts to `@connections`.
    pub pushes: f64,
}

/// Frames that are counted.
const FRAMES: u32 = 500;

/// Counts it for pings on one connection.
pub async fn per_frame(stack: &Stack) -> anyhow::Result<PerFrame> {
    use crate::exchange::{Asker, Kind};
    let session = Target::local(stack)?.session("/bin/cat").await?;
    let mut asker = Asker::connect(&session, Kind::Ping).await?;
    // All processes have the record then: API Gateway's stand-in hands frames to whoever has waited longest.
    for _ in 0..FRAMES {
        asker.exchange().await?;
    }
    let before = counted(stack).await?;
    for _ in 0..FRAMES {
        asker.exchange().await?;
    }
    let after = counted(stack).await?;
    let each = |index: usize| {
        let at = |counts: &[f64; 4]| counts.get(index).copied().unwrap_or_default();
        (at(&after) - at(&before)) / (after[0] - before[0])
    };
    ensure!((after[0] - before[0] - f64::from(FRAMES)).abs() < 0.5, "other frames came in between");
    Ok(PerFrame { backend_calls: each(1), dynamodb_reads: each(2), pushes: each(3) })
}

/// Frames, calls of the backend, reads, pushes.
async fn counted(stack: &Stack) -> anyhow::Result<[f64; 4]> {
    let state = stack.state().await?;
    let sum = |pointer: &str, wanted: &dyn Fn(&str) -> bool| {
        let counts = state.pointer(pointer).and_then(Value::as_object).into_iter().flatten();
        counts.filter(|(name, _)| wanted(name)).filter_map(|(_, count)| count.as_f64()).sum::<f64>()
    };
    let calls = stack.backend_metric("shellbridge_request_seconds_count", &["/api/ws/"]).await?;
    Ok([
        sum("/invocations", &|route| route == "$default"),
        calls,
        sum("/dynamodb", &|operation| matches!(operation, "GetItem" | "BatchGetItem" | "Query" | "Scan")),
        sum("/pushes", &|_| true),
    ])
}
