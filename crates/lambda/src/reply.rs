//! Posts frames to connections, and ends connections, by the API Gateway Management API.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use ::http::StatusCode;
use bytes::Bytes;
use shellbridge_protocol::{frame::ErrorFrame, frame::ServerFrame, limits::MAX_MESSAGE};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use crate::{
    aws::Aws, config::Limits, deadline::backoff, event::Invocation, http::Http, management::Management,
    metrics::Tally,
};

/// Clients kept. A function has one API; a second one comes with a custom domain.
const MAX_CLIENTS: usize = 4;
/// Wait before the first repeat.
const BACKOFF: Duration = Duration::from_millis(50);

/// What became of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Posted {
    /// API Gateway has it.
    Yes,
    /// The connection is no more.
    Gone,
    /// It is larger than API Gateway takes.
    TooLarge,
    /// It could not be posted; said in the log.
    Failed,
}

/// The Management API clients.
pub(crate) struct Reply {
    aws: Aws,
    http: Http,
    limits: Limits,
    clients: Mutex<Vec<(String, Arc<Management>)>>,
}

impl Reply {
    pub(crate) fn new(aws: Aws, http: Http, limits: Limits) -> Self {
        Self { aws, http, limits, clients: Mutex::default() }
    }

    /// Posts an error frame to the connection of `invocation`.
    pub(crate) async fn error(
        &self,
        error: ErrorFrame,
        invocation: &Invocation,
        tally: &mut Tally,
    ) -> Posted {
        let frame = serde_json::to_string(&ServerFrame::Error(error)).unwrap_or_default();
        self.post(frame, invocation, tally).await
    }

    /// Posts a frame to the connection of `invocation`, again while API Gateway says 429 or 5xx.
    ///
    /// It is posted as one, whatever its size: API Gateway itself cuts what is over 32 KiB into WebSocket
    /// frames, and the protocol splits only `output` and `snapshot`, which the backend pushes.
    pub(crate) async fn post(&self, frame: String, invocation: &Invocation, tally: &mut Tally) -> Posted {
        if frame.len() > MAX_MESSAGE {
            return Posted::TooLarge;
        }
        let started = Instant::now();
        let bytes = frame.len();
        let until = started + invocation.deadline.within(self.limits.push, Duration::ZERO);
        let posted = self.repeated(frame, until, invocation, tally).await;
        tally.push = Some(tally.push.unwrap_or_default() + started.elapsed());
        if posted == Posted::Yes {
            tally.bytes_out += bytes;
        }
        posted
    }

    async fn repeated(
        &self,
        frame: String,
        until: Instant,
        invocation: &Invocation,
        tally: &mut Tally,
    ) -> Posted {
        let client = timeout_at(until, self.client(&invocation.callback_url)).await;
        let client = match client.unwrap_or_else(|late| Err(late.into())) {
            Ok(client) => client,
            Err(error) => {
                tracing::error!(cause = format!("{error:#}"), "there is no client for @connections");
                return Posted::Failed;
            }
        };
        let frame = Bytes::from(frame);
        let mut attempt = 0;
        loop {
            let post = client.post(&invocation.connection_id, frame.clone());
            // One timer for both times.
            let cause = match timeout_at(until.min(Instant::now() + self.limits.aws_attempt), post).await {
                Ok(Ok(status)) if status.is_success() => return Posted::Yes,
                Ok(Ok(StatusCode::GONE)) => return Posted::Gone,
                Ok(Ok(StatusCode::PAYLOAD_TOO_LARGE)) => return Posted::TooLarge,
                Ok(Ok(status)) if status.is_client_error() && status != StatusCode::TOO_MANY_REQUESTS => {
                    tracing::error!(status = status.as_u16(), "@connections refused a frame");
                    return Posted::Failed;
                }
                Ok(Ok(status)) => status.to_string(),
                Ok(Err(error)) => format!("{error:#}"),
                Err(late) => late.to_string(),
            };
            attempt += 1;
            let next = Instant::now() + backoff(BACKOFF, attempt);
            if next >= until {
                tracing::warn!(attempt, cause, "a frame could not be posted in time");
                return Posted::Failed;
            }
            tally.retries += 1;
            sleep_until(next).await;
        }
    }

    /// Ends the connection of `invocation`.
    pub(crate) async fn close(&self, invocation: &Invocation) {
        let close =
            async { self.client(&invocation.callback_url).await?.close(&invocation.connection_id).await };
        let within = invocation.deadline.within(self.limits.push, Duration::ZERO);
        if let Err(error) = timeout(within, close).await.unwrap_or_else(|late| Err(late.into())) {
            tracing::warn!(cause = format!("{error:#}"), "a connection could not be ended");
        }
    }

    async fn client(&self, url: &str) -> anyhow::Result<Arc<Management>> {
        let clients = || self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let cached = clients().iter().find(|(of, _)| of == url).map(|(_, client)| Arc::clone(client));
        if let Some(client) = cached {
            return Ok(client);
        }
        let client = Arc::new(Management::new(url, &self.aws, self.http.clone()).await?);
        let mut clients = clients();
        if clients.len() >= MAX_CLIENTS {
            clients.remove(0);
        }
        clients.push((url.to_owned(), Arc::clone(&client)));
        Ok(client)
    }
}
