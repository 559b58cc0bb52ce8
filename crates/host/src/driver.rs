//! Drives the session: owns the terminal, the running command and the link, and performs the state machine's effects.

mod backend;
mod end;

use std::{collections::HashMap, future::pending, panic::AssertUnwindSafe, time::Duration};

use bytes::Bytes;
use futures_util::FutureExt as _;
use shellbridge_protocol::{
    frame::Exit,
    ids::{ClientId, ConnectionId, SessionId, UserId},
    times::UnixMs,
};
use shellbridge_session::{
    CommandEnd, CommandOutcome, Effect, PushKind, Session, Work,
    link::{Check, Close, FILES_FAILED, FrameKind, MAX_LOG, Measured, ShellSpec, Start, Status, ToHost},
};
use tokio::{
    io::AsyncWriteExt as _,
    signal::unix::{Signal, SignalKind, signal},
    sync::oneshot,
    task::JoinHandle,
    time::{Instant, sleep_until, timeout},
};

use crate::{
    command::{CommandState, Finished, Running},
    drain::Tty,
    files,
    link::{self, Link, Listener},
    log, process,
    pty::{self, Shell, exit_of},
};

/// How long a new host waits for its backend to start a session.
const START_WITHIN: Duration = Duration::from_secs(30);
/// How often a host without a backend checks that its socket still exists.
const LOOK: Duration = Duration::from_secs(3);
/// Bytes per read of the PTY.
const READ: usize = 32 * 1024;
/// Pause before the next read of the PTY while a push is in flight. The shell has a lower priority than this process,
/// which would otherwise wake at each of its writes. The PTY holds less than 16 KiB, after which the shell waits, so a
/// longer pause costs throughput; the runtime's timers have a resolution of 1 ms. It delays other events this much at most.
const GATHER: Duration = Duration::from_micros(250);
/// In debug builds, the command whose text equals this variable of the session makes the host panic, for tests.
#[cfg(debug_assertions)]
const PANIC: &str = "SESSION_HOST_PANICS";

/// Serves the session that the first backend starts, until it is over.
pub(crate) async fn serve(listener: &Listener) {
    let Ok(Some((start, mut link))) = timeout(START_WITHIN, first(listener)).await else { return };
    let Start { id, owner, .. } = &start;
    let about = (id.clone(), owner.clone());
    let mut driver = match Driver::start(start) {
        Ok(driver) => driver,
        Err(error) => return end::fail(link, &reason(&*error)).await,
    };
    driver.greet(&mut link, &about);
    driver.link = Some(link);
    match AssertUnwindSafe(driver.run(listener, &about)).catch_unwind().await {
        Ok(why) => driver.end(&why).await,
        Err(_) => driver.crash().await,
    }
}

/// Why no session could be started.
fn reason(error: &dyn std::error::Error) -> String {
    let mut why = error.to_string();
    if !why.starts_with(FILES_FAILED) {
        why.insert_str(0, "the shell cannot be started: ");
    }
    why.truncate(why.floor_char_boundary(MAX_LOG));
    why
}

/// Waits for the backend's `Hello`; `None` if it starts no session.
async fn first(listener: &Listener) -> Option<(Start, Link)> {
    loop {
        let mut link = listener.accept("".into()).await;
        match link.next().await {
            Some(ToHost::Hello(hello)) => return Some((hello.start?, link)),
            Some(_) => return None,
            // The backend disconnected, or only probed whether the host is listening.
            None => {}
        }
    }
}

/// The session's name and its owner.
type About = (SessionId, UserId);

pub(crate) struct Driver {
    started: Instant,
    created_at: UnixMs,
    spec: ShellSpec,
    session: Session,
    shell: Shell,
    tty: Tty,
    /// Earliest time of the next PTY read; see [`GATHER`].
    read_at: Instant,
    /// Addresses by which the next backend reaches the connections.
    addresses: HashMap<ConnectionId, String>,
    /// Pushes in flight, by number.
    pushes: HashMap<u64, (ConnectionId, PushKind)>,
    next_push: u64,
    /// Requests awaiting a command's result, with the backend's numbers. Bounded by the commands that may wait.
    requests: HashMap<u64, (FrameKind, u64)>,
    next_request: u64,
    command_state: CommandState,
    command: Option<Command>,
    /// Pending turn of the screen model.
    following: Option<Box<Work>>,
    died: Signal,
    /// There may be more orphans to reap.
    unreaped: bool,
    link: Option<Link>,
    /// When to check the socket next; see [`LOOK`].
    look_at: Instant,
    /// The backend has sent `Hello`. Before that, it gets no pushes and no status.
    greeted: bool,
    /// Last status sent to this backend.
    told: Option<Status>,
    notes: Bytes,
    /// Pending measurement, and the number of the latest request for one.
    measuring: Option<(u64, oneshot::Receiver<Measured>)>,
}

