//! Every setting, from the environment. An empty one counts as unset, because templates cannot leave one out.

use std::{ffi::OsString, time::Duration};

use shellbridge_protocol::{access, bridge, origin, settings::misspelt};
use tracing_subscriber::{filter::Targets, prelude::*};
use url::Url;

/// The table, unless a setting says otherwise.
const DEFAULT_TABLE: &str = "WebSocketConnections";
/// Where metrics go, unless a setting says otherwise.
const DEFAULT_NAMESPACE: &str = "Shellbridge";

/// The names of all settings but the SDK's own.
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

/// The settings of the function, each the environment variable of its name unless it says otherwise.
#[derive(Debug, Clone)]
pub struct Config {
    /// `DynamoDB` table of the connection records. By default `WebSocketConnections`, as in `template.yaml`.
    pub table_name: String,
    /// Where the backend is. No default: a wrong one would send frames to strangers.
    pub backend_url: Option<String>,
    /// The same, by the name it had when the backend could only run on App Runner.
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
    /// Lets the JWK set come from private addresses and by plain http. Off, because whoever can set the URL
    /// could otherwise reach what only this network can.
    pub jwks_allow_private: bool,
    /// What tokens' `iss` must be. Unset: anything.
    pub jwt_issuer: Option<String>,
    /// What tokens' `aud` must be or contain. Unset: anything.
    pub jwt_audience: Option<String>,
    /// Pages that may open a terminal, separated by commas: `https://app.example.org`,
    /// `https://*.example.org`, or `*` for all. No default: allowing all must be said.
    pub allowed_origins: Option<String>,
    /// Host of the WebSocket API. Unset: as the event says, which is right but for some custom domains.
    pub domain_name: Option<String>,
    /// Its stage; empty for none. Unset: as the event says.
    pub stage: Option<String>,
    /// Where `@connections` is, in place of what domain and stage give: `AWS_ENDPOINT_URL_APIGATEWAYMANAGEMENTAPI`,
    /// the SDK's own variable. The backend reads it too.
    pub callback_endpoint: Option<String>,
    /// `error`, `warn`, `info` (the default), `debug` or `trace`, for this program; libraries never go beyond `warn`, since
    /// they might print headers. Metrics are written in any case; a frame that went well has a line from `debug` on.
    pub log_level: tracing::Level,
    /// Namespace of the metrics, by default `Shellbridge`. Stacks that share a region and an account want one each, or their alarms mix.
    pub metrics_namespace: String,
    /// Not settable from outside; tests are quicker with shorter ones.
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
    /// Until a stored secret is read again though all signatures are good: how long a key that was taken out counts.
    pub keep: Duration,
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
            keep: Duration::from_mins(15),
        }
    }
}

/// Settings that the function must not run with.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Nothing says where something is.
    #[error("{0} is not set")]
    Missing(&'static str),
    /// It has a value that it cannot have.
    #[error("{0} is not {1}")]
    Value(&'static str, &'static str),
    /// Two settings exclude each other.
    #[error("only one of {0} may be set")]
    Several(&'static str),
    /// Anybody who knows one could do what the other is for.
    #[error("BRIDGE_SECRET and JWT_SECRET must differ")]
    SameSecret,
    /// Probably a setting of another name, which would be left at its default.
    #[error("{0} is no setting; did you mean {1}?")]
    Unknown(String, &'static str),
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
    /// The settings of this process. Empty ones count as unset, but for `STAGE`, where empty means none.
    ///
    /// # Errors
    /// A value that is not one of those a setting can have, or a name that is nearly one of a setting.
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
        Config::read(|name| variables.iter().find(|(of, _)| *of == name).map(|(_, value)| (*value).into()))
    }

    #[test]
    fn an_empty_setting_counts_as_unset_but_an_empty_stage_is_none() {
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
    fn a_value_that_cannot_be_is_said_by_name_without_it() {
        for (name, value) in [("JWKS_ALLOW_PRIVATE", "perhaps"), ("LOG_LEVEL", "loud")] {
            let said = read(&[(name, value)]).unwrap_err().to_string();
            assert!(said.contains(name) && !said.contains(value), "{said}");
        }
        assert!(read(&[("JWKS_ALLOW_PRIVATE", "true")]).unwrap().jwks_allow_private);
    }

    #[test]
    fn regression_a_name_that_is_nearly_a_setting_is_refused() {
        let check = |name: &str| refuse_misspelt([name.to_owned()].into_iter()).map_err(|e| e.to_string());
        let said = check("ALLOWED_ORIGIN").unwrap_err();
        assert_eq!(said, "ALLOWED_ORIGIN is no setting; did you mean ALLOWED_ORIGINS?");
        let foreign = ["AWS_LAMBDA_LOG_LEVEL", "AWS_REGION", "_HANDLER", "LD_LIBRARY_PATH", "FRONTEND_URL"];
        for name in SETTINGS.into_iter().chain(foreign) {
            assert_eq!(check(name), Ok(()), "{name}");
        }
    }

    #[test]
    fn the_list_of_names_is_whole() {
        let asked = RefCell::new(BTreeSet::new());
        let noted = |name: &str| {
            asked.borrow_mut().insert(name.to_owned());
            None
        };
        Config::read(noted).unwrap();
        let mut asked = asked.into_inner();
        assert!(asked.remove("AWS_ENDPOINT_URL_APIGATEWAYMANAGEMENTAPI"));
        assert_eq!(asked, SETTINGS.map(str::to_owned).into());
    }
}
