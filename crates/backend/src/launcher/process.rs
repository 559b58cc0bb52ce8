//! Processes: how they end, how all of a session's are ended, and what they cannot see.

use std::{collections::HashSet, os::unix::process::ExitStatusExt, process::ExitStatus, time::Duration};

use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, Uid},
};
use rustix::{
    process::{DumpableBehavior, set_dumpable_behavior},
    thread::{
        CapabilitySet, capability_is_in_bounding_set, clear_ambient_capability_set,
        remove_capability_from_bounding_set,
    },
};
use shellbridge_protocol::frame::Exit;

/// How long processes have between SIGHUP and SIGKILL.
const HANGUP_GRACE: Duration = Duration::from_millis(500);
/// Rounds of SIGKILL against processes that fork meanwhile.
const KILL_ROUNDS: usize = 10;

/// Capabilities that open other processes' memory, or the kernel's. Since Linux 6.14 `CAP_PERFMON`, and with it
/// `CAP_SYS_ADMIN`, is as good as `CAP_SYS_PTRACE` for reading (`may_access_mm` in kernel/fork.c).
const PRYING: [CapabilitySet; 6] = [
    CapabilitySet::SYS_PTRACE,
    CapabilitySet::PERFMON,
    CapabilitySet::SYS_ADMIN,
    CapabilitySet::BPF,
    CapabilitySet::SYS_RAWIO,
    CapabilitySet::SYS_MODULE,
];

/// Keeps the backend's memory and environment from the shells that it starts.
///
/// A process that is not dumpable owns its `/proc` files as root, so that a shell of the same user cannot read
/// `environ` or attach (proc(5), ptrace(2)). A shell of root could all the same with one of [`PRYING`]; they are taken
/// from the bounding set, which every child inherits, and from the ambient set, by which any user may have them. What
/// root can do beyond that needs a container's limits. Descriptors that were left open by whoever started the backend are
/// closed in every child.
///
/// Must be called before any thread is started: these sets belong to a thread.
///
/// # Errors
/// When the kernel refuses to make the process non-dumpable, or a shell of root would have one of [`PRYING`].
pub fn keep_secrets() -> std::io::Result<()> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    // Two are inherited on purpose, and opened later: a PTY and a command's state.
    close_fds::set_fds_cloexec(3, &[]);
    clear_ambient_capability_set()?;
    for capability in PRYING {
        // Not being root, there is no right to remove it, and no shell gets it from this set.
        let removed = remove_capability_from_bounding_set(capability);
        // A kernel that does not know a capability gives it to nobody.
        let left = capability_is_in_bounding_set(capability).unwrap_or(false);
        if left && Uid::effective().is_root() {
            let why = removed.err().map(|error| error.to_string()).unwrap_or_default();
            return Err(std::io::Error::other(format!(
                "a shell of root would have {capability:?} ({why}): run as another user, or with CAP_SETPCAP"
            )));
        }
    }
    Ok(())
}

/// An exit status as the wire has it.
pub(super) fn exit(status: ExitStatus) -> Exit {
    match status.signal() {
        Some(signal) => Exit { exit_code: 128 + signal, signal: Some(signal_name(signal)) },
        None => Exit { exit_code: status.code().unwrap_or(-1), signal: None },
    }
}

fn signal_name(signal: i32) -> String {
    Signal::try_from(signal).map_or_else(|_| format!("SIG{signal}"), |signal| signal.as_str().to_owned())
}

/// A process that was started, and with it the POSIX session or process group that has its number.
///
/// The kernel gives a number anew once no process, group or session has it. When the process was started tells one
/// that got it later apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Leader {
    pid: i32,
    /// None if `/proc` does not say: then the number alone counts.
    started: Option<u64>,
}

impl Leader {
    /// A child that was not waited for yet, so that the number is still its own.
    pub(super) fn new(pid: i32) -> Self {
        Self { pid, started: Stat::read(pid).map(|stat| stat.started) }
    }

    /// The number of the process and of its group.
    pub(super) const fn pid(self) -> i32 {
        self.pid
    }

    /// Whether another process has its number now. So nothing of its own is left.
    fn is_replaced(self, all: &[Stat]) -> bool {
        let other = |stat: &Stat| stat.pid == self.pid && self.started.is_some_and(|at| at != stat.started);
        all.iter().any(other)
    }
}

