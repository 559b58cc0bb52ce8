//! One line an invocation: what happened, and the metrics in `CloudWatch`'s embedded metric format.

use std::{
    io::Write,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde_json::{Map, Value, json};
use tokio::time::Instant;

use crate::{
    deadline::now_ms,
    event::{Invocation, Route},
};

/// What one invocation did. Holds no token and nothing that a user typed.
#[derive(Debug)]
pub(crate) struct Tally {
    started: Instant,
    request_id: String,
    route: Option<Route>,
    connection_id: Option<String>,
    /// Known once the token or the record is.
    session_id: Option<String>,
    /// How it ended, in one word of ours.
    pub(crate) outcome: &'static str,
    /// The size of the client's frame.
    pub(crate) bytes_in: usize,
    /// The size of what was posted to the client.
    pub(crate) bytes_out: usize,
    /// How long the backend took, repeats included.
    pub(crate) backend: Option<Duration>,
    /// How long posting took, repeats included.
    pub(crate) push: Option<Duration>,
    /// Requests sent again.
    pub(crate) retries: u32,
}

impl Tally {
    pub(crate) fn start(request_id: &str) -> Self {
        Self {
            started: Instant::now(),
            request_id: request_id.to_owned(),
            route: None,
            connection_id: None,
            session_id: None,
            outcome: "ok",
            bytes_in: 0,
            bytes_out: 0,
            backend: None,
            push: None,
            retries: 0,
        }
    }

    pub(crate) fn is_of(&mut self, route: Route, invocation: &Invocation) {
        self.route = Some(route);
        self.connection_id = Some(invocation.connection_id.clone());
    }

    /// Names the session, here and on every later log line of the invocation.
    pub(crate) fn is_about(&mut self, session_id: &str) {
        tracing::Span::current().record("session_id", session_id);
        self.session_id = Some(session_id.to_owned());
    }
}

/// Writes tallies to where the Lambda service takes logs from, and `CloudWatch` the metrics in them.
pub(crate) struct Metrics {
    namespace: String,
    out: Mutex<Box<dyn Write + Send>>,
    warm: AtomicBool,
}

impl Metrics {
    pub(crate) fn new(namespace: String, out: impl Write + Send + 'static) -> Self {
        Self { namespace, out: Mutex::new(Box::new(out)), warm: AtomicBool::new(false) }
    }

    pub(crate) fn emit(&self, tally: &Tally) {
        let cold = !self.warm.swap(true, Ordering::Relaxed);
        // One write a line, so that none is mixed into another. A line that cannot be written must not fail
        // the frame.
        let line = format!("{}\n", line(&self.namespace, tally, cold));
        let _ = self.out.lock().unwrap_or_else(PoisonError::into_inner).write_all(line.as_bytes());
    }
}

fn line(namespace: &str, tally: &Tally, cold: bool) -> Value {
    let mut metrics = Map::new();
    let ms = |duration: Duration| json!((duration.as_secs_f64() * 1e6).round() / 1e3);
    metrics.insert("DurationMs".into(), ms(tally.started.elapsed()));
    match tally.route {
        Some(Route::Connect) if tally.outcome == "ok" => metrics.insert("Connects".into(), json!(1)),
        Some(Route::Connect) => metrics.insert("Refusals".into(), json!(1)),
        Some(Route::Message) => {
            metrics.insert("BytesIn".into(), json!(tally.bytes_in));
            metrics.insert("BytesOut".into(), json!(tally.bytes_out));
            metrics.insert("Frames".into(), json!(1))
        }
        Some(Route::Disconnect) => metrics.insert("Disconnects".into(), json!(1)),
        None => metrics.insert("MalformedEvents".into(), json!(1)),
    };
    for (name, duration) in [("BackendMs", tally.backend), ("PushMs", tally.push)] {
        if let Some(duration) = duration {
            metrics.insert(name.into(), ms(duration));
        }
    }
    if tally.retries > 0 {
        metrics.insert("Retries".into(), json!(tally.retries));
    }
    if cold {
        metrics.insert("ColdStarts".into(), json!(1));
    }
    let unit = |name: &str| match name {
        name if name.ends_with("Ms") => "Milliseconds",
        name if name.starts_with("Bytes") => "Bytes",
        _ => "Count",
    };
    let named: Vec<Value> = metrics.keys().map(|name| json!({ "Name": name, "Unit": unit(name) })).collect();
    // Latencies by route alone: each further dimension is a further metric that is paid for.
    let directives = json!([
        { "Namespace": namespace, "Dimensions": [["Route"]], "Metrics": named },
        { "Namespace": namespace, "Dimensions": [["Route", "Outcome"]],
          "Metrics": [{ "Name": "Invocations", "Unit": "Count" }] },
    ]);
    metrics.extend([
        ("Invocations".into(), json!(1)),
        ("Route".into(), json!(tally.route.map_or("none", Route::key))),
        ("Outcome".into(), json!(tally.outcome)),
        ("request_id".into(), json!(tally.request_id)),
        ("connection_id".into(), json!(tally.connection_id)),
        ("session_id".into(), json!(tally.session_id)),
        ("_aws".into(), json!({ "Timestamp": now_ms(), "CloudWatchMetrics": directives })),
    ]);
    Value::Object(metrics)
}
