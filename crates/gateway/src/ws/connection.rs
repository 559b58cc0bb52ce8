//! One open connection: frames in, messages out, its timers, and its end.
//!
//! Closing and liveness follow apigateway-websocket.md, section 6. Unconfirmed there and decided here: a lost TCP
//! connection is told to `$disconnect` as 1006 at once; protocol pings are answered and do not count as activity.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{Sink as _, SinkExt as _, Stream as _, StreamExt as _};
use tokio::{
    sync::Notify,
    time::{Instant, Sleep},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error, Message, Utf8Bytes,
        error::ProtocolError,
        protocol::{
            CloseFrame,
            frame::{
                Frame,
                coding::{Data, OpCode},
            },
        },
    },
};
use tracing::info;

use super::{
    listener,
    outbox::{End, Next, Outbox, Refused},
    socket::Socket,
};
use crate::{
    clock,
    counters::Counters,
    dispatch::{Batch, SerialQueue},
    event::{self, Api, Client, Origin},
    gateway::Gateway,
    id::{self, ConnectionId},
};

/// Time a client has to answer a close frame, and to close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes thrown away of a client that goes on sending after its end.
const DRAIN_MOST: usize = 4 * 1024 * 1024;
/// Messages handled before other tasks get their turn.
const BUDGET: usize = 64;

/// An open connection, as the rest of the gateway sees it.
#[derive(Debug)]
pub struct Connection {
    /// Its id.
    pub id: ConnectionId,
    /// Who is at the other end.
    pub client: Client,
    /// When its handshake began, Unix milliseconds.
    pub connected_at: u64,
    pub(super) outbox: Outbox,
    /// Its 101 was written, and who waits for that.
    open: AtomicBool,
    opened: Notify,
    /// When the last message went either way, Unix milliseconds.
    last_active: AtomicU64,
    /// Messages either way.
    messages: AtomicU64,
    /// Frames from the client that were given a number, for `reorder`.
    pub(crate) numbered: AtomicU64,
    /// The highest number of a frame that was invoked without being held back, and who waits for it.
    pub(crate) invoked: AtomicU64,
    pub(crate) overtaken: Notify,
    pub(crate) serial: OnceLock<SerialQueue>,
    pub(crate) batch: Mutex<Batch>,
}

impl Connection {
    pub(super) fn new(id: ConnectionId, client: Client, connected_at: u64, send_buffer: usize) -> Self {
        Self {
            id,
            client,
            connected_at,
            outbox: Outbox::new(send_buffer),
            open: AtomicBool::new(false),
            opened: Notify::new(),
            last_active: AtomicU64::new(connected_at),
            messages: AtomicU64::new(0),
            numbered: AtomicU64::new(0),
            invoked: AtomicU64::new(0),
            overtaken: Notify::new(),
            serial: OnceLock::new(),
            batch: Mutex::default(),
        }
    }

    /// Queues a message for the client.
    pub fn send(&self, text: Utf8Bytes, counters: &Counters) -> Result<(), Refused> {
        let length = text.len();
        self.outbox.push(text)?;
        counters.message_out(length);
        self.touch();
        Ok(())
    }

    /// Ends the connection; `$disconnect` follows.
    pub fn end(&self, end: End) {
        self.outbox.end(end);
    }

    /// Its 101 was written.
    pub(super) fn set_open(&self) {
        self.open.store(true, Release);
        self.opened.notify_waiters();
    }

    pub(super) async fn until_open(&self) {
        loop {
            let opened = self.opened.notified();
            if self.open.load(Acquire) {
                return;
            }
            opened.await;
        }
    }

    /// Whether its end was asked for: to `@connections` it is gone.
    pub(super) fn is_ending(&self) -> bool {
        self.outbox.ending().is_some()
    }

    /// When the last message went either way, Unix milliseconds.
    pub fn last_active_at(&self) -> u64 {
        self.last_active.load(Relaxed)
    }

    /// What its events have in common.
    pub fn origin<'a>(&'a self, api: &'a Api) -> Origin<'a> {
        Origin { api, client: &self.client, connection_id: self.id.as_str(), connected_at: self.connected_at }
    }

    fn touch(&self) {
        self.last_active.store(clock::now_ms(), Relaxed);
    }
}

