//! Settings from the environment. An empty variable counts as unset, because templates cannot omit one.

use std::{ffi::OsString, time::Duration};

use shellbridge_protocol::{access, bridge, origin, settings::misspelt};
use tracing_subscriber::{filter::Targets, prelude::*};
use url::Url;

/// Default of `TABLE_NAME`.
const DEFAULT_TABLE: &str = "WebSocketConnections";
/// Default of `METRICS_NAMESPACE`.
const DEFAULT_NAMESPACE: &str = "Shellbridge";

/// The names of all settings except the SDK's.
const SETTINGS: [&str; 17] = [
    "TABLE_NAME",
    "BACKEND_URL",
    "APP_RUNNER_URL",
    "BRIDGE_SECRET",
    "BRIDGE_SECRET_ARN",
    "JWT_SECRET",
    "JWT_SECRET_ARN",
    "JWT_PUBLIC_KEY",
    "JWKS_URL",
    "JWKS_ALLOW_PRIVATE",
    "JWT_ISSUER",
    "JWT_AUDIENCE",
    "ALLOWED_ORIGINS",
    "DOMAIN_NAME",
    "STAGE",
    "LOG_LEVEL",
    "METRICS_NAMESPACE",
];

/// The function's settings. Each is the environment variable of its name unless its documentation names another.
#[derive(Debug, Clone)]
pub struct Config {
    /// `DynamoDB` table of the connection records. By default `WebSocketConnections`, as in `template.yaml`.
    pub table_name: String,
    /// URL of the backend. No default: a wrong one would send frames to strangers.
    pub backend_url: Option<String>,
    /// Older name of `BACKEND_URL`, from when the backend ran only on App Runner.
    pub app_runner_url: Option<String>,
    /// Signs requests to the backend: at least 32 bytes, or two such keys separated by a comma during rotation.
    pub bridge_secret: Option<String>,
    /// Name or ARN of the Parameter Store parameter or Secrets Manager secret that holds it instead.
    pub bridge_secret_arn: Option<String>,
    /// Verifies users' tokens with HS256: at least 32 bytes, or two such keys separated by a comma during rotation.
    pub jwt_secret: Option<String>,
    /// Name or ARN of the Parameter Store parameter or Secrets Manager secret that holds it instead.
    pub jwt_secret_arn: Option<String>,
    /// Verifies users' tokens with RS256, ES256 or `EdDSA`: a public key in PEM, line breaks also as `\n`.
    pub jwt_public_key: Option<String>,
    /// Verifies users' tokens with the keys of this JWK set.
    pub jwks_url: Option<String>,
    /// Permits private addresses and plain HTTP for the JWK set. Off by default: anyone who can set the URL could
    /// otherwise reach services on this network.
    pub jwks_allow_private: bool,
    /// Required `iss` of tokens. Unset: any.
    pub jwt_issuer: Option<String>,
    /// Required `aud` of tokens, which may contain others too. Unset: any.
    pub jwt_audience: Option<String>,
    /// Origins that may open a terminal, separated by commas: `https://app.example.org`,
    /// `https://*.example.org`, or `*` for all. No default: allowing all must be explicit.
    pub allowed_origins: Option<String>,
    /// Host of the WebSocket API. Unset: the event's, which is correct except for some custom domains.
    pub domain_name: Option<String>,
    /// Stage of the WebSocket API; empty for none. Unset: the event's.
    pub stage: Option<String>,
    /// URL of `@connections`, overriding domain and stage: `AWS_ENDPOINT_URL_APIGATEWAYMANAGEMENTAPI`, the SDK's
    /// variable. The backend reads it too.
    pub callback_endpoint: Option<String>,
    /// `error`, `warn`, `info` (the default), `debug` or `trace`. Libraries log at most at `warn`, since they might print
    /// headers. Metrics do not depend on the level; successful frames have a line from `debug` on.
    pub log_level: tracing::Level,
    /// Namespace of the metrics, by default `Shellbridge`. Stacks in the same region and account need one each, or their
    /// alarms mix.
    pub metrics_namespace: String,
    /// No environment variable; tests use shorter limits.
    pub limits: Limits,
}

