//! The task that owns a connection's socket: it sends, receives, watches the deadlines, and closes.
//!
//! Closing and liveness follow README.md, section 6. Two choices where AWS's behaviour is unconfirmed: a lost TCP
//! connection is reported to `$disconnect` as 1006 at once, and protocol pings are answered but are no activity.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{
    SinkExt as _, StreamExt as _,
    stream::{SplitSink, SplitStream},
};
use tokio::{
    task::coop::consume_budget,
    time::{Instant, sleep, sleep_until},
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
    connection::Connection,
    outbox::{End, Next},
    socket::Socket,
};
use crate::{clock, event, gateway::Gateway, id};

/// How long a client may take to answer a close frame and to close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes discarded from a client that keeps sending after the end.
const MAX_DRAINED: usize = 4 * 1024 * 1024;
/// Reason of the codes 1001, as captured.
const GOING_AWAY: &str = "Going away";

type Sink = SplitSink<WebSocketStream<Socket>, Message>;
type Source = SplitStream<WebSocketStream<Socket>>;

/// How a connection ended.
#[derive(Debug)]
enum Finish {
    /// The client closed, or its connection was lost. `$disconnect` gets this code and reason.
    ByClient(u16, String),
    /// The gateway closes with this code and reason.
    Close(u16, &'static str),
    /// The gateway resets the TCP connection.
    Reset,
}

impl From<End> for Finish {
    fn from(end: End) -> Self {
        match end {
            End::Close(code, reason) => Self::Close(code, reason),
            End::Reset => Self::Reset,
        }
    }
}

/// Runs a connection until it is closed.
pub(super) async fn run(
    gateway: &Arc<Gateway>,
    stream: WebSocketStream<Socket>,
    connection: Arc<Connection>,
) {
    // A gateway that stops waits for the close frames.
    let _open = gateway.tasks.token();
    let (mut sink, mut source) = stream.split();
    let finish = tokio::select! {
        // Not `biased`: whichever loop ran first could use up the task's budget each time, and starve the others.
        finish = deadline(gateway, &connection) => finish,
        finish = overdue_end(&connection) => finish,
        finish = send(gateway, &connection, &mut sink) => finish,
        finish = receive(gateway, &connection, &mut source) => finish,
    };
    gateway.connections.remove(&connection);
    connection.outbox.close();
    let (code, reason) = match &finish {
        Finish::ByClient(code, reason) => (*code, reason.as_str()),
        Finish::Close(code, reason) => (*code, *reason),
        Finish::Reset => (1006, ""),
    };
    info!(connection_id = %connection.id, code, "disconnected");
    let event = event::disconnect(connection.origin(&gateway.api), &id::random_id(), code, reason);
    gateway.disconnected(event);
    drop(connection);
    // Fails only for halves of two different streams.
    let Ok(mut stream) = sink.reunite(source) else { return };
    match finish {
        Finish::Reset => stream.get_ref().reset_on_drop(),
        Finish::ByClient(..) => close(&mut stream, None).await,
        Finish::Close(code, reason) => {
            let frame = CloseFrame { code: code.into(), reason: Utf8Bytes::from_static(reason) };
            close(&mut stream, Some(frame)).await;
        }
    }
}

/// Waits until the connection is idle for too long, too old, or due to be cut by the faults in force.
async fn deadline(gateway: &Gateway, connection: &Connection) -> Finish {
    let opened = Instant::now();
    let expires_at = opened + gateway.limits.max_duration;
    let mut changes = gateway.faults.changes();
    let mut cut_at = gateway.faults.cut_age().map(|age| opened + age);
    loop {
        // Activity only moves the idle deadline, which is computed again each time the timer fires.
        let idle_at = Instant::now() + idle_left(gateway, connection);
        let next = cut_at.into_iter().fold(idle_at.min(expires_at), Instant::min);
        tokio::select! {
            () = sleep_until(next) => {
                let now = Instant::now();
                if cut_at.is_some_and(|cut_at| cut_at <= now) {
                    return cut(gateway);
                }
                if now >= expires_at || idle_left(gateway, connection).is_zero() {
                    return Finish::Close(1001, GOING_AWAY);
                }
            }
            // The gateway owns the sender, so this never fails. After a change, an open connection lives as long
            // from now on as a new one.
            Ok(()) = changes.changed() => {
                cut_at = gateway.faults.cut_age().map(|age| Instant::now() + age);
            }
        }
    }
}

/// Time left until the connection has been idle for too long.
fn idle_left(gateway: &Gateway, connection: &Connection) -> Duration {
    let idle_for = clock::unix_ms().saturating_since(connection.last_active_at());
    gateway.limits.idle_timeout.saturating_sub(idle_for)
}

/// Waits for a requested end that a slow reader holds up: a close frame waits for queued messages, but not for ever.
async fn overdue_end(connection: &Connection) -> Finish {
    let end = connection.outbox.until_end_requested().await;
    if let End::Close(..) = end {
        sleep(CLOSE_TIMEOUT).await;
    }
    end.into()
}

/// Moves messages from the outbox to the socket, as fast as the client reads.
async fn send(gateway: &Gateway, connection: &Connection, sink: &mut Sink) -> Finish {
    loop {
        let sent = match connection.outbox.next() {
            Some(Next::End(end)) => return end.into(),
            Some(Next::Send(text)) => feed(sink, text, gateway.limits.max_frame).await.map(|()| true),
            None => sink.flush().await.map(|()| false),
        };
        match sent {
            Err(_) => return lost(),
            Ok(true) => {
                if let Some(finish) = count(gateway, connection) {
                    // The half of a split stream keeps the newest message to itself until it is used again.
                    let _sent = sink.flush().await;
                    return finish;
                }
            }
            Ok(false) => connection.outbox.until_changed().await,
        }
    }
}

/// Writes a message in frames no larger than clients may send: API Gateway's limit holds in both directions.
async fn feed(sink: &mut Sink, text: Utf8Bytes, max_frame: usize) -> Result<(), Error> {
    if text.len() <= max_frame {
        return sink.feed(Message::Text(text)).await;
    }
    let mut rest = Bytes::from(text);
    let mut opcode = Data::Text;
    while rest.len() > max_frame {
        let part = rest.split_to(max_frame);
        sink.feed(Message::Frame(Frame::message(part, OpCode::Data(opcode), false))).await?;
        opcode = Data::Continue;
    }
    sink.feed(Message::Frame(Frame::message(rest, OpCode::Data(opcode), true))).await
}

/// Hands the client's messages to the function until the client closes or breaks the protocol.
async fn receive(gateway: &Arc<Gateway>, connection: &Arc<Connection>, source: &mut Source) -> Finish {
    loop {
        // One read may hold hundreds of messages; the other connections get their turn.
        consume_budget().await;
        match source.next().await {
            Some(Ok(Message::Text(text))) => {
                connection.touch();
                gateway.message(connection, text);
                if let Some(finish) = count(gateway, connection) {
                    return finish;
                }
            }
            Some(Ok(Message::Binary(_))) => return Finish::Close(1003, "Binary messages are not supported"),
            Some(Ok(Message::Close(None))) => {
                return Finish::ByClient(1005, "Client-side close frame status not set".to_owned());
            }
            Some(Ok(Message::Close(Some(frame)))) => {
                return Finish::ByClient(frame.code.into(), frame.reason.to_string());
            }
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
            Some(Err(error)) => return read_failed(&error),
            None => return Finish::ByClient(1006, String::new()),
        }
    }
}

/// Counts a message in either direction, and ends the connection if the faults in force cut it here.
fn count(gateway: &Gateway, connection: &Connection) -> Option<Finish> {
    let count = connection.messages.fetch_add(1, Relaxed) + 1;
    let every = gateway.faults.cut_every_frames();
    (every > 0 && count >= every).then(|| cut(gateway))
}

fn cut(gateway: &Gateway) -> Finish {
    gateway.counters.cuts.increment();
    if gateway.faults.settings().cut_abruptly { Finish::Reset } else { Finish::Close(1001, GOING_AWAY) }
}

fn read_failed(error: &Error) -> Finish {
    match error {
        Error::Capacity(_) => Finish::Close(1009, "Message too big"),
        Error::Utf8(_) => Finish::Close(1007, "Invalid UTF-8"),
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) | Error::Io(_) => lost(),
        _ => Finish::Close(1002, "Protocol error"),
    }
}

fn lost() -> Finish {
    Finish::ByClient(1006, "Connection closed abnormally".to_owned())
}

/// Closes as RFC 6455, 7.1.1 asks: close frames in both directions, then the server closes TCP first.
async fn close(stream: &mut WebSocketStream<Socket>, frame: Option<CloseFrame>) {
    let closing = async {
        if let Some(frame) = frame {
            stream.send(Message::Close(Some(frame))).await?;
        }
        let mut left = MAX_DRAINED;
        while let Some(Ok(message)) = stream.next().await {
            left = left.saturating_sub(message.len().max(1));
            if left == 0 {
                break;
            }
        }
        stream.get_mut().drain(MAX_DRAINED).await.map_err(Error::Io)
    };
    // A failure or a timeout means that the client is gone.
    let _closed = tokio::time::timeout(CLOSE_TIMEOUT, closing).await;
}
