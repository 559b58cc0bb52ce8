//! Posts frames to connections and closes connections, by the API Gateway Management API.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use shellbridge_outbound::{ConnectionError, Connections, Patience, Pool, chain};
use shellbridge_protocol::{frame::ErrorFrame, frame::ServerFrame, limits::MAX_MESSAGE};
use tokio::{
    sync::OnceCell,
    time::{Instant, timeout, timeout_at},
};

use crate::{aws::Aws, config::Limits, event::Invocation, metrics::InvocationStats};

/// Result of posting a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Posted {
    /// API Gateway accepted the frame.
    Delivered,
    /// The connection has closed.
    Gone,
    /// The frame exceeds API Gateway's limit.
    TooLarge,
    /// Posting failed; the log has the cause.
    Failed,
}

/// Sends frames to clients.
pub(crate) struct Reply {
    aws: Aws,
    limits: Limits,
    apis: OnceCell<Pool>,
}

impl Reply {
    pub(crate) fn new(aws: Aws, limits: Limits) -> Self {
        Self { aws, limits, apis: OnceCell::new() }
    }

    /// Posts an error frame to the invocation's connection.
    pub(crate) async fn error(
        &self,
        error: ErrorFrame,
        invocation: &Invocation,
        stats: &mut InvocationStats,
    ) -> Posted {
        let frame = serde_json::to_string(&ServerFrame::Error(error)).unwrap_or_default();
        self.post(frame, invocation, stats).await
    }

    /// Posts a frame to the connection of `invocation`, again while API Gateway says 429 or 5xx.
    ///
    /// Never splits it: API Gateway cuts a message over 32 KiB into WebSocket frames itself, and the protocol splits only
    /// `output` and `snapshot`, which the backend pushes.
    pub(crate) async fn post(
        &self,
        frame: String,
        invocation: &Invocation,
        stats: &mut InvocationStats,
    ) -> Posted {
        if frame.len() > MAX_MESSAGE {
            return Posted::TooLarge;
        }
        let started = Instant::now();
        let bytes = frame.len();
        let until = started + invocation.deadline.budget(self.limits.push, Duration::ZERO);
        let posted = self.with_retries(frame, until, invocation, stats).await;
        stats.push = Some(stats.push.unwrap_or_default() + started.elapsed());
        if posted == Posted::Delivered {
            stats.bytes_out += bytes;
        }
        posted
    }

    async fn with_retries(
        &self,
        frame: String,
        until: Instant,
        invocation: &Invocation,
        stats: &mut InvocationStats,
    ) -> Posted {
        let api = timeout_at(until, self.api(&invocation.callback_url)).await;
        let api = match api.unwrap_or(Err(ConnectionError::Timeout)) {
            Ok(api) => api,
            Err(error) => {
                tracing::error!(cause = chain(&error), "cannot create a client for @connections");
                return Posted::Failed;
            }
        };
        let patience = Patience { until, opening_until: None };
        let id = &invocation.connection_id;
        match api.deliver(id, Bytes::from(frame), patience, |_| stats.retries += 1).await {
            Ok(()) => Posted::Delivered,
            Err(ConnectionError::Gone) => Posted::Gone,
            Err(ConnectionError::TooLarge) => Posted::TooLarge,
            Err(error) if error.is_retryable() => {
                tracing::warn!(cause = chain(&error), "posting a frame timed out");
                Posted::Failed
            }
            Err(error) => {
                tracing::error!(cause = chain(&error), "@connections rejected a frame");
                Posted::Failed
            }
        }
    }

    /// Closes the invocation's connection.
    pub(crate) async fn close(&self, invocation: &Invocation) {
        let close =
            async { self.api(&invocation.callback_url).await?.close(&invocation.connection_id).await };
        let within = invocation.deadline.budget(self.limits.push, Duration::ZERO);
        if let Err(error) = timeout(within, close).await.unwrap_or(Err(ConnectionError::Timeout)) {
            tracing::warn!(cause = chain(&error), "cannot close a connection");
        }
    }

    async fn api(&self, url: &str) -> Result<Arc<Connections>, ConnectionError> {
        let make = || async { Pool::new(self.aws.config().await, self.aws.http(), self.limits.aws_attempt) };
        self.apis.get_or_init(make).await.get(url)
    }
}
