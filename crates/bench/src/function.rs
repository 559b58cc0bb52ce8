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
    exchange::{Asker, Kind},
    load::Exchange as _,
    process,
    report::print_table,
    socket::Socket,
    stack::{Programs, SECRETS, Stack, at_rest},
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

/// What one frame makes happen, by what the gateway's `/__state` counted: requests as they came to it, not as the
/// function or the backend says.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PerFrame {
    /// Requests to the backend.
    pub backend_calls: f64,
    /// Reads of `DynamoDB`, once the process has the record.
    pub dynamodb_reads: f64,
    /// Posts to `@connections`.
    pub pushes: f64,
}

/// Frames before that.
const WARM: u32 = 20;
/// Frames that are counted.
const FRAMES: u32 = 500;
/// Those of `DynamoDB`'s operations that read.
const READS: [&str; 6] = ["GetItem", "BatchGetItem", "Query", "Scan", "TransactGetItems", "ExecuteStatement"];

/// Counts it for pings on one connection, in a stack of its own: the relay that counts the backend's calls takes time,
/// which elsewhere is measured.
pub async fn per_frame(programs: &Programs) -> anyhow::Result<PerFrame> {
    // One process, so that after the first frames none is left that has yet to read the record.
    let stack = programs.stack().flag("--count-backend-calls", "").flag("--concurrency", "1").start().await?;
    let session = Target::local(&stack)?.session("/bin/cat").await?;
    let mut asker = Asker::connect(&session, Kind::Ping).await?;
    for _ in 0..WARM {
        asker.exchange().await?;
    }
    let before = at_rest(async || Counted::now(&stack).await).await?;
    for _ in 0..FRAMES {
        asker.exchange().await?;
    }
    let after = at_rest(async || Counted::now(&stack).await).await?;
    let frames = after.frames - before.frames;
    ensure!(frames == u64::from(FRAMES), "other frames came in between");
    #[allow(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
    let each = |count: fn(&Counted) -> u64| (count(&after) - count(&before)) as f64 / frames as f64;
    Ok(PerFrame {
        backend_calls: each(|counted| counted.backend_calls),
        dynamodb_reads: each(|counted| counted.dynamodb_reads),
        pushes: each(|counted| counted.pushes),
    })
}

/// What the gateway has counted so far.
#[derive(PartialEq)]
struct Counted {
    frames: u64,
    backend_calls: u64,
    dynamodb_reads: u64,
    pushes: u64,
}

impl Counted {
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

/// The counts, and which of the gateway's they are.
pub fn print_per_frame(per_frame: &PerFrame) {
    let PerFrame { backend_calls, dynamodb_reads, pushes } = *per_frame;
    let head = ["of one frame", "count", "of /__state"].map(str::to_owned);
    let lines = [
        ("calls of the backend", backend_calls, "backendCalls"),
        ("reads of DynamoDB, record cached", dynamodb_reads, "dynamodb"),
        ("pushes", pushes, "pushes"),
    ];
    let lines =
        lines.map(|(what, count, name)| vec![what.to_owned(), format!("{count:.3}"), name.to_owned()]);
    print_table(&head, &lines);
}
