//! The task of a session: owns the PTY, the pushes and the running command, and does what the state machine decides.

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

use bytes::Bytes;
use futures_util::FutureExt;
use shellbridge_protocol::{
    ErrorCode,
    frame::{ErrorFrame, Exit, FrameHead, ServerFrame},
    ids::{ClientId, ConnectionId, SessionId, UserId},
    times::UnixMs,
};
use shellbridge_session::{
    CommandEnd, CommandOutcome, ConnectionInfo, Effect, PushKind, Reply, Request, Sent, Session, Settings,
    Work,
};
use tokio::{
    io::AsyncWriteExt,
    sync::{mpsc, oneshot},
    task::{JoinHandle, JoinSet},
    time::Instant,
};
use tracing::Instrument;

use super::{
    drain::Tty,
    handle::{Handle, Incoming, Message, Status},
    thread,
    tokens::{Stale, Tokens, Use},
};
use crate::{
    clock::unix_ms,
    launcher::{
        self, Leader, ShellSpec,
        command::{CommandState, Finished, Running},
        living,
        pty::{self, Shell, exit_of},
    },
    metrics,
    sessions::outlet::{Outlet, Route, close},
};

/// Messages that may wait for a session.
const INBOX: usize = 256;
/// Bytes taken from the PTY at once.
const READ: usize = 32 * 1024;

/// Delay before the next read of the PTY while a push is in flight. The shell has a lower priority than this process, which
/// would wake for each of its writes; meanwhile the PTY's buffer fills, and output is sent in larger frames anyway.
const GATHER: Duration = Duration::from_millis(1);

