//! Posts frames to connections, and ends connections, by the API Gateway Management API.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use shellbridge_outbound::{ConnectionError, Connections, Patience, Pool, chain};
use shellbridge_protocol::{frame::ErrorFrame, frame::ServerFrame, limits::MAX_MESSAGE};
use tokio::{
    sync::OnceCell,
    time::{Instant, timeout, timeout_at},
};

use crate::{aws::Aws, config::Limits, event::Invocation, metrics::Tally};

/// What became of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Posted {
    /// API Gateway has it.
    Yes,
    /// The connection is no more.
    Gone,
    /// It is larger than API Gateway takes.
    TooLarge,
    /// It could not be posted, as the log says.
    Failed,
}

/// The way to connections.
pub(crate) struct Reply {
    aws: Aws,
    limits: Limits,
    apis: OnceCell<Pool>,
}

impl Reply {
    pub(crate) fn new(aws: Aws, limits: Limits) -> Self {
        Self { aws, limits, apis: OnceCell::new() }
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
        let api = timeout_at(until, self.api(&invocation.callback_url)).await;
        let api = match api.unwrap_or(Err(ConnectionError::Timeout)) {
            Ok(api) => api,
            Err(error) => {
                tracing::error!(cause = chain(&error), "there is no client for @connections");
                return Posted::Failed;
            }
        };
        let patience = Patience { until, opening_until: None };
        let id = &invocation.connection_id;
        match api.deliver(id, Bytes::from(frame), patience, |_| tally.retries += 1).await {
            Ok(()) => Posted::Yes,
            Err(ConnectionError::Gone) => Posted::Gone,
            Err(ConnectionError::TooLarge) => Posted::TooLarge,
            Err(error) if error.is_retryable() => {
                tracing::warn!(cause = chain(&error), "a frame could not be posted in time");
                Posted::Failed
            }
            Err(error) => {
                tracing::error!(cause = chain(&error), "@connections refused a frame");
                Posted::Failed
            }
        }
    }

    /// Ends the connection of `invocation`.
    pub(crate) async fn close(&self, invocation: &Invocation) {
        let close =
            async { self.api(&invocation.callback_url).await?.close(&invocation.connection_id).await };
        let within = invocation.deadline.within(self.limits.push, Duration::ZERO);
        if let Err(error) = timeout(within, close).await.unwrap_or(Err(ConnectionError::Timeout)) {
            tracing::warn!(cause = chain(&error), "a connection could not be ended");
        }
    }

    async fn api(&self, url: &str) -> Result<Arc<Connections>, ConnectionError> {
        let make = || async { Pool::new(self.aws.config().await, self.aws.http(), self.limits.aws_attempt) };
        self.apis.get_or_init(make).await.get(url)
    }
}
