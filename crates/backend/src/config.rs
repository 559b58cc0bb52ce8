//! All settings of the backend and their defaults. Each is an environment variable.

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

use crate::launcher::{BadLimits, Limits, Sandbox};

/// Planned settings that have no effect yet: other transports.
const PLANNED: [&str; 2] = ["DIRECT_WEBSOCKET", "SOCKET_IO"];

/// Runs shells for browser terminals behind API Gateway and a Lambda function.
// No `Debug`: many settings are secrets.
#[derive(Parser)]
#[command(version)]
pub struct Config {
    /// Run a small process that starts the backend, starts it again when it crashes, and reaps orphans: for process 1 of
    /// a container.
    #[arg(long)]
    pub init: bool,
    /// Set by `--init` instead of itself.
    #[arg(long, hide = true)]
    pub below_init: bool,
    /// Port to listen on; 0 picks a free one.
    #[arg(long, env = "PORT", default_value_t = 3001)]
    pub port: u16,
    /// Address to listen on.
    #[arg(long, env = "BIND", default_value = "0.0.0.0")]
    pub bind: IpAddr,
    /// Key shared with the Lambda, at least 32 bytes; during rotation the new and the old one, separated by a comma.
    #[arg(long, env = "BRIDGE_SECRET", hide_env_values = true)]
    pub bridge_secret: String,
    /// HS256 key of users' tokens, at least 32 bytes; during rotation the new and the old one, separated by a comma:
    /// the first signs, both verify.
    #[arg(long, env = "JWT_SECRET", hide_env_values = true)]
    pub jwt_secret: Option<String>,
    /// PEM public key of users' tokens: RS256, ES256 or `EdDSA`.
    #[arg(long, env = "JWT_PUBLIC_KEY")]
    pub jwt_public_key: Option<String>,
    /// URL of the JWK set that verifies users' tokens, instead of a key.
    #[arg(long, env = "JWKS_URL")]
    pub jwks_url: Option<String>,
    /// Allow a JWK set at a private address or over plain http. Off by default: anyone who sets the URL could otherwise
    /// reach hosts that only this network can.
    #[arg(long, env = "JWKS_ALLOW_PRIVATE", default_value_t = false, action = clap::ArgAction::Set)]
    pub jwks_allow_private: bool,
    /// PEM private key that signs minted tokens, unless they use HS256.
    #[arg(long, env = "JWT_PRIVATE_KEY", hide_env_values = true)]
    pub jwt_private_key: Option<String>,
    /// Required `iss` of users' tokens, and `iss` of minted ones.
    #[arg(long, env = "JWT_ISSUER")]
    pub jwt_issuer: Option<String>,
    /// Required `aud` of users' tokens, and `aud` of minted ones.
    #[arg(long, env = "JWT_AUDIENCE")]
    pub jwt_audience: Option<String>,
    /// Bearer token of `POST /api/sessions`, at least 32 bytes; during rotation the new and the old one, separated by a
    /// comma. Without it, that endpoint refuses every request.
    #[arg(long, env = "ADMIN_TOKEN", hide_env_values = true)]
    pub admin_token: Option<String>,
    /// Origins of pages that may use the API: a comma-separated list, as in the Lambda.
    #[arg(long, env = "ALLOWED_ORIGINS")]
    pub allowed_origins: Option<String>,
    /// Older name of `ALLOWED_ORIGINS`.
    #[arg(long, env = "FRONTEND_URL")]
    pub frontend_url: Option<String>,
    /// The only URL that frames are pushed to, whatever the Lambda names.
    #[arg(long, env = "CALLBACK_URL")]
    pub callback_url: Option<String>,
    /// `wss://` URL of the WebSocket API, returned as `webSocketUrl`. The page may connect to this host only; without
    /// it, to any host that the user confirms.
    #[arg(long, env = "WS_URL")]
    pub ws_url: Option<String>,
    /// Public URL of this service, for platforms such as App Runner that provide CPU only during requests: while a
    /// session exists, the backend keeps one request to its own /api/keep-awake in flight.
    #[arg(long, env = "KEEP_AWAKE_URL")]
    pub keep_awake_url: Option<String>,
    /// Address that serves `GET /metrics` without `ADMIN_TOKEN`, such as 127.0.0.1:9090. Anyone who reaches it can read
    /// them. Unset: none.
    #[arg(long, env = "METRICS_BIND")]
    pub metrics_bind: Option<String>,
    /// Namespace of the `CloudWatch` metric `Sessions`, logged to stdout once a minute. Unset: not logged.
    #[arg(long, env = "METRICS_NAMESPACE")]
    pub metrics_namespace: Option<String>,
    /// Directory, with mode 0700, of the sockets of sessions' host processes, of one backend at a time. A backend that
    /// starts with the directory of one that crashed takes over its sessions. Default: `shellbridge` below
    /// `XDG_RUNTIME_DIR`, or else `shellbridge-UID` below /run or /tmp.
    #[arg(long, env = "RUN_DIR")]
    pub run_dir: Option<String>,
    /// Program of the sessions' host processes. Default: `session-host` beside this program.
    #[arg(long, env = "SESSION_HOST")]
    pub session_host: Option<String>,
    /// How sessions are kept apart: `none` (all shells run as the backend's user), `user` (each session has its own user)
    /// or `container` (each session has its own container).
    #[arg(long, env = "SHELL_SANDBOX", default_value = "none")]
    pub shell_sandbox: Sandbox,
    /// Range of user ids for sessions, FIRST-LAST, with `SHELL_SANDBOX=user`. No account and no other program may use them.
    #[arg(long, env = "SHELL_UIDS", default_value = "20000-29999")]
    pub shell_uids: String,
    /// Directory of sessions' homes, with `SHELL_SANDBOX=user`, of one backend at a time. Default: /home/sessions.
    #[arg(long, env = "SHELL_HOMES")]
    pub shell_homes: Option<String>,
    /// Address of the container engine, Docker or podman, with `SHELL_SANDBOX=container`: `unix://PATH` or
    /// `http://HOST:PORT`.
    #[arg(long, env = "DOCKER_HOST", default_value = "unix:///var/run/docker.sock")]
    pub docker_host: String,
    /// Image of sessions' containers, with `SHELL_SANDBOX=container`.
    #[arg(long, env = "SHELL_IMAGE")]
    pub shell_image: Option<String>,
    /// Images that a session may name in place of `SHELL_IMAGE`, separated by commas.
    #[arg(long, env = "SHELL_IMAGES")]
    pub shell_images: Option<String>,
    /// Network of sessions' containers: `none`, or the name of one that exists.
    #[arg(long, env = "SHELL_NETWORK", default_value = "none")]
    pub shell_network: String,
    /// Limits of a session that names none: memoryMb=N,cpus=N,pids=N,diskMb=N, each optional.
    #[arg(long, env = "SHELL_LIMITS", default_value = "memoryMb=512,cpus=1,pids=256,diskMb=512")]
    pub shell_limits: Limits,
    /// Limits that no session may exceed, in the same form. Default: `SHELL_LIMITS`.
    #[arg(long, env = "SHELL_LIMITS_MAX")]
    pub shell_limits_max: Option<Limits>,
    /// Sessions that one user may have at once.
    #[arg(long, env = "MAX_SESSIONS_PER_USER", default_value = "20")]
    pub max_sessions_per_user: NonZeroU32,
    /// Redis that several instances share, redis:// or rediss:// with user and password. Unset: this is the only instance.
    #[arg(long, env = "REDIS_URL", hide_env_values = true)]
    pub redis_url: Option<String>,
    /// URL by which other instances reach this one. Default on ECS: the task's private address and `PORT`.
    #[arg(long, env = "INSTANCE_URL")]
    pub instance_url: Option<String>,
    /// Name of the release. An instance creates no sessions while one of a release that appeared later is present.
    /// Default: the version.
    #[arg(long, env = "RELEASE")]
    pub release: Option<String>,
    /// Seconds that sessions live on once an instance of a newer release is present.
    #[arg(long, env = "DRAIN_MAX", default_value_t = 9_000)]
    pub drain_max: u64,
    /// Bytes of output kept per session for replay.
    #[arg(long, env = "OUTPUT_BUFFER", default_value_t = shellbridge_protocol::limits::OUTPUT_BUFFER)]
    pub output_buffer: usize,
    /// Bytes of output sent beyond a client's last acknowledgement.
    #[arg(long, env = "OUTPUT_WINDOW", default_value_t = shellbridge_protocol::limits::OUTPUT_WINDOW)]
    pub output_window: usize,
    /// Seconds that a shell is paused for a lost client before output is dropped.
    #[arg(long, env = "RESUME_GRACE", default_value_t = 60)]
    pub resume_grace: u64,
    /// Seconds that a session lives without a connection, or without a backend.
    #[arg(long, env = "DETACHED_TTL", default_value_t = 900)]
    pub detached_ttl: u64,
    /// Maximum lifetime of a session, in seconds.
    #[arg(long, env = "MAX_SESSION_TTL", default_value_t = 28_800)]
    pub max_session_ttl: u64,
    /// Frames per second from one connection; also the burst.
    #[arg(long, env = "RATE_LIMIT_CONNECTION", default_value = "2000")]
    pub rate_limit_connection: NonZeroU32,
    /// Frames per second from all connections of one user; also the burst.
    #[arg(long, env = "RATE_LIMIT_USER", default_value = "20000")]
    pub rate_limit_user: NonZeroU32,
    /// Start a new shell when one exits.
    #[arg(long, env = "SHELL_RESTART", default_value_t = false, action = clap::ArgAction::Set)]
    pub shell_restart: bool,
    /// Allow anyone to create sessions at `/api/dev/sessions`. Requires a loopback BIND.
    #[arg(long, env = "DEV_SESSIONS", default_value_t = false, action = clap::ArgAction::Set)]
    pub dev_sessions: bool,
}

