//! Sessions leave no resources behind, and shells find no secrets.

use std::{collections::BTreeSet, path::PathBuf};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tempfile::TempDir;

use super::{
    support::{Stack, sibling, until},
    terminal::{Session, Terminal},
};

/// The pid of the stack's backend.
pub(crate) async fn backend(stack: &Stack) -> u32 {
    until("the backend's pid", || async {
        let log = stack.log();
        let line = log.lines().find(|line| line.contains("the backend listens"))?.to_owned();
        line.split("pid=").nth(1)?.split_whitespace().next()?.parse().ok()
    })
    .await
}

/// A copy of `session-host`, the only one of the stack. Once it is removed, no backend can start.
pub(crate) fn own_host(directory: &TempDir) -> PathBuf {
    let path = directory.path().join("session-host");
    std::fs::copy(sibling("session-host"), &path).unwrap();
    path
}

pub(crate) fn kill(pid: u32) {
    send(pid, Signal::KILL);
}

fn send(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), signal).unwrap();
}

/// Stops the stack, in order and with all of these processes.
async fn stops(mut stack: Stack, signal: Signal, processes: &[u32]) {
    let stopped = tokio::task::spawn_blocking(move || stack.stop(signal)).await.unwrap();
    assert_eq!(stopped.code(), Some(0));
    let alive: Vec<_> = processes.iter().filter(|pid| is_alive(**pid)).collect();
    assert!(alive.is_empty(), "left running: {alive:?}");
}

/// Open descriptors: sockets, and all others.
fn descriptors(pid: u32) -> (usize, usize) {
    let all = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().filter_map(Result::ok);
    let targets = all.filter_map(|entry| std::fs::read_link(entry.path()).ok());
    let (sockets, others): (Vec<_>, Vec<_>) =
        targets.partition(|target| target.to_string_lossy().starts_with("socket:"));
    (sockets.len(), others.len())
}

/// Children, zombies included.
pub(crate) fn children(pid: u32) -> BTreeSet<u32> {
    let all = std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    all.filter(|child| parent(*child) == Some(pid)).collect()
}

