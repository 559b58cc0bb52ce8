//! The task of a session: owns the PTY, the pushes and the running command, and does what `core` decides.

mod end;
mod push;
#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, HashSet},
    future::pending,
    panic::{AssertUnwindSafe, resume_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt;
use shellbridge_protocol::{
    ErrorCode, PROTOCOL_VERSION,
    frame::{ClientFrame, ErrorFrame, Exit, NoticeCode, ServerFrame},
};
use tokio::{
    io::AsyncWriteExt,
    sync::{mpsc, oneshot},
    task::{JoinHandle, JoinSet},
    time::Instant,
};
use tracing::Instrument;

use super::{
    Limits,
    commands::{Asker, Commands, Request},
    connection::ConnectionInfo,
    core::{Core, Effect, PushKind},
    handle::{Handle, Incoming, Message, Status},
    model::Work,
    thread,
    tty::Tty,
};
use crate::{
    count,
    outlet::{ConnectionId, Outlet, Sent},
    shell::{
        self, Leader, ShellSpec,
        command::{CommandState, Finished},
        pty::{self, Shell, exit_of},
    },
    unix_ms,
};

/// Messages that may wait for a session.
const INBOX: usize = 256;
/// Bytes taken from the PTY at once.
const READ: usize = 32 * 1024;
/// A shell that lived for less than this is not started anew at once.
const SHORT_LIFE: Duration = Duration::from_secs(1);
/// Longest wait before a shell is started anew.
const RESTART_MAX: Duration = Duration::from_secs(30);
/// How long before its end a session says so.
const EXPIRY_NOTICE: Duration = Duration::from_mins(5);

/// What is the same for all sessions.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    pub(crate) limits: Limits,
    /// `DETACHED_TTL`: how long a session lives without a connection.
    pub(crate) detached_ttl: Duration,
    /// `SHELL_RESTART`.
    pub(crate) shell_restart: bool,
}

/// What a session is started with.
pub(crate) struct Start {
    pub(crate) id: String,
    pub(crate) owner: String,
    pub(crate) spec: ShellSpec,
    /// Unix ms.
    pub(crate) expires_at: u64,
}

/// Starts a shell and the task around it. `ended` is called when the session takes nothing more.
///
/// # Errors
/// When the shell cannot be started.
pub(crate) fn spawn(
    settings: Settings,
    start: Start,
    ended: impl FnOnce(&Status) + Send + 'static,
) -> Result<Handle, pty_process::Error> {
    let created_at = unix_ms();
    let core = Core::new(settings.limits, created_at);
    let shell = Shell::start(&start.spec, core.size)?;
    let (inbox, mut messages) = mpsc::channel(INBOX);
    let status = Arc::new(Status {
        id: start.id,
        owner: start.owner,
        created_at,
        expires_at: AtomicU64::new(start.expires_at),
        connections: AtomicUsize::new(0),
        exited: AtomicBool::new(false),
        ended: AtomicBool::new(false),
    });
    let span = tracing::info_span!("session", session_id = %status.id);
    let mut task = Task {
        settings,
        status: status.clone(),
        started: Instant::now(),
        leaders: HashSet::from([shell.leader()]),
        commands: Commands::new(CommandState::new(&start.spec)),
        spec: start.spec,
        core,
        shell,
        tty: Tty::Open,
        outlets: HashMap::new(),
        pushes: JoinSet::new(),
        command: None,
        following: None,
        detached_since: Some(Instant::now()),
        restart_at: SHORT_LIFE,
        restart_wait: SHORT_LIFE,
    };
    let handle = Handle { status: status.clone(), inbox };
    let run = async move {
        tracing::info!("session started");
        // A fault of ours in one session ends that session, all of it, and nothing else.
        if AssertUnwindSafe(task.run(&mut messages)).catch_unwind().await.is_err() {
            tracing::error!("the session ended by a fault");
            count::session_failed();
            task.core.effects.clear();
            task.farewell(ErrorCode::SessionInvalid, "the session ended by a fault of the backend");
        }
        status.ended.store(true, Ordering::Release);
        ended(&status);
        // Whoever still asks hears at once that it has ended: a reply that is dropped says so.
        let refused = async {
            while messages.recv().await.is_some() {}
            pending::<()>().await;
        };
        tokio::select! {
            () = task.end() => {}
            () = refused => {}
        }
        tracing::info!("session ended");
        // Only now is the channel closed: nothing of the session is left.
        drop(messages);
    };
    tokio::spawn(run.instrument(span));
    Ok(handle)
}

