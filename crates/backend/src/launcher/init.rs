//! `backend --init`: starts the backend, and starts it again when it crashes. Process 1 of a container, or a subreaper.
//!
//! The hosts of a crashed backend become its children, and so do the processes that these hosts leave when they die.

use std::{
    collections::HashSet, ffi::OsString, future::pending, io, net::SocketAddr, path::PathBuf,
    process::Command, time::Duration,
};

use nix::{
    sys::{
        signal::{Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};
use tokio::{
    signal::unix::{Signal as Signals, SignalKind, signal},
    time::{Instant, sleep_until, timeout, timeout_at},
};

use super::{
    listener::Sockets,
    reap::{AT_ONCE, children},
    reports::Reports,
    user::UsersLeft,
};

/// The argument that asks for this mode.
const INIT: &str = "--init";
/// The argument in its place that the backend gets.
const BELOW_INIT: &str = "--below-init";
/// The exit code of a backend that cannot start, such as with invalid settings. It has no other error.
const NOT_STARTED: u8 = 1;
/// Exit codes above this one stand for signals.
const SIGNALLED: u8 = 128;
/// Delay before the backend starts again. It doubles up to `LONGEST_DELAY`, until a backend has run for `RAN`.
const DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(5);
const RAN: Duration = Duration::from_secs(2);
/// How long reading the last reports of a dead backend may take.
const LAST_REPORTS: Duration = Duration::from_secs(1);
/// Time between the hangup of the terminals and SIGKILL.
const HANGUP_GRACE: Duration = Duration::from_millis(500);
/// How long SIGKILL is repeated, against processes that keep forking.
const KILLING: Duration = Duration::from_secs(8);
/// Time between rounds of SIGKILL, unless a child dies sooner.
const ROUND: Duration = Duration::from_millis(20);

/// Whether the command line asks for an init.
pub fn is_init() -> bool {
    std::env::args_os().any(|argument| argument == INIT)
}

/// Runs a backend that listens on these addresses until it stops, and returns its exit code. Call
/// [`protect`](super::protect) first. `users` finds the sessions' users, if they have any.
///
/// # Errors
/// When it cannot be started at first, or an address is in use.
pub fn init(addresses: &[SocketAddr], users: Option<UsersLeft>) -> anyhow::Result<u8> {
    let sockets = Sockets::listen(addresses)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async { Init::new(Sockets::new(sockets)?, users)?.run().await })
}

/// How to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    /// With all sessions.
    End,
    /// Sessions live on.
    Leave,
}

struct Init {
    program: PathBuf,
    arguments: Vec<OsString>,
    terminate: Signals,
    interrupt: Signals,
    hangup: Signals,
    died: Signals,
    stop: Option<Stop>,
    backend: Option<i32>,
    reports: Option<Reports>,
    /// PIDs of the hosts. Other children but the backend are orphans.
    hosts: HashSet<i32>,
    sockets: Sockets,
    /// The last backend could not start.
    failing: bool,
    users: Option<UsersLeft>,
}

impl Init {
    fn new(sockets: Sockets, users: Option<UsersLeft>) -> io::Result<Self> {
        let others = std::env::args_os().skip(1).filter(|argument| argument != INIT);
        Ok(Self {
            program: std::env::current_exe()?,
            arguments: std::iter::once(BELOW_INIT.into()).chain(others).collect(),
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            died: signal(SignalKind::child())?,
            stop: None,
            backend: None,
            reports: None,
            hosts: HashSet::new(),
            sockets,
            failing: false,
            users,
        })
    }

    async fn run(mut self) -> anyhow::Result<u8> {
        let mut delay = DELAY;
        let mut first = true;
        loop {
            let started = Instant::now();
            let code = match self.start() {
                Ok(()) => self.wait(None).await.unwrap_or(NOT_STARTED),
                Err(error) if first => return Err(error.into()),
                Err(error) => {
                    tracing::error!(%error, "cannot start the backend");
                    NOT_STARTED
                }
            };
            // A backend that has never started is not started again: a loop would hide the error from its platform.
            if code == 0 || self.stop.is_some() || (first && code == NOT_STARTED) {
                // When the stop was requested, the backend may have been failing to start again.
                let code = if !first && code == NOT_STARTED { 0 } else { code };
                return Ok(self.stopped(code).await);
            }
            first = false;
            self.failing = code == NOT_STARTED;
            if started.elapsed() >= RAN {
                delay = DELAY;
            }
            tracing::error!(code, ?delay, hosts = self.hosts.len(), "the backend ended; starting it again");
            self.wait(Some(Instant::now() + delay)).await;
            if self.stop.is_some() {
                return Ok(self.stopped(0).await);
            }
            delay = LONGEST_DELAY.min(delay * 2);
        }
    }

    fn start(&mut self) -> io::Result<()> {
        let (reports, stdin) = Reports::new()?;
        let mut command = Command::new(&self.program);
        self.sockets.pass(&mut command);
        let backend = command.args(&self.arguments).stdin(stdin).spawn()?;
        self.backend = Some(backend.id().cast_signed());
        self.reports = Some(reports);
        Ok(())
    }

