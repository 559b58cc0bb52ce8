//! A process that stands still (SIGSTOP), as on a machine without a processor for it, and goes on when this is dropped.

use rustix::process::{Pid, Signal, kill_process};

#[derive(Debug)]
pub(super) struct Paused(Pid);

impl Paused {
    /// Stops the process; `None` if there is none.
    pub(super) fn new(pid: Pid) -> Option<Self> {
        kill_process(pid, Signal::STOP).is_ok().then_some(Self(pid))
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        // It may have been killed meanwhile.
        let _gone = kill_process(self.0, Signal::CONT);
    }
}
