//! Pushes frames to clients through the API Gateway Management API.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use bytes::Bytes;
use shellbridge_outbound::{ConnectionError, Connections, Http, Patience, Pool, chain, sdk_config};
use shellbridge_protocol::{
    ErrorCode,
    callback::is_allowed_callback,
    ids::ConnectionId,
    limits::{HANDSHAKE_GRACE, MAX_FRAME, PUSH_FAILING_FOR},
    times::UnixMs,
};
use shellbridge_session::{OutletLimits, Sent};
use tokio::time::Instant;

use crate::{
    clock::unix_ms,
    metrics,
    sessions::outlet::{Boxed, Outlet, Route, Transport},
};

/// Output frames in flight per connection.
const MAX_IN_FLIGHT: usize = 4;
/// Timeout of one request to the API.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// The SDK's variable for this service's endpoint.
const ENDPOINT_VARIABLE: &str = "AWS_ENDPOINT_URL_APIGATEWAYMANAGEMENTAPI";

/// Creates routes to clients.
pub(crate) struct Pusher {
    apis: Pool,
    /// Target of all frames, overriding the Lambda's `callbackUrl`.
    fixed: Option<Arc<Connections>>,
    region: String,
}

/// The Lambda named a URL that frames must not be sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("callbackUrl is not allowed")]
pub(crate) struct Forbidden;

impl Pusher {
    /// `callback_url`: `CALLBACK_URL`. Credentials, region and endpoint come from the environment, as the SDK reads it.
    ///
    /// # Errors
    /// When `CALLBACK_URL` or the SDK's endpoint variable is not a URL.
    pub(crate) async fn new(callback_url: Option<&str>) -> anyhow::Result<Self> {
        let http = Http::new(CONNECT_TIMEOUT);
        let config = sdk_config(http.clone()).await;
        let apis = Pool::new(&config, http, CALL_TIMEOUT);
        let endpoint = std::env::var(ENDPOINT_VARIABLE).ok().filter(|url| !url.is_empty());
        let fixed = match (endpoint.as_deref(), callback_url) {
            (Some(url), _) => Some(apis.get(url).context(ENDPOINT_VARIABLE)?),
            (None, Some(url)) => Some(apis.get(url).context("CALLBACK_URL")?),
            (None, None) => None,
        };
        let region = config.region().map(ToString::to_string).unwrap_or_default();
        Ok(Self { apis, fixed, region })
    }

    /// Returns the route to a connection of the API that the Lambda names. See [`Transport::outlet`] for `made_at`.
    pub(crate) fn route(&self, callback_url: &str, made_at: Option<UnixMs>) -> Result<Route, Forbidden> {
        let api = match &self.fixed {
            Some(api) => Arc::clone(api),
            None if is_allowed_callback(callback_url, &self.region) => {
                self.apis.get(callback_url).map_err(|_| Forbidden)?
            }
            None => return Err(Forbidden),
        };
        Ok(Route { transport: api, made_at, address: callback_url.into() })
    }
}

impl Transport for Connections {
    fn limits(&self) -> OutletLimits {
        OutletLimits { max_frame: MAX_FRAME, in_flight: MAX_IN_FLIGHT }
    }

    fn outlet(self: Arc<Self>, connection: ConnectionId, made_at: Option<UnixMs>) -> Arc<dyn Outlet> {
        let grace = if made_at.is_some() { HANDSHAKE_GRACE } else { Duration::ZERO };
        let opening = made_at.map(|at| Arc::new(AtomicU64::new(at.0)));
        Arc::new(ApiGateway { api: self, connection, handshake_ends: Instant::now() + grace, opening })
    }
}

/// A connection of API Gateway.
#[derive(Clone)]
struct ApiGateway {
    api: Arc<Connections>,
    connection: ConnectionId,
    handshake_ends: Instant,
    /// When the connection was made, in Unix milliseconds; 0 once its first frame has been delivered.
    opening: Option<Arc<AtomicU64>>,
}

impl Outlet for ApiGateway {
    fn send(&self, frame: Bytes) -> Boxed<Sent> {
        let this = self.clone();
        Box::pin(async move { this.send_until_delivered(frame).await })
    }

    fn close(&self, _: Option<ErrorCode>) -> Boxed<()> {
        // API Gateway chooses the close code.
        let this = self.clone();
        Box::pin(async move {
            if let Err(error) = this.api.close(&this.connection).await {
                let (connection_id, cause) = (&*this.connection, chain(&error));
                tracing::debug!(connection_id, cause, "cannot delete the connection");
            }
        })
    }

    fn exists(&self) -> Boxed<bool> {
        let this = self.clone();
        Box::pin(async move { this.api.exists(&this.connection).await })
    }
}

impl ApiGateway {
    async fn send_until_delivered(&self, frame: Bytes) -> Sent {
        let started = Instant::now();
        let bytes = frame.len();
        let connection_id = self.connection.as_str();
        let patience =
            Patience { until: started + PUSH_FAILING_FOR, opening_until: Some(self.handshake_ends) };
        let repeated = |error: &ConnectionError| {
            tracing::debug!(connection_id, cause = chain(error), "push failed");
            metrics::push_retried();
        };
        match self.api.deliver(&self.connection, frame, patience, repeated).await {
            Ok(()) => {
                self.delivered(bytes, started.elapsed());
                Sent::Delivered
            }
            Err(ConnectionError::TooLarge) => {
                // Frames stay below API Gateway's limit, so something on the way has a lower one.
                tracing::warn!(connection_id, bytes, "frame too large to push");
                metrics::push_too_large();
                Sent::TooLarge
            }
            Err(ConnectionError::Gone) => {
                tracing::info!(connection_id, "the connection is gone");
                metrics::push_lost();
                Sent::Gone
            }
            Err(error) => {
                tracing::warn!(connection_id, cause = chain(&error), "cannot push to the connection");
                metrics::push_lost();
                Sent::Gone
            }
        }
    }

    /// Counts a delivered frame.
    fn delivered(&self, bytes: usize, took: Duration) {
        metrics::pushed(bytes, took);
        let made_at = self.opening.as_ref().map_or(0, |at| at.swap(0, Ordering::Relaxed));
        if made_at > 0 {
            metrics::connected_within(unix_ms().saturating_since(UnixMs(made_at)));
        }
    }
}
