//! Children, CPU time and memory of processes, from `/proc`.

use std::{fs, time::Duration};

/// Running children of a process: ids and names.
pub fn children(parent: u32) -> Vec<(u32, String)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid| {
        let stat = Stat::read(pid)?;
        (stat.field(1)? == u64::from(parent)).then_some((pid, stat.name))
    })
    .collect()
}

/// CPU time of a process, user and system, of all threads. Resolution 10 ms.
pub fn cpu(pid: u32) -> Duration {
    let ticks = Stat::read(pid).and_then(|stat| Some(stat.field(11)? + stat.field(12)?)).unwrap_or_default();
    Duration::from_millis(ticks * 1_000 / rustix::param::clock_ticks_per_second())
}

/// Resident memory, bytes.
pub fn resident(pid: u32) -> u64 {
    status(pid, "VmRSS:")
}

/// Peak resident memory, bytes.
pub fn most_resident(pid: u32) -> u64 {
    status(pid, "VmHWM:")
}

fn status(pid: u32, name: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim().strip_suffix(" kB"));
    value.and_then(|kib| kib.parse::<u64>().ok()).unwrap_or_default() * 1024
}

/// `/proc/PID/stat` (`proc_pid_stat(5)`): its name, and the fields after it, from `state`.
struct Stat {
    name: String,
    fields: String,
}

impl Stat {
    fn read(pid: u32) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name, in parentheses, may hold anything.
        let (head, fields) = text.rsplit_once(')')?;
        Some(Self { name: head.split_once('(')?.1.to_owned(), fields: fields.to_owned() })
    }

    fn field(&self, index: usize) -> Option<u64> {
        self.fields.split_ascii_whitespace().nth(index)?.parse().ok()
    }
}

/// Raises the limit of open files to its maximum, for this process and its children.
pub fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    let _as_it_was = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

/// Pins all threads of this process to one core, or unpins them. No-op if the core does not exist.
pub fn pin_to_core(core: Option<usize>) {
    use rustix::thread::{CpuSet, sched_setaffinity};
    let mut cores = CpuSet::new();
    match core {
        Some(core) => cores.set(core),
        None => (0..CpuSet::MAX_CPU).for_each(|core| cores.set(core)),
    }
    let threads = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    for thread in threads.filter_map(|entry| entry.file_name().to_str()?.parse().ok()) {
        let _as_it_was = sched_setaffinity(rustix::process::Pid::from_raw(thread), &cores);
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