/// Timeouts. Each is also limited by the invocation's deadline.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// TCP and TLS handshakes, with the backend and with AWS.
    pub connect: Duration,
    /// A request to the backend, including retries.
    pub backend: Duration,
    /// Latest start of a retry, so that a frame fails within 2 s when the backend is down.
    pub retry_within: Duration,
    /// A post to `@connections`, including retries. API Gateway answers in milliseconds unless the client does not read.
    pub push: Duration,
    /// One attempt of a request to `DynamoDB`, SSM or `@connections`.
    pub aws_attempt: Duration,
    /// A request to AWS, including retries.
    pub aws: Duration,
    /// A fetch of the JWK set, including the DNS lookup.
    pub jwks: Duration,
    /// Minimum interval between reads of a stored secret, however many signatures fail.
    pub secret_reread: Duration,
    /// Maximum age of a stored secret: how long a removed key stays valid.
    pub secret_max_age: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(1),
            backend: Duration::from_secs(10),
            retry_within: Duration::from_millis(800),
            push: Duration::from_secs(3),
            aws_attempt: Duration::from_millis(1_500),
            aws: Duration::from_secs(4),
            jwks: Duration::from_secs(3),
            secret_reread: Duration::from_mins(1),
            secret_max_age: Duration::from_mins(15),
        }
    }
}

