//! Checks a newly deployed stack step by step.

use std::{
    process,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use serde_json::Value;

use crate::{
    exchange::{FrameClient, Kind},
    load::Exchange as _,
    socket::Socket,
    target::{Session, Target},
    terminal::Terminal,
};

/// The steps: name, and what to check after a failure.
const STEPS: [(&str, &str); 9] = [
    (
        "a session",
        "the backend: GET /health; is ADMIN_TOKEN the backend's, or TOKEN for a session that exists?",
    ),
    (
        "handshake",
        "401 token, 403 owner or origin, 404 session, 503 backend: GET BACKEND/api/diagnostics/websocket with the token says more; else the log of the function, and its BACKEND_URL",
    ),
    (
        "`connected` is pushed",
        "the backend's pushes: its role needs execute-api:ManageConnections on this API; AWS_REGION, CALLBACK_URL; its log",
    ),
    (
        "ping",
        "the $default route and the log of the function: BRIDGE_SECRET must be the same in both; its role's access to the table",
    ),
    ("command", "the log of the backend; can its container start /bin/sh?"),
    ("echo", "a proxy between function and backend that rewrites JSON; the logs of both"),
    ("keys through the shell", "the log of the backend: the session's shell, the pushes of its output"),
    (
        "110 KB in order",
        "pushes: 429 of @connections (account limits), or 413; shellbridge_pushes_total at the backend's /metrics",
    ),
    ("reconnect and resume", "whether the backend runs as exactly one instance"),
];

/// Result of a step.
struct StepResult {
    name: &'static str,
    verdict: String,
    took: Option<Duration>,
}

/// Runs all steps and prints their results. Returns whether all succeeded.
pub async fn run(target: &Target) -> bool {
    let mut results = Vec::new();
    let outcome = steps(target, &mut results).await;
    let failed = outcome.as_ref().err().and_then(|_| STEPS.get(results.len()));
    if let (Some((name, _)), Err(error)) = (failed, &outcome) {
        results.push(StepResult { name, verdict: format!("FAILED: {error:#}"), took: None });
    }
    results.extend(STEPS.iter().skip(results.len()).map(|(name, _)| StepResult {
        name,
        verdict: "not tried".to_owned(),
        took: None,
    }));
    for StepResult { name, verdict, took } in &results {
        let took = took.map(|took| format!("{:.1} ms", took.as_secs_f64() * 1e3)).unwrap_or_default();
        println!("{name:<24}{took:>10}  {verdict}");
    }
    if let Some((name, check)) = failed {
        println!("\n{name}: check {check}");
    }
    failed.is_none()
}

async fn steps(target: &Target, results: &mut Vec<StepResult>) -> anyhow::Result<()> {
    let mut begun = Instant::now();
    let mut done = |verdict: String| {
        let (name, _) = STEPS.get(results.len()).copied().unwrap_or_default();
        results.push(StepResult { name, verdict, took: Some(begun.elapsed()) });
        begun = Instant::now();
    };
    let ok = || "ok".to_owned();

    let session = target.session("/bin/sh").await?;
    done(ok());
    let mut socket = Socket::connect(&session.url, session.insecure).await?;
    done(ok());
    let connected: Value = serde_json::from_str(&socket.text().await?)?;
    ensure!(connected.get("type").is_some_and(|kind| kind == "connected"), "the first frame was {connected}");
    done(ok());
    let mut client = FrameClient::new(socket, Kind::Ping);
    client.exchange().await?;
    done(ok());
    let result = client.command("echo $((6 * 7))").await?;
    ensure!(result.trim() == "42", "`echo $((6 * 7))` gave {result:?}");
    done(ok());
    client.echo().await?;
    done(ok());
    let name = format!("smoke-{}", process::id());
    let mut terminal = Terminal::attached(session.clone(), &name).await?;
    let keys = keys(&mut terminal).await?;
    done(format!("ok, {:.1} ms a key", keys.as_secs_f64() * 1e3));
    in_order(&mut terminal).await?;
    done(ok());
    resume(&session, terminal, &name).await?;
    done(ok());
    target.end(&[session]).await
}

/// Types a line, waiting for each key's echo. Returns the mean time per key.
async fn keys(terminal: &mut Terminal) -> anyhow::Result<Duration> {
    // Skips the prompt and the shell's start-up output.
    terminal.run("echo re''ady", "ready").await?;
    terminal.until(Duration::from_millis(200), |_| false).await?;
    let line = "echo ty''ped";
    let begun = Instant::now();
    for key in line.bytes() {
        let before = terminal.output_offset();
        terminal.write(&[key]);
        let echoed =
            terminal.until(crate::socket::DEADLINE, |terminal| terminal.output_offset() > before).await?;
        ensure!(echoed, "the key {:?} was not echoed", char::from(key));
    }
    let took = begun.elapsed() / u32::try_from(line.len())?;
    terminal.run("", "typed").await?;
    Ok(took)
}

/// Makes the shell count and verifies the numbers.
async fn in_order(terminal: &mut Terminal) -> anyhow::Result<()> {
    let output = terminal.run("echo fr''om; seq 1 20000; echo cou''nted", "counted").await?;
    // A shell may write control sequences before its first line.
    let (_, counted) = output.split_once("from\r\n").context("the shell did not begin to count")?;
    let lines = counted.lines().map(str::trim_end);
    let numbers: Vec<u32> = lines.filter_map(|line| line.parse().ok()).collect();
    ensure!(
        numbers == (1..=20_000).collect::<Vec<_>>(),
        "numbers missing or out of order: got {} of 20000",
        numbers.len()
    );
    Ok(())
}

/// Drops the connection; after reconnecting, the output that a second client saw meanwhile must arrive.
async fn resume(session: &Session, mut terminal: Terminal, name: &str) -> anyhow::Result<()> {
    let mut other = Terminal::attached(session.clone(), &format!("{name}-other")).await?;
    // Earlier output does not matter.
    let (from, mut missed) = (terminal.output_offset(), Vec::new());
    terminal.break_off();
    other.run("echo aw''ay", "away").await?;
    let until = other.output_offset();
    ensure!(until > from, "nothing was written");
    terminal.connect().await.context("connecting again")?;
    let came = terminal
        .until(crate::socket::DEADLINE, |terminal| {
            missed.extend(terminal.take_output());
            terminal.output_offset() >= until
        })
        .await?;
    let missed = String::from_utf8_lossy(&missed);
    let once = missed.matches("away").count() == 1;
    ensure!(came && once, "expected the missed output exactly once, got {missed:?}");
    terminal.close().await;
    other.close().await;
    Ok(())
}