/// Why the settings are invalid. The process does not start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// See [`Config::dev_sessions`].
    #[error("DEV_SESSIONS=true gives a shell to anyone: set BIND=127.0.0.1")]
    DevSessions,
    /// Two secrets share a key.
    #[error("{0} and {1} must differ: a holder of one could otherwise use it as the other")]
    SameSecret(&'static str, &'static str),
    /// See [`Config::admin_token`].
    #[error("ADMIN_TOKEN: {0}")]
    AdminToken(#[from] Unfit),
    /// See [`Config::metrics_bind`].
    #[error("METRICS_BIND must be an address and a port, such as 127.0.0.1:9090")]
    MetricsBind,
    /// A planned setting. Ignoring it would suggest that it is in effect.
    #[error("{0} is not implemented yet: unset it")]
    NotImplemented(&'static str),
    /// Probably a misspelt setting, which would silently keep its default.
    #[error("{0} is not a setting; did you mean {1}?")]
    Unknown(String, String),
    /// See [`Config::output_buffer`].
    #[error("OUTPUT_WINDOW must be from 32768 to OUTPUT_BUFFER, and OUTPUT_BUFFER at most 67108864")]
    Output,
    /// See [`Config::shell_limits`].
    #[error("SHELL_LIMITS is above SHELL_LIMITS_MAX: {0}")]
    ShellLimits(BadLimits),
    /// See [`Config::shell_image`].
    #[error("SHELL_SANDBOX=container needs SHELL_IMAGE")]
    NoImage,
    /// See [`Config::shell_network`].
    #[error(
        "SHELL_NETWORK must be `none` or the name of a network: shells would reach the backend's own ports"
    )]
    Network,
    /// See [`Config::ws_url`].
    #[error("WS_URL must be a WebSocket URL, wss://HOST/STAGE")]
    WsUrl,
}

