//! Runs one session. The backend starts this process, which outlives it.

use std::process::ExitCode;

fn main() -> ExitCode {
    // No error is printed: the standard streams are /dev/null. The backend sees the link close.
    shellbridge_host::run().map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS)
}
