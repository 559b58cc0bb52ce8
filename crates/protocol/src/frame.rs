//! Frames between client and backend: one JSON object each, told apart by `type`.
//!
//! `timestamp` is Unix milliseconds; offsets count bytes of one stream from 0; `epoch` names a shell. Both stay
//! under 2^53, so that JavaScript's numbers hold them.

mod client;
mod server;

pub use client::{ClientFrame, FrameHead, is_client_id};
pub use server::{ErrorFrame, Exit, HistoryEntry, NoticeCode, ServerFrame};

#[cfg(test)]
mod tests;
