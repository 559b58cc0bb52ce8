//! JSON messages between JavaScript and the module. `test/support/session.ts` has the same types.

use serde::{Deserialize, Serialize};
use shellbridge_protocol::{
    ids::{ClientId, ConnectionId},
    payload::Payload,
    times::UnixMs,
};

/// An event, `now` ms after the session's start.
#[derive(Deserialize)]
pub(crate) struct Event {
    pub(crate) now: u64,
    #[serde(flatten)]
    pub(crate) kind: EventKind,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", rename_all_fields = "camelCase")]
pub(crate) enum EventKind {
    /// The first event: creates the session. `started` is Unix ms; the rest are the backend's settings, in bytes and ms.
    Start {
        started: UnixMs,
        output_buffer: usize,
        output_window: u64,
        resume_grace: u64,
    },
    Connect(Peer),
    Frame {
        peer: Peer,
        text: String,
    },
    Gone {
        id: ConnectionId,
    },
    Pushed {
        push: u64,
        delivered: bool,
    },
    Checked {
        id: ConnectionId,
        exists: bool,
    },
    /// The shell wrote `bytes`.
    Output {
        bytes: Payload,
    },
    /// The shell read `count` bytes of this client's input.
    Written {
        client_id: ClientId,
        count: usize,
    },
    /// The shell exited.
    Exit {
        exit_code: i32,
    },
    Timeout,
}

/// A connection and when it opened, in Unix ms.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Peer {
    pub(crate) id: ConnectionId,
    pub(crate) connected_at: UnixMs,
}

/// The driver's next actions, and what the session waits for.
#[derive(Serialize)]
pub(crate) struct Step {
    pub(crate) actions: Vec<Action>,
    /// Input for the shell.
    pub(crate) write: Option<Write>,
    /// Bytes that the driver may read from the shell.
    pub(crate) allowance: usize,
    /// When [`EventKind::Timeout`] is due, ms after the start.
    pub(crate) timeout: Option<u64>,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum Action {
    /// Sends a frame. With a number, [`EventKind::Pushed`] must follow; without one, it answers a frame.
    Push {
        to: ConnectionId,
        text: String,
        push: Option<u64>,
    },
    Close {
        id: ConnectionId,
        last: Option<String>,
    },
    Check {
        id: ConnectionId,
    },
    End {
        why: String,
    },
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Write {
    pub(crate) client_id: ClientId,
    pub(crate) bytes: Payload,
}
