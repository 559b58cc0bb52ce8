//! Reaps and ends the session's processes.
//!
//! The host is a subreaper: every process of the session is its descendant, however it was orphaned.

use std::{collections::HashSet, os::unix::process::ExitStatusExt, process::ExitStatus, time::Duration};

use nix::{
    errno::Errno,
    sys::{
        signal::{Signal, kill},
        wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid},
    },
    unistd::Pid,
};
use shellbridge_protocol::frame::Exit;
use tokio::{
    signal::unix::Signal as Signals,
    time::{Instant, timeout_at},
};

use crate::log;

/// Time between SIGHUP and SIGKILL.
const HANGUP_GRACE: Duration = Duration::from_millis(500);
/// How long SIGKILL is repeated, against processes that keep forking. The backend waits for 10 s.
const KILLING: Duration = Duration::from_secs(8);
/// Time between rounds of signals or checks, unless a child dies sooner.
const ROUND: Duration = Duration::from_millis(20);
/// Orphans reaped per turn. A shell can create them as fast as they are reaped, so an unbounded turn might never end.
const AT_ONCE: usize = 64;

/// Converts an exit status to its form on the wire.
pub(crate) fn exit(status: ExitStatus) -> Exit {
    match status.signal() {
        Some(signal) => Exit { exit_code: 128 + signal, signal: Some(signal_name(signal)) },
        None => Exit { exit_code: status.code().unwrap_or(-1), signal: None },
    }
}

fn signal_name(signal: i32) -> String {
    Signal::try_from(signal).map_or_else(|_| format!("SIG{signal}"), |signal| signal.as_str().to_owned())
}

/// Reaps orphans, which the kernel reparents to a subreaper; true if there may be more. The status of `own` children is
/// left to their waiters. The kernel reports the oldest child first, so call this again once such a status is taken.
pub(crate) fn reap(own: &[i32]) -> bool {
    let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    for _ in 0..AT_ONCE {
        match waitid(Id::All, look).ok().and_then(|status| status.pid()) {
            Some(pid) if !own.contains(&pid.as_raw()) => {
                // The process is dead, so this does not block.
                let _ = waitpid(pid, Some(WaitPidFlag::WNOHANG));
            }
            _ => return false,
        }
    }
    true
}

/// Ends every process of the session, first with SIGHUP, as a terminal that hangs up, then with SIGKILL. Reaps all
/// children, so no other code may be waiting for one. `died` is SIGCHLD.
pub(crate) async fn end_all(died: &mut Signals) {
    let me = std::process::id().cast_signed();
    let mine = || descendants(&[me]);
    signal_all(&mine(), Signal::SIGHUP);
    signal_all(&mine(), Signal::SIGCONT);
    let grace = Instant::now() + HANGUP_GRACE;
    while reap_all() && Instant::now() < grace {
        let _ = timeout_at(grace.min(Instant::now() + ROUND), died.recv()).await;
    }
    let end = Instant::now() + KILLING;
    while reap_all() {
        if Instant::now() > end {
            log::warn(format_args!("some of the session's processes cannot be killed"));
            return;
        }
        signal_all(&mine(), Signal::SIGKILL);
        let _ = timeout_at(Instant::now() + ROUND, died.recv()).await;
    }
}

/// Reaps all children that have exited; false if no child is left.
fn reap_all() -> bool {
    for _ in 0..AT_ONCE {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Err(Errno::ECHILD) => return false,
            Ok(WaitStatus::StillAlive) => return true,
            _ => {}
        }
    }
    true
}

/// Ends the processes left in the POSIX session of a shell that was reaped, and their descendants.
pub(crate) async fn end_session(leader: i32) {
    let mine = || {
        // A process with this PID is another one, so nothing is left: the kernel does not reuse the ID of a session that
        // has processes.
        if Stat::read(leader).is_some() {
            return Vec::new();
        }
        let all = descendants(&[std::process::id().cast_signed()]);
        let members: Vec<i32> =
            all.iter().filter(|stat| stat.session == leader).map(|stat| stat.pid).collect();
        let below = descendants(&members);
        all.into_iter().filter(|stat| members.contains(&stat.pid)).chain(below).collect::<Vec<_>>()
    };
    signal_all(&mine(), Signal::SIGHUP);
    signal_all(&mine(), Signal::SIGCONT);
    let grace = Instant::now() + HANGUP_GRACE;
    let end = grace + KILLING;
    loop {
        let left = mine();
        let now = Instant::now();
        if left.is_empty() || now > end {
            return;
        }
        if now > grace {
            signal_all(&left, Signal::SIGKILL);
        }
        tokio::time::sleep(ROUND).await;
    }
}

