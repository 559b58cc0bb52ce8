//! Ends all processes of a session's user, however they hide.

use std::{
    fs, io,
    thread::sleep,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use rustix::process::Uid;

use super::{Done, assume};

/// How long to repeat the signal. The backend starts the next helper then.
const WITHIN: Duration = Duration::from_secs(1);
/// Time between rounds: processes take a moment to die.
const ROUND: Duration = Duration::from_millis(2);

/// Kills every process of this user in one call, which no fork escapes, until there is none.
pub(super) fn all(user: Uid, helper: Uid) -> io::Result<Done> {
    if user == helper {
        return Err(super::unusable());
    }
    assume::user_behind(user, helper)?;
    let end = Instant::now() + WITHIN;
    loop {
        // It succeeds while zombies remain, and fails when the user has no process, so only `/proc` tells.
        let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
        if !lives(user)? {
            return Ok(Done::All);
        }
        if Instant::now() > end {
            return Ok(Done::Some);
        }
        sleep(ROUND);
    }
}

/// Whether a process of this user is left that is not dead already.
fn lives(user: Uid) -> io::Result<bool> {
    for entry in fs::read_dir("/proc")? {
        let Ok(entry) = entry else { continue };
        if !entry.file_name().to_string_lossy().starts_with(|first: char| first.is_ascii_digit()) {
            continue;
        }
        // It may have ended since.
        if let Ok(status) = fs::read_to_string(entry.path().join("status"))
            && is_of(&status, user)
            && !is_dead(&status)
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether one of the process's user ids, real, effective, saved or of files, is this one.
fn is_of(status: &str, user: Uid) -> bool {
    let ids = field(status, "Uid:").unwrap_or_default();
    // This process itself is one of `helper` by its first id.
    let me = format!("Pid:\t{}\n", std::process::id());
    !status.contains(&me) && ids.split_ascii_whitespace().any(|id| id.parse() == Ok(user.as_raw()))
}

/// A zombie. If its first thread has ended but others run, its state reads the same.
fn is_dead(status: &str) -> bool {
    let state = field(status, "State:").unwrap_or_default().trim_start();
    let threads = field(status, "Threads:").and_then(|count| count.trim().parse().ok()).unwrap_or(0);
    state.starts_with(['Z', 'X']) && threads <= 1_u32
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_each_of_its_user_ids_and_dead_only_without_threads() {
        let status = |ids: &str, state: &str, threads: u32| {
            format!("Name:\tx) Uid:\nState:\t{state}\nPid:\t1\nUid:\t{ids}\nThreads:\t{threads}\n")
        };
        let user = Uid::from_raw(20_001);
        for ids in ["20001\t1\t1\t1", "1\t20001\t1\t1", "1\t1\t20001\t1", "1\t1\t1\t20001"] {
            assert!(is_of(&status(ids, "S (sleeping)", 1), user), "{ids}");
        }
        assert!(!is_of(&status("120001\t1\t1\t1", "S (sleeping)", 1), user));
        assert!(is_dead(&status("1", "Z (zombie)", 1)) && !is_dead(&status("1", "Z (zombie)", 2)));
        assert!(!is_dead(&status("1", "T (stopped)", 1)));
    }
}
