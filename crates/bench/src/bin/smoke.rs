//! `smoke`: checks a newly deployed stack step by step; without `--url`, a local one with TLS.

use std::process::ExitCode;

use clap::Parser;
use shellbridge_bench::{
    process, smoke,
    stack::ProgramArgs,
    target::{TargetArgs, subject},
};

/// Checks a stack step by step; without --url a local one, with TLS
#[derive(Parser)]
#[command(name = "smoke", version)]
struct Cli {
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    programs: ProgramArgs,
}

#[tokio::main]
async fn main() -> ExitCode {
    process::raise_descriptor_limit();
    let cli = Cli::parse();
    match subject(&cli.programs, &cli.target, true).await {
        Ok((_stack, target)) if smoke::run(&target).await => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("smoke: {error:#}");
            ExitCode::FAILURE
        }
    }
}
