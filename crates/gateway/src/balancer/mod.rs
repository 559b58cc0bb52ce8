//! A small load balancer in front of several backends, with what an Application Load Balancer does to the function's
//! requests: round robin per request, stickiness by a cookie, health checks.
//!
//! Every response sets the cookies `AWSALB` and `AWSALBCORS`, as an ALB's do where stickiness is on. A request with such a
//! cookie goes to its target while that is healthy. A request goes to another target only if the first took no
//! connection, so that nothing was sent; after that, a failure is 502, and no answer in time is 504. With no healthy
//! target, all are tried, as an ALB "fails open". Bodies are streamed. WebSockets are not passed on.

mod target;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::join_all;
use http::{
    HeaderMap, HeaderValue, Request, Response, StatusCode,
    header::{CONNECTION, COOKIE, HeaderName, SET_COOKIE, UPGRADE},
};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use tokio::{net::TcpListener, sync::Semaphore, time::timeout};
use tracing::warn;

use crate::{
    counters::Counters,
    faults::Faults,
    http1::{self, response},
};
use target::{Failed, Target};

/// Response to a client: a target's body, or an error's.
type Body = Either<Incoming, Full<Bytes>>;

/// Cookies of an ALB; the second is for requests from other origins.
const COOKIES: [(&str, &str); 2] = [("AWSALB", ""), ("AWSALBCORS", "; SameSite=None; Secure")];
/// Says whether the answering instance passed the request on to another (`1`) or not (`0`).
const HOP: &str = "x-shellbridge-hop";
/// Requests at once; beyond it, 503.
const MAX_REQUESTS: usize = 4096;
/// Time for a target to answer: an ALB's idle timeout.
const ANSWER_WITHIN: Duration = Duration::from_mins(1);
/// Headers that concern one connection only (RFC 9110, 7.6.1). hyper sets `Transfer-Encoding` itself.
const OF_ONE_CONNECTION: [HeaderName; 5] = [
    CONNECTION,
    UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("te"),
];

/// A load balancer and its targets.
#[derive(Debug)]
pub struct Balancer {
    targets: Vec<Target>,
    turn: AtomicUsize,
    seats: Semaphore,
    counters: Arc<Counters>,
    faults: Arc<Faults>,
}

impl Balancer {
    /// A balancer for backends at these addresses. All count as healthy at first.
    pub fn new(targets: &[SocketAddr], counters: Arc<Counters>, faults: Arc<Faults>) -> Self {
        Self {
            targets: targets.iter().map(|address| Target::new(*address)).collect(),
            turn: AtomicUsize::new(0),
            seats: Semaphore::new(MAX_REQUESTS),
            counters,
            faults,
        }
    }

    /// Serves a listener and polls the targets' `/health`, until dropped.
    pub async fn serve(self: Arc<Self>, listener: TcpListener) {
        let balancer = Arc::clone(&self);
        let requests = http1::serve(listener, move |request| {
            let balancer = Arc::clone(&balancer);
            async move { balancer.answer(request).await }
        });
        let polls = join_all(self.targets.iter().map(Target::poll));
        tokio::join!(requests, polls);
    }

    async fn answer(&self, mut request: Request<Incoming>) -> Response<Body> {
        let Ok(_seat) = self.seats.try_acquire() else {
            return refusal(StatusCode::SERVICE_UNAVAILABLE);
        };
        let is_message = request.uri().path().ends_with("/message");
        let targets = self.order(request.headers());
        strip(request.headers_mut());
        for (index, target) in targets {
            let (mut head, body) = match timeout(ANSWER_WITHIN, target.send(request)).await {
                Ok(Ok(answer)) => answer.into_parts(),
                Ok(Err(Failed::NotSent(back))) => {
                    request = *back;
                    continue;
                }
                Ok(Err(Failed::Lost(error))) => {
                    warn!(%error, target = index, "a backend's connection was lost");
                    return refusal(StatusCode::BAD_GATEWAY);
                }
                Err(_) => return refusal(StatusCode::GATEWAY_TIMEOUT),
            };
            self.counters.instances.increment(&index.to_string());
            if is_message
                && head.status.is_success()
                && let Some(Ok(hop)) = head.headers.get(HOP).map(HeaderValue::to_str)
            {
                self.counters.hops.increment(hop);
            }
            strip(&mut head.headers);
            for cookie in target.cookies() {
                head.headers.append(SET_COOKIE, cookie);
            }
            return Response::from_parts(head, Either::Left(body));
        }
        refusal(StatusCode::BAD_GATEWAY)
    }

    /// The targets in the order in which to try them: the cookie's, then the others in turn.
    fn order(&self, headers: &HeaderMap) -> Vec<(usize, &Target)> {
        let all = || self.targets.iter().enumerate();
        let mut targets: Vec<_> = all().filter(|(_, target)| target.is_healthy()).collect();
        if targets.is_empty() {
            targets = all().collect();
        }
        let count = targets.len().max(1);
        targets.rotate_left(self.turn.fetch_add(1, Relaxed) % count);
        if !self.faults.spreads_requests()
            && let Some(sticky) = targets.iter().position(|(_, target)| target.is_named(headers))
            && let Some(first) = targets.get_mut(..=sticky)
        {
            first.rotate_right(1);
        }
        targets
    }
}

/// The `Set-Cookie` headers that name a target.
fn set_cookies(value: &str) -> Vec<HeaderValue> {
    let cookies = COOKIES.iter().filter_map(|(name, attributes)| {
        format!("{name}={value}; Max-Age=604800; Path=/{attributes}").parse().ok()
    });
    cookies.collect()
}

/// The values of a request's stickiness cookies.
fn cookie_values(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let lines = headers.get_all(COOKIE).iter().filter_map(|line| line.to_str().ok());
    let pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.filter(|(name, _)| COOKIES.iter().any(|(cookie, _)| cookie == name)).map(|(_, value)| value)
}

fn strip(headers: &mut HeaderMap) {
    for name in OF_ONE_CONNECTION {
        headers.remove(name);
    }
}

fn refusal(status: StatusCode) -> Response<Body> {
    response(status, &[], status.canonical_reason().unwrap_or_default()).map(Either::Right)
}
