//! What a container's first process has to do: reap what shells leave behind.
//!
//! An init in front of the backend would have its user and its environment, and with that the secrets in it, but not
//! its protection from shells (`keep_secrets`). So the backend is process 1 itself.

use std::{io, time::Duration};

use nix::sys::wait::{Id, WaitPidFlag, waitid, waitpid};
use parking_lot::{Mutex, MutexGuard};
use rustix::process::{Pid, setpriority_process};
use tokio::{
    process::Child,
    signal::unix::{SignalKind, signal},
};

/// Processes whose status is waited for elsewhere. One that was reaped and its successor may have the same number for
/// a moment, so that a number can be here twice.
static WAITED_FOR: Mutex<Vec<i32>> = Mutex::new(Vec::new());

/// How far behind the backend's own work what it starts comes, in steps of `nice`: a shell that keeps a processor busy
/// delays nobody's keys, and gets all the time that nobody else wants. At 10 the processes that carry its output
/// preempted it at every write, and halved the output of one session.
const NICE: i32 = 5;
/// Orphans reaped in one go, before others have their turn: a shell can make them as fast as they are reaped.
const AT_ONCE: usize = 64;
/// How long the reaper waits for a status to be taken by whom it is for: the kernel shows the oldest child first.
const TAKEN_WITHIN: Duration = Duration::from_millis(20);

/// Keeps a child's status for whoever waits for it.
#[derive(Debug)]
pub(super) struct WaitedFor(i32);

impl WaitedFor {
    /// The number of the process.
    pub(super) const fn pid(&self) -> i32 {
        self.0
    }

    /// Puts the POSIX session that it leads behind others, where the kernel weighs sessions against each other first, and
    /// the processes of one among themselves (sched(7), "The autogroup feature").
    pub(super) fn yield_as_session(&self) {
        // Not every kernel does, and it takes ten of these a second.
        let _ = std::fs::write(format!("/proc/{}/autogroup", self.0), NICE.to_string());
    }
}

impl Drop for WaitedFor {
    fn drop(&mut self) {
        let mut waited_for = waited_for();
        if let Some(at) = waited_for.iter().position(|pid| *pid == self.0) {
            waited_for.swap_remove(at);
        }
    }
}

/// Starts a process whose status nobody else takes. Everything that the backend starts is started here, one at a time:
/// a descriptor that one of them is to inherit comes to no other.
pub(super) fn start<E>(spawn: impl FnOnce() -> Result<Child, E>) -> Result<(Child, WaitedFor), E> {
    // Before the child can end.
    let mut waited_for = waited_for();
    let child = spawn()?;
    let pid = child.id().map_or(0, u32::cast_signed);
    waited_for.push(pid);
    // What it starts inherits that. It may have ended already.
    let _ = setpriority_process(Pid::from_raw(pid), NICE);
    Ok((child, WaitedFor(pid)))
}

/// Reaps orphans for ever, if this is process 1 (of a container: `pid_namespaces(7)`); the kernel gives them to it.
///
/// # Errors
/// When SIGCHLD cannot be waited for.
pub(crate) async fn orphans() -> io::Result<()> {
    if std::process::id() != 1 {
        return Ok(());
    }
    let mut died = signal(SignalKind::child())?;
    loop {
        match reap() {
            Dead::None => {
                died.recv().await;
            }
            Dead::More => tokio::task::yield_now().await,
            Dead::WaitedFor => tokio::time::sleep(TAKEN_WITHIN).await,
        }
    }
}

/// What is left of the dead.
enum Dead {
    None,
    More,
    WaitedFor,
}

fn reap() -> Dead {
    let waited_for = waited_for();
    let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    for _ in 0..AT_ONCE {
        match waitid(Id::All, look).ok().and_then(|status| status.pid()) {
            None => return Dead::None,
            Some(pid) if waited_for.contains(&pid.as_raw()) => return Dead::WaitedFor,
            // It is dead: this does not wait.
            Some(pid) => {
                let _ = waitpid(pid, Some(WaitPidFlag::WNOHANG));
            }
        }
    }
    Dead::More
}

fn waited_for() -> MutexGuard<'static, Vec<i32>> {
    WAITED_FOR.lock()
}
