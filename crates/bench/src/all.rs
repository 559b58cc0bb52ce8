//! `bench all`: every mode at every number of connections, and whether the targets are met.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use serde::Serialize;

use crate::{
    floor::{self, Floor},
    function::{self, Figures, PerFrame},
    idle::{self, Idle},
    load::{Latencies, Plan},
    mixed,
    mode::{Beside, Mode, Subject, floor_http},
    output, process,
    report::{self, Row},
    stack::{Programs, Role, Stack},
    target::Target,
    targets::{self, Met},
};

/// Connections of the table.
const CONNECTIONS: [usize; 3] = [1, 16, 128];
/// Zeros that one session writes as base64, and each of sixteen.
const OUTPUT: [(usize, u64); 2] = [(1, 50_000_000), (16, 8_000_000)];
/// Times that output is measured, each between two bare reads.
const OUTPUTS: usize = 3;
/// Sleeping sessions, and for how long they are watched.
const IDLE: (usize, Duration) = (1_000, Duration::from_secs(12));
/// Sessions with full kept output.
const FULL: usize = 16;

/// Everything that was measured.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// What it was measured on.
    pub machine: String,
    /// The first table.
    pub rows: Vec<Row>,
    /// Bare PTY read, bytes a second.
    pub pty: f64,
    /// The function by itself.
    pub function: Figures,
    /// What one frame makes happen.
    pub per_frame: PerFrame,
    /// Most resident memory of a process, bytes.
    pub memory: Memory,
    /// Sleeping sessions.
    pub idle: Idle,
    /// The second table.
    pub targets: Vec<Met>,
}

/// Bytes.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Memory {
    /// Resident memory of the backend before any session.
    pub backend_idle: u64,
    /// The same for each session whose kept output is full, more.
    pub backend_full_session: f64,
    /// The most resident memory of the backend after all loads.
    pub backend_most: u64,
    /// The most of any process of the function.
    pub function_most: u64,
    /// The most of the stand-in.
    pub gateway_most: u64,
}

/// Measures everything and prints both tables.
pub async fn run(programs: &Programs, json: Option<&Path>) -> anyhow::Result<()> {
    let begun = Instant::now();
    say(begun, "what one frame makes happen");
    let per_frame = function::per_frame(programs).await?;
    let stack = programs.stack().start().await?;
    let backend_idle = idle::resident(&stack, Role::Backend);
    let target = Target::local(&stack)?;
    let subject = Subject { target: &target, stack: Some(&stack) };

    say(begun, "the function by itself");
    let figures = function::measure(&stack, &programs.function).await?;

    let mut rows = latencies(begun, subject).await?;
    let pty = outputs(begun, subject, &mut rows).await?;
    let most = |role| most_resident(&stack, role);
    let (backend_most, function_most, gateway_most) =
        (most(Role::Backend), most(Role::Function), most(Role::Gateway));
    drop(stack);

    say(begun, "sleeping sessions");
    let stack = programs.stack().start().await?;
    let idle = idle::sleeping(&stack, IDLE.0, IDLE.1).await?;
    drop(stack);
    say(begun, "kept output");
    let stack = programs.stack().start().await?;
    let backend_full_session = idle::full(&stack, FULL).await?;
    drop(stack);

    say(begun, "done");

    let memory = Memory { backend_idle, backend_full_session, backend_most, function_most, gateway_most };
    let machine = machine();
    let mut report =
        Report { machine, rows, pty, function: figures, per_frame, memory, idle, targets: Vec::new() };
    report.targets = targets::judge(&report)?;
    print(&report);
    report::write_json(&report, json)
}

async fn latencies(begun: Instant, subject: Subject<'_>) -> anyhow::Result<Vec<Row>> {
    let (websocket, http) =
        (Floor::start(floor::Kind::Websocket, None).await?, Floor::start(floor::Kind::Http, None).await?);
    let alone = Floor::start(floor::Kind::Websocket, Some(0)).await?;
    let mut rows = Vec::new();
    let plan = |seconds| Plan {
        warm: Duration::from_millis(500),
        measure: Duration::from_secs_f64(seconds),
        rate: None,
    };
    for connections in CONNECTIONS {
        say(begun, &format!("{connections} connections"));
        let mut under = Beside::new(&websocket, connections, plan(0.8));
        let mut apart = Beside::apart(&alone, connections, plan(0.8));
        let mut measured = Vec::new();
        for mode in [Mode::Ping, Mode::Echo, Mode::Ping, Mode::Command, Mode::Connect] {
            under.again().await?;
            if connections == 1 {
                apart.again().await?;
            }
            // Twice, so that the row of most targets is not one moment's.
            let seconds = if mode == Mode::Ping { 2.0 } else { 2.5 };
            measured.push(mode.measure(subject, connections, plan(seconds)).await?);
        }
        under.again().await?;
        let axum: Latencies = floor_http(&http, connections, plan(0.8)).await?;
        rows.push(under.row()?);
        if connections == 1 {
            rows.push(apart.row()?);
        }
        rows.push(Row::new("floor: bare axum POST", connections, &axum, None));
        rows.extend(measured);
        let human = Plan { measure: mixed::MEASURE, ..plan(0.0) };
        rows.push(mixed::measure(subject, connections, human).await?);
    }
    Ok(rows)
}

/// Output of one and of sixteen, each between bare reads; returns the median of those.
async fn outputs(begun: Instant, subject: Subject<'_>, rows: &mut Vec<Row>) -> anyhow::Result<f64> {
    let mut bare = Vec::new();
    for (sessions, zeros) in OUTPUT {
        say(begun, &format!("output of {sessions}"));
        let mut measured = Vec::new();
        for _ in 0..OUTPUTS {
            bare.push(floor::pty_rate(OUTPUT[0].1).await?);
            measured.push(output::measure(subject, sessions, zeros).await?);
        }
        measured.sort_by(|a, b| a.rate.total_cmp(&b.rate));
        rows.extend(measured.into_iter().nth(OUTPUTS / 2));
    }
    bare.sort_by(f64::total_cmp);
    let median = bare.get(bare.len() / 2).copied().context("no bare read")?;
    rows.push(Row::bytes("floor: bare PTY read", 1, median));
    Ok(median)
}

fn most_resident(stack: &Stack, role: Role) -> u64 {
    let of_role = stack.processes().into_iter().filter(|(other, _)| *other == role);
    of_role.map(|(_, pid)| process::most_resident(pid)).max().unwrap_or_default()
}

fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{cores} cores of {}, Linux {}", model.map_or("?", |(_, name)| name.trim()), kernel.trim())
}

fn say(begun: Instant, what: &str) {
    eprintln!("{:>4} s  {what}", begun.elapsed().as_secs());
}

fn print(report: &Report) {
    println!("\n{}\n", report.machine);
    report::print_rows(&report.rows);
    let Memory { backend_most, function_most, gateway_most, .. } = report.memory;
    #[allow(clippy::cast_precision_loss, reason = "memory is far below 2^53 bytes")]
    let mb = |bytes: u64| bytes as f64 / 1e6;
    println!(
        "\nCPU is µs an exchange, of output µs a MB. Most memory of a process: function {:.1} MB, backend {:.1} MB, gateway {:.1} MB.",
        mb(function_most),
        mb(backend_most),
        mb(gateway_most)
    );
    println!(
        "{} sleeping sessions: backend {:.0} KB each, gateway {:.0} KB each.\n",
        report.idle.sessions,
        report.idle.backend_bytes / 1e3,
        report.idle.gateway_bytes / 1e3
    );
    targets::print(&report.targets);
}
