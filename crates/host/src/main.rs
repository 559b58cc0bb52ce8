//! Runs one session. The backend starts this process, which outlives it.

use std::{io::Write as _, process::ExitCode};

/// Some of what was asked for is left to do.
const LEFT: u8 = 3;

fn main() -> ExitCode {
    match shellbridge_host::run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => LEFT.into(),
        Err(error) => {
            // A host's standard streams are /dev/null: its backend sees the link close.
            let _ = writeln!(std::io::stderr(), "{error}");
            ExitCode::FAILURE
        }
    }
}
