//! What `GET /metrics` tells: every metric's name and meaning in one place. No label holds what a client chose.

use std::time::Duration;

use ::metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use anyhow::Context;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use shellbridge_protocol::{
    bridge::TokenRefused,
    frame::{ClientFrame, ServerFrame},
};

use crate::rate::TooMany;

const CONNECTS: &str = "shellbridge_connects_total";
const CONNECT_REFUSALS: &str = "shellbridge_connect_refusals_total";
const CONNECT_SECONDS: &str = "shellbridge_time_to_connect_seconds";
const BRIDGE_REFUSALS: &str = "shellbridge_bridge_refusals_total";
const WRONG_ADMIN_TOKENS: &str = "shellbridge_wrong_admin_tokens_total";
const CUT: &str = "shellbridge_http_connections_cut_total";
const RATE_LIMITED: &str = "shellbridge_rate_limited_total";
const FRAMES: &str = "shellbridge_frames_total";
const REPLIES: &str = "shellbridge_replies_total";
const BYTES: &str = "shellbridge_bytes_total";
const PUSHES: &str = "shellbridge_pushes_total";
const PUSH_RETRIES: &str = "shellbridge_push_retries_total";
const PUSH_SECONDS: &str = "shellbridge_push_seconds";
const REQUEST_SECONDS: &str = "shellbridge_request_seconds";
const SESSIONS: &str = "shellbridge_sessions";
const SESSION_FAULTS: &str = "shellbridge_session_faults_total";
const CONNECTIONS: &str = "shellbridge_connections";

/// Upper bounds of the histograms, seconds: from a push in the same region to the longest retried one.
const BUCKETS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// Starts counting. Once a process.
pub(crate) fn start() -> anyhow::Result<PrometheusHandle> {
    let handle = PrometheusBuilder::new()
        .set_buckets(&BUCKETS)
        .context("the histograms")?
        .install_recorder()
        .context("the metrics")?;
    describe_counter!(CONNECTS, "Connections taken");
    describe_counter!(
        CONNECT_REFUSALS,
        "Connections refused, by cause; with the taken ones it gives the success rate"
    );
    describe_histogram!(CONNECT_SECONDS, "From API Gateway's connectedAt to the first frame delivered");
    describe_counter!(BRIDGE_REFUSALS, "Requests that were not the Lambda's, or not new, by cause");
    describe_counter!(WRONG_ADMIN_TOKENS, "Requests with a token that could only be meant for ADMIN_TOKEN");
    describe_counter!(CUT, "HTTP connections closed here, by what they were at: head, body, answer, or idle");
    describe_counter!(RATE_LIMITED, "Frames above a rate limit, by whose");
    describe_counter!(FRAMES, "Clients' frames, by type");
    describe_counter!(
        REPLIES,
        "Answers to frames, by kind: frame, error, or none (nothing to say, or said later by push)"
    );
    describe_counter!(
        BYTES,
        "Bytes of bodies from the Lambda (in), and of answers and pushes delivered (out)"
    );
    describe_counter!(PUSHES, "Frames pushed, by outcome");
    describe_counter!(PUSH_RETRIES, "Pushes tried again");
    describe_histogram!(PUSH_SECONDS, "From a frame's first attempt to its delivery");
    describe_histogram!(REQUEST_SECONDS, "Requests, by route and class of status");
    describe_counter!(SESSION_FAULTS, "Sessions that ended by a fault of the backend");
    describe_gauge!(SESSIONS, "Sessions");
    describe_gauge!(CONNECTIONS, "Connections of all sessions");
    Ok(handle)
}

/// A connection was taken.
pub(crate) fn connected() {
    counter!(CONNECTS).increment(1);
}

/// A connection was refused.
pub(crate) fn connect_refused(cause: &'static str) {
    counter!(CONNECT_REFUSALS, "cause" => cause).increment(1);
}

/// The first frame was delivered to a connection this long after it was made.
pub(crate) fn connected_within(time: Duration) {
    histogram!(CONNECT_SECONDS).record(time);
}

