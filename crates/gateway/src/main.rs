//! The `gateway` program: prints its addresses on stdout, logs to stderr, runs until a signal.

use std::{io::IsTerminal as _, num::NonZeroUsize, process::ExitCode, time::Duration};

use clap::Parser as _;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use shellbridge_gateway::{config::Config, stack::Stack};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let config = Config::parse();
    // The shells under `make run` have its user. A process that is not dumpable owns its `/proc` files as root, so
    // that they cannot read the secrets in its environment and memory (proc(5), ptrace(2)).
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        eprintln!("gateway: set non-dumpable: {error}");
        return ExitCode::FAILURE;
    }
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn,shellbridge_gateway=info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    // Half the cores: the function and the backend need the others, and passing work between threads adds latency.
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(cores.div_ceil(2)).enable_all().build();
    match runtime.map_err(Into::into).and_then(|runtime| runtime.block_on(run(&config))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("gateway: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Waits until the parent process has exited. Waits for ever unless `enabled`.
async fn orphaned(enabled: bool) {
    let parent = rustix::process::getppid();
    while !enabled || rustix::process::getppid() == parent {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

async fn run(config: &Config) -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut stopping = async || {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            () = orphaned(config.stop_with_parent) => {}
        }
    };
    let mut stack = tokio::select! {
        started = Stack::start(config) => started?,
        // Dropping the unfinished start kills its processes.
        () = stopping() => return Ok(()),
    };
    stack.run(stopping()).await;
    tokio::select! {
        () = stack.stop() => {}
        // A second signal: dropping the stack kills what is left.
        () = stopping() => {}
    }
    Ok(())
}
