//! The wire contract of Shellbridge: frames, the Lambda–backend HTTP contract, tokens, and the state
//! machines of the two byte streams.
//!
//! This crate does no I/O and reads no clock: callers hand in the time and the random ids, so every rule
//! here is tested by generating schedules instead of waiting.

pub mod access;
pub mod backoff;
pub mod bridge;
pub mod callback;
pub mod client;
pub mod error;
pub mod frame;
pub mod limits;
pub mod origin;
pub mod payload;
pub mod stream;

pub use error::ErrorCode;
pub use limits::PROTOCOL_VERSION;