    /// Waits for the backend's exit code or, without a backend, until `due` or a signal to stop. Forwards signals, and
    /// kills and reaps orphans.
    async fn wait(&mut self, due: Option<Instant>) -> Option<u8> {
        loop {
            let (code, more) = self.reap();
            if code.is_some() {
                self.learn_hosts().await;
            }
            // A backend that exits by itself has ended its hosts, or leaves them.
            if self.stop.is_none() && code != Some(0) {
                self.kill_orphans();
            }
            if code.is_some() || (self.backend.is_none() && self.stop.is_some()) {
                return code;
            }
            let (stop, signal) = tokio::select! {
                _ = self.terminate.recv() => (Stop::End, Signal::SIGTERM),
                _ = self.interrupt.recv() => (Stop::End, Signal::SIGINT),
                _ = self.hangup.recv() => (Stop::Leave, Signal::SIGHUP),
                _ = self.died.recv() => continue,
                () = read(&mut self.reports, &mut self.hosts) => continue,
                () = tokio::task::yield_now(), if more => continue,
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => return None,
                // After a crash, connections wait for the next backend, unless it does not start either.
                () = self.sockets.refuse(), if self.backend.is_none() && self.failing => continue,
            };
            // A request to end the sessions holds.
            self.stop = self.stop.filter(|stop| *stop == Stop::End).or(Some(stop));
            if let Some(backend) = self.backend {
                let _ = kill(Pid::from_raw(backend), signal);
            }
        }
    }

    /// Learns which children are hosts of the backend that has just died: they are children of this process by now.
    async fn learn_hosts(&mut self) {
        // Its end of the pipe is closed, unless a child that it was starting holds a copy.
        let all = async {
            while self.reports.is_some() {
                read(&mut self.reports, &mut self.hosts).await;
            }
        };
        let _ = timeout(LAST_REPORTS, all).await;
        let children: HashSet<i32> = children().collect();
        self.hosts.retain(|host| children.contains(host));
    }

    /// Reaps children. Returns the backend's exit code if it was among them, and whether there may be more.
    fn reap(&mut self) -> (Option<u8>, bool) {
        let mut code = None;
        for _ in 0..AT_ONCE {
            let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) else { return (code, false) };
            let Some(pid) = status.pid().map(Pid::as_raw) else { return (code, false) };
            if self.backend == Some(pid) {
                self.backend = None;
                code = Some(exit_code(status));
            }
            self.hosts.remove(&pid);
        }
        (code, true)
    }

    fn kill_orphans(&self) {
        for pid in children().filter(|pid| self.backend != Some(*pid) && !self.hosts.contains(pid)) {
            // Only `reap` takes its status, so the PID cannot have been reused.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }

    /// Ends what the backend has not, if asked to end the sessions. Returns the exit code.
    async fn stopped(mut self, code: u8) -> u8 {
        if self.stop != Some(Stop::End) {
            return code;
        }
        // Left by a backend that crashed. Without its host, a terminal hangs up.
        for host in std::mem::take(&mut self.hosts) {
            let _ = kill(Pid::from_raw(host), Signal::SIGKILL);
        }
        let grace = Instant::now() + HANGUP_GRACE;
        let end = grace + KILLING;
        if let Some(users) = self.users.take() {
            self.end_users(&users, grace, end).await;
        }
        loop {
            self.reap();
            let now = Instant::now();
            if children().next().is_none() {
                // Whatever has killed the backend, everything has ended.
                return if code > SIGNALLED { 0 } else { code };
            }
            if now > end {
                tracing::error!("some processes cannot be killed");
                return code;
            }
            if now > grace {
                self.kill_orphans();
            }
            let _ = timeout_at(now + ROUND, self.died.recv()).await;
        }
    }
}

impl Init {
    /// Kills all processes of sessions' users. The next backend removes their files.
    async fn end_users(&mut self, users: &UsersLeft, grace: Instant, end: Instant) {
        let left = users.uids();
        if left.is_empty() {
            return;
        }
        sleep_until(grace).await;
        for uid in left {
            let Ok(helper) = users.kill(uid) else { continue };
            self.hosts.insert(helper);
            while self.hosts.contains(&helper) && Instant::now() < end {
                let _ = timeout_at(Instant::now() + ROUND, self.died.recv()).await;
                self.reap();
            }
        }
    }
}

/// Reads reports; pending without a pipe.
async fn read(reports: &mut Option<Reports>, hosts: &mut HashSet<i32>) {
    let Some(open) = reports else { return pending().await };
    if !open.read(hosts).await {
        *reports = None;
    }
}

/// As a shell reports it.
fn exit_code(status: WaitStatus) -> u8 {
    match status {
        WaitStatus::Exited(_, code) => u8::try_from(code).unwrap_or(u8::MAX),
        WaitStatus::Signaled(_, signal, _) => SIGNALLED.saturating_add(signal as u8),
        _ => u8::MAX,
    }
}
