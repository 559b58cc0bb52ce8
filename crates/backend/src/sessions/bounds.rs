//! Bounds of what a host may send. They are generous: a host that exceeds one is defective or compromised.

use std::time::Duration;

use shellbridge_protocol::limits::MAX_MESSAGE;
use shellbridge_session::link::{FromHost, MAX_LOG, MAX_NOTES, Reply};
use tokio::time::Instant;

/// Log lines of a host per minute.
pub(super) const MAX_LINES: u32 = 60;
/// Undelivered bytes of a host's frames above which the task stops reading from it.
pub(super) const MAX_HELD: usize = 4 * 1024 * 1024;
/// Longest id of a connection, bytes. Those of API Gateway have 16.
const MAX_ID: usize = 256;

/// Checks the size of a message's variable parts. Other parts are fixed in size, or bounded where they are kept.
///
/// # Errors
/// Why the message ends the session.
pub(super) fn check(message: &FromHost) -> Result<(), &'static str> {
    let (id, frame, text): (&str, &[u8], &str) = match message {
        FromHost::Push(push) => (&push.to, &push.frame, ""),
        FromHost::Close(close) => (&close.connection, close.last.as_deref().unwrap_or_default(), ""),
        FromHost::Check(check) => (&check.connection, b"", ""),
        FromHost::Answer(answer) => match &answer.reply {
            Reply::Frame(frame) | Reply::Error(frame) => ("", frame, ""),
            Reply::Nothing | Reply::Later => ("", b"", ""),
        },
        FromHost::Log(line) => ("", b"", &line.message),
        FromHost::Ending(ending) => ("", b"", &ending.why),
        FromHost::Here(here) if here.notes.len() > MAX_NOTES => return Err("the host's notes are too large"),
        FromHost::Here(_)
        | FromHost::Known(_)
        | FromHost::Taken(_)
        | FromHost::Status(_)
        | FromHost::Measured(_)
        | FromHost::Ended(_) => ("", b"", ""),
    };
    if id.len() > MAX_ID {
        Err("the host sent a connection id that is too long")
    } else if frame.len() > MAX_MESSAGE || std::str::from_utf8(frame).is_err() {
        Err("the host sent a frame that no client may receive")
    } else if text.len() > MAX_LOG {
        Err("the host sent a line that is too long")
    } else {
        Ok(())
    }
}

/// A number of events per minute.
pub(super) struct Allowance {
    each: u32,
    left: u32,
    since: Instant,
}

impl Allowance {
    pub(super) fn of(each: u32) -> Self {
        Self { each, left: each, since: Instant::now() }
    }

    /// Whether one more event is within it.
    pub(super) fn takes(&mut self) -> bool {
        if self.since.elapsed() > Duration::from_mins(1) {
            (self.left, self.since) = (self.each, Instant::now());
        }
        let left = self.left.checked_sub(1);
        self.left = left.unwrap_or(0);
        left.is_some()
    }
}