/// The running command.
pub(crate) struct Command {
    pid: i32,
    task: JoinHandle<std::io::Result<Finished>>,
}

/// An event of the loop.
enum Event {
    Backend(Link),
    Message(Option<ToHost>),
    Read(std::io::Result<usize>),
    Wrote(ClientId, std::io::Result<usize>),
    Quiet,
    Exited(Exit),
    Died,
    Command(std::io::Result<Finished>),
    Measured(Option<Measured>),
    Idle,
    Look,
    Timer,
}

impl Driver {
    pub(crate) fn start(start: Start) -> Result<Self, Box<dyn std::error::Error>> {
        let Start { id, created_at, expires_at, settings, shell: spec, notes, files, init, .. } = start;
        let started = Instant::now();
        let session = Session::new(id, settings, created_at, expires_at);
        let died = signal(SignalKind::child())?;
        files::lay(spec.env.get("HOME").map_or("/", String::as_str), &files)?;
        let shell = Shell::start(&spec, session.size(), init.as_deref())?;
        Ok(Self {
            started,
            created_at,
            command_state: CommandState::new(&spec),
            spec,
            session,
            shell,
            tty: Tty::Open,
            read_at: started,
            addresses: HashMap::new(),
            pushes: HashMap::new(),
            next_push: 0,
            requests: HashMap::new(),
            next_request: 0,
            command: None,
            following: None,
            died,
            unreaped: false,
            link: None,
            look_at: started,
            greeted: true,
            told: None,
            notes,
            measuring: None,
        })
    }

    /// Runs until the session is over, and returns the reason.
    pub(crate) async fn run(&mut self, listener: &Listener, about: &About) -> String {
        let mut buffer = vec![0; READ];
        loop {
            if let Some(why) = self.perform() {
                return why;
            }
            let event = self.next(listener, about, &mut buffer).await;
            let now = self.now();
            match event {
                Event::Backend(link) => {
                    self.lose(now);
                    self.link = Some(link);
                }
                Event::Message(Some(ToHost::Hello(_))) => {
                    if let Some(mut link) = self.link.take() {
                        self.greet(&mut link, about);
                        self.link = Some(link);
                    }
                    self.session.handle_reachable(true);
                }
                Event::Message(Some(message)) if self.greeted => self.message(message, now),
                Event::Message(_) => self.lose(now),
                Event::Read(Ok(count @ 1..)) => {
                    if count < READ / 2 && !self.pushes.is_empty() {
                        self.read_at = Instant::now() + GATHER;
                    }
                    self.session.handle_output(buffer.get(..count).unwrap_or_default());
                    let exit = self.tty.came(count);
                    self.exited(exit, now);
                }
                // EIO: no process has the terminal open any longer.
                Event::Read(_) | Event::Quiet => {
                    let exit = self.tty.close();
                    self.exited(exit, now);
                }
                Event::Wrote(client, Ok(count)) => self.session.handle_written(&client, count, now),
                // The shell accepts no input: discard it.
                Event::Wrote(client, Err(_)) => self.session.handle_written(&client, usize::MAX, now),
                Event::Exited(exit) => {
                    log::info(format_args!("shell ended: {}", exit.exit_code));
                    let exit = self.tty.exited(exit);
                    self.exited(exit, now);
                    self.reap();
                }
                Event::Died => self.reap(),
                Event::Command(finished) => {
                    self.command = None;
                    self.finished(finished, now);
                    self.reap();
                }
                Event::Measured(measured) => {
                    if let (Some((request, _)), Some(measured)) = (self.measuring.take(), measured) {
                        self.say(Measured { request, ..measured });
                    }
                }
                Event::Idle => {
                    if self.unreaped {
                        self.reap();
                    }
                    if let Some(mut work) = self.following.take() {
                        work.run();
                        self.session.handle_followed(work);
                    }
                }
                Event::Look => {
                    self.look_at = Instant::now() + LOOK;
                    if listener.is_removed() {
                        self.session.handle_end();
                    }
                }
                Event::Timer => self.session.handle_timeout(now),
            }
        }
    }

