//! All metrics of `GET /metrics`: names, descriptions, labels. No label holds a value that a client chose.

use std::time::Duration;

use ::metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use anyhow::Context;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use shellbridge_protocol::bridge::TokenRefused;
use shellbridge_session::link::Reply;

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
const OVER_QUOTA: &str = "shellbridge_sessions_over_quota_total";
const CONNECTIONS: &str = "shellbridge_connections";
const SESSIONS_LOST: &str = "shellbridge_sessions_lost_total";
const HOPS: &str = "shellbridge_hops_total";
const LEASED: &str = "shellbridge_leased";
const FENCED: &str = "shellbridge_fenced_seconds_total";
const FAREWELLS: &str = "shellbridge_farewells_total";
const DRAINING: &str = "shellbridge_draining";
const PROTECTION: &str = "shellbridge_task_protection_total";

/// Upper bounds of the histograms, in seconds: from a push within a region to the longest retry.
const BUCKETS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// Installs the recorder. Call once per process.
pub(crate) fn start() -> anyhow::Result<PrometheusHandle> {
    let handle = PrometheusBuilder::new()
        .set_buckets(&BUCKETS)
        .context("cannot set up the histograms")?
        .install_recorder()
        .context("cannot install the metrics recorder")?;
    describe_counter!(CONNECTS, "Accepted connections");
    describe_counter!(
        CONNECT_REFUSALS,
        "Refused connections, by cause; with the accepted ones, gives the success rate"
    );
    describe_histogram!(CONNECT_SECONDS, "Time from API Gateway's connectedAt to the first delivered frame");
    describe_counter!(BRIDGE_REFUSALS, "Refused requests to the bridge's endpoints, by cause");
    describe_counter!(WRONG_ADMIN_TOKENS, "Requests with a wrong ADMIN_TOKEN");
    describe_counter!(CUT, "HTTP connections closed by the server, by state: head, body, answer, or idle");
    describe_counter!(RATE_LIMITED, "Frames above a rate limit, by limit");
    describe_counter!(FRAMES, "Frames from clients, by type");
    describe_counter!(
        REPLIES,
        "Replies to frames, by kind: frame, error, or none (no reply, or one pushed later)"
    );
    describe_counter!(
        BYTES,
        "Bytes of request bodies from the Lambda (in), and of replies and delivered pushes (out)"
    );
    describe_counter!(PUSHES, "Pushed frames, by outcome");
    describe_counter!(PUSH_RETRIES, "Retried pushes");
    describe_histogram!(PUSH_SECONDS, "Time from the first attempt to push a frame to its delivery");
    describe_histogram!(REQUEST_SECONDS, "Duration of requests, by route and status class");
    describe_counter!(SESSION_FAULTS, "Sessions that ended by an internal error");
    describe_counter!(SESSIONS_LOST, "Sessions ended because another instance has their id");
    describe_counter!(HOPS, "Requests passed on to the session's instance, by outcome: answered, or failed");
    describe_gauge!(
        LEASED,
        "With several instances: 1 while this one's lease lasts, 0 while it serves nothing"
    );
    describe_counter!(FENCED, "Whole seconds without a lease");
    describe_counter!(FAREWELLS, "Connections told that their session is gone with its instance");
    describe_gauge!(DRAINING, "1 while an instance of a newer release is present");
    describe_counter!(
        PROTECTION,
        "Requests for ECS task protection, by outcome: granted, released, refused, or failed"
    );
    describe_counter!(OVER_QUOTA, "Sessions refused because their user has too many");
    describe_gauge!(SESSIONS, "Sessions, by sandbox");
    describe_gauge!(CONNECTIONS, "Connections of all sessions");
    Ok(handle)
}

/// Counts an accepted connection.
pub(crate) fn connected() {
    counter!(CONNECTS).increment(1);
}

/// Counts a refused connection.
pub(crate) fn connect_refused(cause: &'static str) {
    counter!(CONNECT_REFUSALS, "cause" => cause).increment(1);
}

/// Records the time from a connection's start to its first delivered frame.
pub(crate) fn connected_within(time: Duration) {
    histogram!(CONNECT_SECONDS).record(time);
}

/// Counts a refused bridge request.
pub(crate) fn bridge_refused(cause: &'static str) {
    counter!(BRIDGE_REFUSALS, "cause" => cause).increment(1);
}

