//! Protects the secrets, reads the settings, and serves until a signal; or, with `--init`, runs a process that does.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use shellbridge_backend::{
    Sandbox, UsersLeft, below_init,
    config::{Config, check_environment},
    init, is_init, keep_secrets, protect, run,
};
use tracing_subscriber::{EnvFilter, filter::Targets, prelude::*};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Before the runtime starts threads: part of this applies per thread.
    let kept = if is_init() { protect() } else { keep_secrets() };
    start_log();
    let kept = kept.context("cannot protect the secrets from shells");
    let ended = kept.and_then(|()| settings()).and_then(start).map(ExitCode::from);
    match ended {
        Ok(code) => code,
        Err(error) => {
            // Plain text on stderr, for people who start it by hand.
            eprintln!("backend: {error:#}");
            // Tells an init that the backend has not started. There are no errors later.
            ExitCode::FAILURE
        }
    }
}

/// What an init needs to end the users of sessions.
fn users_left(config: &Config) -> anyhow::Result<Option<UsersLeft>> {
    if config.shell_sandbox != Sandbox::User {
        return Ok(None);
    }
    let (host, homes) = (config.session_host.as_deref(), config.shell_homes.as_deref());
    UsersLeft::new(host, &config.shell_uids, homes).map(Some)
}

/// Reads the settings. Exits after `--help` and `--version`.
fn settings() -> anyhow::Result<Config> {
    let config = match Config::try_parse() {
        Ok(config) => config.normalized(),
        Err(output) if !output.use_stderr() => output.exit(),
        Err(error) => anyhow::bail!("{}", error.to_string().trim_end()),
    };
    check_environment(std::env::vars_os())?;
    Ok(config)
}

/// Returns the exit code.
fn start(config: Config) -> anyhow::Result<u8> {
    if config.init {
        return init(&config.addresses()?, users_left(&config)?);
    }
    if config.below_init {
        below_init().context("--below-init")?;
    }
    tokio::runtime::Runtime::new()?.block_on(run(config))?;
    Ok(0)
}

/// Logs JSON lines to stderr, at the level of `RUST_LOG` or `info`. Libraries are capped at `warn` regardless, because
/// below that they log headers and bodies.
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
