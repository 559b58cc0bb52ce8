//! Every setting, from the environment. An empty one counts as unset, because templates cannot leave one out.

use std::time::Duration;

use clap::Parser;
use shellbridge_protocol::{access, bridge, origin};
use tracing_subscriber::{filter::Targets, prelude::*};
use url::Url;

/// Where metrics go unless a setting says otherwise.
const DEFAULT_NAMESPACE: &str = "Shellbridge";

/// The settings of the function.
#[derive(Debug, Clone, Parser)]
#[command(version, about = "The function behind the WebSocket API of Shellbridge")]
pub struct Config {
    /// `DynamoDB` table of the connection records. The default is the name that `template.yaml` gives it.
    #[arg(long, env, default_value = "WebSocketConnections")]
    pub table_name: String,
    /// Where the backend is. No default: a wrong one would send frames to strangers.
    #[arg(long, env)]
    pub backend_url: Option<String>,
    /// The same, by the name it had when the backend could only run on App Runner.
    #[arg(long, env)]
    pub app_runner_url: Option<String>,
    /// Signs requests to the backend: at least 32 bytes, or two such keys separated by a comma during rotation.
    #[arg(long, env, hide_env_values = true)]
    pub bridge_secret: Option<String>,
    /// Name or ARN of the Parameter Store parameter or Secrets Manager secret that holds it instead.
    #[arg(long, env)]
    pub bridge_secret_arn: Option<String>,
    /// Verifies users' tokens with HS256: at least 32 bytes.
    #[arg(long, env, hide_env_values = true)]
    pub jwt_secret: Option<String>,
    /// Name or ARN of the Parameter Store parameter or Secrets Manager secret that holds it instead.
    #[arg(long, env)]
    pub jwt_secret_arn: Option<String>,
    /// Verifies users' tokens with RS256, ES256 or `EdDSA`: a public key in PEM, line breaks also as `\n`.
    #[arg(long, env)]
    pub jwt_public_key: Option<String>,
    /// Verifies users' tokens with the keys of this JWK set.
    #[arg(long, env)]
    pub jwks_url: Option<String>,
    /// Lets the JWK set come from private addresses and by plain http. Off, because whoever can set the URL
    /// could otherwise reach what only this network can.
    #[arg(long, env, default_value_t = false, action = clap::ArgAction::Set)]
    pub jwks_allow_private: bool,
    /// What tokens' `iss` must be. Unset: anything.
    #[arg(long, env)]
    pub jwt_issuer: Option<String>,
    /// What tokens' `aud` must be or contain. Unset: anything.
    #[arg(long, env)]
    pub jwt_audience: Option<String>,
    /// Pages that may open a terminal, separated by commas: `https://app.example.org`,
    /// `https://*.example.org`, or `*` for all. No default: allowing all must be said.
    #[arg(long, env)]
    pub allowed_origins: Option<String>,
    /// Host of the WebSocket API. Unset: as the event says, which is right but for some custom domains.
    #[arg(long, env)]
    pub domain_name: Option<String>,
    /// Its stage; empty for none. Unset: as the event says.
    #[arg(long, env)]
    pub stage: Option<String>,
    /// Where `@connections` is, in place of what domain and stage give. The SDK's own variable; the backend
    /// reads it too.
    #[arg(long = "callback-endpoint", env = "AWS_ENDPOINT_URL_APIGATEWAYMANAGEMENTAPI")]
    pub callback_endpoint: Option<String>,
    /// `error`, `warn`, `info`, `debug` or `trace`, for this program; libraries never go beyond `warn`, since
    /// they might print headers. One line a frame is written in any case, with the metrics in it.
    #[arg(long, env, default_value = "info")]
    pub log_level: tracing::Level,
    /// Namespace of the metrics. Stacks that share a region and an account want one each, or their alarms mix.
    #[arg(long, env, default_value = DEFAULT_NAMESPACE)]
    pub metrics_namespace: String,
    /// Not settable from outside; tests are quicker with shorter ones.
    #[arg(skip)]
    pub limits: Limits,
}