struct Task {
    settings: Settings,
    status: Arc<Status>,
    started: Instant,
    spec: ShellSpec,
    core: Core,
    shell: Shell,
    tty: Tty,
    outlets: HashMap<ConnectionId, Arc<dyn Outlet>>,
    pushes: JoinSet<(ConnectionId, Done)>,
    commands: Commands,
    command: Option<JoinHandle<std::io::Result<Finished>>>,
    /// A turn of the model of the screen.
    following: Option<oneshot::Receiver<Box<Work>>>,
    /// Shells that were started, to find what they started.
    leaders: HashSet<Leader>,
    detached_since: Option<Instant>,
    /// When a new shell may be started at the earliest, and the wait that was for it.
    restart_at: Duration,
    restart_wait: Duration,
}

/// The end of something that concerned a connection.
enum Done {
    Pushed(PushKind, Sent),
    Checked(bool),
    Closed,
}

/// What happened next.
enum Event {
    Message(Option<Message>),
    Read(std::io::Result<usize>),
    Wrote(String, std::io::Result<usize>),
    Quiet,
    Exited(Exit),
    Done(ConnectionId, Done),
    Command(std::io::Result<Finished>),
    Followed(Result<Box<Work>, oneshot::error::RecvError>),
    Timer,
}

impl Task {
    /// Runs until the session is over.
    async fn run(&mut self, inbox: &mut mpsc::Receiver<Message>) {
        let mut buffer = vec![0; READ];
        while let Some(due) = self.due() {
            let event = self.next(inbox, &mut buffer, due).await;
            let now = self.now();
            match event {
                Event::Message(None | Some(Message::End)) => {
                    self.farewell(ErrorCode::SessionInvalid, "the session was ended");
                    break;
                }
                Event::Message(Some(message)) => self.message(message, now),
                Event::Read(Ok(count @ 1..)) => {
                    self.core.output(buffer.get(..count).unwrap_or_default());
                    let exit = self.tty.came(count);
                    self.exited(exit, now);
                }
                // EIO: the last process that had the terminal open is gone.
                Event::Read(_) | Event::Quiet => {
                    let exit = self.tty.close();
                    self.exited(exit, now);
                }
                Event::Wrote(client, Ok(count)) => self.core.wrote(&client, count, now),
                Event::Wrote(client, Err(error)) => {
                    tracing::debug!(%error, "the shell takes no input");
                    self.core.wrote(&client, usize::MAX, now);
                }
                Event::Exited(exit) => {
                    tracing::info!(exit_code = exit.exit_code, "shell ended");
                    let exit = self.tty.exited(exit);
                    self.exited(exit, now);
                }
                Event::Done(id, done) => self.done(&id, &done, now),
                Event::Command(finished) => {
                    self.command = None;
                    if let Some((to, frame)) = self.commands.finished(finished, now) {
                        self.core.push(&to, &frame);
                    }
                }
                Event::Followed(Ok(work)) => {
                    self.following = None;
                    self.core.followed(work);
                }
                Event::Followed(Err(_)) => resume_unwind(Box::new("the model of the screen has failed")),
                Event::Timer => {}
            }
        }
    }

