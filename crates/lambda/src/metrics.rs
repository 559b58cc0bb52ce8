//! One log line per invocation, with metrics in `CloudWatch`'s embedded metric format (EMF).
//!
//! `CloudWatch` bills logs by the byte, and a line for each successful key would be a tenth of the cost of typing. So the
//! numbers of such frames are batched into one EMF line, and single lines appear only at `LOG_LEVEL=debug`. A process
//! that stops loses its current batch.

use std::{io::Write, mem, time::Duration};

use parking_lot::Mutex;
use serde::Serialize;
use serde_json::{Value, json};
use shellbridge_protocol::ids::{ConnectionId, SessionId};
use tokio::time::Instant;

use crate::{
    deadline::unix_ms,
    event::{Invocation, Route},
};

/// Statistics of one invocation. Holds no token and no user input.
#[derive(Debug)]
pub(crate) struct InvocationStats {
    started: Instant,
    request_id: String,
    route: Option<Route>,
    connection_id: Option<ConnectionId>,
    /// Set once the token or the record is read.
    session_id: Option<SessionId>,
    /// `ok`, or the cause of a failure.
    pub(crate) outcome: &'static str,
    /// Size of the client's frame.
    pub(crate) bytes_in: usize,
    /// Size of all frames posted to the client.
    pub(crate) bytes_out: usize,
    /// Duration of backend requests, including retries.
    pub(crate) backend: Option<Duration>,
    /// Duration of posts, including retries.
    pub(crate) push: Option<Duration>,
    /// Retried requests.
    pub(crate) retries: u32,
    /// Responses to requests that the backend's load balancer gave to an instance without the session.
    pub(crate) hops: u32,
}

impl InvocationStats {
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
            hops: 0,
        }
    }

    pub(crate) fn set_route(&mut self, route: Route, invocation: &Invocation) {
        self.route = Some(route);
        self.connection_id = Some(invocation.connection_id.clone());
    }

    /// Sets the session, here and in the invocation's log span.
    pub(crate) fn set_session(&mut self, session_id: &SessionId) {
        tracing::Span::current().record("session_id", session_id.as_str());
        self.session_id = Some(session_id.clone());
    }

    pub(crate) const fn session(&self) -> Option<&SessionId> {
        self.session_id.as_ref()
    }
}

/// Most values of one metric in an EMF line (`CloudWatch` User Guide, "Specification: Embedded metric format").
const MAX_VALUES: usize = 100;
/// Interval between batches while frames arrive: one data point in `CloudWatch`.
const FLUSH_EVERY: Duration = Duration::from_mins(1);

/// Writes log lines, from which `CloudWatch` extracts the metrics.
pub(crate) struct Metrics {
    namespace: String,
    /// Whether successful frames have lines too.
    each_frame: bool,
    state: Mutex<State>,
}

struct State {
    out: Box<dyn Write + Send>,
    warm: bool,
    /// Time of the last EMF line about frames.
    flushed: Option<Instant>,
    batch: Batch,
}

/// The numbers of several frames, by metric.
#[derive(Default, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Batch {
    frames: u64,
    invocations: u64,
    #[serde(skip_serializing_if = "is_zero")]
    retries: u64,
    #[serde(skip_serializing_if = "is_zero")]
    hops: u64,
    bytes_in: Vec<usize>,
    bytes_out: Vec<usize>,
    duration_ms: Vec<f64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    backend_ms: Vec<f64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    push_ms: Vec<f64>,
}

impl Metrics {
    pub(crate) fn new(namespace: String, each_frame: bool, out: impl Write + Send + 'static) -> Self {
        let state = State { out: Box::new(out), warm: false, flushed: None, batch: Batch::default() };
        Self { namespace, each_frame, state: Mutex::new(state) }
    }

    pub(crate) fn emit(&self, stats: &InvocationStats) {
        let mut state = self.state.lock();
        let cold = !mem::replace(&mut state.warm, true);
        let mut line = Line::new(stats, cold);
        let waited = state.flushed.is_none_or(|flushed| flushed.elapsed() >= FLUSH_EVERY);
        let routine = stats.route == Some(Route::Message) && stats.outcome == "ok" && !cold;
        if routine && !(waited && state.batch.frames == 0) {
            state.batch.add(&line);
        } else {
            line.metrics = Some(LineMetrics { count: Count::of(stats), invocations: 1 });
        }
        let full = state.batch.duration_ms.len() >= MAX_VALUES;
        // After anything but a routine frame, the next invocation may be far away.
        let due = state.batch.frames > 0 && (waited || full || !routine);
        let batch = due.then(|| mem::take(&mut state.batch));
        if due || (routine && line.metrics.is_some()) {
            state.flushed = Some(Instant::now());
        }
        if line.metrics.is_some() {
            state.write(&self.with_emf(&line));
        } else if self.each_frame {
            state.write(&line);
        }
        if let Some(metrics) = batch {
            let line = BatchLine { route: Route::Message.key(), outcome: "ok", metrics };
            state.write(&self.with_emf(&line));
        }
    }