/// A request is not the Lambda's, or not new.
pub(crate) fn bridge_refused(cause: &'static str) {
    counter!(BRIDGE_REFUSALS, "cause" => cause).increment(1);
}

/// [`bridge_refused`]'s label for a token's fault.
pub(crate) const fn token_fault(refused: TokenRefused) -> &'static str {
    match refused {
        TokenRefused::Signature => "signature",
        TokenRefused::Issuer => "issuer",
        TokenRefused::Time => "time",
        TokenRefused::Binding => "binding",
    }
}

/// Somebody guesses.
pub(crate) fn wrong_admin_token() {
    counter!(WRONG_ADMIN_TOKENS).increment(1);
}

/// An HTTP connection took too long, or gave its place up.
pub(crate) fn cut(doing: &'static str) {
    counter!(CUT, "at" => doing).increment(1);
}

/// A frame came too soon.
pub(crate) fn rate_limited(whose: TooMany) {
    counter!(RATE_LIMITED, "by" => whose.label()).increment(1);
}

/// The body of a message came in.
pub(crate) fn received(bytes: usize) {
    counter!(BYTES, "direction" => "in").increment(bytes as u64);
}

/// A frame came; `None` if it could not be read.
pub(crate) fn frame(frame: Option<&ClientFrame>) {
    let kind = match frame {
        None => "malformed",
        Some(ClientFrame::Ping { .. }) => "ping",
        Some(ClientFrame::Command { .. }) => "command",
        Some(ClientFrame::Resize { .. }) => "resize",
        Some(ClientFrame::History) => "history",
        Some(ClientFrame::Clear) => "clear",
        Some(ClientFrame::Echo) => "echo",
        Some(ClientFrame::Attach { .. }) => "attach",
        Some(ClientFrame::Input { .. }) => "input",
        Some(ClientFrame::Ack { .. }) => "ack",
        Some(ClientFrame::Detach { .. }) => "detach",
        Some(ClientFrame::Unknown) => "unknown",
    };
    counter!(FRAMES, "type" => kind).increment(1);
}

/// A frame was answered, with so many bytes.
pub(crate) fn replied(answer: Option<&ServerFrame>, bytes: usize) {
    let kind = match answer {
        Some(ServerFrame::Error(_)) => "error",
        Some(_) => "frame",
        None => "none",
    };
    counter!(REPLIES, "kind" => kind).increment(1);
    counter!(BYTES, "direction" => "out").increment(bytes as u64);
}

/// A frame was delivered, `took` after it was first tried.
pub(crate) fn pushed(bytes: usize, took: Duration) {
    counter!(PUSHES, "outcome" => "delivered").increment(1);
    counter!(BYTES, "direction" => "out").increment(bytes as u64);
    histogram!(PUSH_SECONDS).record(took);
}

/// A frame cannot be delivered: the connection is gone.
pub(crate) fn push_lost() {
    counter!(PUSHES, "outcome" => "gone").increment(1);
}

/// A frame cannot be delivered: it is too large.
pub(crate) fn push_too_large() {
    counter!(PUSHES, "outcome" => "too_large").increment(1);
}

/// A push failed and will be tried again.
pub(crate) fn push_retried() {
    counter!(PUSH_RETRIES).increment(1);
}

/// A request was answered. `route` is a pattern, not a path.
pub(crate) fn request(route: String, status: u16, took: Duration) {
    let class = match status / 100 {
        1 => "1xx",
        2 => "2xx",
        3 => "3xx",
        4 => "4xx",
        _ => "5xx",
    };
    histogram!(REQUEST_SECONDS, "route" => route, "status" => class).record(took);
}

/// A session ended by a fault of ours.
pub(crate) fn session_failed() {
    counter!(SESSION_FAULTS).increment(1);
}

/// How many sessions and connections there are now.
pub(crate) fn holds(sessions: usize, connections: usize) {
    #[allow(clippy::cast_precision_loss, reason = "exact up to 2^53")]
    let (sessions, connections) = (sessions as f64, connections as f64);
    gauge!(SESSIONS).set(sessions);
    gauge!(CONNECTIONS).set(connections);
}
