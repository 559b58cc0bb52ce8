//! Reads the settings and answers events until the Lambda service stops the process.

use std::{process::ExitCode, sync::Arc};

use anyhow::Context;
use lambda_runtime::service_fn;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use shellbridge_lambda::{App, AwsSettings, Config};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<()> {
    // The environment holds secrets, which the user's other processes must not read from /proc.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).context("set non-dumpable")?;
    // The log does not exist yet.
    let config = Config::from_environment().inspect_err(|error| eprintln!("websocket-handler: {error}"))?;
    config.start_log();
    let app = App::new(config, AwsSettings::Environment, std::io::stdout())?;
    let app = Arc::new(app);
    let handle = move |event| {
        let app = Arc::clone(&app);
        async move { app.handle(event).await }
    };
    // A process handles one event at a time, so a second thread would only cost memory and start-up time. Events run in a
    // spawned task: waking the future in `block_on` is a system call, four a frame.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let events = runtime.spawn(async move { lambda_runtime::run(service_fn(handle)).await });
    runtime.block_on(events)?.map_err(|error| anyhow::anyhow!("the Lambda runtime API failed: {error}"))
}
