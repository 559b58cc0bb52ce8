//! Reads the settings, then answers events until the Lambda service stops the process.

use std::process::ExitCode;

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
    // One event at a time: a second thread would only cost memory and start-up time.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime
        .block_on(lambda_runtime::run(service_fn(|event| app.handle(event))))
        .map_err(|error| anyhow::anyhow!("the Lambda runtime API failed: {error}"))
}
