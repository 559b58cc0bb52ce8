//! The command line: subcommands and their dispatch to the library.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::{Args, Parser, Subcommand};
use shellbridge_bench::{
    compare,
    cost::{self, CostArgs},
    counts::{self, CountsArgs},
    fleet,
    floor::{self, Floor},
    function, idle,
    load::Plan,
    mixed,
    mode::{FloorSampler, Mode, Subject},
    neighbour, output,
    report::{Row, print_rows, write_json},
    sandbox,
    stack::ProgramArgs,
    suite,
    target::{TargetArgs, subject},
};

/// Measurement window of idle sessions.
const IDLE_FOR: Duration = Duration::from_secs(10);

/// Benchmarks a terminal end to end, next to floors of the same run.
#[derive(Parser)]
#[command(name = "bench", version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    what: What,
    #[command(flatten)]
    programs: ProgramArgs,
    /// Also write the results to this file as JSON
    #[arg(long, global = true)]
    json: Option<PathBuf>,
}

#[derive(Subcommand)]
enum What {
    /// Latency from `ping` to `pong`, next to a raw WebSocket echo
    Ping(LoadArgs),
    /// Latency from `command` `true` to its result
    Command(LoadArgs),
    /// Latency from a key to its echo through `cat`, next to a raw WebSocket echo
    Echo(LoadArgs),
    /// Latency from handshake to `attached`
    Connect(LoadArgs),
    /// Bytes per second of `head | base64`, every byte verified, next to a bare PTY read
    Output(OutputArgs),
    /// Latency of typing while builds run in other sessions
    Mixed(LoadArgs),
    /// Latency of other sessions' keys and `/health` while 1 and 8 sessions flood their terminals, next to the same without a flood
    Neighbour {
        /// Seconds of each of three rounds with and three without floods, for three floods at two sizes
        #[arg(long, short, default_value_t = 2.0)]
        seconds: f64,
    },
    /// Start, end, keys and output of sessions, by sandbox
    Sandbox {
        /// Values of `SHELL_SANDBOX`, compared with the first
        #[arg(long, value_delimiter = ',', default_value = "none")]
        modes: Vec<String>,
    },
    /// Memory and CPU time of idle sessions
    Idle {
        /// Number of idle sessions
        #[arg(long, short, default_value_t = 1_000)]
        sessions: usize,
        /// Sessions with a full output log, measured next
        #[arg(long, default_value_t = 16)]
        full: usize,
    },
    /// What several backends cost: Redis, memory and CPU time per instance and per session, and the hop between them
    Fleet {
        /// Number of backends
        #[arg(long, default_value_t = 4)]
        instances: u8,
        /// Number of idle sessions
        #[arg(long, short, default_value_t = 200)]
        sessions: usize,
        /// Seconds of each measurement
        #[arg(long, default_value_t = 10.0)]
        seconds: f64,
    },
    /// Size, memory and start-up time of the function, and the requests of one frame
    Function,
    /// Everything, and whether the targets are met
    All,
    /// Alternatives, if installed: pushpin, ttyd
    Compare,
    /// Run a floor until stdin ends; other subcommands start it
    #[command(hide = true)]
    Floor {
        kind: floor::Kind,
        #[arg(long, default_value_t = 50_000_000)]
        bytes: u64,
        #[arg(long)]
        core: Option<usize>,
    },
    /// Price of an hour of lab work, in dollars
    Cost(CostArgs),
    /// Instructions per frame in function and backend, against stored bounds
    Counts(CountsArgs),
}

#[derive(Args)]
struct LoadArgs {
    /// Concurrent connections, one session each
    #[arg(long, short, default_value_t = 1)]
    connections: usize,
    /// Seconds measured
    #[arg(long, short, default_value_t = 4.0)]
    seconds: f64,
    /// Total exchanges per second (an open loop); without it, each connection waits for the last answer (a closed loop)
    #[arg(long)]
    rate: Option<f64>,
    #[command(flatten)]
    target: TargetArgs,
}

#[derive(Args)]
struct OutputArgs {
    /// Concurrent sessions
    #[arg(long, short, default_value_t = 1)]
    sessions: usize,
    /// Zeros that each session writes as base64
    #[arg(long, default_value_t = 50_000_000)]
    bytes: u64,
    #[command(flatten)]
    target: TargetArgs,
}

/// Runs the subcommand.
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
        What::Sandbox { modes } => {
            let costs = sandbox::measure(&cli.programs.find()?, &modes).await?;
            write_json(&costs, json)?;
            if !sandbox::print(&costs) {
                return Ok(ExitCode::FAILURE);
            }
        }
        What::Idle { sessions, full } => {
            let programs = cli.programs.find()?;
            let idle = idle::sleeping(&programs.stack().start().await?, sessions, IDLE_FOR).await?;
            let kept = idle::full(&programs.stack().start().await?, full).await?;
            println!(
                "{sessions} idle sessions: backend {:.1} KB each and {:.2}% of a core, gateway {:.1} KB each; {:.2} MB per session with a full output log",
                idle.backend_bytes / 1e3,
                100.0 * idle.backend_core,
                idle.gateway_bytes / 1e3,
                kept / 1e6
            );
        }
        What::Fleet { instances, sessions, seconds } => {
            let window = Duration::from_secs_f64(seconds);
            let cost = fleet::measure(&cli.programs.find()?, instances, sessions, window).await?;
            fleet::print(&cost);
            write_json(&cost, json)?;
        }
        What::Function => {
            let programs = cli.programs.find()?;
            let stack = programs.stack().start().await?;
            println!("{:#?}", function::measure(&stack, &programs.function).await?);
            drop(stack);
            function::print_per_frame(&function::per_frame(&programs).await?);
        }
        What::All => suite::run(&cli.programs.find()?, json).await?,
        What::Compare => compare::run(&cli.programs.find()?).await?,
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
    let sampler = if core.is_some() { FloorSampler::pinned } else { FloorSampler::new };
    let mut sampler = sampler(&floor, args.connections, short);
    sampler.sample().await?;
    let row = mode.measure(subject, args.connections, args.plan()).await?;
    sampler.sample().await?;
    let sampler = sampler.row()?;
    let (p50, rate) = (row.p50() / sampler.p50(), sampler.rate / row.rate);
    show(&[sampler, row], json)?;
    println!("p50 {p50:.1}x the floor's, rate 1/{rate:.1} of it");
    Ok(())
}

fn show(rows: &[Row], json: Option<&Path>) -> anyhow::Result<()> {
    print_rows(rows);
    write_json(&rows, json)
}

/// The deployed stack in `args`, or a local one.
impl LoadArgs {
    fn plan(&self) -> Plan {
        let measure = Duration::from_secs_f64(self.seconds);
        Plan { warm: Duration::from_secs(1), measure, rate: self.rate }
    }
}
