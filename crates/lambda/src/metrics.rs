//! One line an invocation: what happened, and the metrics in `CloudWatch`'s embedded metric format.
//!
//! Logs are paid for by the byte: a line for each key that went well would be a tenth of what typing costs. So the
//! numbers of such frames go together into one line of metrics, and each has a line of its own at `LOG_LEVEL=debug` alone.
//! What ends with the process between two lines of metrics is lost to them.

use std::{
    io::Write,
    mem,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use serde::Serialize;
use serde_json::{Value, json};
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

/// Most values of one metric in a line (`CloudWatch` User Guide, "Specification: Embedded metric format").
const MAX_VALUES: usize = 100;
/// Longest time that numbers of frames wait for those of more, while frames come: what `CloudWatch` shows as one point.
const GATHER: Duration = Duration::from_mins(1);

/// Writes tallies to where the Lambda service takes logs from, and `CloudWatch` the metrics in them.
pub(crate) struct Metrics {
    namespace: String,
    /// Whether each frame is told, also one that went well.
    each_frame: bool,
    state: Mutex<State>,
}

struct State {
    out: Box<dyn Write + Send>,
    warm: bool,
    /// When numbers of frames were last written as metrics.
    told: Option<Instant>,
    gathered: Gathered,
}

/// Numbers of frames, by metric.
#[derive(Default, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Gathered {
    frames: u64,
    invocations: u64,
    #[serde(skip_serializing_if = "is_zero")]
    retries: u64,
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
        let state = State { out: Box::new(out), warm: false, told: None, gathered: Gathered::default() };
        Self { namespace, each_frame, state: Mutex::new(state) }
    }

    pub(crate) fn emit(&self, tally: &Tally) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let cold = !mem::replace(&mut state.warm, true);
        let mut line = Line::new(tally, cold);
        let waited = state.told.is_none_or(|told| told.elapsed() >= GATHER);
        let usual = tally.route == Some(Route::Message) && tally.outcome == "ok" && !cold;
        if usual && !(waited && state.gathered.frames == 0) {
            state.gathered.add(&line);
        } else {
            line.metrics = Some(Own { count: Count::of(tally), invocations: 1 });
        }
        let full = state.gathered.duration_ms.len() >= MAX_VALUES;
        // What is no usual frame may be the last for long.
        let due = state.gathered.frames > 0 && (waited || full || !usual);
        let gathered = due.then(|| mem::take(&mut state.gathered));
        if due || (usual && line.metrics.is_some()) {
            state.told = Some(Instant::now());
        }
        if line.metrics.is_some() {
            state.write(&self.described(&line));
        } else if self.each_frame {
            state.write(&line);
        }
        if let Some(metrics) = gathered {
            let together = Together { route: Route::Message.key(), outcome: "ok", metrics };
            state.write(&self.described(&together));
        }
    }

    /// The line with what says that its numbers are metrics.
    fn described(&self, line: &impl Serialize) -> Value {
        // Infallible: the lines have no keys but text.
        let mut line = serde_json::to_value(line).unwrap_or_default();
        let named: Vec<Value> = line
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(name, value)| (value.is_number() || value.is_array()) && *name != "Invocations")
            .map(|(name, _)| json!({ "Name": name, "Unit": unit(name) }))
            .collect();
        // Latencies by route alone: each further dimension is a further metric that is paid for.
        let directives = json!([
            { "Namespace": self.namespace, "Dimensions": [["Route"]], "Metrics": named },
            { "Namespace": self.namespace, "Dimensions": [["Route", "Outcome"]],
              "Metrics": [{ "Name": "Invocations", "Unit": "Count" }] },
        ]);
        if let Some(line) = line.as_object_mut() {
            let aws = json!({ "Timestamp": now_ms(), "CloudWatchMetrics": directives });
            line.insert("_aws".to_owned(), aws);
        }
        line
    }
}

impl State {
    /// One write a line, so that none is mixed into another. A line that cannot be written must not fail the frame.
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

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// The line of one invocation. Members that do not apply are left out.
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
    cold_starts: u64,
    #[serde(flatten)]
    metrics: Option<Own>,
}

