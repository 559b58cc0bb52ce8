//! One backend behind the balancer: its connections, its health, its cookie.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::Empty;
use hyper::{
    body::{Body, Incoming},
    client::conn::http1::{SendRequest, handshake},
};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::{
    net::TcpStream,
    time::{sleep, timeout},
};
use tracing::{debug, info};

use super::{cookie_values, set_cookies};
use crate::id;

/// Time for a target to take a connection. Targets are local.
const CONNECT_WITHIN: Duration = Duration::from_secs(1);
/// Idle connections that are kept.
const MAX_IDLE: usize = 64;
/// Time between two polls, and for the answer to one.
const POLL_EVERY: Duration = Duration::from_millis(500);
const POLL_WITHIN: Duration = Duration::from_secs(2);
/// Failed polls in a row after which a target counts as unhealthy, as by an ALB's default.
const UNHEALTHY_AFTER: u32 = 2;

/// Why a request got no answer.
#[derive(Debug)]
pub(super) enum Failed {
    /// There was no connection to send it on.
    NotSent(Box<Request<Incoming>>),
    /// The connection was lost.
    Lost(hyper::Error),
}

#[derive(Debug)]
pub(super) struct Target {
    address: SocketAddr,
    healthy: AtomicBool,
    /// Opaque to the function; other stacks' cookies name no target here.
    cookie: String,
    idle: Arc<Mutex<Vec<SendRequest<Incoming>>>>,
}

impl Target {
    pub(super) fn new(address: SocketAddr) -> Self {
        let (healthy, cookie) = (AtomicBool::new(true), id::random_uuid().to_string());
        Self { address, healthy, cookie, idle: Arc::default() }
    }

    pub(super) fn is_healthy(&self) -> bool {
        self.healthy.load(Relaxed)
    }

    /// Whether the request's cookie names this target.
    pub(super) fn is_named(&self, headers: &HeaderMap) -> bool {
        cookie_values(headers).any(|value| value == self.cookie)
    }

    /// The cookies that name it.
    pub(super) fn cookies(&self) -> Vec<HeaderValue> {
        set_cookies(&self.cookie)
    }

    /// Sends a request and returns the response with its body unread.
    pub(super) async fn send(&self, mut request: Request<Incoming>) -> Result<Response<Incoming>, Failed> {
        loop {
            let idle = self.idle.lock().pop();
            let is_new = idle.is_none();
            let mut connection = match idle {
                Some(connection) => connection,
                None => match timeout(CONNECT_WITHIN, connect(self.address)).await {
                    Ok(Ok(connection)) => connection,
                    failed => {
                        debug!(target = %self.address, ?failed, "cannot connect to a backend");
                        return Err(Failed::NotSent(Box::new(request)));
                    }
                },
            };
            match connection.try_send_request(request).await {
                Ok(response) => {
                    self.keep(connection);
                    return Ok(response);
                }
                Err(mut failed) => match failed.take_message() {
                    // The target closed the connection while it was idle.
                    Some(back) if !is_new => request = back,
                    Some(back) => return Err(Failed::NotSent(Box::new(back))),
                    None => return Err(Failed::Lost(failed.into_error())),
                },
            }
        }
    }

    /// Keeps a connection for the next request, once the response's body has been read.
    fn keep(&self, mut connection: SendRequest<Incoming>) {
        let idle = Arc::clone(&self.idle);
        tokio::spawn(async move {
            if connection.ready().await.is_ok() {
                let mut idle = idle.lock();
                if idle.len() < MAX_IDLE {
                    idle.push(connection);
                }
            }
        });
    }

    /// Polls `/health` until dropped.
    pub(super) async fn poll(&self) {
        let mut failures = 0;
        loop {
            let healthy = timeout(POLL_WITHIN, health(self.address)).await.is_ok_and(|answer| answer.is_ok());
            failures = if healthy { 0 } else { failures + 1 };
            let healthy = failures < UNHEALTHY_AFTER;
            if self.healthy.swap(healthy, Relaxed) != healthy {
                info!(target = %self.address, healthy, "a backend's health changed");
            }
            sleep(POLL_EVERY).await;
        }
    }
}

async fn connect<B>(address: SocketAddr) -> anyhow::Result<SendRequest<B>>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
{
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            debug!(%error, "a connection to a backend failed");
        }
    });
    Ok(sender)
}

async fn health(address: SocketAddr) -> anyhow::Result<()> {
    let mut connection = connect(address).await?;
    let request = Request::get("/health").header("host", address.to_string()).body(Empty::<Bytes>::new())?;
    let response = connection.send_request(request).await?;
    anyhow::ensure!(response.status() == StatusCode::OK, "{}", response.status());
    Ok(())
}
