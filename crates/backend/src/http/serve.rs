//! The listener: HTTP/1 connections, limited in number and in the time of each phase.
//!
//! `axum::serve` limits neither. hyper's `header_read_timeout` also counts idle time between requests (hyper 1.12,
//! `proto/h1/conn.rs`), but connections of the function and of load balancers are meant to idle. tower-http limits
//! bodies, but not heads, nor clients that do not read their answers.

mod seats;
mod watched;

use std::{
    convert::Infallible,
    io,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use axum::{
    Json, Router,
    http::{Request, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use hyper::{
    body::{Body as _, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use rustix::process::{Resource, getrlimit};
use shellbridge_protocol::{
    ErrorCode,
    frame::{ErrorFrame, ServerFrame},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    time::{MissedTickBehavior, interval, sleep},
};
use tower_service::Service as _;

use seats::{Place, Seats};
use watched::{WatchedBody, WatchedIo};

use crate::metrics;

/// Most concurrent connections, if descriptors allow: an account's default quota of concurrent functions, each of which
/// keeps one.
const MAX_CONNECTIONS: usize = 1024;
/// Period of checking time limits. A connection may exceed its limit by this much.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// Delay before accepting again after running out of descriptors.
const NO_DESCRIPTOR: Duration = Duration::from_millis(50);
/// Requests of one connection before it yields to others.
const TURN: u32 = 16;
/// hyper's buffer per connection and direction, in bytes; also the largest head. hyper's default is 400 KiB.
const MAX_BUFFER: usize = 64 * 1024;

/// How many connections this process can serve. Leaves half of the descriptors to terminals and pushes.
pub(crate) fn most_connections() -> usize {
    let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    MAX_CONNECTIONS.min(usize::try_from(descriptors / 2).unwrap_or(MAX_CONNECTIONS))
}

/// Serves `router` until `stop`, then finishes the requests in progress. `most`: concurrent connections.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    most: usize,
    stop: impl Future<Output = ()> + Send,
) {
    let seats = Arc::new(Seats::new(most));
    let stopping = watch::Sender::new(false);
    let mut sweeps = interval(SWEEP_EVERY);
    sweeps.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut stop = pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => break,
            _ = sweeps.tick() => seats.sweep(),
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let place = Seats::take(&seats);
                    tokio::spawn(connection(stream, router.clone(), place, stopping.subscribe()));
                }
                Err(error) if is_of_the_client(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    seats.make_room();
                    sleep(NO_DESCRIPTOR).await;
                }
            },
        }
    }
    drop(listener);
    stopping.send_replace(true);
    // Every connection holds a receiver.
    let mut ended = pin!(stopping.closed());
    loop {
        tokio::select! {
            () = &mut ended => break,
            _ = sweeps.tick() => seats.sweep(),
        }
    }
}

/// Serves one connection to its end.
async fn connection(stream: TcpStream, router: Router, place: Place, mut stopping: watch::Receiver<bool>) {
    // Answers are small and latency matters.
    let _ = stream.set_nodelay(true);
    let seat = place.seat.clone();
    let io = TokioIo::new(WatchedIo::new(stream, seat.clone()));
    let count = AtomicU32::new(0);
    let service = service_fn(move |request: Request<Incoming>| {
        let seat = seat.clone();
        // Pipelined requests come from one buffer, so reading them never yields.
        let turn_ends = count.fetch_add(1, Ordering::Relaxed) % TURN == TURN - 1;
        seat.request(request.body().is_end_stream());
        let answer = if seat.is_spare && request.uri().path() != "/health" {
            Err(overloaded())
        } else {
            let body = seat.clone();
            Ok(router.clone().call(request.map(|incoming| WatchedBody::new(incoming, body))))
        };
        async move {
            if turn_ends {
                tokio::task::yield_now().await;
            }
            let response = match answer {
                Ok(answer) => answer.await,
                Err(refusal) => Ok(refusal),
            };
            seat.answer();
            response as Result<Response, Infallible>
        }
    });
    let mut builder = http1::Builder::new();
    let served = builder.header_read_timeout(None).max_buf_size(MAX_BUFFER).serve_connection(io, service);
    let mut served = pin!(served);
    let mut notified = false;
    loop {
        tokio::select! {
            biased;
            // Clients may disconnect at any time, so an error is not worth logging.
            _ = served.as_mut() => break,
            () = place.seat.left() => match place.leave() {
                // A request has arrived in the meantime.
                None => {}
                Some(doing) => {
                    metrics::cut(doing);
                    break;
                }
            },
            _ = stopping.wait_for(|stopping| *stopping), if !notified => {
                notified = true;
                served.as_mut().graceful_shutdown();
            }
        }
    }
}

/// Answers all but `/health` while requests in progress hold every place.
fn overloaded() -> Response {
    let frame = ErrorFrame::new(ErrorCode::RateLimited, "too many concurrent requests");
    let headers = [(header::CONNECTION, "close"), (header::RETRY_AFTER, "1")];
    (StatusCode::SERVICE_UNAVAILABLE, headers, Json(ServerFrame::from(frame))).into_response()
}

/// Whether the client disconnected before it was accepted.
fn is_of_the_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}