    /// The line with EMF's directives, which declare its numbers as metrics.
    fn with_emf(&self, line: &impl Serialize) -> Value {
        // Infallible: all keys are strings.
        let mut line = serde_json::to_value(line).unwrap_or_default();
        let metrics: Vec<Value> = line
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(name, value)| (value.is_number() || value.is_array()) && *name != "Invocations")
            .map(|(name, _)| json!({ "Name": name, "Unit": unit(name) }))
            .collect();
        // Latencies have one dimension, the route: CloudWatch bills each combination of dimensions as a metric.
        let directives = json!([
            { "Namespace": self.namespace, "Dimensions": [["Route"]], "Metrics": metrics },
            { "Namespace": self.namespace, "Dimensions": [["Route", "Outcome"]],
              "Metrics": [{ "Name": "Invocations", "Unit": "Count" }] },
        ]);
        if let Some(line) = line.as_object_mut() {
            let aws = json!({ "Timestamp": unix_ms(), "CloudWatchMetrics": directives });
            line.insert("_aws".to_owned(), aws);
        }
        line
    }
}

impl State {
    /// Writes a line at once, so that lines do not interleave. A failing write must not fail the frame.
    fn write(&mut self, line: &impl Serialize) {
        if let Ok(mut line) = serde_json::to_vec(line) {
            line.push(b'\n');
            let _ = self.out.write_all(&line);
        }
    }
}

fn unit(metric: &str) -> &'static str {
    match metric {
        name if name.ends_with("Ms") => "Milliseconds",
        name if name.starts_with("Bytes") => "Bytes",
        _ => "Count",
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde requires")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// The line of one invocation. Omits members that do not apply.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Line<'a> {
    route: &'static str,
    outcome: &'static str,
    #[serde(rename = "request_id")]
    request_id: &'a str,
    #[serde(rename = "connection_id")]
    connection_id: Option<&'a str>,
    #[serde(rename = "session_id")]
    session_id: Option<&'a str>,
    duration_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    backend_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    push_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes_in: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes_out: Option<usize>,
    #[serde(skip_serializing_if = "is_zero")]
    retries: u64,
    #[serde(skip_serializing_if = "is_zero")]
    hops: u64,
    #[serde(skip_serializing_if = "is_zero")]
    cold_starts: u64,
    #[serde(flatten)]
    metrics: Option<LineMetrics>,
}

/// The counters of a line that is also EMF.
#[derive(Serialize)]
struct LineMetrics {
    #[serde(flatten)]
    count: Count,
    #[serde(rename = "Invocations")]
    invocations: u8,
}

/// Serialized as `{"Frames": 1}` and the like.
#[derive(Serialize)]
enum Count {
    Connects(u8),
    Refusals(u8),
    Frames(u8),
    Disconnects(u8),
    MalformedEvents(u8),
}

/// An EMF line for a batch of frames.
#[derive(Serialize)]
struct BatchLine {
    #[serde(rename = "Route")]
    route: &'static str,
    #[serde(rename = "Outcome")]
    outcome: &'static str,
    #[serde(flatten)]
    metrics: Batch,
}

impl<'a> Line<'a> {
    fn new(stats: &'a InvocationStats, cold: bool) -> Self {
        let ms = |duration: Duration| (duration.as_secs_f64() * 1e6).round() / 1e3;
        let of_frame = |bytes| (stats.route == Some(Route::Message)).then_some(bytes);
        Self {
            route: stats.route.map_or("none", Route::key),
            outcome: stats.outcome,
            request_id: &stats.request_id,
            connection_id: stats.connection_id.as_deref(),
            session_id: stats.session_id.as_deref(),
            duration_ms: ms(stats.started.elapsed()),
            backend_ms: stats.backend.map(ms),
            push_ms: stats.push.map(ms),
            bytes_in: of_frame(stats.bytes_in),
            bytes_out: of_frame(stats.bytes_out),
            retries: stats.retries.into(),
            hops: stats.hops.into(),
            cold_starts: cold.into(),
            metrics: None,
        }
    }
}

impl Count {
    fn of(stats: &InvocationStats) -> Self {
        match stats.route {
            Some(Route::Connect) if stats.outcome == "ok" => Self::Connects(1),
            Some(Route::Connect) => Self::Refusals(1),
            Some(Route::Message) => Self::Frames(1),
            Some(Route::Disconnect) => Self::Disconnects(1),
            None => Self::MalformedEvents(1),
        }
    }
}

