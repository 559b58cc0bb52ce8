//! Keeps the secrets, reads the settings, serves until told to stop.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use shellbridge_backend::{
    config::{Config, check_environment},
    keep_secrets, run,
};
use tracing_subscriber::{EnvFilter, filter::Targets, prelude::*};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Before anything else, and before the runtime starts its threads, to which a part of this applies one by one.
    let kept = keep_secrets();
    start_log();
    match kept.context("the secrets cannot be kept from shells").and_then(|()| start()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // For people too, who read neither JSON nor the log.
            eprintln!("backend: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start() -> anyhow::Result<()> {
    let config = match Config::try_parse() {
        Ok(config) => config.normalized(),
        // `--help` and `--version` come this way too.
        Err(said) if !said.use_stderr() => return Ok(said.print()?),
        Err(error) => anyhow::bail!("{}", error.to_string().trim_end()),
    };
    check_environment(std::env::vars_os())?;
    tokio::runtime::Runtime::new()?.block_on(run(config))
}

/// Writes logs as JSON lines to stderr: what `RUST_LOG` asks for, by default from `info` on. Libraries never go beyond
/// `warn`, whatever it says, since they print headers and bodies.
fn start_log() {
    let wanted = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let most = Targets::new()
        .with_default(tracing::Level::WARN)
        .with_target("shellbridge_backend", tracing::Level::TRACE);
    let lines = tracing_subscriber::fmt::layer()
        .json()
        .flatten_event(true)
        .with_span_list(false)
        .with_writer(std::io::stderr);
    tracing_subscriber::registry().with(lines).with(most).with(wanted).init();
}