/// Ends every process of a session: first politely, as a terminal that hangs up, then for good.
///
/// `leaders` are the shells and command groups that were started. What they started is found by POSIX session, process
/// group and parent. One that made itself a session of its own and was orphaned is not found: to end those too, give
/// every session a container.
pub(crate) async fn end_all(leaders: HashSet<Leader>) {
    signal_all(&leaders, Signal::SIGHUP);
    signal_all(&leaders, Signal::SIGCONT);
    let deadline = tokio::time::Instant::now() + HANGUP_GRACE;
    while !members(&leaders).is_empty() && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for _ in 0..KILL_ROUNDS {
        if signal_all(&leaders, Signal::SIGKILL) == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Sends a signal to all members and says how many there were.
fn signal_all(leaders: &HashSet<Leader>, signal: Signal) -> usize {
    let members = members(leaders);
    for member in &members {
        // It may have ended meanwhile, and its number may be another's.
        if Stat::read(member.pid).is_some_and(|stat| stat.started == member.started) {
            let _ = kill(Pid::from_raw(member.pid), signal);
        }
    }
    members.len()
}

/// Whether a process is in a session or group of `leader`.
#[cfg(test)]
pub(super) fn has_members(leader: Leader) -> bool {
    !members(&HashSet::from([leader])).is_empty()
}

/// Those of `groups` in which a process lives.
pub(crate) fn living(mut groups: HashSet<Leader>) -> HashSet<Leader> {
    if !groups.is_empty() {
        let all: Vec<Stat> = processes().collect();
        let alive: HashSet<i32> =
            all.iter().filter(|stat| stat.state != b'Z').map(|stat| stat.group).collect();
        groups.retain(|leader| alive.contains(&leader.pid) && !leader.is_replaced(&all));
    }
    groups
}

/// All processes that can be seen.
fn processes() -> impl Iterator<Item = Stat> {
    std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| Stat::read(entry.ok()?.file_name().to_str()?.parse().ok()?))
}

/// Living processes that belong to `leaders`.
fn members(leaders: &HashSet<Leader>) -> Vec<Stat> {
    let all: Vec<Stat> = processes().collect();
    let numbers: HashSet<i32> =
        leaders.iter().filter(|leader| !leader.is_replaced(&all)).map(|leader| leader.pid).collect();
    let mut mine: HashSet<i32> = HashSet::new();
    loop {
        let before = mine.len();
        for stat in &all {
            if [stat.session, stat.group, stat.pid].iter().any(|number| numbers.contains(number))
                || mine.contains(&stat.parent)
            {
                mine.insert(stat.pid);
            }
        }
        if mine.len() == before {
            break;
        }
    }
    all.into_iter().filter(|stat| mine.contains(&stat.pid) && stat.state != b'Z').collect()
}

/// The fields of `/proc/PID/stat` that say whose a process is (`proc_pid_stat(5)`).
#[derive(Debug)]
struct Stat {
    pid: i32,
    state: u8,
    parent: i32,
    group: i32,
    session: i32,
    /// Clock ticks from boot.
    started: u64,
}

impl Stat {
    fn read(pid: i32) -> Option<Self> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name, in parentheses, may hold anything.
        let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace();
        let state = *fields.next()?.as_bytes().first()?;
        let mut number = || fields.next()?.parse().ok();
        let (parent, group, session) = (number()?, number()?, number()?);
        // The 22nd; the session was the 6th.
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
    fn a_process_is_found_by_its_name_whatever_that_is() {
        let me = Stat::read(std::process::id().cast_signed()).unwrap();
        assert!(me.parent > 0 && me.session >= 0);
        assert!(Stat::read(-1).is_none());
    }

    #[tokio::test]
    async fn a_number_that_became_another_s_is_not_taken_for_what_had_it() {
        let mut child = tokio::process::Command::new("sleep")
            .arg("600")
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let leader = Leader::new(child.id().unwrap().cast_signed());
        let before = Leader { started: leader.started.map(|at| at - 1), ..leader };
        assert!(living([before].into()).is_empty());
        end_all([before].into()).await;
        assert!(child.try_wait().unwrap().is_none(), "a stranger was killed");
        assert_eq!(living([leader, before].into()), [leader].into());
        end_all([leader].into()).await;
        assert!(!child.wait().await.unwrap().success());
    }
}
