//! Children that nobody waits for: what hosts leave when they are killed comes here, since the backend is a subreaper,
//! and as process 1 of a container it gets all orphans in any case.
//!
//! An init in front of the backend would have its user and its environment, and with that the secrets in it, but not
//! its protection from shells (`keep_secrets`). So the backend is process 1 itself.

use std::{io, time::Duration};

use nix::{
    sys::{
        signal::{Signal, kill},
        wait::{Id, WaitPidFlag, waitid, waitpid},
    },
    unistd::Pid,
};
use parking_lot::{Mutex, MutexGuard};
use tokio::{
    process::Child,
    signal::unix::{SignalKind, signal},
};

/// Hosts, whose status is waited for elsewhere. One that was reaped and its successor may have the same number for a
/// moment, so that a number can be here twice.
static KNOWN: Mutex<Vec<i32>> = Mutex::new(Vec::new());

/// Orphans reaped in one go, before others have their turn: a shell can make them as fast as they are reaped.
const AT_ONCE: usize = 64;
/// How long the reaper waits for a status to be taken by whom it is for: the kernel shows the oldest child first.
const TAKEN_WITHIN: Duration = Duration::from_millis(20);

/// Keeps a child, and its status for whoever waits for it.
#[derive(Debug)]
pub(super) struct Known(i32);

impl Drop for Known {
    fn drop(&mut self) {
        let mut known = known();
        if let Some(at) = known.iter().position(|pid| *pid == self.0) {
            known.swap_remove(at);
        }
    }
}

/// Starts a process that is no orphan. Everything that the backend starts is started here.
pub(super) fn start(spawn: impl FnOnce() -> io::Result<Child>) -> io::Result<(Child, Known)> {
    // Before the child can be taken for an orphan, or end.
    let mut known = known();
    let child = spawn()?;
    let pid = child.id().map_or(0, u32::cast_signed);
    known.push(pid);
    Ok((child, Known(pid)))
}

/// Kills and reaps orphans for ever: their session has ended.
///
/// # Errors
/// When SIGCHLD cannot be waited for.
pub(crate) async fn orphans() -> io::Result<()> {
    let mut died = signal(SignalKind::child())?;
    loop {
        // What these leave comes here next, and each of them says so with a SIGCHLD when it dies.
        kill_orphans();
        match reap() {
            Dead::None => {
                died.recv().await;
            }
            Dead::More => tokio::task::yield_now().await,
            Dead::Known => tokio::time::sleep(TAKEN_WITHIN).await,
        }
    }
}

/// What is left of the dead.
enum Dead {
    None,
    More,
    Known,
}

fn reap() -> Dead {
    let known = known();
    let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    for _ in 0..AT_ONCE {
        match waitid(Id::All, look).ok().and_then(|status| status.pid()) {
            None => return Dead::None,
            Some(pid) if known.contains(&pid.as_raw()) => return Dead::Known,
            // It is dead: this does not wait.
            Some(pid) => {
                let _ = waitpid(pid, Some(WaitPidFlag::WNOHANG));
            }
        }
    }
    Dead::More
}

fn kill_orphans() {
    let known = known();
    for pid in children().filter(|pid| !known.contains(pid)) {
        // Nobody but `reap` takes its status, so that the number is still its own.
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

/// The children of this process, as the kernel lists them for each of its threads. Where it does not (no
/// `CONFIG_PROC_CHILDREN`), orphans are only reaped.
fn children() -> impl Iterator<Item = i32> {
    let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let lists = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
}

fn known() -> MutexGuard<'static, Vec<i32>> {
    KNOWN.lock()
}
