//! No byte is lost, duplicated or reordered, through real processes and a gateway that reorders, repeats, drops,
//! fails and cuts.
//!
//! `SOAK=10` runs ten times the full size and prints statistics.

use std::{
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{
    leaks,
    support::{Stack, StackBuilder, sibling, until},
    terminal::{Session, Terminal},
};

/// Keystrokes and bytes of output of one run: a tenth of the full size, or `SOAK` times the full size.
pub(crate) fn size() -> (usize, usize) {
    let full = (20_000, 50_000_000);
    match std::env::var("SOAK").ok().and_then(|times| times.parse::<usize>().ok()) {
        Some(times) => (full.0 * times, full.1 * times),
        None => (full.0 / 10, full.1 / 10),
    }
}

/// Timeout of one run, far above its usual time.
pub(crate) fn patience() -> Duration {
    Duration::from_mins(if std::env::var_os("SOAK").is_some() { 120 } else { 20 })
}

/// The faults in force during a run.
pub(crate) fn bad_weather(seed: u64) -> Value {
    json!({
        "seed": seed, "reorder": 0.10, "repeat": 0.05, "drop": 0.02, "pushFail": 0.05,
        "pushFailAfterDelivery": 0.5, "cutEveryMs": 2000, "cutAbruptly": seed.is_multiple_of(2),
    })
}

/// Reproducible bytes that are hard on compressors and terminals.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    // Mostly text, as in terminals, with raw bytes in between.
    (0..len)
        .map(|_| {
            let [a, b, ..] = next().to_le_bytes();
            if a < 8 { b } else { b' ' + b % 95 }
        })
        .collect()
}

