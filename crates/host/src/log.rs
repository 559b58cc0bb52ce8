//! Lines for the backend's log. They never contain what a user typed or a shell wrote.

use std::{fmt, sync::Mutex};

use shellbridge_session::link::{Log, MAX_LOG};

/// Lines kept while there is no backend; further ones are dropped.
const WAITING: usize = 16;

static LINES: Mutex<Vec<Log>> = Mutex::new(Vec::new());

/// Logs a warning.
pub(crate) fn warn(message: fmt::Arguments<'_>) {
    log(true, message);
}

/// Logs an event.
pub(crate) fn info(message: fmt::Arguments<'_>) {
    log(false, message);
}

fn log(warning: bool, message: fmt::Arguments<'_>) {
    let mut message = message.to_string();
    message.truncate(message.floor_char_boundary(MAX_LOG));
    // The panic hook may run while the lock is held.
    if let Ok(mut lines) = LINES.try_lock()
        && lines.len() < WAITING
    {
        lines.push(Log { warning, message });
    }
}

/// Takes the lines logged since the last call.
pub(crate) fn take() -> Vec<Log> {
    LINES.lock().map(|mut lines| std::mem::take(&mut *lines)).unwrap_or_default()
}
