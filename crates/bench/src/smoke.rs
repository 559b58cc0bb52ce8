//! `bench smoke`: whether a stack works, told step by step to somebody who has just deployed it.

use std::{
    process,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use serde_json::Value;

use crate::{
    exchange::{Asker, Kind},
    load::Exchange as _,
    socket::Socket,
    target::{Session, Target},
    terminal::Terminal,
};

/// Every step: its name, and what to look at when it fails.
const STEPS: [(&str, &str); 9] = [
    ("a session", "the backend: GET /health; is ADMIN_TOKEN its own, or TOKEN one for a session that lives?"),
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
    ("echo", "what stands between the function and the backend, and rewrites JSON; the logs of both"),
    ("keys through the shell", "the log of the backend: the session's shell, the pushes of its output"),
    (
        "110 KB in order",
        "pushes: 429 of @connections (account limits), or 413; shellbridge_pushes_total at the backend's /metrics",
    ),
    ("reconnect and resume", "is there more than one instance of the backend? There must be exactly one"),
];

/// What became of a step.
struct Line {
    name: &'static str,
    verdict: String,
    took: Option<Duration>,
}

/// Tries everything and prints how it went. Whether all of it did.
pub async fn run(target: &Target) -> bool {
    let mut lines = Vec::new();
    let tried = steps(target, &mut lines).await;
    let failed = tried.as_ref().err().and_then(|_| STEPS.get(lines.len()));
    if let (Some((name, _)), Err(error)) = (failed, &tried) {
        lines.push(Line { name, verdict: format!("FAILED: {error:#}"), took: None });
    }
    lines.extend(STEPS.iter().skip(lines.len()).map(|(name, _)| Line {
        name,
        verdict: "not tried".to_owned(),
        took: None,
    }));
    for Line { name, verdict, took } in &lines {
        let took = took.map(|took| format!("{:.1} ms", took.as_secs_f64() * 1e3)).unwrap_or_default();
        println!("{name:<24}{took:>10}  {verdict}");
    }
    if let Some((name, look)) = failed {
        println!("\n{name}: look at {look}");
    }
    failed.is_none()
}

async fn steps(target: &Target, lines: &mut Vec<Line>) -> anyhow::Result<()> {
    let mut begun = Instant::now();
    let mut done = |verdict: String| {
        let (name, _) = STEPS.get(lines.len()).copied().unwrap_or_default();
        lines.push(Line { name, verdict, took: Some(begun.elapsed()) });
        begun = Instant::now();
    };
    let ok = || "ok".to_owned();

    let session = target.session("/bin/sh").await?;
    done(ok());
    let mut socket = Socket::connect(&session.url, session.insecure).await?;
    done(ok());
    let connected: Value = serde_json::from_str(&socket.text().await?)?;
    ensure!(connected.get("type").is_some_and(|kind| kind == "connected"), "{connected} came first");
    done(ok());
    let mut asker = Asker::new(socket, Kind::Ping);
    asker.exchange().await?;
    done(ok());
    let result = asker.command("echo $((6 * 7))").await?;
    ensure!(result.trim() == "42", "`echo $((6 * 7))` gave {result:?}");
    done(ok());
    asker.echo().await?;
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

/// Types a line key by key, each after the last one's echo; returns the time a key took.
async fn keys(terminal: &mut Terminal) -> anyhow::Result<Duration> {
    // The prompt, and whatever a shell says at its start.
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

/// Has the shell count, and compares.
async fn in_order(terminal: &mut Terminal) -> anyhow::Result<()> {
    let output = terminal.run("echo fr''om; seq 1 20000; echo cou''nted", "counted").await?;
    // A shell may say something to the terminal before its first line.
    let (_, counted) = output.split_once("from\r\n").context("the shell did not begin to count")?;
    let lines = counted.lines().map(str::trim_end);
    let numbers: Vec<u32> = lines.filter_map(|line| line.parse().ok()).collect();
    ensure!(
        numbers == (1..=20_000).collect::<Vec<_>>(),
        "{} numbers of 20000, or not in order",
        numbers.len()
    );
    Ok(())
}

/// Breaks the connection off; what is written meanwhile, as another one sees, must be there after reconnecting.
async fn resume(session: &Session, mut terminal: Terminal, name: &str) -> anyhow::Result<()> {
    let mut other = Terminal::attached(session.clone(), &format!("{name}-other")).await?;
    // From where the first one is. What was kept of before is not of interest.
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
    ensure!(came && once, "what was written meanwhile is to come, once; {missed:?} came");
    terminal.close().await;
    other.close().await;
    Ok(())
}
