//! The backend's settings, all of them, with their defaults. Each is an environment variable.

use std::{
    ffi::OsString,
    net::{IpAddr, SocketAddr},
    num::NonZeroU32,
};

use clap::{CommandFactory as _, Parser};
use shellbridge_protocol::{
    secret::{self, Unfit},
    settings::misspelt,
};
use url::{Host, Url};

/// Settings that are designed for and not built: of isolation, of several instances, and of other ways in.
const PLANNED: [&str; 7] = [
    "SHELL_SANDBOX",
    "SHELL_IMAGE",
    "SHELL_IMAGES",
    "SHELL_UIDS",
    "REDIS_URL",
    "DIRECT_WEBSOCKET",
    "SOCKET_IO",
];

/// Runs shells for terminals in browsers, behind API Gateway and a Lambda.
// `Debug` is not derived: half of it is secrets.
#[derive(Parser)]
#[command(version)]
pub struct Config {
    /// Port to listen on; 0 takes a free one.
    #[arg(long, env = "PORT", default_value_t = 3001)]
    pub port: u16,
    /// Address to listen on.
    #[arg(long, env = "BIND", default_value = "0.0.0.0")]
    pub bind: IpAddr,
    /// Key shared with the Lambda, at least 32 bytes; during rotation the new and the old one, with a comma between.
    #[arg(long, env = "BRIDGE_SECRET", hide_env_values = true)]
    pub bridge_secret: String,
    /// HS256 key of users' tokens, at least 32 bytes; during rotation the new and the old one, with a comma between: the
    /// first signs, both verify.
    #[arg(long, env = "JWT_SECRET", hide_env_values = true)]
    pub jwt_secret: Option<String>,
    /// PEM public key of users' tokens: RS256, ES256 or `EdDSA`.
    #[arg(long, env = "JWT_PUBLIC_KEY")]
    pub jwt_public_key: Option<String>,
    /// Where the JWK set is that users' tokens are verified with, in place of a key.
    #[arg(long, env = "JWKS_URL")]
    pub jwks_url: Option<String>,
    /// Lets the JWK set come from private addresses and by plain http. Off, because whoever can set the URL could
    /// otherwise reach what only this network can.
    #[arg(long, env = "JWKS_ALLOW_PRIVATE", default_value_t = false, action = clap::ArgAction::Set)]
    pub jwks_allow_private: bool,
    /// PEM private key to mint users' tokens with, when they are not HS256.
    #[arg(long, env = "JWT_PRIVATE_KEY", hide_env_values = true)]
    pub jwt_private_key: Option<String>,
    /// What `iss` of users' tokens must be, and of minted ones is.
    #[arg(long, env = "JWT_ISSUER")]
    pub jwt_issuer: Option<String>,
    /// What `aud` of users' tokens must be, and of minted ones is.
    #[arg(long, env = "JWT_AUDIENCE")]
    pub jwt_audience: Option<String>,
    /// Bearer token of `POST /api/sessions`, at least 32 bytes; during rotation the new and the old one, with a comma
    /// between. Without it, sessions cannot be made there.
    #[arg(long, env = "ADMIN_TOKEN", hide_env_values = true)]
    pub admin_token: Option<String>,
    /// Origins that may use the API from a page: a comma-separated list, as in the Lambda.
    #[arg(long, env = "ALLOWED_ORIGINS")]
    pub allowed_origins: Option<String>,
    /// The same, by its older name.
    #[arg(long, env = "FRONTEND_URL")]
    pub frontend_url: Option<String>,
    /// The only place that frames are pushed to, whatever the Lambda says.
    #[arg(long, env = "CALLBACK_URL")]
    pub callback_url: Option<String>,
    /// `wss://` address of the WebSocket API, for `webSocketUrl`. The page connects there, and to no other host;
    /// without it, to any that the user agrees to.
    #[arg(long, env = "WS_URL")]
    pub ws_url: Option<String>,
    /// This service's own public address, for platforms such as App Runner that give it CPU only while it answers a
    /// request: while a session lives, one request to /api/keep-awake below it is kept under way.
    #[arg(long, env = "KEEP_AWAKE_URL")]
    pub keep_awake_url: Option<String>,
    /// Where `GET /metrics` is answered without `ADMIN_TOKEN`, such as 127.0.0.1:9090: whoever reaches it may read them.
    /// Unset: nowhere.
    #[arg(long, env = "METRICS_BIND")]
    pub metrics_bind: Option<String>,
    /// Output kept for replay, bytes a session.
    #[arg(long, env = "OUTPUT_BUFFER", default_value_t = shellbridge_protocol::limits::OUTPUT_BUFFER)]
    pub output_buffer: usize,
    /// Output sent past a client's acknowledgement, bytes.
    #[arg(long, env = "OUTPUT_WINDOW", default_value_t = shellbridge_protocol::limits::OUTPUT_WINDOW)]
    pub output_window: usize,
    /// Seconds that a shell waits for a lost client rather than lose output.
    #[arg(long, env = "RESUME_GRACE", default_value_t = 60)]
    pub resume_grace: u64,
    /// Seconds that a session lives without a connection.
    #[arg(long, env = "DETACHED_TTL", default_value_t = 900)]
    pub detached_ttl: u64,
    /// Seconds that a session lives at most.
    #[arg(long, env = "MAX_SESSION_TTL", default_value_t = 28_800)]
    pub max_session_ttl: u64,
    /// Frames that one connection may send, a second; as many may come at once.
    #[arg(long, env = "RATE_LIMIT_CONNECTION", default_value = "2000")]
    pub rate_limit_connection: NonZeroU32,
    /// Frames that all connections of one user may send, a second; as many may come at once.
    #[arg(long, env = "RATE_LIMIT_USER", default_value = "20000")]
    pub rate_limit_user: NonZeroU32,
    /// Start a new shell when one ends.
    #[arg(long, env = "SHELL_RESTART", default_value_t = false, action = clap::ArgAction::Set)]
    pub shell_restart: bool,
    /// Let anybody make sessions at `/api/dev/sessions`. Only with a loopback BIND.
    #[arg(long, env = "DEV_SESSIONS", default_value_t = false, action = clap::ArgAction::Set)]
    pub dev_sessions: bool,
}

