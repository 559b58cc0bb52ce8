//! The function alone: size, memory, time from start to the first poll and to the first answered frame.

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
use shellbridge_protocol::{ids::ConnectionId, times::UnixMs};
use tokio::{
    net::TcpListener,
    process::{Child, Command},
    sync::{Mutex, mpsc},
    time::timeout,
};

use crate::{
    exchange::{FrameClient, Kind},
    load::Exchange as _,
    process,
    report::{median, print_table},
    socket::Socket,
    stack::{Programs, SECRETS, Stack, at_rest},
    target::Target,
};

/// Starts measured; the result is the median.
pub const STARTS: usize = 20;
/// Timeout of a start.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Figures of the function.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Figures {
    /// Bytes of the executable.
    pub binary: u64,
    /// Time from start to the first `GET /invocation/next`, median, ms.
    pub ready: f64,
    /// Time from start to the client's `pong` for the first frame, with an empty cache and no open connection; median, ms.
    pub first_frame: f64,
    /// Peak resident memory of those processes, bytes.
    pub memory: u64,
}

/// Measures the function against a stack's backend, table and `@connections`.
pub async fn measure(stack: &Stack, program: &Path) -> anyhow::Result<Figures> {
    let binary = std::fs::metadata(program)?.len();
    let mut ready = Vec::with_capacity(STARTS);
    for _ in 0..STARTS {
        ready.push(start(stack, program, Vec::new()).await?.0);
    }
    let session = Target::local(stack)?.session("/bin/cat").await?;
    let mut socket = Socket::connect(&session.url, session.insecure).await?;
    let connected: Value = serde_json::from_str(&socket.text().await?)?;
    let id = connected.get("connectionId").and_then(Value::as_str).context("no connectionId")?.into();
    let (mut first_frame, mut memory) = (Vec::with_capacity(STARTS), 0);
    for number in 0..STARTS {
        let event = event(&id, number);
        let begun = Instant::now();
        let (_, child) = start(stack, program, event).await?;
        let number = format!("\"echo\":{number}}}");
        while !timeout(TIMEOUT, socket.text()).await.context("the first frame")??.contains(&number) {}
        first_frame.push(begun.elapsed());
        memory = memory.max(child.id().map_or(0, process::most_resident));
    }
    Ok(Figures { binary, ready: median_ms(ready), first_frame: median_ms(first_frame), memory })
}

/// Starts the function at a Runtime API with one event or none, and waits for its first poll.
async fn start(stack: &Stack, program: &Path, event: Vec<u8>) -> anyhow::Result<(Duration, Child)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    let (polled, mut polls) = mpsc::channel(8);
    let api =
        Arc::new(RuntimeApi { event: Mutex::new(Some(event).filter(|event| !event.is_empty())), polled });
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
        at = timeout(TIMEOUT, polls.recv()) => {
            let at: Instant = at.context("the function did not ask for work")?.context("no Runtime API")?;
            Ok((at - begun, child))
        }
        status = child.wait() => anyhow::bail!("the function ended: {}", status?),
    }
}

/// A Lambda Runtime API (Lambda Developer Guide, *runtimes-api*) for one process and at most one event.
struct RuntimeApi {
    event: Mutex<Option<Vec<u8>>>,
    polled: mpsc::Sender<Instant>,
}

async fn next(State(api): State<Arc<RuntimeApi>>) -> impl IntoResponse {
    let _ignored = api.polled.try_send(Instant::now());
    let Some(event) = api.event.lock().await.take() else { return std::future::pending().await };
    let deadline = unix_ms().saturating_add(Duration::from_secs(29));
    let mut headers = HeaderMap::new();
    headers.insert(
        "lambda-runtime-aws-request-id",
        HeaderValue::from_static("8476a536-e9f4-11e8-9739-2dfe598c3fcd"),
    );
    headers.insert("lambda-runtime-deadline-ms", HeaderValue::from(deadline.0));
    headers.insert(
        "lambda-runtime-invoked-function-arn",
        HeaderValue::from_static("arn:aws:lambda:us-east-1:000000000000:function:bench"),
    );
    headers.insert("content-type", HeaderValue::from_static("application/json"));
    (headers, event)
}

