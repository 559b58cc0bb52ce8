//! Frames between client and backend: JSON objects distinguished by `type`.
//!
//! `timestamp` is Unix time in milliseconds, offsets count the bytes of a stream from 0, and `epoch` names a shell. All stay
//! below 2^53, so JavaScript numbers hold them exactly.

mod client;
mod server;

pub use client::{ClientFrame, FrameHead, is_client_id};
pub use server::{ErrorFrame, Exit, HistoryEntry, NoticeCode, ServerFrame};

#[cfg(test)]
mod tests;
