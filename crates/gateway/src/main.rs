//! `gateway`: settings in, addresses out on stdout, logs on stderr, until a signal comes.

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
    // Half the cores: it shares them with all that it starts, and every handing over between threads is a wait.
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

/// Waits until the process that started this one is gone.
async fn orphaned(wanted: bool) {
    let parent = rustix::process::getppid();
    while !wanted || rustix::process::getppid() == parent {
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
        // Dropped half-way, processes are killed.
        () = stopping() => return Ok(()),
    };
    stack.run(stopping()).await;
    tokio::select! {
        () = stack.stop() => {}
        // Asked twice: what is left is killed as it is dropped.
        () = stopping() => {}
    }
    Ok(())
}