    /// Does what is due; says until when there is nothing to do, or none if the session is over.
    fn due(&mut self) -> Option<Instant> {
        let now = self.now();
        while self.command.is_none() {
            match self.commands.start(now) {
                None => break,
                Some(Ok((running, timeout))) => self.command = Some(tokio::spawn(running.finish(timeout))),
                Some(Err((to, frame))) => self.core.push(&to, &frame),
            }
        }
        let mut restart_in = None;
        if self.core.is_over(now) {
            if !self.settings.shell_restart {
                return None;
            }
            restart_in = self.restart_at.checked_sub(now).filter(|wait| !wait.is_zero());
            if restart_in.is_none() && !self.restart(now) {
                return None;
            }
        }
        let remaining = Duration::from_millis(self.status.expires_at().saturating_sub(unix_ms()));
        if remaining.is_zero() {
            self.farewell(ErrorCode::SessionExpired, "the session's time is over");
            return None;
        }
        if remaining <= EXPIRY_NOTICE {
            self.core.expires_soon();
        }
        let expiry = remaining.checked_sub(EXPIRY_NOTICE).filter(|wait| !wait.is_zero()).unwrap_or(remaining);
        let mut wait = restart_in.map_or(expiry, |wait| wait.min(expiry));
        if let Some(due) = self.core.tick(now) {
            wait = wait.min(due.saturating_sub(now));
        }
        self.perform();
        let connections = self.core.connections.len();
        self.status.connections.store(connections, Ordering::Relaxed);
        self.status.exited.store(self.core.exit.is_some(), Ordering::Relaxed);
        if connections > 0 {
            self.detached_since = None;
        } else {
            let left = (*self.detached_since.get_or_insert_with(Instant::now) + self.settings.detached_ttl)
                .saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            wait = wait.min(left);
        }
        Some(Instant::now() + wait)
    }

    /// Waits for what happens next.
    async fn next(&mut self, inbox: &mut mpsc::Receiver<Message>, buffer: &mut [u8], due: Instant) -> Event {
        let reading = !matches!(self.tty, Tty::Closed);
        let quiet_at = self.tty.quiet_at();
        let draining = quiet_at.is_some();
        let allowance = if reading { self.core.read_allowance(self.now()).min(buffer.len()) } else { 0 };
        let input = self.core.next_input().filter(|_| matches!(self.tty, Tty::Open));
        let write = async {
            match &input {
                Some((client, bytes)) => Event::Wrote(client.clone(), self.shell.writer.write(bytes).await),
                None => pending().await,
            }
        };
        let command = async {
            match &mut self.command {
                Some(running) => match running.await {
                    Ok(finished) => Event::Command(finished),
                    Err(error) => Event::Command(Err(std::io::Error::other(error))),
                },
                None => pending().await,
            }
        };
        let following = async {
            match &mut self.following {
                Some(following) => following.await,
                None => pending().await,
            }
        };
        // What is short and bounded goes first; quiet is when there is nothing to read.
        tokio::select! {
            biased;
            message = inbox.recv() => Event::Message(message),
            Some(done) = self.pushes.join_next() => match done {
                Ok((id, done)) => Event::Done(id, done),
                Err(error) => {
                    tracing::error!(%error, "a push was lost");
                    Event::Timer
                }
            },
            event = command => event,
            status = self.shell.child.wait(), if !draining && self.core.exit.is_none() => {
                Event::Exited(exit_of(status))
            }
            event = write => event,
            followed = following => Event::Followed(followed),
            read = pty::read(&mut self.shell.reader, buffer.get_mut(..allowance).unwrap_or_default()), if allowance > 0 => {
                Event::Read(read)
            }
            () = tokio::time::sleep_until(quiet_at.unwrap_or(due)), if draining && allowance > 0 => Event::Quiet,
            () = tokio::time::sleep_until(due) => Event::Timer,
        }
    }

    fn message(&mut self, message: Message, now: Duration) {
        match message {
            Message::Connect { info, outlet, reply } => {
                let id = info.id.clone();
                let read_only = info.read_only;
                let known = self.core.connections.contains_key(&id);
                let taken = self.core.connect(info, now);
                if taken {
                    self.outlets.insert(id.clone(), outlet);
                    if !known {
                        self.greet(&id, read_only);
                    }
                }
                // The request may have been given up; the connection stands all the same.
                let _ = reply.send(taken);
            }
            Message::Disconnect { id } => {
                self.core.disconnect(&id, now);
                self.outlets.remove(&id);
            }
            Message::Frame { info, outlet, frame, reply } => self.frame(info, outlet, frame, reply, now),
            Message::Extended => self.core.extended(),
            Message::Drain => self.core.notify(NoticeCode::Draining, "the backend is stopping"),
            Message::End => {}
        }
    }