/// What a line counts besides if its numbers are metrics.
#[derive(Serialize)]
struct Own {
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

/// A line of metrics alone.
#[derive(Serialize)]
struct Together {
    #[serde(rename = "Route")]
    route: &'static str,
    #[serde(rename = "Outcome")]
    outcome: &'static str,
    #[serde(flatten)]
    metrics: Gathered,
}

impl<'a> Line<'a> {
    fn new(tally: &'a Tally, cold: bool) -> Self {
        let ms = |duration: Duration| (duration.as_secs_f64() * 1e6).round() / 1e3;
        let of_frame = |bytes| (tally.route == Some(Route::Message)).then_some(bytes);
        Self {
            route: tally.route.map_or("none", Route::key),
            outcome: tally.outcome,
            request_id: &tally.request_id,
            connection_id: tally.connection_id.as_deref(),
            session_id: tally.session_id.as_deref(),
            duration_ms: ms(tally.started.elapsed()),
            backend_ms: tally.backend.map(ms),
            push_ms: tally.push.map(ms),
            bytes_in: of_frame(tally.bytes_in),
            bytes_out: of_frame(tally.bytes_out),
            retries: tally.retries.into(),
            cold_starts: cold.into(),
            metrics: None,
        }
    }
}

impl Count {
    fn of(tally: &Tally) -> Self {
        match tally.route {
            Some(Route::Connect) if tally.outcome == "ok" => Self::Connects(1),
            Some(Route::Connect) => Self::Refusals(1),
            Some(Route::Message) => Self::Frames(1),
            Some(Route::Disconnect) => Self::Disconnects(1),
            None => Self::MalformedEvents(1),
        }
    }
}

impl Gathered {
    fn add(&mut self, line: &Line<'_>) {
        self.frames += 1;
        self.invocations += 1;
        self.retries += line.retries;
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
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl Log {
        fn lines(&self) -> Vec<Value> {
            let bytes = mem::take(&mut *self.0.lock().unwrap());
            String::from_utf8(bytes)
                .unwrap()
                .lines()
                .map(|line| serde_json::from_str(line).unwrap())
                .collect()
        }
    }

    /// Metrics and what they write. `each_frame`: also of frames that went well.
    fn metrics(each_frame: bool) -> (Metrics, Log) {
        let log = Log::default();
        (Metrics::new("n".into(), each_frame, log.clone()), log)
    }

    fn frame(bytes_in: usize) -> Tally {
        let mut tally = Tally::start("r");
        tally.route = Some(Route::Message);
        tally.bytes_in = bytes_in;
        tally.backend = Some(Duration::from_millis(3));
        tally
    }

    /// The sum of a metric, rounded, over all lines that say it is one.
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
    async fn frames_in_quick_succession_share_their_metrics_and_none_is_left_out() {
        let (metrics, log) = metrics(true);
        for n in 0..250 {
            metrics.emit(&frame(n));
        }
        tokio::time::advance(GATHER).await;
        metrics.emit(&frame(250));
        let lines = log.lines();
        assert_eq!(lines.iter().filter(|line| line["request_id"] == "r").count(), 251);
        assert_eq!((sum(&lines, "Frames"), sum(&lines, "Invocations")), (251, 251));
        assert_eq!(sum(&lines, "BytesIn"), (0..=250).sum::<i64>());
        assert_eq!(sum(&lines, "BackendMs"), 251 * 3);
        // The first of the process, the first of the burst, twice 100, and the rest.
        assert_eq!(lines.iter().filter(|line| line["_aws"].is_object()).count(), 5);
        for line in lines.iter().filter(|line| line["BytesIn"].is_array()) {
            assert!(line["BytesIn"].as_array().unwrap().len() <= MAX_VALUES);
            for metric in line["_aws"]["CloudWatchMetrics"][0]["Metrics"].as_array().unwrap() {
                assert!(!line[metric["Name"].as_str().unwrap()].is_null(), "{metric} in {line}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn frames_that_went_well_have_lines_of_their_own_only_where_that_is_wanted() {
        let (metrics, log) = metrics(false);
        for n in 0..50 {
            metrics.emit(&frame(n));
        }
        metrics.emit(&Tally { outcome: "backend_timeout", ..frame(50) });
        let lines = log.lines();
        // The first of the process, the first of the burst, the one that failed, and the numbers of the others.
        assert_eq!(lines.iter().filter(|line| line["request_id"] == "r").count(), 3);
        assert_eq!((lines.len(), sum(&lines, "Frames"), sum(&lines, "Invocations")), (4, 51, 51));
    }

    #[tokio::test(start_paused = true)]
    async fn a_frame_after_a_quiet_while_and_one_that_failed_are_told_at_once() {
        let (metrics, log) = metrics(true);
        metrics.emit(&frame(1));
        log.lines();
        for _ in 0..2 {
            tokio::time::advance(GATHER).await;
            metrics.emit(&frame(1));
            assert_eq!(sum(&log.lines(), "Frames"), 1);
        }
        let failed = Tally { outcome: "backend_timeout", ..frame(1) };
        metrics.emit(&failed);
        assert_eq!(sum(&log.lines(), "Invocations"), 1);
        for _ in 0..7 {
            metrics.emit(&frame(1));
        }
        assert_eq!(sum(&log.lines(), "Frames"), 0);
        metrics.emit(&Tally { route: Some(Route::Disconnect), ..frame(1) });
        let lines = log.lines();
        assert_eq!(
            (sum(&lines, "Frames"), sum(&lines, "Disconnects"), sum(&lines, "Invocations")),
            (7, 1, 8)
        );
    }
}
