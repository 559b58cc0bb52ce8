//! The function against a real `DynamoDB` API, a real HTTP backend and a real `@connections`, from recorded
//! API Gateway events.
#![expect(
    unreachable_pub,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a test program: nothing is public, and tests fail by panicking"
)]

mod backend_failures;
mod bed;
mod connect;
mod disconnect;
mod fake;
mod keys;
mod message;
mod metrics;
mod process;
mod runtime_api;
mod wrong_ways;
