//! The backend: runs shells, keeps their byte streams, and speaks nothing but HTTP.
//!
//! Requests of the Lambda come in at `routes::bridge`, are turned into frames for a `session`, and what the session
//! has to say goes out through `push`. A session is one task around a state machine without I/O
//! (`shellbridge_session`).

pub mod access;
mod admin;
pub mod app;
pub mod config;
mod count;
pub mod error;
mod keep_awake;
mod observe;
mod push;
mod rate;
mod routes;
mod serve;
mod sessions;
mod shell;
mod store;
mod transport;

pub use shell::keep_secrets;

use std::time::{SystemTime, UNIX_EPOCH};

/// Unix time in milliseconds.
pub(crate) fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Unix time in seconds, as tokens count it.
pub(crate) fn unix_secs() -> i64 {
    i64::try_from(unix_ms() / 1000).unwrap_or(i64::MAX)
}