/// Why the settings do not go together. The process does not start with them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// See [`Config::dev_sessions`].
    #[error("DEV_SESSIONS=true gives shells to everybody: set BIND=127.0.0.1")]
    DevSessions,
    /// Two of the secrets have a key in common.
    #[error("{0} and {1} must differ: whoever holds one could do what the other is for")]
    SameSecret(&'static str, &'static str),
    /// See [`Config::admin_token`].
    #[error("ADMIN_TOKEN: {0}")]
    AdminToken(#[from] Unfit),
    /// See [`Config::metrics_bind`].
    #[error("METRICS_BIND: an address and a port, such as 127.0.0.1:9090")]
    MetricsBind,
    /// A setting that is planned. Left aside, its promise would be believed.
    #[error("{0} is not implemented yet: unset it")]
    NotImplemented(&'static str),
    /// Probably a setting of another name, which would be left at its default.
    #[error("{0} is no setting; did you mean {1}?")]
    Unknown(String, String),
    /// See [`Config::output_buffer`].
    #[error("OUTPUT_WINDOW must be from 32768 to OUTPUT_BUFFER, and OUTPUT_BUFFER at most 67108864")]
    Output,
    /// See [`Config::ws_url`].
    #[error("WS_URL must be a WebSocket address, wss://HOST/STAGE")]
    WsUrl,
}

impl Config {
    /// Takes empty settings as unset, because templates cannot leave one out.
    #[must_use]
    pub fn normalized(mut self) -> Self {
        for setting in [
            &mut self.jwt_secret,
            &mut self.jwt_public_key,
            &mut self.jwks_url,
            &mut self.jwt_private_key,
            &mut self.jwt_issuer,
            &mut self.jwt_audience,
            &mut self.admin_token,
            &mut self.allowed_origins,
            &mut self.frontend_url,
            &mut self.callback_url,
            &mut self.ws_url,
            &mut self.keep_awake_url,
            &mut self.metrics_bind,
        ] {
            setting.take_if(|value| value.is_empty());
        }
        self
    }

    /// Holds what single settings cannot.
    ///
    /// # Errors
    /// What is wrong, in words for whoever set it.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.dev_sessions && !self.bind.is_loopback() {
            return Err(ConfigError::DevSessions);
        }
        let secrets = [
            ("BRIDGE_SECRET", Some(self.bridge_secret.as_str())),
            ("JWT_SECRET", self.jwt_secret.as_deref()),
            ("ADMIN_TOKEN", self.admin_token.as_deref()),
        ];
        for (n, (one, first)) in secrets.into_iter().enumerate() {
            for (other, second) in secrets.into_iter().skip(n + 1) {
                if first.zip(second).is_some_and(|(first, second)| secret::overlap(first, second)) {
                    return Err(ConfigError::SameSecret(one, other));
                }
            }
        }
        self.admin_token.as_deref().map(secret::keys).transpose()?;
        self.metrics_address()?;
        let output = 32_768..=self.output_buffer;
        if !output.contains(&self.output_window) || self.output_buffer > 64 * 1024 * 1024 {
            return Err(ConfigError::Output);
        }
        if self.ws_url.as_deref().is_some_and(|url| socket_source(url).is_none()) {
            return Err(ConfigError::WsUrl);
        }
        Ok(())
    }

    /// Where to serve metrics by themselves, if anywhere.
    pub fn metrics_address(&self) -> Result<Option<SocketAddr>, ConfigError> {
        let bind = self.metrics_bind.as_deref();
        bind.map(|bind| bind.parse().map_err(|_| ConfigError::MetricsBind)).transpose()
    }

    /// Where to listen.
    pub const fn address(&self) -> SocketAddr {
        SocketAddr::new(self.bind, self.port)
    }
}

