//! Every mode completes against the whole stack and measures something; speed is not tested.
#![expect(clippy::unwrap_used, reason = "a test program: tests fail by panicking")]

use std::process::Command;

use serde_json::Value;

fn bench(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_bench")).args(arguments).output().unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {stdout}{stderr}");
    stdout
}

/// Runs a mode and returns its rows.
fn rows(arguments: &[&str]) -> Vec<Value> {
    let directory = tempfile::TempDir::new().unwrap();
    let file = directory.path().join("rows.json");
    bench(&[arguments, &["--json", file.to_str().unwrap()]].concat());
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
}

#[test]
fn latencies_are_measured_next_to_a_floor() {
    for mode in ["ping", "command", "echo", "connect"] {
        let rows = rows(&[mode, "-c", "2", "-s", "0.5"]);
        assert_eq!(rows.len(), 2, "{rows:?}");
        assert_eq!(rows[1]["name"], mode);
        for row in &rows {
            assert!(row["latency"]["count"].as_u64() > Some(0) && row["rate"].as_f64() > Some(0.0), "{row}");
            assert!(row["latency"]["p50"].as_f64() <= row["latency"]["p99.9"].as_f64(), "{row}");
        }
    }
}

#[test]
fn an_open_loop_does_not_exceed_its_rate() {
    let rows = rows(&["ping", "-c", "2", "-s", "1", "--rate", "20"]);
    let count = rows[1]["latency"]["count"].as_u64().unwrap();
    assert!((1..=22).contains(&count), "{rows:?}");
}

#[test]
fn output_is_measured_and_every_byte_verified() {
    let rows = rows(&["output", "-s", "2", "--bytes", "300000"]);
    assert!(rows.iter().all(|row| row["rate"].as_f64() > Some(0.0)), "{rows:?}");
}

#[test]
fn keys_are_measured_while_builds_run() {
    let rows = rows(&["mixed", "-c", "5", "-s", "1"]);
    assert!(rows[0]["latency"]["count"].as_u64() > Some(0), "{rows:?}");
}

#[test]
fn the_function_and_idle_sessions_are_measured() {
    let stdout = bench(&["function"]);
    for (what, count) in [
        ("calls of the backend", "1.000  backendCalls"),
        ("reads of DynamoDB", "0.000      dynamodb"),
        ("pushes", "1.000        pushes"),
    ] {
        assert!(stdout.lines().any(|line| line.starts_with(what) && line.ends_with(count)), "{stdout}");
    }
    assert!(bench(&["idle", "-s", "3", "--full", "1"]).contains("3 idle sessions: backend "));
}

#[test]
fn sandboxes_are_measured() {
    let costs =
        Command::new(env!("CARGO_BIN_EXE_bench")).args(["sandbox", "--modes", "none"]).output().unwrap();
    let stdout = String::from_utf8_lossy(&costs.stdout);
    // Unmet targets exit with 1 as well, so only the table tells.
    assert!(
        stdout.lines().any(|line| line.starts_with("none ")),
        "{stdout}{}",
        String::from_utf8_lossy(&costs.stderr)
    );
}

#[test]
fn a_fleet_is_measured() {
    let said = bench(&["fleet", "--instances", "2", "-s", "4", "--seconds", "1"]);
    for what in ["Redis: ", "after its loss: ", "instance: ", "ping p50: "] {
        assert!(said.lines().any(|line| line.starts_with(what)), "{said}");
    }
}
