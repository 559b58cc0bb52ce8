//! Children, CPU time and memory of processes, from `/proc`.

use std::time::Duration;

use procfs::process::Process;

/// Running children of a process: ids and names.
pub fn children(parent: u32) -> Vec<(u32, String)> {
    let processes = procfs::process::all_processes().into_iter().flatten().flatten();
    let stats = processes.filter_map(|process| process.stat().ok());
    let children = stats.filter(|stat| u32::try_from(stat.ppid) == Ok(parent));
    children.filter_map(|stat| Some((u32::try_from(stat.pid).ok()?, stat.comm))).collect()
}

/// CPU time of a process, user and system, of all threads. Resolution 10 ms.
pub fn cpu(pid: u32) -> Duration {
    let ticks =
        process(pid).and_then(|process| process.stat().ok()).map_or(0, |stat| stat.utime + stat.stime);
    Duration::from_millis(ticks * 1_000 / procfs::ticks_per_second())
}

/// Resident memory, bytes.
pub fn resident(pid: u32) -> u64 {
    process(pid).and_then(|process| process.status().ok()?.vmrss).unwrap_or_default() * 1024
}

/// Proportional memory (PSS), bytes: each process counts its share of shared pages.
pub fn proportional(pid: u32) -> u64 {
    let rollup = process(pid).and_then(|process| process.smaps_rollup().ok());
    let maps = rollup.iter().flat_map(|rollup| &rollup.memory_map_rollup);
    maps.filter_map(|map| map.extension.map.get("Pss")).sum()
}

/// Peak resident memory, bytes.
pub fn most_resident(pid: u32) -> u64 {
    process(pid).and_then(|process| process.status().ok()?.vmhwm).unwrap_or_default() * 1024
}

fn process(pid: u32) -> Option<Process> {
    Process::new(i32::try_from(pid).ok()?).ok()
}

/// Raises the limit of open files to its maximum, for this process and its children.
pub fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    let _ignored = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

/// Pins all threads of this process to one core, or unpins them. No-op if the core does not exist.
pub fn pin_to_core(core: Option<usize>) {
    use rustix::thread::{CpuSet, sched_setaffinity};
    let mut cores = CpuSet::new();
    match core {
        Some(core) => cores.set(core),
        None => (0..CpuSet::MAX_CPU).for_each(|core| cores.set(core)),
    }
    let threads = Process::myself().and_then(|process| process.tasks()).into_iter().flatten().flatten();
    for thread in threads {
        let _ignored = sched_setaffinity(rustix::process::Pid::from_raw(thread.tid), &cores);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_have_names_and_memory() {
        let mut child =
            std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        assert!(children(std::process::id()).iter().any(|(pid, _)| *pid == child.id()));
        // In this order: other tests of this process may take memory between the two.
        let resident = resident(std::process::id());
        assert!(resident > 100_000 && most_resident(std::process::id()) >= resident);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn work_takes_cpu_time() {
        let before = cpu(std::process::id());
        let mut sum = 0_u64;
        while cpu(std::process::id()) < before + Duration::from_millis(20) {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(sum > 0);
    }
}
