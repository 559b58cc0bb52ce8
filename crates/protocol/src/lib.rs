#![doc = include_str!("../README.md")]
//!
//! # This crate
//!
//! It implements this contract without I/O and without a clock: callers pass in the time and random ids, so tests generate
//! schedules instead of waiting.

#[cfg(feature = "tokens")]
pub mod access;
pub mod backoff;
pub mod bridge;
pub mod callback;
pub mod client;
pub mod error;
pub mod frame;
pub mod ids;
pub mod json;
pub mod limits;
pub mod origin;
pub mod payload;
pub mod secret;
pub mod settings;
pub mod size;
pub mod stream;
pub mod times;

pub use error::ErrorCode;
pub use limits::PROTOCOL_VERSION;

#[cfg(test)]
mod typescript;