/// How a connection came to its end, in the words of `$disconnect`.
#[derive(Debug)]
enum Finish {
    /// The client closed, or its connection broke: nothing is to be said any more.
    Told(u16, String),
    /// The gateway closes, with this code and reason.
    Close(u16, &'static str),
    /// The gateway resets the connection.
    Reset,
}

/// Runs a connection until it is closed.
pub(super) async fn run(
    gateway: &Arc<Gateway>,
    mut stream: WebSocketStream<Socket>,
    connection: Arc<Connection>,
) {
    // A gateway that stops waits a moment for goodbyes.
    let _open = gateway.tasks.token();
    let finish = drive(gateway, &mut stream, &connection).await;
    gateway.connections.remove(&connection);
    connection.outbox.close();
    let (code, reason) = match &finish {
        Finish::Told(code, reason) => (*code, reason.as_str()),
        Finish::Close(code, reason) => (*code, *reason),
        Finish::Reset => (1006, ""),
    };
    info!(connection_id = %connection.id, code, "disconnected");
    let event = event::disconnect(connection.origin(&gateway.api), &id::random_id(), code, reason);
    gateway.disconnected(event);
    drop(connection);
    match finish {
        Finish::Reset => stream.get_ref().reset_on_drop(),
        Finish::Told(..) => close(&mut stream, None).await,
        Finish::Close(code, reason) => {
            let frame = CloseFrame { code: code.into(), reason: Utf8Bytes::from_static(reason) };
            close(&mut stream, Some(frame)).await;
        }
    }
}

/// Ends the connection as RFC 6455 wants it: close frames both ways, then the server closes TCP first.
async fn close(stream: &mut WebSocketStream<Socket>, frame: Option<CloseFrame>) {
    let closing = async {
        if let Some(frame) = frame {
            stream.send(Message::Close(Some(frame))).await?;
        }
        let mut left = DRAIN_MOST;
        while let Some(Ok(message)) = stream.next().await {
            left = left.saturating_sub(message.len().max(1));
            if left == 0 {
                break;
            }
        }
        listener::drain(stream.get_mut(), DRAIN_MOST).await.map_err(Error::Io)
    };
    // Whatever fails here, or lasts too long: the client is gone or does not care.
    let _ended = tokio::time::timeout(CLOSE_TIMEOUT, closing).await;
}

async fn drive(
    gateway: &Arc<Gateway>,
    stream: &mut WebSocketStream<Socket>,
    connection: &Arc<Connection>,
) -> Finish {
    let opened = Instant::now();
    let mut driver = Driver { gateway, connection, opened, cut_at: None, end_at: None, faults_version: None };
    let mut timer = pin!(tokio::time::sleep_until(driver.look_at_faults()));
    poll_fn(|cx| driver.poll(cx, stream, timer.as_mut())).await
}

struct Driver<'a> {
    gateway: &'a Arc<Gateway>,
    connection: &'a Arc<Connection>,
    opened: Instant,
    /// When the faults want this connection cut.
    cut_at: Option<Instant>,
    /// When an end that was asked for no longer waits for a client that reads slowly.
    end_at: Option<Instant>,
    faults_version: Option<u64>,
}

