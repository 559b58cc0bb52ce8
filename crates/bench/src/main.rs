//! `bench`: see `bench --help`.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::{Args, Parser, Subcommand};
use shellbridge_bench::{
    cost::CostArgs,
    floor::{self, Floor},
    load::Plan,
    mode::{Mode, Subject, beside_floor},
    output, process,
    report::{Row, print_rows},
    stack::{Programs, Stack},
    target::{Target, TargetArgs},
};

/// Measures a terminal's whole way, beside floors of the same run.
#[derive(Parser)]
#[command(name = "bench", version)]
struct Cli {
    #[command(subcommand)]
    what: What,
    /// Directory of `gateway` and `backend`; that of this program by default
    #[arg(long, global = true)]
    bin: Option<PathBuf>,
    /// The function; by default the one that is deployed, `target/lambda/websocket-handler`, if it was built
    #[arg(long, global = true)]
    function: Option<PathBuf>,
}

#[derive(Subcommand)]
enum What {
    /// `ping` to `pong`, beside a raw WebSocket echo
    Ping(LoadArgs),
    /// `command` `true` to its result
    Command(LoadArgs),
    /// A key to its echo through `cat`, beside a raw WebSocket echo
    Echo(LoadArgs),
    /// Handshake to `attached`
    Connect(LoadArgs),
    /// Bytes a second of `head | base64`, every one compared, beside a bare PTY read
    Output(OutputArgs),
    /// Is a floor until stdin ends; the other modes start them
    #[command(hide = true)]
    Floor {
        kind: floor::Kind,
        #[arg(long, default_value_t = 50_000_000)]
        bytes: u64,
    },
    /// Dollars of an hour of lab work
    Cost(CostArgs),
}

#[derive(Args)]
struct LoadArgs {
    /// Connections at once, each with a session of its own
    #[arg(long, short, default_value_t = 1)]
    connections: usize,
    /// Seconds that count
    #[arg(long, short, default_value_t = 4.0)]
    seconds: f64,
    /// Exchanges a second in all, begun whether or not the last was answered; without it as many as are answered
    #[arg(long)]
    rate: Option<f64>,
    #[command(flatten)]
    target: TargetArgs,
}

#[derive(Args)]
struct OutputArgs {
    /// Sessions that write at once
    #[arg(long, short, default_value_t = 1)]
    sessions: usize,
    /// Zeros that each writes as base64
    #[arg(long, default_value_t = 50_000_000)]
    bytes: u64,
    #[command(flatten)]
    target: TargetArgs,
}

fn main() -> ExitCode {
    process::raise_descriptors();
    let cli = Cli::parse();
    // One worker: the client shares two cores with what it measures.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let ran = runtime.map_err(anyhow::Error::from).and_then(|runtime| runtime.block_on(run(cli)));
    match ran {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> anyhow::Result<()> {
    let (mode, args) = match cli.what {
        What::Ping(args) => (Mode::Ping, args),
        What::Command(args) => (Mode::Command, args),
        What::Echo(args) => (Mode::Echo, args),
        What::Connect(args) => (Mode::Connect, args),
        What::Output(args) => {
            let (stack, target) = subject(cli.bin, cli.function, &args.target).await?;
            let subject = Subject { target: &target, stack: stack.as_ref() };
            let bare = floor::pty_rate(args.bytes).await?;
            let row = output::measure(subject, args.sessions, args.bytes).await?;
            let bare = bare.midpoint(floor::pty_rate(args.bytes).await?);
            print_rows(&[Row::bytes("floor: bare PTY read", 1, bare), row.clone()]);
            println!("{:.0}% of the floor", 100.0 * row.rate / bare);
            return Ok(());
        }
        What::Floor { kind, bytes } => return floor::serve(kind, bytes).await,
        What::Cost(_) => anyhow::bail!("not built yet"),
    };
    let (stack, target) = subject(cli.bin, cli.function, &args.target).await?;
    let subject = Subject { target: &target, stack: stack.as_ref() };
    let plan = Plan {
        warm: Duration::from_secs(1),
        measure: Duration::from_secs_f64(args.seconds),
        rate: args.rate,
    };
    let floor = Floor::start(floor::Kind::Websocket).await?;
    let [under, row] = beside_floor(mode, subject, &floor, args.connections, plan).await?;
    print_rows(&[under.clone(), row.clone()]);
    println!("p50 {:.1}x the floor's, rate 1/{:.1} of it", row.p50() / under.p50(), under.rate / row.rate);
    Ok(())
}

async fn subject(
    bin: Option<PathBuf>,
    function: Option<PathBuf>,
    args: &TargetArgs,
) -> anyhow::Result<(Option<Stack>, Target)> {
    if let Some(url) = &args.url {
        return Ok((None, Target::deployed(url, args)?));
    }
    let stack = Programs::find(bin, function)?.stack().start().await?;
    let target = Target::local(&stack)?;
    Ok((Some(stack), target))
}