/// API Gateway's event for a `ping` (Developer Guide, *apigateway-websocket-api-integration-requests*).
fn event(connection_id: &ConnectionId, number: usize) -> Vec<u8> {
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

fn unix_ms() -> UnixMs {
    std::time::SystemTime::now().into()
}

fn median_ms(times: Vec<Duration>) -> f64 {
    median(times.into_iter().map(|time| time.as_secs_f64() * 1e3).collect())
}

/// Requests caused by one frame, as the gateway counts them in `/__state`, independent of function and backend.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PerFrame {
    /// Requests to the backend.
    pub backend_calls: f64,
    /// Reads of `DynamoDB`, with the record cached.
    pub dynamodb_reads: f64,
    /// Posts to `@connections`.
    pub pushes: f64,
}

/// Warm-up frames.
const WARM: u32 = 20;
/// Frames measured.
const FRAMES: u32 = 500;
/// `DynamoDB`'s read operations.
const READS: [&str; 6] = ["GetItem", "BatchGetItem", "Query", "Scan", "TransactGetItems", "ExecuteStatement"];

/// Counts the requests of pings on one connection. Starts a separate stack, because the relay that counts backend calls
/// would distort the latencies measured elsewhere.
pub async fn per_frame(programs: &Programs) -> anyhow::Result<PerFrame> {
    // With one process, the record is cached after the first frame.
    let stack = programs.stack().flag("--count-backend-calls", "").flag("--concurrency", "1").start().await?;
    let session = Target::local(&stack)?.session("/bin/cat").await?;
    let mut client = FrameClient::connect(&session, Kind::Ping).await?;
    for _ in 0..WARM {
        client.exchange().await?;
    }
    let before = at_rest(async || Counters::now(&stack).await).await?;
    for _ in 0..FRAMES {
        client.exchange().await?;
    }
    let after = at_rest(async || Counters::now(&stack).await).await?;
    let frames = after.frames - before.frames;
    ensure!(frames == u64::from(FRAMES), "other frames came in between");
    #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
    let each = |count: fn(&Counters) -> u64| (count(&after) - count(&before)) as f64 / frames as f64;
    Ok(PerFrame {
        backend_calls: each(|counted| counted.backend_calls),
        dynamodb_reads: each(|counted| counted.dynamodb_reads),
        pushes: each(|counted| counted.pushes),
    })
}

/// The gateway's counters.
#[derive(PartialEq)]
struct Counters {
    frames: u64,
    backend_calls: u64,
    dynamodb_reads: u64,
    pushes: u64,
}

impl Counters {
    async fn now(stack: &Stack) -> anyhow::Result<Self> {
        let state = stack.state().await?;
        let sum = |name: &str, wanted: &dyn Fn(&str) -> bool| {
            let counts = state.get(name).and_then(Value::as_object);
            let counts = counts.with_context(|| format!("the gateway's /__state has no {name}"))?;
            let wanted = counts.iter().filter(|(name, _)| wanted(name));
            anyhow::Ok(wanted.filter_map(|(_, count)| count.as_u64()).sum())
        };
        Ok(Self {
            frames: sum("invocations", &|route| route == "$default")?,
            backend_calls: sum("backendCalls", &|_| true)?,
            dynamodb_reads: sum("dynamodb", &|operation| READS.contains(&operation))?,
            pushes: sum("pushes", &|_| true)?,
        })
    }
}

/// Prints the counts and the names of the gateway's counters.
pub fn print_per_frame(per_frame: &PerFrame) {
    let PerFrame { backend_calls, dynamodb_reads, pushes } = *per_frame;
    let head = ["per frame", "count", "in /__state"].map(str::to_owned);
    let lines = [
        ("calls of the backend", backend_calls, "backendCalls"),
        ("reads of DynamoDB, record cached", dynamodb_reads, "dynamodb"),
        ("pushes", pushes, "pushes"),
    ];
    let lines =
        lines.map(|(what, count, name)| vec![what.to_owned(), format!("{count:.3}"), name.to_owned()]);
    print_table(&head, &lines);
}
