//! `bench`: see `bench --help`.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::{Args, Parser, Subcommand};
use shellbridge_bench::{
    all,
    cost::CostArgs,
    floor::{self, Floor},
    function, idle,
    load::Plan,
    mixed,
    mode::{Beside, Mode, Subject},
    output, process,
    report::{Row, print_rows},
    stack::Programs,
    target::{Target, TargetArgs},
};

/// How long sleeping sessions are watched.
const IDLE_FOR: Duration = Duration::from_secs(10);

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
    /// People typing while builds run beside them
    Mixed(LoadArgs),
    /// Memory and time of sessions that sleep
    Idle {
        /// How many
        #[arg(long, short, default_value_t = 1_000)]
        sessions: usize,
        /// Sessions whose kept output is full, measured after them
        #[arg(long, default_value_t = 16)]
        full: usize,
    },
    /// The function by itself, and what one frame makes happen
    Function,
    /// Everything, and whether the targets are met
    All {
        /// Everything measured, for programs
        #[arg(long)]
        json: Option<PathBuf>,
    },
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
    let programs = || Programs::find(cli.bin.clone(), cli.function.clone());
    let subject = async |args: &TargetArgs| match &args.url {
        Some(url) => anyhow::Ok((None, Target::deployed(url, args)?)),
        None => {
            let stack = programs()?.stack().start().await?;
            let target = Target::local(&stack)?;
            Ok((Some(stack), target))
        }
    };
    let latency = async |mode: Mode, args: LoadArgs| {
        let (stack, target) = subject(&args.target).await?;
        let subject = Subject { target: &target, stack: stack.as_ref() };
        let floor = Floor::start(floor::Kind::Websocket).await?;
        let short = Plan { rate: None, measure: Duration::from_secs(1), ..args.plan() };
        let mut under = Beside::new(&floor, args.connections, short);
        under.again().await?;
        let row = mode.measure(subject, args.connections, args.plan()).await?;
        under.again().await?;
        let under = under.row()?;
        let (p50, rate) = (row.p50() / under.p50(), under.rate / row.rate);
        print_rows(&[under, row]);
        println!("p50 {p50:.1}x the floor's, rate 1/{rate:.1} of it");
        Ok(())
    };
    match cli.what {
        What::Ping(args) => latency(Mode::Ping, args).await,
        What::Command(args) => latency(Mode::Command, args).await,
        What::Echo(args) => latency(Mode::Echo, args).await,
        What::Connect(args) => latency(Mode::Connect, args).await,
        What::Mixed(args) => {
            let (stack, target) = subject(&args.target).await?;
            let subject = Subject { target: &target, stack: stack.as_ref() };
            print_rows(&[mixed::measure(subject, args.connections, args.plan()).await?]);
            Ok(())
        }
        What::Output(args) => {
            let (stack, target) = subject(&args.target).await?;
            let subject = Subject { target: &target, stack: stack.as_ref() };
            let bare = floor::pty_rate(args.bytes).await?;
            let row = output::measure(subject, args.sessions, args.bytes).await?;
            let bare = bare.midpoint(floor::pty_rate(args.bytes).await?);
            let share = 100.0 * row.rate / bare;
            print_rows(&[Row::bytes("floor: bare PTY read", 1, bare), row]);
            println!("{share:.0}% of the floor");
            Ok(())
        }
        What::Idle { sessions, full } => {
            let programs = programs()?;
            let idle = idle::sleeping(&programs.stack().start().await?, sessions, IDLE_FOR).await?;
            let kept = idle::full(&programs.stack().start().await?, full).await?;
            println!(
                "{sessions} sleeping: backend {:.1} KB each and {:.2}% of a core, gateway {:.1} KB each; {:.2} MB a session with full kept output",
                idle.backend_bytes / 1e3,
                100.0 * idle.backend_core,
                idle.gateway_bytes / 1e3,
                kept / 1e6
            );
            Ok(())
        }
        What::Function => {
            let programs = programs()?;
            let stack = programs.stack().start().await?;
            println!("{:#?}", function::measure(&stack, &programs.function).await?);
            println!("{:#?}", function::per_frame(&stack).await?);
            Ok(())
        }
        What::All { json } => all::run(&programs()?, json).await,
        What::Floor { kind, bytes } => floor::serve(kind, bytes).await,
        What::Cost(_) => anyhow::bail!("not built yet"),
    }
}

impl LoadArgs {
    fn plan(&self) -> Plan {
        let measure = Duration::from_secs_f64(self.seconds);
        Plan { warm: Duration::from_secs(1), measure, rate: self.rate }
    }
}