    /// Performs the session's effects. Returns the reason once the session is over.
    fn perform(&mut self) -> Option<String> {
        let now = self.now();
        while let Some(effect) = self.session.poll_effect(now) {
            match effect {
                Effect::Push { to, frame, kind } => self.push(to, frame, kind),
                Effect::Answer { request, to, frame } => self.answer(request, to, frame),
                Effect::Close { connection, last, reason } => {
                    self.addresses.remove(&connection);
                    let reason = reason.map(Into::into);
                    self.say(Close { connection, last, reason });
                }
                Effect::Check(connection) => self.say(Check { connection }),
                Effect::Resize(size) => self.shell.resize(size),
                Effect::Run { command, timeout } => {
                    #[cfg(debug_assertions)]
                    assert!(self.spec.env.get(PANIC) != Some(&command), "panic requested by a test");
                    match Running::start(self.command_state.clone(), &command) {
                        Ok(running) => {
                            let pid = running.pid();
                            self.command = Some(Command { pid, task: tokio::spawn(running.finish(timeout)) });
                        }
                        Err(error) => {
                            log::warn(format_args!("cannot start a command: {error}"));
                            self.session.handle_command(CommandOutcome::NotStarted, now);
                        }
                    }
                }
                Effect::Follow(work) => self.following = Some(work),
                Effect::StartShell => self.restart(now),
                Effect::End(why) => return Some(format!("{why:?}")),
            }
        }
        let status = self.session.status();
        let connections = u32::try_from(status.connections).unwrap_or(u32::MAX);
        let status = Status { connections, exited: status.exited };
        if self.greeted && self.link.is_some() && self.told.replace(status) != Some(status) {
            self.say(status);
        }
        if let Some(link) = &mut self.link {
            link.say_logs();
        }
        None
    }

    /// Waits for the next event.
    async fn next(&mut self, listener: &Listener, about: &About, buffer: &mut [u8]) -> Event {
        let due = self.session.poll_timeout().map(|at| self.started + at);
        let reading = !matches!(self.tty, Tty::Closed);
        let quiet_at = self.tty.quiet_at();
        let allowance = if reading { self.session.read_allowance(self.now()).min(buffer.len()) } else { 0 };
        let input = self.session.poll_write().filter(|_| matches!(self.tty, Tty::Open));
        let write = async {
            match &input {
                Some((client, bytes)) => Event::Wrote(client.clone(), self.shell.writer.write(bytes).await),
                None => pending().await,
            }
        };
        let read = async {
            if let Some(pause) = self.read_at.checked_duration_since(Instant::now()) {
                std::thread::sleep(pause);
            }
            pty::read(&mut self.shell.reader, buffer.get_mut(..allowance).unwrap_or_default()).await
        };
        let command = async {
            match &mut self.command {
                Some(running) => match (&mut running.task).await {
                    Ok(finished) => Event::Command(finished),
                    Err(error) => Event::Command(Err(std::io::Error::other(error))),
                },
                None => pending().await,
            }
        };
        let measured = async {
            match &mut self.measuring {
                Some((_, measured)) => Event::Measured(measured.await.ok()),
                None => pending().await,
            }
        };
        // Short, bounded work comes first. What a shell can keep ready, its input and output, comes after the next backend
        // and timers. `Quiet` comes after `read`: a terminal with unread output is not quiet.
        tokio::select! {
            biased;
            message = link::next(&mut self.link) => Event::Message(message),
            link = listener.accept(about.0.clone()) => Event::Backend(link),
            () = until(due) => Event::Timer,
            () = sleep_until(self.look_at), if self.link.is_none() => Event::Look,
            event = command => event,
            event = measured => event,
            status = self.shell.child.wait(), if quiet_at.is_none() && !self.session.status().exited => {
                Event::Exited(exit_of(status))
            }
            event = write => event,
            read = read, if allowance > 0 => Event::Read(read),
            _ = self.died.recv() => Event::Died,
            () = until(quiet_at), if allowance > 0 => Event::Quiet,
            // Work that takes milliseconds. Yielding first lets the runtime poll for other events.
            () = tokio::task::yield_now(), if self.following.is_some() || self.unreaped => Event::Idle,
        }
    }

    fn finished(&mut self, finished: std::io::Result<Finished>, now: Duration) {
        let outcome = match finished {
            Ok(Finished { output, truncated, exit, took, timed_out, state }) => {
                self.command_state = state;
                CommandOutcome::Ended(CommandEnd { output, truncated, exit, took, timed_out })
            }
            Err(error) => {
                log::warn(format_args!("cannot wait for a command: {error}"));
                CommandOutcome::Lost
            }
        };
        self.session.handle_command(outcome, now);
    }

    /// Reports the shell's exit, once its output is complete.
    fn exited(&mut self, exit: Option<Exit>, now: Duration) {
        if let Some(exit) = exit {
            self.session.handle_exit(exit, now);
        }
    }

    /// Starts a new shell to replace the one that exited.
    fn restart(&mut self, now: Duration) {
        match Shell::start(&self.spec, self.session.size(), None) {
            Ok(shell) => {
                tokio::spawn(process::end_session(self.shell.pid));
                self.shell = shell;
                self.tty = Tty::Open;
                self.session.handle_restarted(now);
            }
            Err(error) => {
                log::warn(format_args!("cannot restart the shell: {error}"));
                self.session.handle_restart_failed();
            }
        }
    }

    /// Reaps the session's orphans.
    fn reap(&mut self) {
        // `None` once the child was reaped: its PID may have been reused.
        let shell = self.shell.child.id().map_or(0, u32::cast_signed);
        let command = self.command.as_ref().map_or(0, |command| command.pid);
        self.unreaped = process::reap(&[shell, command]);
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => pending().await,
    }
}