fn written(directory: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = directory.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

/// Types each key in its own frame and checks the echo; then prints a file while typing goes on.
async fn script(stack: &Stack, seed: u64) -> (Session, Terminal) {
    let session = Session::with(stack, json!({"shell": "/bin/sh"})).await;
    let mut terminal = Terminal::new(stack, &session, "promise");
    script_in(stack, &mut terminal, seed, size()).await;
    (session, terminal)
}

/// The same at a terminal whose session runs `sh`, with so many keys and bytes of output.
pub(crate) async fn script_in(
    stack: &Stack,
    terminal: &mut Terminal,
    seed: u64,
    (keys, bytes): (usize, usize),
) {
    let directory = stack.directory();
    let shown = noise(seed, bytes);
    let file = written(directory, &format!("shown-{seed}"), &shown);
    let second = directory.join(format!("typed-{seed}"));
    // Raw mode passes every byte through unchanged in both directions.
    terminal.run("stty raw -echo; printf 'ra''w'", "raw").await;

    // Its output shows that the program runs in the shell's place.
    let typed = noise(seed + 1, keys);
    terminal.run(&format!("printf 'fir''st'; head -c {keys}"), "first").await;
    let from = terminal.output.len();
    terminal.keys.extend(&typed);
    terminal
        .drive(patience(), |terminal| terminal.keys.is_empty() && terminal.output.len() >= from + keys)
        .await;
    assert_same("echoed keys", &terminal.output[from..from + keys], &typed);

    let typed = noise(seed + 2, keys);
    let from = terminal.output.len();
    let command =
        format!("printf 'seco''nd'; cat {} & head -c {keys} > {}; wait", file.display(), second.display());
    terminal.run(&command, "second").await;
    terminal.keys.extend(&typed);
    terminal
        .drive(patience(), |terminal| {
            let typed = terminal.keys.is_empty() && terminal.client.unacknowledged() == 0;
            typed && terminal.output.len() >= from + bytes
        })
        .await;
    terminal.run("printf 'en''d'", "end").await;
    // The prompt comes before and after.
    let start = find(&terminal.output[from..], &shown[..64]).expect("the beginning of the file");
    assert_same("shown bytes", &terminal.output[from + start..from + start + bytes], &shown);
    assert_same("typed keys", &std::fs::read(&second).unwrap(), &typed);
    assert!(terminal.snapshots.is_empty(), "a client that comes back in time has no gap");
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

/// Compares without printing megabytes.
fn assert_same(what: &str, have: &[u8], want: &[u8]) {
    if have != want {
        let at = have.iter().zip(want).position(|(a, b)| a != b).unwrap_or(have.len().min(want.len()));
        let around = |bytes: &[u8]| {
            String::from_utf8_lossy(&bytes[at.saturating_sub(40)..bytes.len().min(at + 40)]).into_owned()
        };
        panic!(
            "{what}: {} bytes instead of {}, different from {at}: {:?} instead of {:?}",
            have.len(),
            want.len(),
            around(have),
            around(want)
        );
    }
}

async fn keeps_the_promise(stack: StackBuilder, faults: Value, seed: u64) {
    let stack = stack.start().await;
    stack.faults(faults).await;
    let (session, terminal) = script(&stack, seed).await;
    session.end().await;
    let state = stack.state().await;
    assert!(terminal.cuts > 0, "nothing was cut");
    println!(
        "seed {seed}: {} bytes shown, {} cuts, {} refusals, largest frame {}, {:?}, invocations {}, pushes {}",
        terminal.output.len(),
        terminal.cuts,
        terminal.refusals,
        terminal.largest,
        terminal.client.counts,
        state["invocations"],
        state["pushes"],
    );
}

#[tokio::test]
async fn every_byte_arrives_once_and_in_order_in_bad_weather() {
    keeps_the_promise(Stack::whole(), bad_weather(1), 1).await;
}

#[tokio::test]
async fn every_byte_arrives_once_and_in_order_with_sockets_reset() {
    keeps_the_promise(Stack::whole(), bad_weather(2), 2).await;
}

#[tokio::test]
async fn every_byte_arrives_while_a_function_process_is_killed_every_second() {
    let mut faults = bad_weather(3);
    faults["killFunctionEveryMs"] = 1000.into();
    keeps_the_promise(Stack::whole(), faults, 3).await;
}

/// Time between kills of the backend, milliseconds.
const KILL_EVERY: u64 = 3000;

#[tokio::test]
async fn every_byte_arrives_while_the_backend_is_killed_every_three_seconds() {
    while_the_backend_is_killed(Stack::whole(), 4).await;
}

/// Needs root.
#[tokio::test]
async fn every_byte_arrives_in_sessions_with_users_while_the_backend_is_killed() {
    let homes = TempDir::new().unwrap();
    std::fs::set_permissions(homes.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
    let first = 1_200_000_000 + std::process::id();
    let stack = Stack::whole()
        .env("SHELL_SANDBOX", "user")
        .env("SHELL_UIDS", &format!("{first}-{}", first + 9))
        .env("SHELL_HOMES", homes.path().join("homes").to_str().unwrap());
    while_the_backend_is_killed(stack, 6).await;
}

async fn while_the_backend_is_killed(stack: StackBuilder, seed: u64) {
    let stack = stack.start().await;
    // The shell of a session with a user reads and writes there, too.
    std::fs::set_permissions(stack.directory(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let mut faults = bad_weather(seed);
    faults["killBackendEveryMs"] = KILL_EVERY.into();
    stack.faults(faults).await;
    let (session, mut terminal) = script(&stack, seed).await;
    stack.faults(json!({"killBackendEveryMs": 0})).await;
    // It may be starting again.
    terminal.run("echo aft''er", "after").await;
    let kills = stack.state().await["backendKills"].as_u64().unwrap();
    assert!(kills > 0, "nothing was killed");
    // Its line in the log may come after its first answer.
    let starts = async || stack.log().matches("the backend listens").count() as u64;
    until("all starts", || async { (starts().await > kills).then_some(()) }).await;
    assert_eq!(starts().await, kills + 1, "only a kill ended it");
    println!("{kills} kills, {:?}", terminal.client.counts);
    session.end().await;
}

/// A program that runs the backend as process 1 of a container, and forwards SIGTERM, which `unshare` ignores.
fn container(directory: &TempDir) -> PathBuf {
    let user = if rustix::process::geteuid().is_root() { "" } else { "--user --map-root-user" };
    let script = format!(
        "#!/bin/sh
unshare {user} --pid --fork --kill-child --mount-proc -- {} \"$@\" & container=$!
trap 'kill -TERM $(cat /proc/$container/task/$container/children)' TERM
wait $container; wait $container\n",
        sibling("backend").display()
    );
    let path = written(directory.path(), "container", script.as_bytes());
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// The running backend among the descendants of a process.
fn backend_below(pid: u32) -> Option<u32> {
    let command = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    if command.contains("--below-init") {
        return Some(pid);
    }
    leaks::children(pid).into_iter().find_map(backend_below)
}

#[tokio::test]
async fn every_byte_arrives_while_the_backend_is_killed_below_process_1_of_a_container() {
    let directory = TempDir::new().unwrap();
    let function = sibling("websocket-handler");
    let stack = Stack::with_function(&function).flag("--backend", container(&directory)).start().await;
    stack.faults(bad_weather(5)).await;
    let mut kills = 0;
    let killing = async {
        loop {
            tokio::time::sleep(Duration::from_millis(KILL_EVERY)).await;
            // Init may be about to start it again.
            if let Some(backend) = backend_below(stack.pid()) {
                leaks::kill(backend);
                kills += 1;
            }
        }
    };
    let (session, mut terminal) = tokio::select! {
        done = script(&stack, 5) => done,
        () = killing => unreachable!(),
    };
    terminal.run("echo aft''er", "after").await;
    assert!(kills > 0, "nothing was killed");
    println!("{kills} kills, {:?}", terminal.client.counts);
    session.end().await;
}
