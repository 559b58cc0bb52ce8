//! Reads the settings, then answers events until the Lambda service stops the process.

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
    // The environment holds secrets; no other process of this user is to read it from /proc.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).context("set non-dumpable")?;
    // Before there is a log.
    let config = Config::from_environment().inspect_err(|error| eprintln!("websocket-handler: {error}"))?;
    config.start_log();
    let app = App::new(config, AwsSettings::Environment, std::io::stdout())?;
    let app = Arc::new(app);
    let handle = move |event| {
        let app = Arc::clone(&app);
        async move { app.handle(event).await }
    };
    // One event at a time: a second thread would only cost memory and start-up time. And as a task, since each time
    // that one task wakes the future given to `block_on` is a system call: four a frame.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let events = runtime.spawn(async move { lambda_runtime::run(service_fn(handle)).await });
    runtime.block_on(events)?.map_err(|error| anyhow::anyhow!("the Lambda runtime API failed: {error}"))
}