/// The parent of a process.
pub(crate) fn parent(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// Process ids that a shell printed as `pid 123.`
pub(crate) fn pids(output: &[u8]) -> Vec<u32> {
    let text = String::from_utf8_lossy(output).into_owned();
    text.split("pid ").skip(1).filter_map(|rest| rest.split('.').next()?.parse().ok()).collect()
}

/// Whether a process runs. Zombies do not.
pub(crate) fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

fn temporary_files() -> usize {
    let all = std::fs::read_dir(std::env::temp_dir()).unwrap().filter_map(Result::ok);
    all.filter(|entry| entry.file_name().to_string_lossy().starts_with("shellbridge-")).count()
}

#[tokio::test]
async fn two_hundred_sessions_leave_no_descriptor_no_child_and_no_file() {
    let stack = Stack::whole().start().await;
    let pid = backend(&stack).await;
    // The first session creates what is kept, such as connections to the gateway.
    let first = Session::new(&stack).await;
    Terminal::new(&stack, &first, "first").run("echo fi''rst", "first").await;
    first.end().await;
    stack.until_state("no connection", |state| state["connections"] == 0).await;
    let before = (descriptors(pid), children(pid));
    let files = temporary_files();
    let mut left = Vec::new();
    for round in 0..20 {
        let mut sessions = Vec::new();
        for _ in 0..10 {
            sessions.push(Session::new(&stack).await);
        }
        if round % 5 == 0 {
            // One session leaves processes in the background.
            let mut terminal = Terminal::new(&stack, &sessions[0], "worker");
            let line = "sleep 1000 & echo p''id $!. ; nohup sleep 1000 >/dev/null 2>&1 & echo p''id $!. ; echo wo''rks";
            terminal.run(line, "works").await;
            left.extend(pids(&terminal.output));
        }
        for session in &sessions {
            session.end().await;
        }
    }
    assert_eq!(left.len(), 8);
    let alive: Vec<_> = left.iter().filter(|pid| is_alive(**pid)).collect();
    assert!(alive.is_empty(), "left running: {alive:?}");
    assert_eq!(children(pid), before.1);
    // The pool keeps as many connections to the gateway as were ever used at once: a few, not one per session.
    let (sockets, others) = before.0;
    until("descriptors as before", || async {
        let now = descriptors(pid);
        (now.1 <= others && now.0 <= sockets + 16).then_some(())
    })
    .await;
    assert!(temporary_files() <= files);
}

#[tokio::test]
async fn stopping_ends_every_process_even_if_the_backend_is_down() {
    for signal in [Signal::INT, Signal::TERM] {
        let directory = TempDir::new().unwrap();
        let host = own_host(&directory);
        let stack = Stack::whole().env("SESSION_HOST", host.to_str().unwrap()).start().await;
        let session = Session::with(&stack, json!({"shell": "/bin/sh"})).await;
        let mut terminal = Terminal::new(&stack, &session, "worker");
        let line = "(trap '' HUP; exec sleep 1000) & echo p''id $!. ; echo p''id $$. ; echo p''id $PPID. ; echo wo''rks";
        terminal.run(line, "works").await;
        let left = pids(&terminal.output);
        assert!(left.len() == 3 && left.iter().all(|pid| is_alive(*pid)), "{left:?}");
        std::fs::remove_file(host).unwrap();
        kill(backend(&stack).await);
        until("a failing start", || async { stack.log().contains("is not a file").then_some(()) }).await;
        stops(stack, signal, &left).await;
    }
}

#[tokio::test]
async fn regression_a_backend_that_left_its_sessions_is_started_again() {
    let stack = Stack::whole().start().await;
    let session = Session::with(&stack, json!({"shell": "/bin/sh"})).await;
    let mut terminal = Terminal::new(&stack, &session, "worker");
    terminal.run("echo p''id $$. ; echo p''id $PPID. ; echo wo''rks", "works").await;
    let left = pids(&terminal.output);
    send(backend(&stack).await, Signal::HUP);
    until("the end", || async { stack.log().contains("starting it again").then_some(()) }).await;
    terminal.run("echo sa''me $$.", &format!("same {}.", left[0])).await;
    stops(stack, Signal::INT, &left).await;
}

#[tokio::test]
async fn no_secret_is_found_from_inside_a_shell() {
    let secrets = [
        ("JWT_SECRET", "jwt-needle-jwt-needle-jwt-needle-1"),
        ("BRIDGE_SECRET", "bridge-needle-bridge-needle-bridge"),
        ("ADMIN_TOKEN", "admin-needle-admin-needle-admin-12"),
    ];
    let builder = secrets.iter().fold(Stack::whole(), |builder, (name, value)| builder.env(name, value));
    let stack = builder.start().await;
    let session = Session::with(&stack, json!({"shell": "/bin/sh", "env": {"LAB": "one"}})).await;
    let mut terminal = Terminal::new(&stack, &session, "curious");
    let from = terminal.output.len();
    // The test process itself has the secrets in memory only, not in its environment.
    terminal
        .run(
            "env; cat /proc/*/environ 2>/dev/null | tr '\\0' '\\n' | grep -ac nee''dle; echo loo''ked",
            "looked",
        )
        .await;
    let said = String::from_utf8_lossy(&terminal.output[from..]).into_owned();
    assert!(said.contains("LAB=one") && said.contains("TERM=xterm-256color"), "{said}");
    assert!(!said.contains("needle"), "{said}");
    let names: BTreeSet<_> = said
        .lines()
        .filter_map(|line| line.trim().split_once('=').map(|(name, _)| name.to_owned()))
        .filter(|name| name.bytes().all(|b| b.is_ascii_uppercase()))
        .collect();
    let allowed = ["HOME", "LAB", "LANG", "OLDPWD", "PATH", "PS", "PWD", "SHELL", "SHLVL", "TERM", "USER"];
    assert!(names.iter().all(|name| allowed.contains(&name.as_str())), "{names:?}");
    let count = said.lines().rev().find_map(|line| line.trim().parse::<u32>().ok());
    assert_eq!(count, Some(0), "a process's environment contains a secret: {said}");
}
