//! `websocket-handler`: the function behind API Gateway's WebSocket routes.
//!
//! [`App::handle`] answers one proxy event. The function caches, but holds no state that it cannot reload.

mod auth;
mod aws;
mod backend;
mod breaker;
pub mod config;
mod connect;
mod connections;
mod deadline;
mod disconnect;
mod event;
mod message;
mod metrics;
mod parameter;
mod reply;
mod secrets;
mod sticky;

use std::{convert::Infallible, io::Write};

use aws_lambda_events::apigw::ApiGatewayWebsocketProxyRequest as Event;
use lambda_runtime::LambdaEvent;
use serde_json::value::RawValue;
use shellbridge_protocol::ErrorCode;
use tracing::Instrument;

pub use aws::AwsSettings;
pub use config::{Config, ConfigError, Limits};
pub use event::Response;

use event::{Invocation, Route};
use metrics::InvocationStats;

/// The state of a process. Clients are created on first use, because a user waits for the time before the first
/// `GET /invocation/next`.
pub struct App {
    config: Config,
    auth: auth::Auth,
    connections: connections::ConnectionTable,
    backend: backend::Backend,
    reply: reply::Reply,
    metrics: metrics::Metrics,
    retries: aws::RetryCounter,
}

impl App {
    /// Validates the settings; does no I/O. Each invocation writes one line to `out`.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn new(
        config: Config,
        aws: AwsSettings,
        out: impl Write + Send + 'static,
    ) -> Result<Self, ConfigError> {
        let secrets = secrets::DistinctSecrets::new(&config)?;
        let http = shellbridge_outbound::Http::new(config.limits.connect);
        let aws = aws::Aws::new(aws, http.clone());
        let each_frame = config.log_level >= tracing::Level::DEBUG;
        Ok(Self {
            auth: auth::Auth::new(&config, &aws, &secrets)?,
            connections: connections::ConnectionTable::new(
                config.table_name.clone(),
                aws.clone(),
                config.limits,
            ),
            backend: backend::Backend::new(&config, http.clone(), &aws, &secrets)?,
            retries: aws.retries(),
            reply: reply::Reply::new(aws, config.limits),
            metrics: metrics::Metrics::new(config.metrics_namespace.clone(), each_frame, out),
            config,
        })
    }

    /// Answers one event. Never an error: API Gateway would turn it into a 502 on `$connect` and into its own error frame
    /// on the other routes.
    pub async fn handle(&self, event: LambdaEvent<Box<RawValue>>) -> Result<Response, Infallible> {
        let mut stats = InvocationStats::start(&event.context.request_id);
        let read = event::read(&event.payload).and_then(|(route, payload)| {
            Ok((route, Invocation::new(&self.config, &payload, &event.context)?, payload))
        });
        let response = match read {
            Ok((route, invocation, payload)) => {
                stats.set_route(route, &invocation);
                let span = tracing::error_span!(
                    "invocation",
                    request_id = invocation.request_id,
                    connection_id = invocation.connection_id.as_str(),
                    session_id = tracing::field::Empty,
                );
                let handled = self.route(route, &payload, &invocation, &mut stats);
                Box::pin(handled.instrument(span)).await
            }
            Err(malformed) => {
                stats.outcome = malformed.0;
                Response::rejection(400, ErrorCode::BadFrame, malformed.0)
            }
        };
        stats.retries += self.retries.take();
        self.metrics.emit(&stats);
        Ok(response)
    }

    async fn route(
        &self,
        route: Route,
        event: &Event,
        invocation: &Invocation,
        stats: &mut InvocationStats,
    ) -> Response {
        match route {
            // This crate boxes rare branches. A future is as large as the largest one it can await, and a frame moves its
            // future several times; boxing the SDK's calls shrank it from 19 KB to 2 KB.
            Route::Connect => return Box::pin(self.connect(event, invocation, stats)).await,
            Route::Message => self.message(event, invocation, stats).await,
            Route::Disconnect => Box::pin(self.disconnect(event, invocation, stats)).await,
        }
        // On a two-way route, API Gateway would send an error frame for any other status.
        Response::OK
    }
}
