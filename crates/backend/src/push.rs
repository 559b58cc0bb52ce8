//! Pushes frames to clients through the API Gateway Management API.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use aws_config::SdkConfig;
use aws_sdk_apigatewaymanagement::{
    Client,
    config::{BehaviorVersion, StalledStreamProtectionConfig, retry::RetryConfig, timeout::TimeoutConfig},
    error::SdkError,
    primitives::Blob,
};
use bytes::Bytes;
use rand::RngExt;
use shellbridge_protocol::{
    callback::is_allowed_callback,
    limits::{HANDSHAKE_GRACE, PUSH_FAILING_FOR},
};
use tokio::time::Instant;

use crate::{
    count,
    outlet::{Boxed, ConnectionId, Outlet, Sent},
    unix_ms,
};

/// One call to the API.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Waits between attempts, doubling from the first to the last.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(25), Duration::from_secs(1));
/// Clients kept, one an endpoint. More endpoints than that are not one deployment.
const MAX_CLIENTS: usize = 64;
/// The SDK's own variable for this service's endpoint.
const ENDPOINT_VARIABLE: &str = "AWS_ENDPOINT_URL_APIGATEWAYMANAGEMENTAPI";

/// Makes the ways to clients.
pub(crate) struct Pusher {
    config: SdkConfig,
    /// Where all frames go, whatever the Lambda says.
    fixed: Option<Client>,
    region: String,
    clients: Mutex<HashMap<String, Client>>,
}

/// The Lambda named a place that frames must not be sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("callbackUrl is not allowed")]
pub(crate) struct Forbidden;

impl Pusher {
    /// `callback_url`: `CALLBACK_URL`. Credentials, region and endpoint come from the environment, as the SDK does it.
    pub(crate) async fn new(callback_url: Option<&str>) -> Self {
        let config = aws_config::defaults(BehaviorVersion::latest())
            // `Outlet` tries again by its own rules, and the time of a call is bounded.
            .retry_config(RetryConfig::disabled())
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .timeout_config(
                TimeoutConfig::builder()
                    .connect_timeout(CONNECT_TIMEOUT)
                    .operation_timeout(CALL_TIMEOUT)
                    .build(),
            )
            .load()
            .await;
        let fixed = if std::env::var_os(ENDPOINT_VARIABLE).is_some() {
            Some(Client::new(&config))
        } else {
            callback_url.map(|url| client(&config, url))
        };
        let region = config.region().map(ToString::to_string).unwrap_or_default();
        Self { config, fixed, region, clients: Mutex::default() }
    }

    /// The way to a connection. `made_at`: when it was made, Unix ms, if that was just now, so that its handshake may
    /// not have ended.
    pub(crate) fn outlet(
        &self,
        connection: ConnectionId,
        callback_url: &str,
        made_at: Option<i64>,
    ) -> Result<Arc<dyn Outlet>, Forbidden> {
        let client = match &self.fixed {
            Some(client) => client.clone(),
            None if is_allowed_callback(callback_url, &self.region) => self.client(callback_url),
            None => return Err(Forbidden),
        };
        let grace = if made_at.is_some() { HANDSHAKE_GRACE } else { Duration::ZERO };
        let opening = made_at.map(|at| Arc::new(AtomicU64::new(u64::try_from(at).unwrap_or(0))));
        Ok(Arc::new(ApiGateway { client, connection, handshake_ends: Instant::now() + grace, opening }))
    }

    fn client(&self, url: &str) -> Client {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if clients.len() >= MAX_CLIENTS && !clients.contains_key(url) {
            clients.clear();
        }
        clients.entry(url.to_owned()).or_insert_with(|| client(&self.config, url)).clone()
    }
}

fn client(config: &SdkConfig, url: &str) -> Client {
    let config = aws_sdk_apigatewaymanagement::config::Builder::from(config).endpoint_url(url).build();
    Client::from_conf(config)
}

/// A connection at API Gateway.
#[derive(Clone)]
struct ApiGateway {
    client: Client,
    connection: ConnectionId,
    handshake_ends: Instant,
    /// When it was made, until its first frame is delivered; 0 from then on.
    opening: Option<Arc<AtomicU64>>,
}

impl Outlet for ApiGateway {
    fn send(&self, frame: Bytes) -> Boxed<Sent> {
        let this = self.clone();
        Box::pin(async move { this.send_until_delivered(frame).await })
    }

    fn close(&self) -> Boxed<()> {
        let call = self.client.delete_connection().connection_id(&*self.connection).send();
        let connection = self.connection.clone();
        Box::pin(async move {
            if let Err(error) = call.await
                && status(&error) != Some(410)
            {
                tracing::debug!(connection_id = %connection, status = status(&error), "a connection could not be deleted");
            }
        })
    }

    fn exists(&self) -> Boxed<bool> {
        let call = self.client.get_connection().connection_id(&*self.connection).send();
        Box::pin(async move { call.await.err().is_none_or(|error| status(&error) != Some(410)) })
    }
}

impl ApiGateway {
    async fn send_until_delivered(&self, frame: Bytes) -> Sent {
        let started = Instant::now();
        let give_up = started + PUSH_FAILING_FOR;
        let mut wait = BACKOFF.0;
        loop {
            let call = self.client.post_to_connection().connection_id(&*self.connection);
            let Err(error) = call.data(Blob::new(frame.clone())).send().await else {
                self.delivered(frame.len(), started.elapsed());
                return Sent::Delivered;
            };
            let status = status(&error);
            let now = Instant::now();
            // The connection is not known before its handshake has ended.
            if now >= give_up || (status == Some(410) && now >= self.handshake_ends) {
                tracing::info!(connection_id = %self.connection, status, "the connection is gone");
                count::push_lost();
                return Sent::Gone;
            }
            if status == Some(413) {
                // Ours are below API Gateway's limit: something on the way has a smaller one.
                let bytes = frame.len();
                tracing::warn!(connection_id = %self.connection, bytes, "a frame is too large to be pushed");
                count::push_too_large();
                return Sent::TooLarge;
            }
            tracing::debug!(connection_id = %self.connection, status, "a push failed");
            count::push_retried();
            // Full jitter spreads those that failed together.
            let jittered = wait.mul_f64(rand::rng().random_range(0.5..1.0));
            tokio::time::sleep(jittered).await;
            wait = (wait * 2).min(BACKOFF.1);
        }
    }
}

impl ApiGateway {
    /// Counts a frame that was delivered.
    fn delivered(&self, bytes: usize, took: Duration) {
        count::pushed(bytes, took);
        let made_at = self.opening.as_ref().map_or(0, |at| at.swap(0, Ordering::Relaxed));
        if made_at > 0 {
            count::connected_within(Duration::from_millis(unix_ms().saturating_sub(made_at)));
        }
    }
}

/// The HTTP status of an error, if there was an answer.
fn status<E>(error: &SdkError<E>) -> Option<u16> {
    error.raw_response().map(|response| response.status().as_u16())
}