/// Sends a signal to all of these processes.
fn signal_all(all: &[Stat], signal: Signal) {
    for process in all {
        // The process may have exited, and its PID may have been reused.
        if Stat::read(process.pid).is_some_and(|stat| stat.started == process.started) {
            let _ = kill(Pid::from_raw(process.pid), signal);
        }
    }
}

/// Living descendants of these processes.
fn descendants(of: &[i32]) -> Vec<Stat> {
    let mut found = Vec::new();
    let mut seen: HashSet<i32> = of.iter().copied().collect();
    let mut next: Vec<i32> = of.to_vec();
    while let Some(parent) = next.pop() {
        for child in children(parent) {
            if seen.insert(child) {
                next.push(child);
                found.extend(Stat::read(child).filter(|stat| stat.state != b'Z'));
            }
        }
    }
    found
}

/// The children of a process, as the kernel lists them per thread. Without `CONFIG_PROC_CHILDREN`, scans all processes.
pub(crate) fn children(parent: i32) -> Vec<i32> {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{parent}/task")) else { return Vec::new() };
    let lists = threads.flatten().map(|thread| std::fs::read_to_string(thread.path().join("children")));
    let listed: Result<Vec<String>, _> = lists.collect();
    match listed {
        Ok(lists) => lists.concat().split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect(),
        Err(_) => processes().filter(|stat| stat.parent == parent).map(|stat| stat.pid).collect(),
    }
}

/// All visible processes.
fn processes() -> impl Iterator<Item = Stat> {
    std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| Stat::read(entry.ok()?.file_name().to_str()?.parse().ok()?))
}

/// Whether this process group has a living member.
#[cfg(test)]
pub(crate) fn has_members(group: i32) -> bool {
    processes().any(|stat| stat.group == group && stat.state != b'Z')
}

/// Fields of `/proc/PID/stat` that identify a process and its session (`proc_pid_stat(5)`).
#[derive(Debug)]
struct Stat {
    pid: i32,
    state: u8,
    parent: i32,
    #[cfg_attr(not(test), expect(dead_code, reason = "precedes the session field"))]
    group: i32,
    session: i32,
    /// Start time, clock ticks since boot.
    started: u64,
}

impl Stat {
    fn read(pid: i32) -> Option<Self> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name, in parentheses, may contain anything, parentheses included.
        let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace();
        let state = *fields.next()?.as_bytes().first()?;
        let mut number = || fields.next()?.parse().ok();
        let (parent, group, session) = (number()?, number()?, number()?);
        // Field 22; the session is field 6.
        let started = fields.nth(15)?.parse().ok()?;
        Some(Self { pid, state, parent, group, session, started })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_statuses_read_as_in_a_shell() {
        assert_eq!(exit(ExitStatus::from_raw(3 << 8)), Exit { exit_code: 3, signal: None });
        assert_eq!(exit(ExitStatus::from_raw(9)), Exit { exit_code: 137, signal: Some("SIGKILL".into()) });
        assert_eq!(exit(ExitStatus::from_raw(15)).signal.as_deref(), Some("SIGTERM"));
        assert_eq!(exit(ExitStatus::from_raw(2)).signal.as_deref(), Some("SIGINT"));
    }

    #[test]
    fn stat_parses_a_living_process_and_rejects_an_invalid_pid() {
        let me = Stat::read(std::process::id().cast_signed()).unwrap();
        assert!(me.parent > 0 && me.session >= 0);
        assert!(Stat::read(-1).is_none());
    }

    /// A new shell may get the PID of the old one, whose session has no process left.
    #[tokio::test]
    async fn regression_a_new_session_with_a_reused_pid_is_not_ended() {
        let mut shell = tokio::process::Command::new("setsid");
        let mut shell = shell.args(["sleep", "600"]).kill_on_drop(true).spawn().unwrap();
        let pid = shell.id().unwrap().cast_signed();
        while Stat::read(pid).is_none_or(|stat| stat.session != pid) {
            tokio::task::yield_now().await;
        }
        end_session(pid).await;
        assert_eq!(shell.try_wait().unwrap(), None, "the process was killed");
    }

    #[test]
    fn descendants_are_found_at_any_depth() {
        let mut shell = std::process::Command::new("sh")
            .args(["-c", "sh -c 'echo; sleep 600 & wait' & wait"])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Read::read_exact(shell.stdout.as_mut().unwrap(), &mut [0]).unwrap();
        let pid = shell.id().cast_signed();
        // The inner shell has started; its own child follows.
        while descendants(&[pid]).len() < 2 {
            std::thread::yield_now();
        }
        let below = descendants(&[pid]);
        let scanned: HashSet<i32> = processes()
            .filter(|stat| below.iter().any(|other| other.pid == stat.pid))
            .map(|stat| stat.pid)
            .collect();
        assert_eq!(scanned.len(), 2);
        signal_all(&below, Signal::SIGKILL);
        assert!(shell.wait().is_ok());
    }
}