/// What a session is started with.
pub(crate) struct Start {
    pub(crate) id: SessionId,
    pub(crate) owner: UserId,
    pub(crate) spec: ShellSpec,
    pub(crate) expires_at: UnixMs,
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
    let started = Instant::now();
    let session = Session::new(start.id.clone(), settings, created_at, start.expires_at);
    let shell = Shell::start(&start.spec, session.size())?;
    let (inbox, mut messages) = mpsc::channel(INBOX);
    let status = Arc::new(Status {
        id: start.id,
        owner: start.owner,
        created_at,
        expires_at: AtomicU64::new(start.expires_at.0),
        tokens: Tokens::new(),
        connections: AtomicUsize::new(0),
        exited: AtomicBool::new(false),
        ended: AtomicBool::new(false),
    });
    let span = tracing::info_span!("session", session_id = %status.id);
    let mut task = Task {
        status: status.clone(),
        started,
        leaders: HashSet::from([shell.leader()]),
        command_state: CommandState::new(&start.spec),
        spec: start.spec,
        session,
        shell,
        tty: Tty::Open,
        read_at: started,
        outlets: HashMap::new(),
        pushes: JoinSet::new(),
        requests: HashMap::new(),
        next_request: 0,
        command: None,
        following: None,
        groups: HashSet::new(),
    };
    let handle = Handle { status: status.clone(), inbox };
    let run = async move {
        tracing::info!("session started");
        // An internal error in one session ends that session, all of it, and nothing else.
        if AssertUnwindSafe(task.run(&mut messages)).catch_unwind().await.is_err() {
            tracing::error!("the session ended by an internal error");
            metrics::session_failed();
            task.failed();
        }
        status.ended.store(true, Ordering::Release);
        ended(&status);
        // Requests that still come learn at once that it has ended: a reply that is dropped says so.
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

pub(super) struct Task {
    pub(super) status: Arc<Status>,
    started: Instant,
    spec: ShellSpec,
    pub(super) session: Session,
    pub(super) shell: Shell,
    tty: Tty,
    /// When the PTY is read next.
    read_at: Instant,
    pub(super) outlets: HashMap<ConnectionId, Arc<dyn Outlet>>,
    pub(super) pushes: JoinSet<(ConnectionId, Done)>,
    /// Requests that a command is to answer. As many as commands may wait.
    pub(super) requests: HashMap<u64, oneshot::Sender<Reply>>,
    next_request: u64,
    command_state: CommandState,
    pub(super) command: Option<JoinHandle<std::io::Result<Finished>>>,
    /// A turn of the screen model.
    following: Option<oneshot::Receiver<Box<Work>>>,
    /// Process groups of commands, in which something may be left.
    pub(super) groups: HashSet<Leader>,
    /// Shells that were started, to find what they started.
    pub(super) leaders: HashSet<Leader>,
}

/// The end of something that concerned a connection.
pub(super) enum Done {
    Pushed(PushKind, Sent),
    Checked(bool),
    Closed,
}

/// What happened next.
enum Event {
    Message(Option<Message>),
    Read(std::io::Result<usize>),
    Wrote(ClientId, std::io::Result<usize>),
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
        while self.perform() {
            let event = self.next(inbox, &mut buffer).await;
            let now = self.now();
            match event {
                Event::Message(None | Some(Message::End)) => self.session.handle_end(),
                Event::Message(Some(message)) => self.message(message, now),
                Event::Read(Ok(count @ 1..)) => {
                    if count < READ / 2 && !self.pushes.is_empty() {
                        self.read_at = Instant::now() + GATHER;
                    }
                    self.session.handle_output(buffer.get(..count).unwrap_or_default());
                    let exit = self.tty.came(count);
                    self.exited(exit, now);
                }
                // EIO: the last process that had the terminal open is gone.
                Event::Read(_) | Event::Quiet => {
                    let exit = self.tty.close();
                    self.exited(exit, now);
                }
                Event::Wrote(client, Ok(count)) => self.session.handle_written(&client, count, now),
                Event::Wrote(client, Err(error)) => {
                    tracing::debug!(%error, "the shell takes no input");
                    self.session.handle_written(&client, usize::MAX, now);
                }
                Event::Exited(exit) => {
                    tracing::info!(exit_code = exit.exit_code, "shell ended");
                    let exit = self.tty.exited(exit);
                    self.exited(exit, now);
                }
                Event::Done(id, Done::Pushed(kind, sent)) => {
                    self.session.handle_pushed(&id, kind, sent, now);
                }
                Event::Done(id, Done::Checked(exists)) => self.session.handle_checked(&id, exists, now),
                Event::Done(_, Done::Closed) => {}
                Event::Command(finished) => {
                    self.command = None;
                    self.finished(finished, now);
                }
                Event::Followed(Ok(work)) => {
                    self.following = None;
                    self.session.handle_followed(work);
                }
                Event::Followed(Err(_)) => resume_unwind(Box::new("the screen model has failed")),
                Event::Timer => self.session.handle_timeout(now),
            }
        }
    }

    /// Does what the session wants done; false when it is over.
    fn perform(&mut self) -> bool {
        let now = self.now();
        while let Some(effect) = self.session.poll_effect(now) {
            match effect {
                Effect::Push { to, frame, kind } => self.push(to, frame, kind),
                Effect::Answer { request, to, frame } => self.answer(request, to, frame),
                Effect::Close { connection, last, reason } => {
                    let Some(outlet) = self.outlets.remove(&connection) else { continue };
                    self.pushes.spawn(async move {
                        close(outlet, last, reason).await;
                        (connection, Done::Closed)
                    });
                }
                Effect::Check(id) => {
                    let Some(outlet) = self.outlets.get(&id).cloned() else { continue };
                    self.pushes.spawn(async move { (id, Done::Checked(outlet.exists().await)) });
                }
                Effect::Resize(size) => self.shell.resize(size),
                Effect::Run { command, timeout } => {
                    match Running::start(self.command_state.clone(), &command) {
                        Ok(running) => {
                            self.groups.insert(running.group());
                            self.command = Some(tokio::spawn(running.finish(timeout)));
                        }
                        Err(error) => {
                            tracing::warn!(%error, "a command cannot be started");
                            self.session.handle_command(CommandOutcome::NotStarted, now);
                        }
                    }
                }
                Effect::Follow(work) => self.following = Some(thread::turn(work)),
                Effect::StartShell => self.restart(now),
                Effect::End(why) => {
                    tracing::debug!(?why, "session over");
                    return false;
                }
            }
        }
        let status = self.session.status();
        self.status.connections.store(status.connections, Ordering::Relaxed);
        self.status.exited.store(status.exited, Ordering::Relaxed);
        true
    }

    /// Waits for what happens next.
    async fn next(&mut self, inbox: &mut mpsc::Receiver<Message>, buffer: &mut [u8]) -> Event {
        let due = self.session.poll_timeout().map(|at| self.started + at);
        let timer = async {
            match due {
                Some(due) => tokio::time::sleep_until(due).await,
                None => pending().await,
            }
        };
        let reading = !matches!(self.tty, Tty::Closed);
        let quiet_at = self.tty.quiet_at();
        let draining = quiet_at.is_some();
        let quiet = async {
            match quiet_at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => pending().await,
            }
        };
        let allowance = if reading { self.session.read_allowance(self.now()).min(buffer.len()) } else { 0 };
        let input = self.session.poll_write().filter(|_| matches!(self.tty, Tty::Open));
        let write = async {
            match &input {
                Some((client, bytes)) => Event::Wrote(client.clone(), self.shell.writer.write(bytes).await),
                None => pending().await,
            }
        };
        let read = async {
            if self.read_at > Instant::now() {
                tokio::time::sleep_until(self.read_at).await;
            }
            pty::read(&mut self.shell.reader, buffer.get_mut(..allowance).unwrap_or_default()).await
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
            status = self.shell.child.wait(), if !draining && !self.session.status().exited => {
                Event::Exited(exit_of(status))
            }
            event = write => event,
            followed = following => Event::Followed(followed),
            read = read, if allowance > 0 => Event::Read(read),
            () = quiet, if allowance > 0 => Event::Quiet,
            () = timer => Event::Timer,
        }
    }

