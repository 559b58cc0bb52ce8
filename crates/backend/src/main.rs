//! Reads the settings, keeps the secrets, serves until told to stop.

use std::process::ExitCode;

use clap::Parser;
use shellbridge_backend::{app, config::Config, keep_secrets};

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_writer(std::io::stderr)
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env()
                .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info")),
        )
        .init();
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // For people too, who read neither JSON nor the log.
            eprintln!("backend: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<()> {
    let config = Config::parse();
    // Before the runtime starts its threads, to which this applies one by one.
    keep_secrets()?;
    tokio::runtime::Runtime::new()?.block_on(app::serve(config))
}
