//! Starts the function's processes, limits their time and memory, and restarts them when they exit.

use std::{
    io,
    os::fd::AsFd as _,
    process::{ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};

use shellbridge_protocol::backoff::Backoff;
use tokio::{
    net::TcpListener,
    process::{Child, Command},
    time::MissedTickBehavior,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, info, warn};

use super::{
    environment,
    pool::{Pool, Slot},
    runtime_api,
};

/// Interval at which a process's time and memory are checked.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);
/// Delays before restarting a process that failed to start.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));

impl Pool {
    /// Serves a Runtime API on each listener and keeps one process per listener running, until stopped.
    pub fn start(
        self: &Arc<Self>,
        listeners: Vec<TcpListener>,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) {
        for (index, listener) in listeners.into_iter().enumerate() {
            let serve = runtime_api::serve(listener, Arc::clone(self), index);
            let watch = supervise(Arc::clone(self), index, stop.clone());
            let stop = stop.clone();
            tasks.spawn(async move { stop.run_until_cancelled(serve).await });
            tasks.spawn(watch);
        }
        let (kill, stop) = (Arc::clone(self).kill_regularly(), stop.clone());
        tasks.spawn(async move { stop.run_until_cancelled(kill).await });
    }
}

/// Keeps a process running in one slot.
async fn supervise(pool: Arc<Pool>, index: usize, stop: CancellationToken) {
    let Some(slot) = pool.slots.get(index) else { return };
    let mut backoff = BACKOFF;
    while !stop.is_cancelled() {
        slot.starting();
        let came_up = match spawn(&pool, index, slot) {
            Ok(mut child) => {
                let end = watch(&pool, index, &mut child, &stop).await;
                // The exit is decisive: the process's connections may close later.
                let came_up = pool.ended(index, slot, matches!(end, End::TimedOut));
                report(&pool, index, &end, came_up);
                if matches!(end, End::Stopped) {
                    return;
                }
                came_up
            }
            Err(cause) => {
                error!(program = %pool.settings.program.display(), %cause, "cannot start the function");
                false
            }
        };
        if came_up {
            backoff.reset();
            continue;
        }
        pool.broken(true);
        stop.run_until_cancelled(tokio::time::sleep(backoff.step())).await;
        pool.broken(false);
    }
}

/// Why a process ended.
#[derive(Debug)]
enum End {
    Exited(io::Result<ExitStatus>),
    TimedOut,
    OutOfMemory(u64),
    Killed,
    Stopped,
}

async fn watch(pool: &Pool, index: usize, child: &mut Child, stop: &CancellationToken) -> End {
    let Some(slot) = pool.slots.get(index) else { return End::Stopped };
    let pid = child.id();
    let mut ticks = tokio::time::interval(CHECK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let end = loop {
        tokio::select! {
            status = child.wait() => return End::Exited(status),
            () = stop.cancelled() => break End::Stopped,
            () = slot.kill.notified() => break End::Killed,
            _ = ticks.tick() => {
                if slot.overdue() {
                    break End::TimedOut;
                }
                match pid.and_then(resident_bytes) {
                    Some(bytes) if bytes > pool.settings.memory => break End::OutOfMemory(bytes),
                    _ => {}
                }
            }
        }
    };
    if let Err(cause) = child.kill().await {
        warn!(%cause, "cannot kill a process of the function");
    }
    end
}

fn report(pool: &Pool, index: usize, end: &End, came_up: bool) {
    match end {
        End::Stopped => {}
        End::Killed => pool.counters.kills.increment(),
        End::Exited(status) => {
            pool.counters.crashes.increment();
            let status = status.as_ref().map_or_else(ToString::to_string, ToString::to_string);
            warn!(process = index, status, came_up, "a process of the function exited");
        }
        End::TimedOut => {
            pool.counters.kills.increment();
            warn!(process = index, timeout = ?pool.settings.timeout, "killed a process of the function: timeout");
        }
        End::OutOfMemory(bytes) => {
            pool.counters.kills.increment();
            warn!(
                process = index,
                bytes,
                limit = pool.settings.memory,
                "killed a process of the function: over its memory limit"
            );
        }
    }
}

fn spawn(pool: &Pool, index: usize, slot: &Slot) -> io::Result<Child> {
    let settings = &pool.settings;
    // The gateway's stdout is for its addresses alone; the function's output goes to the log.
    let log = io::stderr().as_fd().try_clone_to_owned()?;
    let mut command = Command::new(&settings.program);
    for name in environment::UNSET {
        command.env_remove(name);
    }
    let child = command
        .envs(environment::defaults(settings))
        .envs(settings.environment.iter().map(|(name, value)| (name, value)))
        .envs(environment::reserved(settings, slot.runtime_api))
        .current_dir(environment::task_root(settings))
        .stdin(Stdio::null())
        .stdout(Stdio::from(log))
        // In its own process group, Ctrl-C does not reach it: the gateway stops its processes in order.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()?;
    info!(process = index, pid = child.id(), "started a process of the function");
    Ok(child)
}

/// Resident memory of a process, bytes.
fn resident_bytes(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    #[test]
    fn memory_of_a_process_is_found() {
        let bytes = super::resident_bytes(std::process::id()).unwrap();
        assert!((100_000..1_000_000_000).contains(&bytes), "{bytes}");
    }
}
