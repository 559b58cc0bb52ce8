//! `bench all`: every mode at every number of connections, compared with the targets.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Context as _;

use crate::{
    floor::{self, Floor},
    function, idle,
    load::{Latencies, Plan},
    mixed,
    mode::{FloorSampler, Mode, Subject, floor_http},
    output, process,
    report::{self, Row},
    stack::{Programs, Role, Stack},
    target::Target,
    targets::{self, Memory, Report},
};

/// Connections per block of the table.
const CONNECTIONS: [usize; 3] = [1, 16, 128];
/// Sessions, and the zeros that each writes as base64.
const OUTPUT: [(usize, u64); 2] = [(1, 50_000_000), (16, 8_000_000)];
/// Runs of each output measurement, each after a bare read.
const OUTPUTS: usize = 3;
/// Idle sessions and their measurement window.
const IDLE: (usize, Duration) = (1_000, Duration::from_secs(12));
/// Sessions with a full output log.
const FULL: usize = 16;

/// Measures everything and prints both tables.
pub async fn run(programs: &Programs, json: Option<&Path>) -> anyhow::Result<()> {
    let begun = Instant::now();
    progress(begun, "requests per frame");
    let per_frame = function::per_frame(programs).await?;
    let stack = programs.stack().start().await?;
    let backend_idle = idle::resident(&stack, Role::Backend);
    let target = Target::local(&stack)?;
    let subject = Subject { target: &target, stack: Some(&stack) };

    progress(begun, "function alone");
    let figures = function::measure(&stack, &programs.function).await?;

    let mut rows = latencies(begun, subject).await?;
    let pty = outputs(begun, subject, &mut rows).await?;
    let most = |role| most_resident(&stack, role);
    let (backend_most, function_most, gateway_most) =
        (most(Role::Backend), most(Role::Function), most(Role::Gateway));
    drop(stack);

    progress(begun, "idle sessions");
    let stack = programs.stack().start().await?;
    let idle = idle::sleeping(&stack, IDLE.0, IDLE.1).await?;
    drop(stack);
    progress(begun, "full output logs");
    let stack = programs.stack().start().await?;
    let backend_full_session = idle::full(&stack, FULL).await?;
    drop(stack);

    progress(begun, "done");

    let memory = Memory { backend_idle, backend_full_session, backend_most, function_most, gateway_most };
    let machine = machine();
    let mut report =
        Report { machine, rows, pty, function: figures, per_frame, memory, idle, targets: Vec::new() };
    report.targets = targets::evaluate(&report)?;
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
        progress(begun, &format!("{connections} connections"));
        let mut sampler = FloorSampler::new(&websocket, connections, plan(0.8));
        let mut pinned = FloorSampler::pinned(&alone, connections, plan(0.8));
        let mut measured = Vec::new();
        for mode in [Mode::Ping, Mode::Echo, Mode::Ping, Mode::Command, Mode::Connect] {
            sampler.sample().await?;
            if connections == 1 {
                pinned.sample().await?;
            }
            // `ping` runs twice, since most targets depend on it.
            let seconds = if mode == Mode::Ping { 2.0 } else { 2.5 };
            measured.push(mode.measure(subject, connections, plan(seconds)).await?);
        }
        sampler.sample().await?;
        let axum: Latencies = floor_http(&http, connections, plan(0.8)).await?;
        rows.push(sampler.row()?);
        if connections == 1 {
            rows.push(pinned.row()?);
        }
        rows.push(Row::new("floor: bare axum POST", connections, &axum, None));
        rows.extend(measured);
        let human = Plan { measure: mixed::MEASURE, ..plan(0.0) };
        rows.push(mixed::measure(subject, connections, human).await?);
    }
    Ok(rows)
}

/// Measures the output of one and of sixteen sessions, alternating with bare reads. Returns the bare reads' median.
async fn outputs(begun: Instant, subject: Subject<'_>, rows: &mut Vec<Row>) -> anyhow::Result<f64> {
    let mut bare = Vec::new();
    for (sessions, zeros) in OUTPUT {
        progress(begun, &format!("output of {sessions}"));
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

fn progress(begun: Instant, what: &str) {
    eprintln!("{:>4} s  {what}", begun.elapsed().as_secs());
}

fn print(report: &Report) {
    println!("\n{}\n", report.machine);
    report::print_rows(&report.rows);
    let Memory { backend_most, function_most, gateway_most, .. } = report.memory;
    #[expect(clippy::cast_precision_loss, reason = "memory is far below 2^53 bytes")]
    let mb = |bytes: u64| bytes as f64 / 1e6;
    println!(
        "\nCPU is in µs per exchange, for output in µs per MB. Peak memory of a process: function {:.1} MB, backend {:.1} MB, gateway {:.1} MB.",
        mb(function_most),
        mb(backend_most),
        mb(gateway_most)
    );
    println!(
        "{} idle sessions: backend {:.0} KB each, gateway {:.0} KB each.\n",
        report.idle.sessions,
        report.idle.backend_bytes / 1e3,
        report.idle.gateway_bytes / 1e3
    );
    targets::print(&report.targets);
}
