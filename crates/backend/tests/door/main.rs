//! Tests of the real `backend` process over HTTP: access control, start-up, logs, limits, shutdown.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

mod answers;
mod awake;
mod hosts;
mod image;
mod init;
mod keys;
mod limits;
mod logs;
mod platform;
mod setup;
mod slow;
mod starting;
mod stopping;
mod support;
mod tokens;
mod wrong;