impl Config {
    /// Treats empty settings as unset, because templates cannot omit one.
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
            &mut self.metrics_namespace,
            &mut self.run_dir,
            &mut self.session_host,
            &mut self.redis_url,
            &mut self.instance_url,
            &mut self.release,
            &mut self.shell_homes,
            &mut self.shell_image,
            &mut self.shell_images,
        ] {
            setting.take_if(|value| value.is_empty());
        }
        self
    }

    /// Checks the settings, alone and against each other.
    ///
    /// # Errors
    /// The first invalid setting. The message names it.
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
        let (default, max) = self.shell_limits();
        Limits::default().within(default, max).map_err(ConfigError::ShellLimits)?;
        if self.shell_sandbox == Sandbox::Container {
            if self.shell_image.is_none() {
                return Err(ConfigError::NoImage);
            }
            if self.shell_network == "host" || self.shell_network.starts_with("container:") {
                return Err(ConfigError::Network);
            }
        }
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

    /// Address of the separate metrics listener, if any.
    pub fn metrics_address(&self) -> Result<Option<SocketAddr>, ConfigError> {
        let bind = self.metrics_bind.as_deref();
        bind.map(|bind| bind.parse().map_err(|_| ConfigError::MetricsBind)).transpose()
    }

    /// Limits of a session that names none, and the maxima.
    pub(crate) fn shell_limits(&self) -> (Limits, Limits) {
        (self.shell_limits, self.shell_limits_max.unwrap_or(self.shell_limits))
    }

    /// All addresses to listen on: [`Config::address`], then [`Config::metrics_address`].
    ///
    /// # Errors
    /// When one is invalid.
    pub fn addresses(&self) -> Result<Vec<SocketAddr>, ConfigError> {
        Ok(std::iter::once(self.address()).chain(self.metrics_address()?).collect())
    }

    /// Address to listen on.
    pub const fn address(&self) -> SocketAddr {
        SocketAddr::new(self.bind, self.port)
    }
}

/// The `connect-src` source of a WebSocket URL. `None` if it is not such a URL.
///
/// There a host consists of letters, digits, `-`, `.` and `*` (CSP level 3, section 2.3.1). IPv6 addresses have no
/// form, so the source of one is its scheme alone.
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

/// Refuses variables without effect: planned settings, and misspelt names of settings.
///
/// # Errors
/// Names the variable and, if misspelt, the setting that was probably meant.
pub fn check_environment(variables: impl Iterator<Item = (OsString, OsString)>) -> Result<(), ConfigError> {
    let command = Config::command();
    let settings: Vec<&str> =
        command.get_arguments().filter_map(|argument| argument.get_env()?.to_str()).collect();
    // Empty counts as unset, because templates cannot omit a variable.
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
    fn defaults_are_valid() {
        assert_eq!(config(&[]).check(), Ok(()));
    }

    #[test]
    fn empty_settings_count_as_unset() {
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
        // From a shell, ECS, Kubernetes, and the function, which shares the environment in `make run`.
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
