//! The results of `bench all`, and the targets, as ratios to floors of the same run where a floor exists.

use anyhow::Context as _;
use serde::Serialize;

use crate::{
    function::{Figures, PerFrame},
    idle::Idle,
    mode::{FLOOR, FLOOR_PINNED},
    report::{Row, print_table},
};

/// All results.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// CPU and kernel.
    pub machine: String,
    /// The table of measurements.
    pub rows: Vec<Row>,
    /// Bare PTY read, bytes per second.
    pub pty: f64,
    /// The function alone.
    pub function: Figures,
    /// Requests caused by one frame.
    pub per_frame: PerFrame,
    /// Resident memory.
    pub memory: Memory,
    /// Idle sessions.
    pub idle: Idle,
    /// The table of targets.
    pub targets: Vec<TargetResult>,
}

/// Resident memory, bytes.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Memory {
    /// Backend without sessions.
    pub backend_idle: u64,
    /// Growth of the backend per session with a full output log.
    pub backend_full_session: f64,
    /// Peak of the backend over all loads.
    pub backend_most: u64,
    /// Peak of any process of the function.
    pub function_most: u64,
    /// Peak of the gateway.
    pub gateway_most: u64,
}

/// A target and its measurement.
#[derive(Debug, Clone, Serialize)]
pub struct TargetResult {
    /// Name of the target.
    pub target: String,
    /// The measured value.
    pub value: f64,
    /// The maximum, or the minimum if `at_least`.
    pub bound: f64,
    /// Unit of value and bound.
    pub unit: &'static str,
    /// Whether the bound is a minimum.
    pub at_least: bool,
    /// Whether the value is within the bound.
    pub met: bool,
}

fn most(target: impl Into<String>, value: f64, bound: f64, unit: &'static str) -> TargetResult {
    TargetResult { target: target.into(), value, bound, unit, at_least: false, met: value <= bound }
}

fn least(target: impl Into<String>, value: f64, bound: f64, unit: &'static str) -> TargetResult {
    TargetResult { target: target.into(), value, bound, unit, at_least: true, met: value >= bound }
}

/// Compares the results with the targets.
#[expect(clippy::cast_precision_loss, reason = "memory and sizes are far below 2^53 bytes")]
pub fn evaluate(report: &Report) -> anyhow::Result<Vec<TargetResult>> {
    let rows = |name: &str, connections: usize| {
        let found = report.rows.iter().filter(|row| row.name == name && row.connections == connections);
        let found: Vec<&Row> = found.collect();
        (!found.is_empty()).then_some(found).with_context(|| format!("no row {name} of {connections}"))
    };
    let mean = |name, connections, of: &dyn Fn(&Row) -> f64| {
        let rows = rows(name, connections)?;
        anyhow::Ok(rows.iter().map(|row| of(row)).sum::<f64>() / rows.len() as f64)
    };
    let p50 = |row: &Row| row.p50();
    let p99 = |row: &Row| row.latency.map_or(f64::NAN, |latency| latency.p99);
    let rate = |row: &Row| row.rate;
    let echo = mean(FLOOR_PINNED, 1, &p50)?;
    let ping = mean("ping", 1, &p50)?;
    let cpu = |row: &Row| row.cpu.map_or(f64::NAN, |cpu| cpu.function + cpu.backend);
    let mut cpus = Vec::new();
    for connections in [1, 16, 128] {
        cpus.push(mean("ping", connections, &cpu)?);
    }
    let cpu = cpus.into_iter().fold(0.0, f64::max);
    let output = |sessions| anyhow::Ok(100.0 * mean("output", sessions, &rate)? / report.pty);
    let mut met = vec![
        most("ping, p50, of the raw echo's, a core each", ping / echo, 10.0, "x"),
        most("ping, p99, of its p50", mean("ping", 1, &p99)? / ping, 4.0, "x"),
    ];
    for connections in [16, 128] {
        let share = mean(FLOOR, connections, &rate)? / mean("ping", connections, &rate)?;
        met.push(most(format!("frames/s at {connections}: raw echo's over Shellbridge's"), share, 20.0, "x"));
    }
    met.extend([
        most(
            "keystroke to echo, p50, of the raw echo's, a core each",
            mean("echo", 1, &p50)? / echo,
            12.0,
            "x",
        ),
        least("output of one session, of the bare PTY read's", output(1)?, 60.0, "%"),
        least("output of sixteen, of one bare PTY read's", output(16)?, 90.0, "%"),
        most("CPU of function and backend a frame, worst of 1, 16, 128", cpu, 250.0, "µs"),
        most("function: start to first poll", report.function.ready, 12.0, "ms"),
        most("function: start to first frame answered", report.function.first_frame, 20.0, "ms"),
        most("function: executable", report.function.binary as f64 / 1e6, 6.5, "MB"),
        most("function: peak memory of a process", report.memory.function_most as f64 / 1e6, 15.0, "MB"),
        most("a frame: calls of the backend, by /__state", report.per_frame.backend_calls, 1.0, ""),
        most(
            "a frame: reads of DynamoDB, record cached, by /__state",
            report.per_frame.dynamodb_reads,
            0.0,
            "",
        ),
        most("a frame: pushes, by /__state", report.per_frame.pushes, 1.0, ""),
        most("backend: memory, idle", report.memory.backend_idle as f64 / 1e6, 15.0, "MB"),
        most(
            "backend: memory per session with a full output log",
            report.memory.backend_full_session / 1e6,
            1.5,
            "MB",
        ),
        most(
            format!("backend: share of a core, with {} idle sessions", report.idle.sessions),
            100.0 * report.idle.backend_core,
            5.0,
            "%",
        ),
    ]);
    Ok(met)
}

/// Prints the table of targets.
pub fn print(targets: &[TargetResult]) {
    let head = ["target", "measured", "bound", "met"].map(str::to_owned);
    let lines = targets.iter().map(|target| {
        let sign = if target.at_least { "≥" } else { "≤" };
        let verdict = if target.met { "yes" } else { "NO" };
        vec![
            target.target.clone(),
            format!("{:.2} {}", target.value, target.unit),
            format!("{sign} {} {}", target.bound, target.unit),
            verdict.to_owned(),
        ]
    });
    print_table(&head, &lines.collect::<Vec<_>>());
    let met = targets.iter().filter(|target| target.met).count();
    println!("{met} of {} met", targets.len());
}
