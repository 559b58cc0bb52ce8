//! A session: one shell, its byte streams, and the connections that watch and type.
//!
//! `core` decides and does no I/O; `task` owns the PTY and the pushes and does what it says. The rest of the backend
//! holds a [`Handle`].

mod client;
mod commands;
mod connection;
mod core;
mod flow;
mod handle;
mod model;
mod snapshot;
mod task;
mod thread;
mod tty;

use std::time::Duration;

use shellbridge_protocol::frame::ServerFrame;

pub(crate) use self::{
    connection::ConnectionInfo,
    handle::{Answer, Handle, Status, Unreachable},
    task::{Settings, Start, spawn},
};

use crate::unix_ms;

/// A terminal's size in cells; both at least 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) cols: u16,
    pub(crate) rows: u16,
}

impl Size {
    /// The frame that says it is in force.
    fn ack(self) -> ServerFrame {
        ServerFrame::ResizeAck { cols: self.cols, rows: self.rows, timestamp: unix_ms() }
    }
}

impl Default for Size {
    /// The VT100's, until somebody says otherwise.
    fn default() -> Self {
        Self { cols: 80, rows: 24 }
    }
}

/// The bounds of a session's streams and waits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// `OUTPUT_BUFFER`, bytes.
    pub(crate) output_buffer: usize,
    /// `OUTPUT_WINDOW`, bytes.
    pub(crate) output_window: u64,
    /// `RESUME_GRACE`.
    pub(crate) resume_grace: Duration,
}
