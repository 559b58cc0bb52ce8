//! `bench`: see `bench --help`.

mod cli;

use std::process::ExitCode;

use clap::Parser as _;
use shellbridge_bench::process;

fn main() -> ExitCode {
    process::raise_descriptor_limit();
    let cli = cli::Cli::parse();
    // One worker, because the client shares two cores with the stack.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let ran = runtime.map_err(anyhow::Error::from).and_then(|runtime| runtime.block_on(cli::run(cli)));
    match ran {
        Ok(code) => code,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