impl Batch {
    fn add(&mut self, line: &Line<'_>) {
        self.frames += 1;
        self.invocations += 1;
        self.retries += line.retries;
        self.hops += line.hops;
        self.duration_ms.push(line.duration_ms);
        self.backend_ms.extend(line.backend_ms);
        self.push_ms.extend(line.push_ms);
        self.bytes_in.extend(line.bytes_in);
        self.bytes_out.extend(line.bytes_out);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl Log {
        fn lines(&self) -> Vec<Value> {
            let bytes = mem::take(&mut *self.0.lock());
            String::from_utf8(bytes)
                .unwrap()
                .lines()
                .map(|line| serde_json::from_str(line).unwrap())
                .collect()
        }
    }

    /// Metrics and their output. `each_frame`: write lines for successful frames too.
    fn metrics(each_frame: bool) -> (Metrics, Log) {
        let log = Log::default();
        (Metrics::new("n".into(), each_frame, log.clone()), log)
    }

    fn frame(bytes_in: usize) -> InvocationStats {
        let mut stats = InvocationStats::start("r");
        stats.route = Some(Route::Message);
        stats.bytes_in = bytes_in;
        stats.backend = Some(Duration::from_millis(3));
        stats
    }

    /// The rounded sum of a metric over all EMF lines.
    #[expect(clippy::cast_possible_truncation, reason = "small numbers")]
    fn sum(lines: &[Value], metric: &str) -> i64 {
        let values = lines.iter().filter(|line| line["_aws"].is_object()).map(|line| &line[metric]);
        values
            .flat_map(|value| value.as_array().cloned().unwrap_or_else(|| vec![value.clone()]))
            .filter_map(|value| value.as_f64())
            .sum::<f64>()
            .round() as i64
    }

    #[tokio::test(start_paused = true)]
    async fn frames_in_quick_succession_are_batched_and_all_counted() {
        let (metrics, log) = metrics(true);
        for n in 0..250 {
            metrics.emit(&frame(n));
        }
        tokio::time::advance(FLUSH_EVERY).await;
        metrics.emit(&frame(250));
        let lines = log.lines();
        assert_eq!(lines.iter().filter(|line| line["request_id"] == "r").count(), 251);
        assert_eq!((sum(&lines, "Frames"), sum(&lines, "Invocations")), (251, 251));
        assert_eq!(sum(&lines, "BytesIn"), (0..=250).sum::<i64>());
        assert_eq!(sum(&lines, "BackendMs"), 251 * 3);
        // The cold start, the first frame of the burst, two full batches, and the rest.
        assert_eq!(lines.iter().filter(|line| line["_aws"].is_object()).count(), 5);
        for line in lines.iter().filter(|line| line["BytesIn"].is_array()) {
            assert!(line["BytesIn"].as_array().unwrap().len() <= MAX_VALUES);
            for metric in line["_aws"]["CloudWatchMetrics"][0]["Metrics"].as_array().unwrap() {
                assert!(!line[metric["Name"].as_str().unwrap()].is_null(), "{metric} in {line}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn successful_frames_have_lines_only_on_request() {
        let (metrics, log) = metrics(false);
        for n in 0..50 {
            metrics.emit(&frame(n));
        }
        metrics.emit(&InvocationStats { outcome: "backend_timeout", ..frame(50) });
        let lines = log.lines();
        // The cold start, the first frame of the burst, the failure, and the batch of the others.
        assert_eq!(lines.iter().filter(|line| line["request_id"] == "r").count(), 3);
        assert_eq!((lines.len(), sum(&lines, "Frames"), sum(&lines, "Invocations")), (4, 51, 51));
    }

    #[tokio::test(start_paused = true)]
    async fn a_frame_after_a_pause_and_a_failure_are_written_at_once() {
        let (metrics, log) = metrics(true);
        metrics.emit(&frame(1));
        log.lines();
        for _ in 0..2 {
            tokio::time::advance(FLUSH_EVERY).await;
            metrics.emit(&frame(1));
            assert_eq!(sum(&log.lines(), "Frames"), 1);
        }
        let failed = InvocationStats { outcome: "backend_timeout", ..frame(1) };
        metrics.emit(&failed);
        assert_eq!(sum(&log.lines(), "Invocations"), 1);
        for _ in 0..7 {
            metrics.emit(&frame(1));
        }
        assert_eq!(sum(&log.lines(), "Frames"), 0);
        metrics.emit(&InvocationStats { route: Some(Route::Disconnect), ..frame(1) });
        let lines = log.lines();
        assert_eq!(
            (sum(&lines, "Frames"), sum(&lines, "Disconnects"), sum(&lines, "Invocations")),
            (7, 1, 8)
        );
    }
}
