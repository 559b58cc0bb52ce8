//! Lines for the backend's log. Nothing that a user typed or a shell wrote is in them.

use std::{fmt, sync::Mutex};

use shellbridge_session::link::{Log, MAX_LOG};

/// Lines that wait for a backend.
const WAITING: usize = 16;

static LINES: Mutex<Vec<Log>> = Mutex::new(Vec::new());

/// Something is wrong.
pub(crate) fn warn(message: fmt::Arguments<'_>) {
    log(true, message);
}

/// Something happened.
pub(crate) fn info(message: fmt::Arguments<'_>) {
    log(false, message);
}

fn log(warning: bool, message: fmt::Arguments<'_>) {
    let mut message = message.to_string();
    message.truncate(message.floor_char_boundary(MAX_LOG));
    // A panic may come in the middle of this.
    if let Ok(mut lines) = LINES.try_lock()
        && lines.len() < WAITING
    {
        lines.push(Log { warning, message });
    }
}

/// What has been said since.
pub(crate) fn take() -> Vec<Log> {
    LINES.lock().map(|mut lines| std::mem::take(&mut *lines)).unwrap_or_default()
}
