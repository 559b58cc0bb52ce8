//! `websocket-handler`: the function behind API Gateway's WebSocket routes.
//!
//! [`App::handle`] takes one proxy event and answers it. It keeps nothing that it could not read again.

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
use metrics::Tally;

/// Everything that lives as long as the process. Clients are made when they are first needed, because the
/// time before the first `GET /invocation/next` is time a user waits.
pub struct App {
    config: Config,
    auth: auth::Auth,
    connections: connections::Connections,
    backend: backend::Backend,
    reply: reply::Reply,
    metrics: metrics::Metrics,
    repeats: aws::Repeats,
}

impl App {
    /// Checks the settings and lays out the parts; does no I/O. `out` takes one line an invocation.
    ///
    /// # Errors
    /// Settings that the function must not run with.
    pub fn new(
        config: Config,
        aws: AwsSettings,
        out: impl Write + Send + 'static,
    ) -> Result<Self, ConfigError> {
        let apart = secrets::Apart::new(&config)?;
        let http = shellbridge_outbound::Http::new(config.limits.connect);
        let aws = aws::Aws::new(aws, http.clone());
        let each_frame = config.log_level >= tracing::Level::DEBUG;
        Ok(Self {
            auth: auth::Auth::new(&config, &aws, &apart)?,
            connections: connections::Connections::new(config.table_name.clone(), aws.clone(), config.limits),
            backend: backend::Backend::new(&config, http.clone(), &aws, &apart)?,
            repeats: aws.repeats(),
            reply: reply::Reply::new(aws, config.limits),
            metrics: metrics::Metrics::new(config.metrics_namespace.clone(), each_frame, out),
            config,
        })
    }

    /// Answers one event. Never an error: API Gateway would turn it into a 502 on `$connect`, and into a frame
    /// that is not ours on the other routes.
    pub async fn handle(&self, event: LambdaEvent<Box<RawValue>>) -> Result<Response, Infallible> {
        let mut tally = Tally::start(&event.context.request_id);
        let read = event::read(&event.payload).and_then(|(route, payload)| {
            Ok((route, Invocation::new(&self.config, &payload, &event.context)?, payload))
        });
        let response = match read {
            Ok((route, invocation, payload)) => {
                tally.is_of(route, &invocation);
                let span = tracing::error_span!(
                    "invocation",
                    request_id = invocation.request_id,
                    connection_id = invocation.connection_id,
                    session_id = tracing::field::Empty,
                );
                let handled = self.route(route, &payload, &invocation, &mut tally);
                Box::pin(handled.instrument(span)).await
            }
            Err(malformed) => {
                tally.outcome = malformed.0;
                Response::refusal(400, ErrorCode::BadFrame, malformed.0)
            }
        };
        tally.retries += self.repeats.take();
        self.metrics.emit(&tally);
        Ok(response)
    }

    async fn route(
        &self,
        route: Route,
        event: &Event,
        invocation: &Invocation,
        tally: &mut Tally,
    ) -> Response {
        match route {
            // Here as everywhere in this crate, what is rare is in a box: a frame moves its future several times, which
            // would have room for the largest of all, and was 19 KB for the SDK's.
            Route::Connect => return Box::pin(self.connect(event, invocation, tally)).await,
            Route::Message => self.message(event, invocation, tally).await,
            Route::Disconnect => Box::pin(self.disconnect(event, invocation, tally)).await,
        }
        // Anything else would be an error frame of API Gateway's on a two-way route, and is nothing on others.
        Response::OK
    }
}