    fn frame(
        &mut self,
        info: ConnectionInfo,
        outlet: Arc<dyn Outlet>,
        Incoming { frame, message_id }: Incoming,
        reply: oneshot::Sender<Option<ServerFrame>>,
        now: Duration,
    ) {
        let id = info.id.clone();
        let read_only = info.read_only;
        let refuse = |code, message: &str| Some(ErrorFrame::new(code, message).into());
        if !self.core.connections.contains_key(&id) {
            if self.core.was_dropped(&id) && !matches!(frame, ClientFrame::Attach { .. }) {
                let _ = reply.send(refuse(ErrorCode::NotAttached, "attach first"));
                return;
            }
            if !self.core.connect(info, now) {
                let _ = reply.send(refuse(ErrorCode::RateLimited, "the session has too many connections"));
                return;
            }
            self.outlets.insert(id.clone(), outlet);
        }
        let answer = match frame {
            ClientFrame::Command { .. } | ClientFrame::Clear if read_only => {
                refuse(ErrorCode::ReadOnly, "this connection may only watch")
            }
            ClientFrame::Command { command, id: name, timeout_ms } => {
                let request = Request { id: name.unwrap_or(message_id), command, timeout_ms };
                self.commands.ask(request, Asker { connection: id, reply }, now);
                return;
            }
            ClientFrame::History => Some(self.commands.history()),
            ClientFrame::Clear => Some(self.commands.clear()),
            frame => self.core.frame(&id, frame, now),
        };
        // A request that was given up is asked again by the client.
        let _ = reply.send(answer);
    }

    fn greet(&mut self, id: &ConnectionId, read_only: bool) {
        let greeting = ServerFrame::Connected {
            message: "connected to the session's shell".to_owned(),
            session_id: self.status.id.clone(),
            connection_id: id.to_string(),
            timestamp: unix_ms(),
            protocol: PROTOCOL_VERSION,
            read_only,
        };
        self.core.push(id, &greeting);
    }

    /// Starts what `core` wants done.
    fn perform(&mut self) {
        while let Some(effect) = self.core.effects.pop_front() {
            match effect {
                Effect::Push { to, frame, kind } => {
                    let Some(outlet) = self.outlets.get(&to).cloned() else { continue };
                    self.pushes.spawn(async move {
                        // A push that never came back would be under way for ever.
                        let sent = AssertUnwindSafe(push::push(outlet, frame, kind)).catch_unwind().await;
                        (to, Done::Pushed(kind, sent.unwrap_or(Sent::Gone)))
                    });
                }
                Effect::Close(id, last) => {
                    let Some(outlet) = self.outlets.remove(&id) else { continue };
                    self.pushes.spawn(async move {
                        end::close(outlet, last).await;
                        (id, Done::Closed)
                    });
                }
                Effect::Check(id) => {
                    let Some(outlet) = self.outlets.get(&id).cloned() else { continue };
                    self.pushes.spawn(async move { (id, Done::Checked(outlet.exists().await)) });
                }
                Effect::Resize(size) => self.shell.resize(size),
                Effect::Follow(work) => self.following = Some(thread::turn(work)),
            }
        }
    }

    fn done(&mut self, id: &ConnectionId, done: &Done, now: Duration) {
        match *done {
            Done::Pushed(kind, sent) => self.core.pushed(id, kind, sent, now),
            Done::Checked(exists) => self.core.checked(id, exists, now),
            Done::Closed => {}
        }
    }

    /// The shell has ended, and all of its output has come.
    fn exited(&mut self, exit: Option<Exit>, now: Duration) {
        if let Some(exit) = exit {
            self.core.exited(exit, now);
        }
    }

    /// Puts a new shell in place of the one that ended.
    fn restart(&mut self, now: Duration) -> bool {
        match Shell::start(&self.spec, self.core.size) {
            Ok(shell) => {
                tokio::spawn(shell::end_all(std::mem::take(&mut self.leaders)));
                self.leaders.insert(shell.leader());
                self.shell = shell;
                self.tty = Tty::Open;
                self.core.restarted(unix_ms(), now);
                // One that dies at once would be started as fast as the machine can.
                let lived = now.saturating_sub(self.restart_at);
                self.restart_wait = if lived < SHORT_LIFE {
                    (self.restart_wait * 2).clamp(SHORT_LIFE, RESTART_MAX)
                } else {
                    SHORT_LIFE
                };
                self.restart_at = now + self.restart_wait;
                true
            }
            Err(error) => {
                tracing::error!(%error, "the shell cannot be started anew");
                false
            }
        }
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }
}
