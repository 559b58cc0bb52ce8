//! Kills and reaps orphans. The backend is a subreaper, so the processes of a killed host become its children; as process
//! 1 of a container, it inherits all orphans anyway.
//!
//! The hosts of a crashed backend become children of `init`, which kills the processes that they leave.

use std::{io, time::Duration};

use nix::{
    errno::Errno,
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

use super::reports::report;

/// PIDs of hosts, whose status is awaited elsewhere. A PID may briefly be listed twice, when a host is reaped and a new
/// one reuses its PID.
static KNOWN: Mutex<Vec<i32>> = Mutex::new(Vec::new());

/// Orphans reaped per turn. A shell can create them as fast as they are reaped, so an unbounded turn might never end.
pub(super) const AT_ONCE: usize = 64;
/// How long the reaper waits while the oldest dead child is a host, whose status its own waiter has to take. The kernel
/// reports the oldest child first.
const TAKEN_WITHIN: Duration = Duration::from_millis(20);

/// Protects a child from the reaper until dropped.
#[derive(Debug)]
pub(super) struct Known(i32);

impl Drop for Known {
    fn drop(&mut self) {
        let mut known = known();
        if let Some(at) = known.iter().position(|pid| *pid == self.0) {
            known.swap_remove(at);
        }
        // A host may outlive this process.
        if kill(Pid::from_raw(self.0), None) == Err(Errno::ESRCH) {
            report(-self.0);
        }
    }
}

/// Starts a process and registers it as a non-orphan. The backend must start all its children through this function.
pub(super) fn start(spawn: impl FnOnce() -> io::Result<Child>) -> io::Result<(Child, Known)> {
    // Hold the lock, so that the reaper does not see the child before it is registered.
    let mut known = known();
    let child = spawn()?;
    let pid = child.id().map_or(0, u32::cast_signed);
    known.push(pid);
    report(pid);
    Ok((child, Known(pid)))
}

/// Kills and reaps orphans forever. Orphans belong to sessions that have ended.
///
/// # Errors
/// When no SIGCHLD handler can be installed.
pub(crate) async fn orphans() -> io::Result<()> {
    let mut died = signal(SignalKind::child())?;
    loop {
        // Their own children become orphans next; each death raises SIGCHLD, which starts another round.
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

/// Dead children left after a turn: none, more orphans, or a host.
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
            // The process is dead, so this does not block.
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
        // Only `reap` takes its status, so the PID cannot have been reused.
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

/// The children of this process, as the kernel lists them per thread. Without `CONFIG_PROC_CHILDREN` the list is empty,
/// and orphans are reaped but not killed.
pub(super) fn children() -> impl Iterator<Item = i32> {
    let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let lists = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
}

fn known() -> MutexGuard<'static, Vec<i32>> {
    KNOWN.lock()
}
