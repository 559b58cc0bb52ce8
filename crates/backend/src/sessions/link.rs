//! The task of a session: owns the link to its host and the outlets of its clients, and performs the host's requests.
//!
//! A host is untrusted, because a shell may have compromised it. Its messages are bounded and reach only its own
//! connections.

mod clients;
mod end;
mod resume;
mod usage;

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use shellbridge_protocol::{ErrorCode, ids::ConnectionId};
use shellbridge_session::{
    ConnectionInfo, MAX_CONNECTIONS,
    link::{
        Answer, Close, Connect, Drain, End, Extend, Frame, FromHost, Gone, Keep, Log, MAX_ADDRESS,
        MAX_MESSAGE, Peer, Push, Reply, Taken, ToHost,
    },
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tracing::Instrument;

use self::{
    clients::{Client, Done},
    resume::Resumed,
    usage::Measures,
};
use super::{
    bounds::{self, Allowance, MAX_HELD, MAX_LINES},
    claim::{Claim, Fence},
    handle::{Handle, Incoming, Message, Status, Unreachable},
    outlet::Route,
    seal::Seal,
    stream::{Came, Stream},
    tokens::{Stale, Use},
};
use crate::{clock::unix_ms, launcher::Process, metrics};

/// Capacity of a session's inbox.
const INBOX: usize = 256;
/// Unanswered requests per host: a burst of frames, plus the commands that may wait.
const MAX_OPEN: usize = 512;
/// Unwritten bytes to a host above which the task takes no more from its inbox.
const MAX_WAITING: usize = 1024 * 1024;
/// Unwritten bytes to a host above which the task stops reading from it, as the outcomes of its requests add to them. A
/// host that reads never causes that many, because above [`MAX_WAITING`] nothing but outcomes is written.
const MAX_UNREAD: usize = 2 * MAX_WAITING;
/// Overhead counted per push, close or check, bytes: its task and its table entries.
const OPERATION_COST: usize = 1024;
/// Messages of a host without effect per minute, such as pushes to connections that are gone. A full session that loses
/// all of them causes a tenth.
const MAX_IDLE: u32 = 6_000;
/// Connections of one host. Twice those of a session: it closes some while others join.
const MAX_CLIENTS: usize = 2 * MAX_CONNECTIONS;
/// How long a host may take to end its session and exit.
const END_WITHIN: Duration = Duration::from_secs(10);

/// State of the link to a host.
pub(super) struct Task {
    status: Arc<Status>,
    stream: Stream,
    process: Process,
    seal: Seal,
    claim: Claim,
    fence: Fence,
    peers: HashMap<ConnectionId, Client>,
    pushes: JoinSet<Done>,
    /// See [`MAX_HELD`].
    held: usize,
    requests: HashMap<u64, Open>,
    next_request: u64,
    measures: Measures,
    /// Waiters for messages to be written, by the offset in the outgoing stream.
    unsaid: VecDeque<(u64, oneshot::Sender<()>)>,
    /// See [`MAX_LINES`].
    lines: Allowance,
    /// See [`MAX_IDLE`].
    idle: Allowance,
    /// The session accepts no more messages.
    ending: bool,
    /// When the host is killed, once it has been asked to end.
    end_by: Option<Instant>,
}

/// A request that the host has not answered yet.
enum Open {
    Connect { asker: Asker, reply: oneshot::Sender<Result<(), Unreachable>> },
    Frame { asker: Asker, reply: oneshot::Sender<Result<Reply, Stale>>, late: bool },
}

/// The connection that sent a request, adopted if the host accepts it.
#[derive(Clone)]
struct Asker {
    id: ConnectionId,
    token_id: Option<Arc<str>>,
    route: Route,
    /// The route's address as the host keeps it: sealed for this connection.
    address: Arc<str>,
}

/// Why the link ended.
enum Over {
    /// The host has ended the session and all its processes.
    Ended,
    /// The host died or violated the protocol.
    Failed(&'static str),
    /// Another instance has the session's id, or may have it.
    Lost,
}

impl Task {
    /// Spawns the task. `before` prepares it; `ended` is called when the session stops accepting messages.
    pub(super) fn spawn(
        status: Arc<Status>,
        stream: Stream,
        process: Process,
        seal: Seal,
        claim: Claim,
        before: impl FnOnce(&mut Self),
        ended: impl FnOnce(&Status) + Send + 'static,
    ) -> Handle {
        let (inbox, messages) = mpsc::channel(INBOX);
        let span = tracing::info_span!("session", session_id = %status.id);
        let mut task = Self {
            status: status.clone(),
            stream,
            process,
            seal,
            fence: claim.fence(),
            claim,
            peers: HashMap::new(),
            pushes: JoinSet::new(),
            held: 0,
            requests: HashMap::new(),
            next_request: 0,
            measures: Measures::default(),
            unsaid: VecDeque::new(),
            lines: Allowance::of(MAX_LINES),
            idle: Allowance::of(MAX_IDLE),
            ending: false,
            end_by: None,
        };
        before(&mut task);
        tokio::spawn(task.run(messages, ended).instrument(span));
        Handle { status, inbox }
    }

    async fn run(mut self, mut messages: mpsc::Receiver<Message>, ended: impl FnOnce(&Status)) {
        tracing::info!("session started");
        let mut ended = Some(ended);
        let over = loop {
            let event = self.next(&mut messages).await;
            let over = match event {
                Event::Message(Some(message)) => {
                    self.message(message);
                    None
                }
                Event::Fence => self.fence.is_lost().then_some(Over::Lost),
                Event::End if !self.fence.is_open() => Some(Over::Lost),
                // `None`: every handle is gone, so nothing else would end the session.
                Event::Message(None) | Event::End => {
                    self.say(End {});
                    self.end_by = Some(Instant::now() + END_WITHIN);
                    None
                }
                Event::Done(done) => {
                    self.done(done);
                    None
                }
                Event::Came(Came::Message(FromHost::Ended(_))) => Some(Over::Ended),
                Event::Came(Came::Message(message)) => self.host(message).err().map(Over::Failed),
                Event::Came(Came::Wrote) => {
                    self.wrote();
                    None
                }
                // A container takes its relay with it, sometimes before that has delivered the host's last words.
                Event::Came(Came::Over(None))
                    if self.resumable() && (self.ending || self.end_by.is_some()) =>
                {
                    Some(Over::Ended)
                }
                Event::Came(Came::Over(None)) if self.resumable() => match self.resume().await {
                    Resumed::Yes => None,
                    Resumed::No => Some(Over::Failed("the host died")),
                    Resumed::End => Some(Over::Ended),
                },
                Event::Came(Came::Over(None)) => Some(Over::Failed("the host died")),
                Event::Came(Came::Over(Some(_))) => Some(Over::Failed("the host violated the protocol")),
                Event::Late => Some(Over::Failed("the host did not end in time")),
            };
            if self.ending || over.is_some() {
                if let Some(ended) = ended.take() {
                    self.status.ended.store(true, Ordering::Release);
                    ended(&self.status);
                }
                // Dropping the senders tells all waiters that there will be no answer.
                self.requests.clear();
                self.unsaid.clear();
                self.measures.clear();
            }
            if let Some(over) = over {
                break over;
            }
        };
        // Dropping further messages tells their senders at once that the session has ended.
        let refused = async {
            while messages.recv().await.is_some() {}
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = self.end(over) => {}
            () = refused => {}
        }
        tracing::info!("session ended");
        // `Handle::end` waits for the channel to close, so close it only now, when the session is gone.
        drop(messages);
    }

    /// Waits for the next event; while the fence is closed, only for its opening and for the end. Short, bounded work comes first; the messages that it queues are written together.
    async fn next(&mut self, messages: &mut mpsc::Receiver<Message>) -> Event {
        let asked = self.end_by.is_none() || !messages.is_closed();
        let waiting = self.stream.channel().to_write().len();
        let open = self.fence.is_open();
        let takes = open && asked && self.requests.len() < MAX_OPEN && waiting < MAX_WAITING;
        let reads = self.held < MAX_HELD && waiting < MAX_UNREAD;
        // Each may be exceeded by what one message of the host causes.
        debug_assert!(self.held <= MAX_HELD + 2 * MAX_MESSAGE && waiting <= MAX_UNREAD + 2 * MAX_MESSAGE);
        let late = async {
            match self.end_by {
                Some(end) => sleep_until(end).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            // Before anything that a host can keep ready.
            () = late => Event::Late,
            () = self.status.end.notified(), if self.end_by.is_none() || !open => Event::End,
            () = self.fence.turns(open) => Event::Fence,
            message = messages.recv(), if takes => Event::Message(message),
            Some(done) = self.pushes.join_next() => match done {
                Ok(done) => Event::Done(done),
                // Unreachable: no task is aborted, and each catches its panics.
                Err(_) => Event::Came(Came::Over(None)),
            },
            came = self.stream.next(reads), if open => Event::Came(came),
        }
    }

    fn message(&mut self, message: Message) {
        if self.ending {
            return;
        }
        match message {
            Message::Connect { info, route, reply } => {
                // Check again: the token may have been revoked while the request waited.
                if let Err(stale) = self.check(info.token_id.as_deref(), Use::Door) {
                    let _ = reply.send(Err(stale.into()));
                    return;
                }
                let asker = self.asker(&info, &route);
                let request = self.number();
                self.say(Connect { request, peer: peer(info, &asker) });
                self.requests.insert(request, Open::Connect { asker, reply });
            }
            Message::Disconnect { id } => {
                self.forget(&id);
                self.say(Gone { connection: id });
            }
            Message::Frame { info, route, frame, reply } => {
                if !self.peers.contains_key(&info.id)
                    && let Err(stale) = self.check(info.token_id.as_deref(), Use::Connection)
                {
                    let _ = reply.send(Err(stale));
                    return;
                }
                let asker = self.asker(&info, &route);
                let request = self.number();
                let Incoming { body, bytes, timestamp, message_id } = frame;
                let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
                self.say(Frame { request, peer: peer(info, &asker), body, bytes, timestamp, message_id });
                self.requests.insert(request, Open::Frame { asker, reply, late: false });
            }
            Message::Extended { told } => {
                self.say(Extend { expires_at: self.status.expires_at() });
                self.told(told);
            }
            Message::Tokens { told } => {
                self.say(Keep { notes: self.notes() });
                self.end_stale();
                self.told(told);
            }
            Message::Measure { reply } => self.measure(reply),
            Message::Drain => self.say(Drain {}),
        }
    }

    /// Handles a message from the host.
    ///
    /// # Errors
    /// Why the message ends the session.
    fn host(&mut self, message: FromHost) -> Result<(), &'static str> {
        bounds::check(&message)?;
        let effective = match message {
            FromHost::Push(Push { push, to, frame, replaceable }) => {
                self.push(to, frame, replaceable, Some(push))
            }
            FromHost::Close(Close { connection, last, reason }) => {
                let client = self.forget(&connection);
                client
                    .map(|client| self.close(connection, client, last, reason.map(ErrorCode::from)))
                    .is_some()
            }
            FromHost::Check(check) => self.exists(check.connection),
            FromHost::Answer(answer) => self.answer(answer)?,
            FromHost::Taken(Taken { request, taken, .. }) => {
                let Some(Open::Connect { asker, reply }) = self.requests.remove(&request) else {
                    return Err("the host answered an unknown request");
                };
                if taken {
                    self.adopt(asker);
                }
                // The requester may have timed out; the connection is accepted regardless.
                let _ = reply.send(if taken { Ok(()) } else { Err(Unreachable::Full) });
                true
            }
            FromHost::Status(status) => {
                let connections = usize::try_from(status.connections).unwrap_or(usize::MAX);
                self.status.connections.store(connections, Ordering::Relaxed);
                self.status.exited.store(status.exited, Ordering::Relaxed);
                false
            }
            FromHost::Measured(measured) => self.measured(measured),
            FromHost::Log(line) => {
                self.log(&line)?;
                true
            }
            FromHost::Ending(ending) => {
                tracing::debug!(why = ending.why, "session over");
                self.end_by.get_or_insert(Instant::now() + END_WITHIN);
                !std::mem::replace(&mut self.ending, true)
            }
            FromHost::Here(_) | FromHost::Known(_) => return Err("the host greeted twice"),
            FromHost::Ended(_) => true,
        };
        if self.peers.len() > MAX_CLIENTS {
            return Err("the host has too many connections");
        }
        if effective || self.idle.takes() {
            Ok(())
        } else {
            Err("the host sent too many messages without effect")
        }
    }

    /// Passes an answer on; false if that has no effect.
    fn answer(
        &mut self,
        Answer { request, received, has, reply: said }: Answer,
    ) -> Result<bool, &'static str> {
        if self.ending {
            return Ok(false);
        }
        let Some(Open::Frame { asker, reply, late }) = self.requests.remove(&request) else {
            return Err("the host answered an unknown request");
        };
        if !late {
            metrics::frame(received.name());
        }
        let to = asker.id.clone();
        if has && !self.peers.contains_key(&to) {
            self.adopt(asker.clone());
        }
        if said == Reply::Later {
            self.requests.insert(request, Open::Frame { asker, reply, late: true });
            return Ok(!late);
        }
        if let Err(Ok(Reply::Frame(frame) | Reply::Error(frame))) = reply.send(Ok(said))
            && late
        {
            // The requester has timed out, so push the late result. Clients repeat other requests.
            self.push(to, frame, true, None);
        }
        Ok(true)
    }

    fn log(&mut self, line: &Log) -> Result<(), &'static str> {
        if !self.lines.takes() {
            return Err("the host exceeded its log limit");
        }
        // The host's text is untrusted, so it is logged as a separate field.
        if line.warning {
            tracing::warn!(said = line.message, "warning from the session's host");
        } else {
            tracing::info!(said = line.message, "message from the session's host");
        }
        Ok(())
    }

    fn check(&self, token_id: Option<&str>, purpose: Use) -> Result<(), Stale> {
        self.status.tokens.check(token_id, purpose, unix_ms())
    }

    /// What the next backend needs to know.
    fn notes(&self) -> Bytes {
        let Status { id, owner, created_at, .. } = &*self.status;
        self.seal.put_notes(id, owner, *created_at, &self.status.notes())
    }

    fn number(&mut self) -> u64 {
        self.next_request += 1;
        self.next_request
    }

    fn say(&mut self, message: impl Into<ToHost>) {
        if self.stream.say(message).is_err() {
            // Unexpected: bodies, ids and addresses are bounded on entry. The requester times out.
            tracing::error!("message to the session's host is too large");
        }
    }

    /// Notifies `told` once all messages queued so far are written.
    fn told(&mut self, told: oneshot::Sender<()>) {
        self.unsaid.push_back((self.stream.channel().progress().1, told));
    }

    fn wrote(&mut self) {
        let (written, _) = self.stream.channel().progress();
        while let Some((_, told)) = self.unsaid.pop_front_if(|(until, _)| *until <= written) {
            // The waiter may have timed out.
            let _ = told.send(());
        }
    }
}

/// Describes a connection to the host.
fn peer(info: ConnectionInfo, asker: &Asker) -> Peer {
    // No API has a longer address. The next backend will not find a truncated one.
    Peer::new(info, asker.address.get(..MAX_ADDRESS).unwrap_or(&asker.address).to_owned())
}

/// An event of the loop.
enum Event {
    End,
    /// The session may act, or may not any more.
    Fence,
    Message(Option<Message>),
    Done(Done),
    Came(Came),
    Late,
}