/// What `connect-src` calls the host of a WebSocket address. `None`: it is no such address.
///
/// A host is letters, digits, `-`, `.` and `*` there (CSP level 3, section 2.3.1). There is no form for an IPv6
/// address, so that one is let through by its scheme.
pub(crate) fn socket_source(ws_url: &str) -> Option<String> {
    let url = Url::parse(ws_url).ok().filter(|url| matches!(url.scheme(), "ws" | "wss"))?;
    let scheme = url.scheme();
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    match url.host()? {
        Host::Ipv6(_) => Some(format!("{scheme}:")),
        Host::Ipv4(address) => Some(format!("{scheme}://{address}{port}")),
        Host::Domain(name) => {
            let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(&byte));
            plain.then(|| format!("{scheme}://{name}{port}"))
        }
    }
}

/// Refuses what the environment sets in vain: settings that are planned, and names that are nearly those of a setting.
///
/// # Errors
/// The name, and which setting was probably meant.
pub fn check_environment(variables: impl Iterator<Item = (OsString, OsString)>) -> Result<(), ConfigError> {
    let command = Config::command();
    let settings: Vec<&str> =
        command.get_arguments().filter_map(|argument| argument.get_env()?.to_str()).collect();
    // Empty counts as unset, because templates cannot leave one out.
    for (name, _) in variables.filter(|(_, value)| !value.is_empty()) {
        let Some(name) = name.to_str() else { continue };
        if let Some(planned) = PLANNED.iter().find(|planned| **planned == name) {
            return Err(ConfigError::NotImplemented(planned));
        }
        if let Some(meant) = misspelt(name, &settings) {
            return Err(ConfigError::Unknown(name.to_owned(), meant.to_owned()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(args: &[&str]) -> Config {
        Config::parse_from(["backend", "--bridge-secret", "b"].iter().chain(args))
    }

    #[test]
    fn the_defaults_go_together() {
        assert_eq!(config(&[]).check(), Ok(()));
    }

    #[test]
    fn an_empty_setting_is_an_unset_one() {
        let config = config(&["--jwt-secret", "", "--admin-token", "", "--allowed-origins", ""]).normalized();
        assert!(config.jwt_secret.is_none() && config.admin_token.is_none());
        assert!(config.allowed_origins.is_none());
    }

    #[test]
    fn dangerous_settings_are_refused() {
        assert_eq!(config(&["--dev-sessions", "true"]).check(), Err(ConfigError::DevSessions));
        assert_eq!(config(&["--dev-sessions", "true", "--bind", "127.0.0.1"]).check(), Ok(()));
        let same = Err(ConfigError::SameSecret("BRIDGE_SECRET", "JWT_SECRET"));
        assert_eq!(config(&["--jwt-secret", "b"]).check(), same);
        assert_eq!(config(&["--admin-token", "short"]).check(), Err(ConfigError::AdminToken(Unfit::Short)));
        assert_eq!(config(&["--metrics-bind", "9090"]).check(), Err(ConfigError::MetricsBind));
        assert_eq!(config(&["--output-buffer", "1000"]).check(), Err(ConfigError::Output));
    }

    #[test]
    fn regression_settings_without_effect_are_refused() {
        let check = |name: &str, value: &str| check_environment([(name.into(), value.into())].into_iter());
        for planned in PLANNED {
            assert_eq!(check(planned, "x"), Err(ConfigError::NotImplemented(planned)));
            assert_eq!(check(planned, ""), Ok(()), "empty is unset");
        }
        let meant = ConfigError::Unknown("MAX_SESION_TTL".to_owned(), "MAX_SESSION_TTL".to_owned());
        assert_eq!(check("MAX_SESION_TTL", "60"), Err(meant));
        let command = Config::command();
        let own = command.get_arguments().filter_map(|argument| argument.get_env()?.to_str());
        // Of a shell's environment, of ECS, of Kubernetes, and the function's, which shares ours in `make run`.
        let foreign = [
            "PATH",
            "SHELL",
            "RUST_LOG",
            "AWS_REGION",
            "AWS_ENDPOINT_URL_APIGATEWAYMANAGEMENTAPI",
            "ECS_CONTAINER_METADATA_URI_V4",
            "BACKEND_PORT",
            "KUBERNETES_SERVICE_PORT",
            "TABLE_NAME",
            "BACKEND_URL",
            "APP_RUNNER_URL",
            "BRIDGE_SECRET_ARN",
            "JWT_SECRET_ARN",
            "DOMAIN_NAME",
            "STAGE",
            "LOG_LEVEL",
            "METRICS_NAMESPACE",
        ];
        for name in own.chain(foreign) {
            assert_eq!(check(name, "x"), Ok(()), "{name}");
        }
    }
}