impl Driver<'_> {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut WebSocketStream<Socket>,
        mut timer: Pin<&mut Sleep>,
    ) -> Poll<Finish> {
        self.connection.outbox.register(cx.waker());
        if let Poll::Ready(finish) = self.poll_timers(cx, timer.as_mut()) {
            return Poll::Ready(finish);
        }
        if let Poll::Ready(finish) = self.poll_send(cx, stream, timer) {
            return Poll::Ready(finish);
        }
        self.poll_receive(cx, stream)
    }

    /// Draws a new age if the faults have changed; returns when to look at the timers next.
    fn look_at_faults(&mut self) -> Instant {
        let version = self.gateway.faults.version();
        if self.faults_version != Some(version) {
            // On a change, a connection that is open already lives as long from now on as a new one.
            let from = if self.faults_version.is_none() { self.opened } else { Instant::now() };
            self.faults_version = Some(version);
            self.cut_at = self.gateway.faults.cut_age().map(|age| from + age);
        }
        let limits = &self.gateway.limits;
        let idle_at = Instant::now() + self.idle_left();
        let next = idle_at.min(self.opened + limits.max_duration);
        let next = self.cut_at.map_or(next, |cut| cut.min(next));
        self.end_at.map_or(next, |end| end.min(next))
    }

    /// Time until the connection has been idle for too long.
    fn idle_left(&self) -> Duration {
        let idle_for = clock::now_ms().saturating_sub(self.connection.last_active_at());
        self.gateway.limits.idle_timeout.saturating_sub(Duration::from_millis(idle_for))
    }

    fn poll_timers(&mut self, cx: &mut Context<'_>, mut timer: Pin<&mut Sleep>) -> Poll<Finish> {
        if self.faults_version != Some(self.gateway.faults.version()) {
            let next = self.look_at_faults();
            timer.as_mut().reset(next);
        }
        loop {
            ready!(timer.as_mut().poll(cx));
            let now = Instant::now();
            if self.cut_at.is_some_and(|cut| cut <= now) {
                return Poll::Ready(self.cut());
            }
            if self.end_at.is_some_and(|end| end <= now) {
                return Poll::Pending;
            }
            if self.idle_left().is_zero() || now >= self.opened + self.gateway.limits.max_duration {
                return Poll::Ready(Finish::Close(1001, "Going away"));
            }
            // Activity only moves the deadline; the timer finds out when it fires.
            let next = self.look_at_faults();
            timer.as_mut().reset(next);
        }
    }

    /// Cuts the connection because the faults say so.
    fn cut(&self) -> Finish {
        self.gateway.counters.cuts.increment();
        if self.gateway.faults.settings().cut_abruptly {
            Finish::Reset
        } else {
            Finish::Close(1001, "Going away")
        }
    }

    /// Counts a message either way; `Some`: it was the one after which the faults want a cut.
    fn count(&self) -> Option<Finish> {
        let count = self.connection.messages.fetch_add(1, Relaxed) + 1;
        let every = self.gateway.faults.cut_every_frames();
        (every > 0 && count >= every).then(|| self.cut())
    }

    /// Moves messages from the outbox to the socket as far as the client reads.
    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut WebSocketStream<Socket>,
        timer: Pin<&mut Sleep>,
    ) -> Poll<Finish> {
        let lost = |error: &Error| Finish::Told(1006, lost_reason(error));
        for _ in 0..BUDGET {
            match Pin::new(&mut *stream).poll_ready(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(lost(&error)),
                Poll::Pending => return self.poll_end(cx, timer),
            }
            match self.connection.outbox.next() {
                Next::Nothing => {
                    return match ready!(Pin::new(&mut *stream).poll_flush(cx)) {
                        Ok(()) => Poll::Pending,
                        Err(error) => Poll::Ready(lost(&error)),
                    };
                }
                Next::End(End::Reset) => return Poll::Ready(Finish::Reset),
                Next::End(End::Close(code, reason)) => return Poll::Ready(Finish::Close(code, reason)),
                Next::Send(text) => {
                    if let Err(error) = start_send(stream, text, self.gateway.limits.max_frame) {
                        return Poll::Ready(lost(&error));
                    }
                    if let Some(cut) = self.count() {
                        return Poll::Ready(cut);
                    }
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// The client reads slowly: an end that was asked for waits, but not for ever.
    fn poll_end(&mut self, cx: &mut Context<'_>, mut timer: Pin<&mut Sleep>) -> Poll<Finish> {
        match self.connection.outbox.ending() {
            None => Poll::Pending,
            Some(End::Reset) => Poll::Ready(Finish::Reset),
            Some(End::Close(code, reason)) => {
                let now = Instant::now();
                if self.end_at.is_some_and(|end| end <= now) {
                    return Poll::Ready(Finish::Close(code, reason));
                }
                if self.end_at.is_none() {
                    self.end_at = Some(now + CLOSE_TIMEOUT);
                    let next = self.look_at_faults();
                    timer.as_mut().reset(next);
                    return self.poll_timers(cx, timer);
                }
                Poll::Pending
            }
        }
    }

    fn poll_receive(&mut self, cx: &mut Context<'_>, stream: &mut WebSocketStream<Socket>) -> Poll<Finish> {
        for _ in 0..BUDGET {
            let Some(received) = ready!(Pin::new(&mut *stream).poll_next(cx)) else {
                return Poll::Ready(Finish::Told(1006, String::new()));
            };
            match received {
                Ok(Message::Text(text)) => {
                    self.connection.touch();
                    self.gateway.message(self.connection, text);
                    if let Some(cut) = self.count() {
                        return Poll::Ready(cut);
                    }
                }
                Ok(Message::Binary(_)) => {
                    return Poll::Ready(Finish::Close(1003, "Binary messages are not supported"));
                }
                Ok(Message::Close(None)) => {
                    return Poll::Ready(Finish::Told(
                        1005,
                        "Client-side close frame status not set".to_owned(),
                    ));
                }
                Ok(Message::Close(Some(frame))) => {
                    return Poll::Ready(Finish::Told(frame.code.into(), frame.reason.to_string()));
                }
                Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => {}
                Err(error) => return Poll::Ready(failure(&error)),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// What to do about a client whose bytes cannot be read.
fn failure(error: &Error) -> Finish {
    match error {
        Error::Capacity(_) => Finish::Close(1009, "Message too big"),
        Error::Utf8(_) => Finish::Close(1007, "Invalid UTF-8"),
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) | Error::Io(_) => {
            Finish::Told(1006, lost_reason(error))
        }
        _ => Finish::Close(1002, "Protocol error"),
    }
}

fn lost_reason(_: &Error) -> String {
    "Connection closed abnormally".to_owned()
}

/// Starts sending a message, in frames no larger than clients may send: API Gateway's limit holds both ways.
fn start_send(stream: &mut WebSocketStream<Socket>, text: Utf8Bytes, max_frame: usize) -> Result<(), Error> {
    let mut stream = Pin::new(stream);
    if text.len() <= max_frame {
        return stream.start_send(Message::Text(text));
    }
    let mut rest = Bytes::from(text);
    let mut opcode = Data::Text;
    while rest.len() > max_frame {
        let part = rest.split_to(max_frame);
        stream.as_mut().start_send(Message::Frame(Frame::message(part, OpCode::Data(opcode), false)))?;
        opcode = Data::Continue;
    }
    stream.start_send(Message::Frame(Frame::message(rest, OpCode::Data(opcode), true)))
}
