//! One session: started by the backend, which it outlives.

use std::process::ExitCode;

fn main() -> ExitCode {
    // There is nobody to tell what went wrong: the standard streams are /dev/null. The backend sees the link end.
    shellbridge_host::run().map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS)
}
