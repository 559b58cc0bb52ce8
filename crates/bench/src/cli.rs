//! The command line, and what each subcommand does with the library.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::{Args, Parser, Subcommand};
use shellbridge_bench::{
    all, compare,
    cost::{self, CostArgs},
    counts::{self, CountsArgs},
    floor::{self, Floor},
    function, idle,
    load::Plan,
    mixed,
    mode::{Beside, Mode, Subject},
    neighbour, output,
    report::{Row, print_rows, write_json},
    smoke,
    stack::{Programs, Stack},
    target::{Target, TargetArgs},
};

/// How long sleeping sessions are watched.
const IDLE_FOR: Duration = Duration::from_secs(10);

/// Measures a terminal's whole way, beside floors of the same run.
#[derive(Parser)]
#[command(name = "bench", version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    what: What,
    #[command(flatten)]
    programs: ProgramArgs,
    /// Write what was measured to this file too, for programs
    #[arg(long, global = true)]
    json: Option<PathBuf>,
}

/// What is started where nothing is named.
#[derive(Args)]
struct ProgramArgs {
    /// Directory of `gateway` and `backend`; that of this program by default
    #[arg(long, global = true)]
    bin: Option<PathBuf>,
    /// The function; by default the one that is deployed, `target/function/websocket-handler`, if it was built
    #[arg(long, global = true)]
    function: Option<PathBuf>,
}

impl ProgramArgs {
    fn find(&self) -> anyhow::Result<Programs> {
        Programs::find(self.bin.clone(), self.function.clone())
    }
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
    /// Other sessions' keys and `/health` while one session floods its terminal, beside the same without
    Neighbour {
        /// Seconds of each of three rounds with and three without, of three floods at two sizes
        #[arg(long, short, default_value_t = 2.0)]
        seconds: f64,
    },
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
    All,
    /// What people use instead, where it is installed: pushpin, ttyd
    Compare,
    /// Whether a stack works, step by step; without --url one is started here, with TLS
    Smoke(TargetArgs),
    /// Is a floor until stdin ends; the other modes start them
    #[command(hide = true)]
    Floor {
        kind: floor::Kind,
        #[arg(long, default_value_t = 50_000_000)]
        bytes: u64,
        #[arg(long)]
        core: Option<usize>,
    },
    /// Dollars of an hour of lab work
    Cost(CostArgs),
    /// Instructions of one frame through function and backend, against stored bounds
    Counts(CountsArgs),
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

/// Does it.
pub(crate) async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let json = cli.json.as_deref();
    match cli.what {
        What::Ping(args) => latency(&cli.programs, Mode::Ping, &args, json).await?,
        What::Command(args) => latency(&cli.programs, Mode::Command, &args, json).await?,
        What::Echo(args) => latency(&cli.programs, Mode::Echo, &args, json).await?,
        What::Connect(args) => latency(&cli.programs, Mode::Connect, &args, json).await?,
        What::Mixed(args) => {
            let (stack, target) = subject(&cli.programs, &args.target, false).await?;
            let subject = Subject { target: &target, stack: stack.as_ref() };
            show(&[mixed::measure(subject, args.connections, args.plan()).await?], json)?;
        }
        What::Output(args) => {
            let (stack, target) = subject(&cli.programs, &args.target, false).await?;
            let subject = Subject { target: &target, stack: stack.as_ref() };
            let bare = floor::pty_rate(args.bytes).await?;
            let row = output::measure(subject, args.sessions, args.bytes).await?;
            let bare = bare.midpoint(floor::pty_rate(args.bytes).await?);
            let share = 100.0 * row.rate / bare;
            show(&[Row::bytes("floor: bare PTY read", 1, bare), row], json)?;
            println!("{share:.0}% of the floor");
        }
        What::Neighbour { seconds } => {
            let stack = cli.programs.find()?.stack().start().await?;
            let costs = neighbour::measure(&stack, Duration::from_secs_f64(seconds)).await?;
            neighbour::print(&costs);
            write_json(&costs, json)?;
            if !costs.iter().all(neighbour::Cost::is_met) {
                return Ok(ExitCode::FAILURE);
            }
        }
        What::Idle { sessions, full } => {
            let programs = cli.programs.find()?;
            let idle = idle::sleeping(&programs.stack().start().await?, sessions, IDLE_FOR).await?;
            let kept = idle::full(&programs.stack().start().await?, full).await?;
            println!(
                "{sessions} sleeping: backend {:.1} KB each and {:.2}% of a core, gateway {:.1} KB each; {:.2} MB a session with full kept output",
                idle.backend_bytes / 1e3,
                100.0 * idle.backend_core,
                idle.gateway_bytes / 1e3,
                kept / 1e6
            );
        }
        What::Function => {
            let programs = cli.programs.find()?;
            let stack = programs.stack().start().await?;
            println!("{:#?}", function::measure(&stack, &programs.function).await?);
            drop(stack);
            function::print_per_frame(&function::per_frame(&programs).await?);
        }
        What::All => all::run(&cli.programs.find()?, json).await?,
        What::Compare => compare::run(&cli.programs.find()?).await?,
        What::Smoke(args) => {
            let (_stack, target) = subject(&cli.programs, &args, true).await?;
            return Ok(if smoke::run(&target).await { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        What::Floor { kind, bytes, core } => floor::serve(kind, bytes, core).await?,
        What::Counts(args) => counts::run(&args, &cli.programs.find()?).await?,
        What::Cost(args) => cost::run(&args, &cli.programs.find()?).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn latency(
    programs: &ProgramArgs,
    mode: Mode,
    args: &LoadArgs,
    json: Option<&Path>,
) -> anyhow::Result<()> {
    let (stack, target) = subject(programs, &args.target, false).await?;
    let subject = Subject { target: &target, stack: stack.as_ref() };
    let short = Plan { rate: None, measure: Duration::from_secs(1), ..args.plan() };
    let core = (args.connections == 1).then_some(0);
    let floor = Floor::start(floor::Kind::Websocket, core).await?;
    let under = if core.is_some() { Beside::apart } else { Beside::new };
    let mut under = under(&floor, args.connections, short);
    under.again().await?;
    let row = mode.measure(subject, args.connections, args.plan()).await?;
    under.again().await?;
    let under = under.row()?;
    let (p50, rate) = (row.p50() / under.p50(), under.rate / row.rate);
    show(&[under, row], json)?;
    println!("p50 {p50:.1}x the floor's, rate 1/{rate:.1} of it");
    Ok(())
}

fn show(rows: &[Row], json: Option<&Path>) -> anyhow::Result<()> {
    print_rows(rows);
    write_json(&rows, json)
}

/// The stack that was named, or one started here.
async fn subject(
    programs: &ProgramArgs,
    args: &TargetArgs,
    tls: bool,
) -> anyhow::Result<(Option<Stack>, Target)> {
    if let Some(url) = &args.url {
        return Ok((None, Target::deployed(url, args)?));
    }
    let stack = programs.find()?.stack().flag(if tls { "--tls" } else { "" }, "").start().await?;
    let target = Target::local(&stack)?;
    Ok((Some(stack), target))
}

impl LoadArgs {
    fn plan(&self) -> Plan {
        let measure = Duration::from_secs_f64(self.seconds);
        Plan { warm: Duration::from_secs(1), measure, rate: self.rate }
    }
}
