//! The environment of a function process, as Lambda sets it.
//!
//! Source: Lambda Developer Guide, *configuration-envvars*, "Defined runtime environment variables", for an OS-only
//! runtime (`provided`). Region and credentials are not here, since a function that runs elsewhere needs them too.

use std::{env, net::SocketAddr, path::Path};

use crate::{clock, id};

use super::PoolSettings;

/// Only managed runtimes have `AWS_EXECUTION_ENV`; the runtime itself sets `_X_AMZN_TRACE_ID`, for each event.
pub(super) const UNSET: [&str; 2] = ["AWS_EXECUTION_ENV", "_X_AMZN_TRACE_ID"];

/// The directory that holds the function's code, which is also where Lambda starts it.
pub(super) fn task_root(settings: &PoolSettings) -> &Path {
    settings.program.parent().unwrap_or(Path::new("/"))
}

/// Variables that a function's configuration may override: the gateway's own environment does.
///
/// `_HANDLER` is reserved on AWS, because it has its own setting there.
pub(super) fn defaults(settings: &PoolSettings) -> impl Iterator<Item = (&'static str, String)> {
    let task_root = task_root(settings).display();
    [
        ("_HANDLER", "bootstrap".to_owned()),
        ("LANG", "en_US.UTF-8".to_owned()),
        ("PATH", "/usr/local/bin:/usr/bin/:/bin:/opt/bin".to_owned()),
        // Without Lambda's `/lib64:/usr/lib64`: the linker finds the system's libraries by itself, and programs that
        // bring their own (RUNPATH) would get the system's instead.
        ("LD_LIBRARY_PATH", format!("/var/runtime:/var/runtime/lib:{task_root}:{task_root}/lib:/opt/lib")),
        // The X-Ray SDKs would otherwise raise an exception, as there is no trace.
        ("AWS_XRAY_CONTEXT_MISSING", "LOG_ERROR".to_owned()),
    ]
    .into_iter()
    .filter(|(name, _)| env::var_os(name).is_none())
}

/// Variables that nothing overrides.
pub(super) fn reserved(settings: &PoolSettings, runtime_api: SocketAddr) -> [(&'static str, String); 10] {
    [
        ("AWS_LAMBDA_FUNCTION_NAME", settings.name.clone()),
        ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", (settings.memory / (1024 * 1024)).to_string()),
        ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST".to_owned()),
        ("AWS_LAMBDA_INITIALIZATION_TYPE", "provisioned-concurrency".to_owned()),
        ("AWS_LAMBDA_LOG_GROUP_NAME", format!("/aws/lambda/{}", settings.name)),
        ("AWS_LAMBDA_LOG_STREAM_NAME", log_stream()),
        ("AWS_LAMBDA_RUNTIME_API", runtime_api.to_string()),
        ("LAMBDA_TASK_ROOT", task_root(settings).display().to_string()),
        ("LAMBDA_RUNTIME_DIR", "/var/runtime".to_owned()),
        ("TZ", ":UTC".to_owned()),
    ]
}

/// A log stream's name, new for each process: `2026/11/29/[$LATEST]` and 32 hexadecimal digits.
fn log_stream() -> String {
    format!("{}/[$LATEST]{}", clock::date(clock::unix_ms()), id::random_uuid().simple())
}
