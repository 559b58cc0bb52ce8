//! Endless output: the shell is throttled, memory stays bounded, Ctrl-C works, and a slow viewer slows no one else.

use std::time::{Duration, Instant};

use super::{
    support::{self, Stack},
    terminal::{Session, Terminal},
};

/// Resident memory of a process, bytes (`proc_pid_status(5)`).
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_ascii_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// Run time of `yes`: a minute in a soak.
fn long() -> Duration {
    Duration::from_secs(if std::env::var_os("SOAK").is_some() { 60 } else { 5 })
}

#[tokio::test]
async fn yes_runs_without_the_backend_growing_and_ctrl_c_stops_it() {
    let stack = Stack::whole().start().await;
    let backend = super::leaks::backend(&stack).await;
    let session = Session::new(&stack).await;
    let mut terminal = Terminal::new(&stack, &session, "flooded");
    terminal.run("PS1=''; echo re''ady", "ready").await;
    terminal.client.write(b"yes\n");
    // The first megabytes fill the buffers.
    let mut seen = 0;
    let mut drain = |terminal: &mut Terminal| {
        seen += terminal.output.len();
        terminal.output.clear();
        seen
    };
    terminal.drive(support::DEADLINE, |terminal| drain(terminal) > 4_000_000).await;
    let before = resident(backend);
    let until = Instant::now() + long();
    terminal.drive(long() * 2, |terminal| drain(terminal) > 0 && Instant::now() > until).await;
    let grown = resident(backend).saturating_sub(before);
    assert!(grown < 8 * 1024 * 1024, "the backend grew by {grown} bytes over {seen} bytes of output");

    let pressed = Instant::now();
    terminal.client.write(b"\x03");
    // The flood goes on until Ctrl-C has arrived, which on a busy machine takes a while.
    terminal
        .drive(support::DEADLINE, |terminal| drain(terminal) > 0 && terminal.client.unacknowledged() == 0)
        .await;
    terminal.output.clear();
    terminal.client.write(b"echo sto''pped\n");
    terminal
        .drive(support::DEADLINE, |terminal| {
            String::from_utf8_lossy(&terminal.output[terminal.output.len().saturating_sub(4096)..])
                .contains("stopped")
        })
        .await;
    let (took, rest) = (pressed.elapsed(), terminal.output.len());
    println!(
        "{seen} bytes of yes, backend grew by {grown} bytes, Ctrl-C after {took:?} and {rest} more bytes"
    );
    // Only what was in flight or in the terminal when Ctrl-C arrived. The page's own test measures the time.
    assert!(rest < 512 * 1024, "{rest} bytes came after Ctrl-C");
}

#[tokio::test]
async fn a_slow_viewer_slows_no_one_and_gets_a_gap_and_a_correct_screen() {
    let stack = Stack::whole().start().await;
    let session = Session::new(&stack).await;
    let mut fast = Terminal::new(&stack, &session, "fast");
    let mut slow = Terminal::new(&stack, &session, "slow");
    slow.run("PS1='$ '; echo sl''ow", "slow").await;
    fast.run("echo fa''st", "fast").await;
    let before = slow.client.output_offset();
    // The slow viewer stays connected and reads nothing from here on.
    fast.client.write(b"seq 1 400000; printf '\\033[2J\\033[3;5Hmid\\033[31mdle'; echo en''d\n");
    fast.drive(Duration::from_mins(1), |fast| {
        String::from_utf8_lossy(&fast.output[fast.output.len().saturating_sub(4096)..]).contains("end")
    })
    .await;
    let end = fast.client.output_offset();
    assert!(end - before > 2_000_000);
    slow.drive(Duration::from_mins(1), |slow| slow.client.output_offset() >= end).await;
    assert!(!slow.snapshots.is_empty(), "it was too slow for what is kept");
    assert!(slow.gap > 0 && slow.gap < end);

    let mut whole = avt::Terminal::new(80, 24).unwrap();
    whole.feed(String::from_utf8_lossy(&fast.output).as_ref());
    let mut restored = avt::Terminal::new(80, 24).unwrap();
    restored.feed(String::from_utf8_lossy(slow.snapshots.last().unwrap()).as_ref());
    restored.feed(String::from_utf8_lossy(&slow.output[slow.after_snapshot..]).as_ref());
    let screen = |terminal: &avt::Terminal| -> Vec<_> {
        terminal.screen().visible_lines().map(|line| line.cells().to_vec()).collect()
    };
    assert_eq!(screen(&restored), screen(&whole));
    assert_eq!(restored.cursor(), whole.cursor());
}
