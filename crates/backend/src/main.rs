//! Protects the secrets, reads the settings, and serves until a signal; or, with `--init`, runs a process that does.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use shellbridge_backend::{
    Sandbox, UsersLeft, below_init,
    config::{Config, check_environment},
    init, is_init, keep_secrets, run,
};
use tracing_subscriber::{EnvFilter, filter::Targets, prelude::*};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let ended = if is_init() {
        start_log();
        init(users_left()).map(ExitCode::from)
    } else {
        // Before the runtime starts threads: part of this applies per thread.
        let kept = keep_secrets().context("cannot protect the secrets from shells");
        start_log();
        kept.and_then(|()| start()).map(|()| ExitCode::SUCCESS)
    };
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

/// What an init needs to end the users of sessions. Invalid settings are the backend's to report.
fn users_left() -> Option<UsersLeft> {
    let config = Config::try_parse().ok()?.normalized();
    let (host, homes) = (config.session_host.as_deref(), config.shell_homes.as_deref());
    (config.shell_sandbox == Sandbox::User).then(|| UsersLeft::new(host, &config.shell_uids, homes).ok())?
}

fn start() -> anyhow::Result<()> {
    let config = match Config::try_parse() {
        Ok(config) => config.normalized(),
        // clap also returns `--help` and `--version` as errors.
        Err(output) if !output.use_stderr() => return Ok(output.print()?),
        Err(error) => anyhow::bail!("{}", error.to_string().trim_end()),
    };
    check_environment(std::env::vars_os())?;
    if config.below_init {
        below_init().context("--below-init")?;
    }
    tokio::runtime::Runtime::new()?.block_on(run(config))
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