    fn message(&mut self, message: Message, now: Duration) {
        match message {
            Message::Connect { info, route, reply } => {
                let id = info.id.clone();
                let taken = self.connect(info, now);
                if taken.is_ok() {
                    self.adopt(id, &route);
                }
                // The request may have been given up; the connection stands all the same.
                let _ = reply.send(taken);
            }
            Message::Disconnect { id } => {
                self.session.handle_gone(&id, now);
                self.outlets.remove(&id);
            }
            Message::Frame { info, route, frame, reply } => self.frame(info, &route, frame, reply, now),
            Message::Extended => self.session.handle_extend(self.status.expires_at()),
            Message::Revoked => self.end_stale(now),
            Message::Drain => self.session.handle_drain(),
            Message::End => self.session.handle_end(),
        }
    }

    fn frame(
        &mut self,
        info: ConnectionInfo,
        route: &Route,
        Incoming { frame, message_id }: Incoming,
        reply: oneshot::Sender<Reply>,
        now: Duration,
    ) {
        let id = info.id.clone();
        if !self.session.has(&id)
            && let Err(stale) = self.check(&info, Use::Connection)
        {
            let code = match stale {
                Stale::Revoked => ErrorCode::TokenExpired,
                Stale::Earlier => ErrorCode::SessionInvalid,
            };
            let _ = reply.send(Reply::Frame(ErrorFrame::new(code, stale.to_string()).into()));
            return;
        }
        let number = self.next_request;
        self.next_request += 1;
        let answer = self.session.handle_frame(info, frame, Request { number, message_id }, now);
        if !self.outlets.contains_key(&id) && self.session.has(&id) {
            self.adopt(id, route);
        }
        if answer == Reply::Later {
            self.requests.insert(number, reply);
        } else {
            // A request that was given up is repeated by the client.
            let _ = reply.send(answer);
        }
    }

    fn adopt(&mut self, id: ConnectionId, route: &Route) {
        let outlet = route.outlet(id.clone());
        self.outlets.insert(id, outlet);
    }

    /// Answers a request, by a push if it is no longer open.
    fn answer(&mut self, request: u64, to: ConnectionId, frame: Option<ServerFrame>) {
        let Some(reply) = self.requests.remove(&request) else { return };
        if let Err(Reply::Frame(late)) = reply.send(frame.into()) {
            self.push(to, late.to_json(), PushKind::Other);
        }
    }

    fn push(&mut self, to: ConnectionId, frame: Bytes, kind: PushKind) {
        let Some(outlet) = self.outlets.get(&to).cloned() else { return };
        self.pushes.spawn(async move {
            // A push that never came back would be in flight for ever.
            let sent = AssertUnwindSafe(push(outlet, frame, kind)).catch_unwind().await;
            (to, Done::Pushed(kind, sent.unwrap_or(Sent::Gone)))
        });
    }

    fn finished(&mut self, finished: std::io::Result<Finished>, now: Duration) {
        // A group that is empty gives its number back: it is forgotten before another can have that.
        self.groups = living(std::mem::take(&mut self.groups));
        let outcome = match finished {
            Ok(Finished { output, truncated, exit, took, timed_out, state }) => {
                self.command_state = state;
                CommandOutcome::Ended(CommandEnd { output, truncated, exit, took, timed_out })
            }
            Err(error) => {
                tracing::warn!(%error, "a command cannot be waited for");
                CommandOutcome::Lost
            }
        };
        self.session.handle_command(outcome, now);
    }

    /// The shell has ended, and all of its output has come.
    fn exited(&mut self, exit: Option<Exit>, now: Duration) {
        if let Some(exit) = exit {
            self.session.handle_exit(exit, now);
        }
    }

    /// Puts a new shell in place of the one that ended.
    fn restart(&mut self, now: Duration) {
        match Shell::start(&self.spec, self.session.size()) {
            Ok(shell) => {
                tokio::spawn(launcher::end_all(std::mem::take(&mut self.leaders)));
                self.leaders.insert(shell.leader());
                self.shell = shell;
                self.tty = Tty::Open;
                self.session.handle_restarted(now);
            }
            Err(error) => {
                tracing::error!(%error, "the shell cannot be started anew");
                self.session.handle_restart_failed();
            }
        }
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }
}

/// Pushes a frame. If an answer is too large for the connection, sends an error in its place.
pub(super) async fn push(outlet: Arc<dyn Outlet>, frame: Bytes, kind: PushKind) -> Sent {
    match outlet.send(frame.clone()).await {
        Sent::TooLarge if kind == PushKind::Other => {
            let reference = FrameHead::read(&frame).ok().and_then(|head| head.reference());
            let error = ErrorFrame::new(ErrorCode::TooLarge, "frame too large for this connection");
            outlet.send(ServerFrame::from(error.answering(reference)).to_json()).await
        }
        sent => sent,
    }
}
