//! Resource limits of a session's processes.

use std::{ffi::OsString, io};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::number;

/// Open files per process: soft and hard limit.
const FILES: (u64, u64) = (1024, 4096);
/// Makes the kernel end these processes first when memory runs out, from -1000 to 1000.
const OUT_OF_MEMORY: &str = "500";
/// Processes that the host needs besides the shell's.
const OWN: u64 = 1;

/// Limits that the backend passes. 0 is none.
pub(crate) struct Limits {
    /// Processes and threads of the user.
    pids: u64,
    /// Data per process, MiB.
    memory: u64,
    /// Size per file, MiB.
    file: u64,
}

impl Limits {
    pub(super) fn read(mut next: impl FnMut() -> io::Result<OsString>) -> io::Result<Self> {
        Ok(Self { pids: number(next()?)?, memory: number(next()?)?, file: number(next()?)? })
    }

    /// Applies them to this process and its children. They cannot raise a hard limit again.
    pub(super) fn apply(&self) -> io::Result<()> {
        let set = |limit: u64, unit: u64| (limit > 0).then(|| limit.saturating_mul(unit));
        let mib = 1024 * 1024;
        limit(Resource::Nproc, set(self.pids + OWN, 1).filter(|_| self.pids > 0))?;
        // Not the address space, of which Go, Java and JavaScript reserve gigabytes.
        limit(Resource::Data, set(self.memory, mib))?;
        limit(Resource::Fsize, set(self.file, mib))?;
        limit(Resource::Core, Some(0))?;
        // A message queue outlives its processes, and can be found only where its file system is mounted.
        limit(Resource::Msgqueue, Some(0))?;
        let (soft, hard) = FILES;
        limit(Resource::Nofile, Some(hard))?;
        let most = getrlimit(Resource::Nofile).maximum;
        setrlimit(
            Resource::Nofile,
            Rlimit { current: Some(most.map_or(soft, |most| most.min(soft))), maximum: most },
        )?;
        // Refused if the parent has a higher value, which then holds.
        let _ = std::fs::write("/proc/self/oom_score_adj", OUT_OF_MEMORY);
        Ok(())
    }
}

/// Sets a soft and a hard limit, unless the hard limit is lower.
fn limit(resource: Resource, limit: Option<u64>) -> io::Result<()> {
    let Some(limit) = limit else { return Ok(()) };
    let limit = getrlimit(resource).maximum.map_or(limit, |most| most.min(limit));
    setrlimit(resource, Rlimit { current: Some(limit), maximum: Some(limit) })?;
    Ok(())
}
