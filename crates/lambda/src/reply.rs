//! Posts frames to connections, and ends connections, by the API Gateway Management API.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use aws_sdk_apigatewaymanagement::{
    Client,
    config::{http::HttpResponse, retry::RetryConfig, timeout::TimeoutConfig},
    error::SdkError,
    primitives::Blob,
};
use shellbridge_protocol::{frame::ErrorFrame, frame::ServerFrame, limits::MAX_MESSAGE};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use crate::{aws::Aws, config::Limits, deadline::backoff, event::Invocation, metrics::Tally};

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
    limits: Limits,
    clients: Mutex<Vec<(String, Client)>>,
}

impl Reply {
    pub(crate) fn new(aws: Aws, limits: Limits) -> Self {
        Self { aws, limits, clients: Mutex::default() }
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
        let client = self.client(&invocation.callback_url).await;
        let data = Blob::new(frame);
        let mut attempt = 0;
        loop {
            let post = client
                .post_to_connection()
                .connection_id(&invocation.connection_id)
                .data(data.clone())
                .send();
            // In a box, since it is large, and moved with every future around it. One timer for both times.
            let posted =
                timeout_at(until.min(Instant::now() + self.limits.aws_attempt), Box::pin(post)).await;
            match posted.map(|posted| posted.map_err(|error| status(&error))) {
                Ok(Ok(_)) => return Posted::Yes,
                Ok(Err(Some(410))) => return Posted::Gone,
                Ok(Err(Some(413))) => return Posted::TooLarge,
                Ok(Err(Some(status @ 400..=499))) if status != 429 => {
                    tracing::error!(status, "@connections refused a frame");
                    return Posted::Failed;
                }
                _ => {}
            }
            attempt += 1;
            let next = Instant::now() + backoff(BACKOFF, attempt);
            if next >= until {
                tracing::warn!("a frame could not be posted in time");
                return Posted::Failed;
            }
            tally.retries += 1;
            sleep_until(next).await;
        }
    }

    /// Ends the connection of `invocation`.
    pub(crate) async fn close(&self, invocation: &Invocation) {
        let client = self.client(&invocation.callback_url).await;
        let close = client.delete_connection().connection_id(&invocation.connection_id).send();
        let within = invocation.deadline.within(self.limits.push, Duration::ZERO);
        match timeout(within, close).await {
            Ok(Err(error)) if status(&error) != Some(410) => {
                tracing::warn!(status = status(&error), "a connection could not be ended");
            }
            Err(_) => tracing::warn!("a connection could not be ended in time"),
            Ok(_) => {}
        }
    }

    async fn client(&self, url: &str) -> Client {
        let clients = || self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let cached = clients().iter().find(|(of, _)| of == url).map(|(_, client)| client.clone());
        if let Some(client) = cached {
            return client;
        }
        let config = aws_sdk_apigatewaymanagement::config::Builder::from(self.aws.config().await)
            .endpoint_url(url)
            // Times and repeats are ours.
            .timeout_config(TimeoutConfig::disabled())
            .retry_config(RetryConfig::disabled())
            .build();
        let client = Client::from_conf(config);
        let mut clients = clients();
        if clients.len() >= MAX_CLIENTS {
            clients.remove(0);
        }
        clients.push((url.to_owned(), client.clone()));
        client
    }
}

fn status<E>(error: &SdkError<E, HttpResponse>) -> Option<u16> {
    error.raw_response().map(|response| response.status().as_u16())
}
