//! The task of a session: owns the link to its host and the ways to its clients, and does what the host asks for.
//!
//! A host is *outside*: a shell may have taken it over. What it says is bounded, and reaches its own connections alone.

use std::{
    collections::{HashMap, VecDeque},
    panic::AssertUnwindSafe,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use futures_util::FutureExt as _;
use shellbridge_protocol::{ErrorCode, ids::ConnectionId};
use shellbridge_session::{
    ConnectionInfo, Sent,
    link::{
        Answer, Checked, Close, Connect, Drain, End, Extend, Frame, FromHost, Gone, Keep, Log, MAX_ADDRESS,
        Peer, Push, Pushed, Reply, Revoke, Taken, ToHost,
    },
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tracing::Instrument;

use super::{
    end::END_WITHIN,
    handle::{Handle, Incoming, Message, Status, Unreachable},
    outlet::{self, FindRoute, Outlet, Route},
    stream::{Came, Stream},
    tokens::{HANDOVER, Stale, Use},
};
use crate::{clock::unix_ms, launcher::Process, metrics};

/// Messages that may wait for a session.
const INBOX: usize = 256;
/// Requests that a host may leave open. As many as it answers in a moment, and commands besides.
const MAX_OPEN: usize = 512;
/// Bytes to a host that may wait to be written, before nothing more is taken in for it.
const MAX_WAITING: usize = 1024 * 1024;
/// Bytes of a host's frames that are not delivered yet. Beyond, nothing more is read from it.
const MAX_HELD: usize = 4 * 1024 * 1024;
/// What a frame counts for besides its own bytes: a task, and its place in the tables.
const FRAME_COST: usize = 1024;
/// Lines of a host's log in a minute.
const MAX_LINES: u32 = 60;

/// The link to a host, and what hangs on it.
pub(super) struct Task {
    status: Arc<Status>,
    stream: Stream,
    pub(super) process: Process,
    pub(super) peers: HashMap<ConnectionId, Client>,
    pub(super) pushes: JoinSet<(ConnectionId, Done)>,
    /// See [`MAX_HELD`].
    held: usize,
    requests: HashMap<u64, Open>,
    next_request: u64,
    /// Who waits for what was said until then to be written.
    unsaid: VecDeque<(u64, oneshot::Sender<()>)>,
    /// Lines of the log that the host may still write, and since when that is counted.
    lines: (u32, Instant),
    /// The session takes nothing more.
    ending: bool,
    /// When the host is killed, after it was told to end.
    end_by: Option<Instant>,
}

/// A connection of the session.
pub(super) struct Client {
    pub(super) outlet: Arc<dyn Outlet>,
    token_id: Option<Arc<str>>,
}

/// A request that the host has not answered.
enum Open {
    Connect { asker: Asker, reply: oneshot::Sender<Result<(), Unreachable>> },
    Frame { asker: Asker, reply: oneshot::Sender<Result<Reply, Stale>>, late: bool },
}

/// Who asked, to be adopted if the session has it.
#[derive(Clone)]
struct Asker {
    id: ConnectionId,
    token_id: Option<Arc<str>>,
    route: Route,
}

/// The end of something that concerned a connection.
#[derive(Clone, Copy)]
pub(super) enum Done {
    /// With the bytes that it held, and the host's number; none for what is this backend's own.
    Pushed(usize, Option<u64>, Sent),
    Checked(bool),
    Closed,
}

/// Why the link is over.
pub(super) enum Over {
    /// Nothing of the session is left.
    Ended,
    /// The host is dead, or said what none says.
    Failed(&'static str),
}

impl Task {
    /// Starts the task. `before` prepares it; `ended` is called when the session takes nothing more.
    pub(super) fn spawn(
        status: Arc<Status>,
        stream: Stream,
        process: Process,
        before: impl FnOnce(&mut Self),
        ended: impl FnOnce(&Status) + Send + 'static,
    ) -> Handle {
        let (inbox, messages) = mpsc::channel(INBOX);
        let span = tracing::info_span!("session", session_id = %status.id);
        let mut task = Self {
            status: status.clone(),
            stream,
            process,
            peers: HashMap::new(),
            pushes: JoinSet::new(),
            held: 0,
            requests: HashMap::new(),
            next_request: 0,
            unsaid: VecDeque::new(),
            lines: (MAX_LINES, Instant::now()),
            ending: false,
            end_by: None,
        };
        before(&mut task);
        tokio::spawn(task.run(messages, ended).instrument(span));
        Handle { status, inbox }
    }

    /// The connections that the session has already.
    pub(super) fn take_over(&mut self, peers: Vec<Peer>, routes: &FindRoute) {
        self.status.connections.store(peers.len(), Ordering::Relaxed);
        for Peer { id, token_id, address, .. } in peers {
            match routes(&address) {
                Some(route) => self.adopt(Asker { id, token_id: token_id.map(Into::into), route }),
                None => self.say(Gone { connection: id }),
            }
        }
        // Time has passed.
        self.end_stale();
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
                // Nobody can ask for it any more, so that nobody will end it.
                Event::Message(None) | Event::End => {
                    self.say(End {});
                    self.end_by = Some(Instant::now() + END_WITHIN);
                    None
                }
                Event::Done(id, done) => {
                    self.done(id, done);
                    None
                }
                Event::Came(Came::Message(message)) => self.host(message),
                Event::Came(Came::Wrote) => {
                    self.wrote();
                    None
                }
                Event::Came(Came::Over(None)) => Some(Over::Failed("its host is dead")),
                Event::Came(Came::Over(Some(_))) => Some(Over::Failed("its host cannot be understood")),
                Event::Late => Some(Over::Failed("its host does not end")),
            };
            if self.ending || over.is_some() {
                if let Some(ended) = ended.take() {
                    self.status.ended.store(true, Ordering::Release);
                    ended(&self.status);
                }
                // Those who wait hear now that there is nobody to answer: a reply that is dropped says so.
                self.requests.clear();
                self.unsaid.clear();
            }
            if let Some(over) = over {
                break over;
            }
        };
        // Requests that still come learn at once that it has ended.
        let refused = async {
            while messages.recv().await.is_some() {}
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = self.end(over) => {}
            () = refused => {}
        }
        tracing::info!("session ended");
        // Only now is the channel closed: nothing of the session is left.
        drop(messages);
    }

    /// Waits for what happens next. What is short and bounded goes first; what is said meanwhile is written in one go.
    async fn next(&mut self, messages: &mut mpsc::Receiver<Message>) -> Event {
        let asked = self.end_by.is_none() || !messages.is_closed();
        let waiting = self.stream.channel().to_write().len();
        let takes = asked && self.requests.len() < MAX_OPEN && waiting < MAX_WAITING;
        let late = async {
            match self.end_by {
                Some(end) => sleep_until(end).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.status.end.notified(), if self.end_by.is_none() => Event::End,
            message = messages.recv(), if takes => Event::Message(message),
            Some(done) = self.pushes.join_next() => match done {
                Ok((id, done)) => Event::Done(id, done),
                // Nothing here is aborted, and pushes catch their panics.
                Err(_) => Event::Came(Came::Over(None)),
            },
            came = self.stream.next(self.held < MAX_HELD) => Event::Came(came),
            () = late => Event::Late,
        }
    }

    fn message(&mut self, message: Message) {
        if self.ending {
            return;
        }
        match message {
            Message::Connect { info, route, reply } => {
                // Here too: the token may have been revoked while the request waited.
                if let Err(stale) = self.check(info.token_id.as_deref(), Use::Door) {
                    let _ = reply.send(Err(stale.into()));
                    return;
                }
                let asker = Asker::new(&info, &route);
                let request = self.number();
                self.say(Connect { request, peer: peer(info, &route) });
                self.requests.insert(request, Open::Connect { asker, reply });
            }
            Message::Disconnect { id } => {
                self.peers.remove(&id);
                self.say(Gone { connection: id });
            }
            Message::Frame { info, route, frame, reply } => {
                if !self.peers.contains_key(&info.id)
                    && let Err(stale) = self.check(info.token_id.as_deref(), Use::Connection)
                {
                    let _ = reply.send(Err(stale));
                    return;
                }
                let asker = Asker::new(&info, &route);
                let request = self.number();
                let Incoming { body, bytes, timestamp, message_id } = frame;
                let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
                self.say(Frame { request, peer: peer(info, &route), body, bytes, timestamp, message_id });
                self.requests.insert(request, Open::Frame { asker, reply, late: false });
            }
            Message::Extended { told } => {
                self.say(Extend { expires_at: self.status.expires_at() });
                self.told(told);
            }
            Message::Tokens { told } => {
                self.say(Keep { notes: self.status.tokens.notes() });
                self.end_stale();
                self.told(told);
            }
            Message::Drain => self.say(Drain {}),
        }
    }

    /// Does what the host wants done; says why the link is over, if it is.
    fn host(&mut self, message: FromHost) -> Option<Over> {
        match message {
            FromHost::Push(Push { push, to, frame, replaceable }) => {
                self.push(to, frame, replaceable, Some(push));
            }
            FromHost::Close(Close { connection, last, reason }) => {
                if let Some(client) = self.peers.remove(&connection) {
                    self.close(connection, client, last, reason.map(ErrorCode::from));
                }
            }
            FromHost::Check(check) => {
                let id = check.connection;
                let outlet = self.peers.get(&id).map(|client| client.outlet.clone());
                self.pushes.spawn(async move {
                    let exists = match outlet {
                        Some(outlet) => {
                            AssertUnwindSafe(outlet.exists()).catch_unwind().await.unwrap_or(false)
                        }
                        None => false,
                    };
                    (id, Done::Checked(exists))
                });
            }
            FromHost::Answer(answer) => return self.answer(answer),
            FromHost::Taken(Taken { request, taken, .. }) => {
                let Some(Open::Connect { asker, reply }) = self.requests.remove(&request) else {
                    return Some(Over::Failed("its host answers what nobody asked"));
                };
                if taken {
                    self.adopt(asker);
                }
                // The request may have been given up; the connection stands all the same.
                let _ = reply.send(if taken { Ok(()) } else { Err(Unreachable::Full) });
            }
            FromHost::Status(status) => {
                let connections = usize::try_from(status.connections).unwrap_or(usize::MAX);
                self.status.connections.store(connections, Ordering::Relaxed);
                self.status.exited.store(status.exited, Ordering::Relaxed);
            }
            FromHost::Log(line) => return self.log(&line),
            FromHost::Ending(ending) => {
                tracing::debug!(why = ending.why, "session over");
                self.ending = true;
                self.end_by.get_or_insert(Instant::now() + END_WITHIN);
            }
            FromHost::Ended(_) => return Some(Over::Ended),
            FromHost::Here(_) | FromHost::Known(_) => return Some(Over::Failed("its host starts anew")),
        }
        None
    }

    fn answer(&mut self, Answer { request, received, has, reply: said }: Answer) -> Option<Over> {
        if self.ending {
            return None;
        }
        let Some(Open::Frame { asker, reply, late }) = self.requests.remove(&request) else {
            return Some(Over::Failed("its host answers what nobody asked"));
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
        } else if let Err(Ok(Reply::Frame(frame) | Reply::Error(frame))) = reply.send(Ok(said))
            && late
        {
            // The request waits no longer. One that was given up without a command is repeated by the client.
            self.push(to, frame, true, None);
        }
        None
    }

    fn log(&mut self, line: &Log) -> Option<Over> {
        let (left, since) = &mut self.lines;
        if since.elapsed() > Duration::from_mins(1) {
            (*left, *since) = (MAX_LINES, Instant::now());
        }
        let Some(less) = left.checked_sub(1) else {
            return Some(Over::Failed("its host has too much to say"));
        };
        *left = less;
        // Not said by this process: kept in a field of its own.
        if line.warning {
            tracing::warn!(said = line.message, "from the session's host");
        } else {
            tracing::info!(said = line.message, "from the session's host");
        }
        None
    }

    fn done(&mut self, id: ConnectionId, done: Done) {
        match done {
            Done::Pushed(bytes, push, sent) => {
                self.held -= bytes;
                match push {
                    Some(push) => self.say(Pushed { push, sent }),
                    None if sent == Sent::Gone => self.say(Checked { connection: id, exists: false }),
                    None => {}
                }
            }
            Done::Checked(exists) => self.say(Checked { connection: id, exists }),
            Done::Closed => {}
        }
    }

    /// Pushes a frame. The session may not know yet that a connection is gone, which is no lie.
    fn push(&mut self, to: ConnectionId, frame: Bytes, replaceable: bool, push: Option<u64>) {
        let bytes = frame.len() + FRAME_COST;
        self.held += bytes;
        let outlet = self.peers.get(&to).map(|client| client.outlet.clone());
        self.pushes.spawn(async move {
            let sent = match outlet {
                // A push that never came back would be in flight for ever.
                Some(outlet) => {
                    let push = AssertUnwindSafe(outlet::push(&*outlet, frame, replaceable));
                    push.catch_unwind().await.unwrap_or(Sent::Gone)
                }
                None => Sent::Gone,
            };
            (to, Done::Pushed(bytes, push, sent))
        });
    }

    /// The session has this connection now.
    fn adopt(&mut self, Asker { id, token_id, route }: Asker) {
        // Its token may have been revoked while the host was asked, and nobody ended it then.
        if self.check(token_id.as_deref(), Use::Connection).is_err() {
            self.say(Revoke { wait: 0, connections: vec![id.clone()] });
        }
        let outlet = route.outlet(id.clone());
        self.peers.insert(id, Client { outlet, token_id });
    }

    fn check(&self, token_id: Option<&str>, purpose: Use) -> Result<(), Stale> {
        self.status.tokens.check(token_id, purpose, unix_ms())
    }

    /// Ends connections by tokens that are good no more. Those that may still hand over get the time for it.
    fn end_stale(&mut self) {
        for (purpose, wait) in [(Use::Connection, Duration::ZERO), (Use::Door, HANDOVER)] {
            let stale = self
                .peers
                .iter()
                .filter(|(_, client)| self.check(client.token_id.as_deref(), purpose).is_err());
            let connections: Vec<_> = stale.map(|(id, _)| id.clone()).collect();
            if !connections.is_empty() {
                self.say(Revoke { wait: u64::try_from(wait.as_millis()).unwrap_or(u64::MAX), connections });
            }
        }
    }

    fn number(&mut self) -> u64 {
        self.next_request += 1;
        self.next_request
    }

    fn say(&mut self, message: impl Into<ToHost>) {
        if self.stream.say(message).is_err() {
            // Bodies, ids and addresses are bounded where they come in; whoever asked is answered in time.
            tracing::error!("a message to a session's host is too large");
        }
    }

    /// Tells somebody when all that was said so far is written.
    fn told(&mut self, told: oneshot::Sender<()>) {
        self.unsaid.push_back((self.stream.channel().progress().1, told));
    }

    fn wrote(&mut self) {
        let (written, _) = self.stream.channel().progress();
        while let Some((_, told)) = self.unsaid.pop_front_if(|(until, _)| *until <= written) {
            // Nobody may wait any more.
            let _ = told.send(());
        }
    }
}

impl Asker {
    fn new(info: &ConnectionInfo, route: &Route) -> Self {
        Self { id: info.id.clone(), token_id: info.token_id.clone(), route: route.clone() }
    }
}

/// A connection as the host is told of it.
fn peer(info: ConnectionInfo, route: &Route) -> Peer {
    // A longer one would be of no API; the next backend will not find it.
    let address = route.address.get(..MAX_ADDRESS).unwrap_or(&route.address).to_owned();
    Peer {
        id: info.id,
        read_only: info.read_only,
        user: info.user,
        token_id: info.token_id.as_deref().map(str::to_owned),
        connected_at: info.connected_at,
        token_lasts: u64::try_from(info.token_lasts.as_millis()).unwrap_or(u64::MAX),
        max_frame: u32::try_from(info.limits.max_frame).unwrap_or(u32::MAX),
        in_flight: u32::try_from(info.limits.in_flight).unwrap_or(u32::MAX),
        address,
    }
}

/// What happened next.
enum Event {
    End,
    Message(Option<Message>),
    Done(ConnectionId, Done),
    Came(Came),
    Late,
}