/// The label of [`bridge_refused`] for an invalid token.
pub(crate) const fn token_fault(refused: TokenRefused) -> &'static str {
    match refused {
        TokenRefused::Signature => "signature",
        TokenRefused::Issuer => "issuer",
        TokenRefused::Time => "time",
        TokenRefused::Binding => "binding",
    }
}

/// Counts a wrong `ADMIN_TOKEN`.
pub(crate) fn wrong_admin_token() {
    counter!(WRONG_ADMIN_TOKENS).increment(1);
}

/// Counts an HTTP connection that exceeded a time limit or made room for another.
pub(crate) fn cut(doing: &'static str) {
    counter!(CUT, "at" => doing).increment(1);
}

/// Counts a frame above a rate limit.
pub(crate) fn rate_limited(whose: TooMany) {
    counter!(RATE_LIMITED, "by" => whose.label()).increment(1);
}

/// Counts the body of a message.
pub(crate) fn received(bytes: usize) {
    counter!(BYTES, "direction" => "in").increment(bytes as u64);
}

/// Counts a frame from a client, by the name of its type.
pub(crate) fn frame(kind: &'static str) {
    counter!(FRAMES, "type" => kind).increment(1);
}

/// Counts the reply to a frame.
pub(crate) fn replied(reply: &Reply) {
    let (kind, bytes) = match reply {
        Reply::Error(json) => ("error", json.len()),
        Reply::Frame(json) => ("frame", json.len()),
        Reply::Nothing | Reply::Later => ("none", 0),
    };
    counter!(REPLIES, "kind" => kind).increment(1);
    counter!(BYTES, "direction" => "out").increment(bytes as u64);
}

/// Counts a delivered frame, `took` after the first attempt.
pub(crate) fn pushed(bytes: usize, took: Duration) {
    counter!(PUSHES, "outcome" => "delivered").increment(1);
    counter!(BYTES, "direction" => "out").increment(bytes as u64);
    histogram!(PUSH_SECONDS).record(took);
}

/// Counts a frame whose connection is gone.
pub(crate) fn push_lost() {
    counter!(PUSHES, "outcome" => "gone").increment(1);
}

/// Counts a frame that is too large to deliver.
pub(crate) fn push_too_large() {
    counter!(PUSHES, "outcome" => "too_large").increment(1);
}

/// Counts a failed push that will be retried.
pub(crate) fn push_retried() {
    counter!(PUSH_RETRIES).increment(1);
}

/// Records an HTTP request. `route` is a pattern, not a path.
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

/// Counts a session whose id another instance has.
pub(crate) fn session_lost() {
    counter!(SESSIONS_LOST).increment(1);
}

/// Counts a session that ended by an internal error.
pub(crate) fn session_failed() {
    counter!(SESSION_FAULTS).increment(1);
}

/// Counts a session that was refused because its user has too many.
pub(crate) fn over_quota() {
    counter!(OVER_QUOTA).increment(1);
}

/// Sets the number of sessions of one sandbox.
pub(crate) fn holds_sessions(sandbox: &'static str, sessions: usize) {
    #[allow(clippy::cast_precision_loss, reason = "exact up to 2^53")]
    gauge!(SESSIONS, "sandbox" => sandbox).set(sessions as f64);
}

/// Sets the number of connections.
pub(crate) fn holds_connections(connections: usize) {
    #[allow(clippy::cast_precision_loss, reason = "exact up to 2^53")]
    gauge!(CONNECTIONS).set(connections as f64);
}

/// Counts a request that was passed on to another instance.
pub(crate) fn hop(answered: bool) {
    counter!(HOPS, "outcome" => if answered { "answered" } else { "failed" }).increment(1);
}

/// Sets the state of the lease.
pub(crate) fn fleet(leased: bool, fenced: Duration, draining: bool) {
    gauge!(LEASED).set(f64::from(u8::from(leased)));
    counter!(FENCED).absolute(fenced.as_secs());
    gauge!(DRAINING).set(f64::from(u8::from(draining)));
}

/// Counts a connection that is told that its session is gone.
pub(crate) fn farewell() {
    counter!(FAREWELLS).increment(1);
}

/// Counts a request for task protection.
pub(crate) fn protection(outcome: &'static str) {
    counter!(PROTECTION, "outcome" => outcome).increment(1);
}