/// How long is waited for whom. All of it also ends with the invocation.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// For a TCP and TLS connection, to the backend and to AWS.
    pub connect: Duration,
    /// For an answer of the backend, repeats included.
    pub backend: Duration,
    /// No repeat begins later than this, so that a frame fails within 2 s when the backend is down.
    pub repeat_within: Duration,
    /// For a frame to be taken by `@connections`, repeats included. API Gateway answers in milliseconds; what
    /// takes longer is a client that does not read.
    pub push: Duration,
    /// For one request to `DynamoDB`, SSM or `@connections`.
    pub aws_attempt: Duration,
    /// For an AWS call with its repeats.
    pub aws: Duration,
    /// For a JWK set to arrive, lookup of its host included.
    pub jwks: Duration,
    /// Between two readings of a stored secret, however many signatures fail.
    pub reread: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(1),
            backend: Duration::from_secs(10),
            repeat_within: Duration::from_millis(800),
            push: Duration::from_secs(3),
            aws_attempt: Duration::from_millis(1_500),
            aws: Duration::from_secs(4),
            jwks: Duration::from_secs(3),
            reread: Duration::from_mins(1),
        }
    }
}

/// Settings that the function must not run with.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Nothing says where something is.
    #[error("{0} is not set")]
    Missing(&'static str),
    /// Two settings exclude each other.
    #[error("only one of {0} may be set")]
    Several(&'static str),
    /// Anybody who knows one could do what the other is for.
    #[error("BRIDGE_SECRET must not be JWT_SECRET")]
    SameSecret,
    /// Not a URL that will do.
    #[error("{0}: not an http or https URL")]
    Url(&'static str),
    /// The JWK set is at an address that is not allowed.
    #[error("JWKS_URL: {0}")]
    Jwks(#[from] access::JwksRefused),
    /// `BRIDGE_SECRET` is too weak.
    #[error(transparent)]
    Bridge(#[from] bridge::KeyError),
    /// A key for users' tokens is of no use.
    #[error(transparent)]
    Access(#[from] access::KeyError),
    /// `ALLOWED_ORIGINS` is of no use.
    #[error("ALLOWED_ORIGINS: {0}")]
    Origins(#[from] origin::OriginError),
}

impl Config {
    /// Takes empty settings as unset, but for `STAGE`, where empty means none.
    #[must_use]
    pub fn normalized(mut self) -> Self {
        for setting in [
            &mut self.backend_url,
            &mut self.app_runner_url,
            &mut self.bridge_secret,
            &mut self.bridge_secret_arn,
            &mut self.jwt_secret,
            &mut self.jwt_secret_arn,
            &mut self.jwt_public_key,
            &mut self.jwks_url,
            &mut self.jwt_issuer,
            &mut self.jwt_audience,
            &mut self.allowed_origins,
            &mut self.domain_name,
            &mut self.callback_endpoint,
        ] {
            setting.take_if(|value| value.is_empty());
        }
        if self.metrics_namespace.is_empty() {
            DEFAULT_NAMESPACE.clone_into(&mut self.metrics_namespace);
        }
        self
    }

    /// The backend's address. A path in it comes before those of the contract.
    pub(crate) fn backend(&self) -> Result<Url, ConfigError> {
        let url = self.backend_url.as_deref().or(self.app_runner_url.as_deref());
        let url = url.ok_or(ConfigError::Missing("BACKEND_URL (or APP_RUNNER_URL)"))?;
        let url = Url::parse(url).map_err(|_| ConfigError::Url("BACKEND_URL"))?;
        if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
            return Err(ConfigError::Url("BACKEND_URL"));
        }
        Ok(url)
    }

    /// What tokens must say beside being in time.
    pub(crate) fn claim_rules(&self) -> access::ClaimRules {
        access::ClaimRules { issuer: self.jwt_issuer.clone(), audience: self.jwt_audience.clone() }
    }

    /// Writes logs as JSON lines to stdout, where the Lambda service takes them from.
    pub fn start_log(&self) {
        let levels = Targets::new()
            .with_default(self.log_level.min(tracing::Level::WARN))
            .with_target("shellbridge_lambda", self.log_level)
            .with_target("websocket_handler", self.log_level);
        let lines = tracing_subscriber::fmt::layer().json().flatten_event(true).with_span_list(false);
        tracing_subscriber::registry().with(lines).with(levels).init();
    }
}
