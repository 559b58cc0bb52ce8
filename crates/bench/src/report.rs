//! Results as text tables and as JSON.

use std::path::Path;

use anyhow::Context as _;
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use crate::load::Latencies;

/// One row of the table of measurements.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    /// Name of the mode or floor.
    pub name: String,
    /// Connections or sessions.
    pub connections: usize,
    /// Exchanges per second, or bytes per second in rows without latencies.
    pub rate: f64,
    /// ms
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency: Option<Quantiles>,
    /// CPU time by program, µs per exchange or per MB of output.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Cpu>,
}

/// ms
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Quantiles {
    /// Median.
    pub p50: f64,
    /// 90%.
    pub p90: f64,
    /// 99%.
    pub p99: f64,
    /// 99.9%.
    #[serde(rename = "p99.9")]
    pub p999: f64,
    /// Number of exchanges.
    pub count: u64,
}

/// CPU time by program.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Cpu {
    /// All processes of the function.
    pub function: f64,
    /// The backend.
    pub backend: f64,
    /// The stand-in: API Gateway's, Lambda's and `DynamoDB`'s work.
    pub gateway: f64,
}

impl From<&Latencies> for Quantiles {
    fn from(latencies: &Latencies) -> Self {
        let at = |quantile| latencies.quantile_ms(quantile);
        Self { p50: at(0.5), p90: at(0.9), p99: at(0.99), p999: at(0.999), count: latencies.count() }
    }
}

impl Row {
    /// A row of latencies.
    pub fn new(name: &str, connections: usize, latencies: &Latencies, cpu: Option<Cpu>) -> Self {
        Self {
            name: name.to_owned(),
            connections,
            rate: latencies.rate(),
            latency: Some(latencies.into()),
            cpu,
        }
    }

    /// A row of bytes per second.
    pub fn bytes(name: &str, sessions: usize, rate: f64) -> Self {
        Self { name: name.to_owned(), connections: sessions, rate, latency: None, cpu: None }
    }

    /// The median, ms.
    pub fn p50(&self) -> f64 {
        self.latency.map_or(f64::NAN, |latency| latency.p50)
    }
}

/// The median; of an even number, the upper one.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Writes `value` to `path`, if given.
pub fn write_json(value: &impl Serialize, path: Option<&Path>) -> anyhow::Result<()> {
    let Some(path) = path else { return Ok(()) };
    std::fs::write(path, serde_json::to_string_pretty(value)?).with_context(|| path.display().to_string())
}

/// Prints the table of measurements.
pub fn print_rows(rows: &[Row]) {
    let head =
        ["", "conns", "rate/s", "p50 ms", "p90", "p99", "p99.9", "CPU µs: function", "backend", "gateway"];
    let lines = rows.iter().map(|row| {
        let rate = if row.latency.is_some() {
            format!("{:.0}", row.rate)
        } else {
            format!("{:.1} MB", row.rate / 1e6)
        };
        let mut cells = vec![row.name.clone(), row.connections.to_string(), rate];
        match row.latency {
            Some(q) => cells.extend([q.p50, q.p90, q.p99, q.p999].map(|ms| format!("{ms:.3}"))),
            None => cells.extend(std::iter::repeat_n(String::new(), 4)),
        }
        match row.cpu {
            Some(cpu) => {
                cells.extend([cpu.function, cpu.backend, cpu.gateway].map(|micros| format!("{micros:.0}")));
            }
            None => cells.extend(std::iter::repeat_n(String::new(), 3)),
        }
        cells
    });
    print_table(&head.map(str::to_owned), &lines.collect::<Vec<_>>());
}

/// Prints a table whose first column is text (left-aligned); the others are numbers (right-aligned).
pub fn print_table(head: &[String], lines: &[Vec<String>]) {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(head).add_rows(lines);
    for (index, column) in table.column_iter_mut().enumerate() {
        let last = index + 1 == head.len();
        column.set_padding((0, if last { 0 } else { 2 }));
        column.set_cell_alignment(if index == 0 { CellAlignment::Left } else { CellAlignment::Right });
    }
    println!("{}", table.trim_fmt());
}