/// Settings that the function refuses to start with.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A required setting is missing.
    #[error("{0} is not set")]
    Missing(&'static str),
    /// A setting has an invalid value.
    #[error("{0} is not {1}")]
    Value(&'static str, &'static str),
    /// Mutually exclusive settings.
    #[error("only one of {0} may be set")]
    Conflicting(&'static str),
    /// The two secrets are equal, so anyone who knows one could use it as the other.
    #[error("BRIDGE_SECRET and JWT_SECRET must differ")]
    SameSecret,
    /// Probably a misspelt setting, which would silently keep its default.
    #[error("{0} is not a setting; did you mean {1}?")]
    Unknown(String, &'static str),
    /// Not an http or https URL.
    #[error("{0}: not an http or https URL")]
    Url(&'static str),
    /// The policy forbids the JWK set's URL.
    #[error("JWKS_URL: {0}")]
    Jwks(#[from] access::JwksRefused),
    /// `BRIDGE_SECRET` is too weak.
    #[error(transparent)]
    Bridge(#[from] bridge::KeyError),
    /// A key for users' tokens is invalid.
    #[error(transparent)]
    Access(#[from] access::KeyError),
    /// `ALLOWED_ORIGINS` is invalid.
    #[error("ALLOWED_ORIGINS: {0}")]
    Origins(#[from] origin::OriginError),
}

impl Config {
    /// Reads the environment. Empty variables count as unset, except `STAGE`, where empty means no stage.
    ///
    /// # Errors
    /// An invalid value or a misspelt name.
    pub fn from_environment() -> Result<Self, ConfigError> {
        let set = std::env::vars_os().filter(|(_, value)| !value.is_empty());
        refuse_misspelt(set.filter_map(|(name, _)| name.into_string().ok()))?;
        Self::read(|name| std::env::var_os(name))
    }

    fn read(variable: impl Fn(&str) -> Option<OsString>) -> Result<Self, ConfigError> {
        let any = |name| {
            let text = variable(name).map(OsString::into_string).transpose();
            text.map_err(|_| ConfigError::Value(name, "UTF-8"))
        };
        let set = |name| any(name).map(|text| text.filter(|text| !text.is_empty()));
        let allow_private = set("JWKS_ALLOW_PRIVATE")?.map(|text| text.parse()).transpose();
        let log_level = set("LOG_LEVEL")?.map(|text| text.parse()).transpose();
        Ok(Self {
            table_name: set("TABLE_NAME")?.unwrap_or_else(|| DEFAULT_TABLE.to_owned()),
            backend_url: set("BACKEND_URL")?,
            app_runner_url: set("APP_RUNNER_URL")?,
            bridge_secret: set("BRIDGE_SECRET")?,
            bridge_secret_arn: set("BRIDGE_SECRET_ARN")?,
            jwt_secret: set("JWT_SECRET")?,
            jwt_secret_arn: set("JWT_SECRET_ARN")?,
            jwt_public_key: set("JWT_PUBLIC_KEY")?,
            jwks_url: set("JWKS_URL")?,
            jwks_allow_private: allow_private
                .map_err(|_| ConfigError::Value("JWKS_ALLOW_PRIVATE", "true or false"))?
                .unwrap_or(false),
            jwt_issuer: set("JWT_ISSUER")?,
            jwt_audience: set("JWT_AUDIENCE")?,
            allowed_origins: set("ALLOWED_ORIGINS")?,
            domain_name: set("DOMAIN_NAME")?,
            stage: any("STAGE")?,
            callback_endpoint: set("AWS_ENDPOINT_URL_APIGATEWAYMANAGEMENTAPI")?,
            log_level: log_level
                .map_err(|_| ConfigError::Value("LOG_LEVEL", "error, warn, info, debug or trace"))?
                .unwrap_or(tracing::Level::INFO),
            metrics_namespace: set("METRICS_NAMESPACE")?.unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned()),
            limits: Limits::default(),
        })
    }

    /// The backend's URL. Its path, if any, precedes those of the contract.
    pub(crate) fn backend(&self) -> Result<Url, ConfigError> {
        let url = self.backend_url.as_deref().or(self.app_runner_url.as_deref());
        let url = url.ok_or(ConfigError::Missing("BACKEND_URL (or APP_RUNNER_URL)"))?;
        let url = Url::parse(url).map_err(|_| ConfigError::Url("BACKEND_URL"))?;
        if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
            return Err(ConfigError::Url("BACKEND_URL"));
        }
        Ok(url)
    }

    /// The rules for tokens' claims, besides their times.
    pub(crate) fn claim_rules(&self) -> access::ClaimRules {
        access::ClaimRules { issuer: self.jwt_issuer.clone(), audience: self.jwt_audience.clone() }
    }

    /// Starts logging: JSON lines on stdout, which the Lambda service collects.
    pub fn start_log(&self) {
        let levels = Targets::new()
            .with_default(self.log_level.min(tracing::Level::WARN))
            .with_target("shellbridge_lambda", self.log_level)
            .with_target("websocket_handler", self.log_level);
        let lines = tracing_subscriber::fmt::layer().json().flatten_event(true).with_span_list(false);
        tracing_subscriber::registry().with(lines).with(levels).init();
    }
}

fn refuse_misspelt(names: impl Iterator<Item = String>) -> Result<(), ConfigError> {
    for name in names {
        if let Some(meant) = misspelt(&name, &SETTINGS) {
            return Err(ConfigError::Unknown(name, meant));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, collections::BTreeSet};

    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
        Config::read(|name| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).into()))
    }

    #[test]
    fn an_empty_setting_is_unset_but_an_empty_stage_is_none() {
        let names =
            ["TABLE_NAME", "BACKEND_URL", "JWKS_ALLOW_PRIVATE", "LOG_LEVEL", "METRICS_NAMESPACE", "STAGE"];
        let config = read(&names.map(|name| (name, ""))).unwrap();
        assert_eq!((config.table_name.as_str(), config.backend_url), (DEFAULT_TABLE, None));
        assert_eq!((config.jwks_allow_private, config.log_level), (false, tracing::Level::INFO));
        assert_eq!(
            (config.metrics_namespace.as_str(), config.stage.as_deref()),
            (DEFAULT_NAMESPACE, Some(""))
        );
        assert_eq!(read(&[]).unwrap().stage, None);
    }

    #[test]
    fn an_error_names_the_setting_and_hides_its_value() {
        for (name, value) in [("JWKS_ALLOW_PRIVATE", "perhaps"), ("LOG_LEVEL", "loud")] {
            let error = read(&[(name, value)]).unwrap_err().to_string();
            assert!(error.contains(name) && !error.contains(value), "{error}");
        }
        assert!(read(&[("JWKS_ALLOW_PRIVATE", "true")]).unwrap().jwks_allow_private);
    }

    #[test]
    fn regression_misspelt_names_are_rejected() {
        let check = |name: &str| refuse_misspelt([name.to_owned()].into_iter()).map_err(|e| e.to_string());
        let error = check("ALLOWED_ORIGIN").unwrap_err();
        assert_eq!(error, "ALLOWED_ORIGIN is not a setting; did you mean ALLOWED_ORIGINS?");
        let foreign = ["AWS_LAMBDA_LOG_LEVEL", "AWS_REGION", "_HANDLER", "LD_LIBRARY_PATH", "FRONTEND_URL"];
        for name in SETTINGS.into_iter().chain(foreign) {
            assert_eq!(check(name), Ok(()), "{name}");
        }
    }

    #[test]
    fn the_list_of_names_is_complete() {
        let names = RefCell::new(BTreeSet::new());
        let record = |name: &str| {
            names.borrow_mut().insert(name.to_owned());
            None
        };
        Config::read(record).unwrap();
        let mut names = names.into_inner();
        assert!(names.remove("AWS_ENDPOINT_URL_APIGATEWAYMANAGEMENTAPI"));
        assert_eq!(names, SETTINGS.map(str::to_owned).into());
    }
}
