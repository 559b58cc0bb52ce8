//! What JavaScript and the module tell each other, as JSON. `test/support/session.ts` has the same types.

use serde::{Deserialize, Serialize};
use shellbridge_protocol::{
    ids::{ClientId, ConnectionId},
    payload::Payload,
    times::UnixMs,
};

/// Something that happened, `now` ms after the session's start.
#[derive(Deserialize)]
pub(crate) struct Event {
    pub(crate) now: u64,
    #[serde(flatten)]
    pub(crate) what: What,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", rename_all_fields = "camelCase")]
pub(crate) enum What {
    /// The first event: makes the session. The rest are the backend's settings, in bytes and ms.
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
    /// The shell ended.
    Exit {
        exit_code: i32,
    },
    Timeout,
}

/// A connection and when it was made.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Peer {
    pub(crate) id: ConnectionId,
    pub(crate) connected_at: UnixMs,
}

/// What the driver must do after an event, and what the session waits for.
#[derive(Serialize)]
pub(crate) struct Step {
    pub(crate) actions: Vec<Action>,
    /// Input that the shell may read.
    pub(crate) write: Option<Write>,
    /// Bytes that may be read from the shell.
    pub(crate) allowance: usize,
    /// When [`What::Timeout`] is due, ms after the start.
    pub(crate) timeout: Option<u64>,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum Action {
    /// Sends a frame. With a number, [`What::Pushed`] must follow; without, it is the answer to a frame.
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
