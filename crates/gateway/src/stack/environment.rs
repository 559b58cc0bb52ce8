//! Environment of backend and function: inherited variables, and defaults for those not set.

use std::{
    env,
    fs::OpenOptions,
    io::Write as _,
    net::SocketAddr,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use rand::RngExt as _;

use crate::{config::Config, dynamodb::TABLE};

/// Random bytes of a generated secret. Function and backend require at least 32 characters.
const SECRET_BYTES: usize = 36;
/// Each of these configures how tokens are verified. If one is set, no JWT secret is generated.
const VERIFICATION_KEYS: [&str; 5] =
    ["JWT_SECRET", "JWT_PUBLIC_KEY", "JWT_PRIVATE_KEY", "JWKS_URL", "JWT_SECRET_ARN"];

/// Variables to set on top of the inherited ones.
#[derive(Debug)]
pub(super) struct Environment {
    shared: Vec<(String, String)>,
    backend: Vec<(String, String)>,
    function: Vec<(String, String)>,
}

impl Environment {
    /// The variables that connect gateway, function and backend, unless the inherited environment sets them.
    pub(super) fn new(config: &Config, api: SocketAddr, dynamodb: SocketAddr) -> Self {
        let management = format!("http://{api}/{}", config.stage);
        let mut environment = Self { shared: Vec::new(), backend: Vec::new(), function: Vec::new() };
        let Self { shared, backend, function } = &mut environment;
        if VERIFICATION_KEYS.iter().all(|name| unset(name)) {
            default(shared, "JWT_SECRET", secret);
        }
        if unset("BRIDGE_SECRET_ARN") {
            default(shared, "BRIDGE_SECRET", secret);
        }
        default(shared, "AWS_ENDPOINT_URL_APIGATEWAYMANAGEMENTAPI", || management);
        // Set even if inherited, because `--region` decides. boto3 reads only the second name.
        shared.push(("AWS_REGION".to_owned(), config.region.clone()));
        function.push(("AWS_DEFAULT_REGION".to_owned(), config.region.clone()));
        default(shared, "AWS_EC2_METADATA_DISABLED", || "true".to_owned());
        if unset("AWS_PROFILE") && unset("AWS_ACCESS_KEY_ID") {
            default(shared, "AWS_ACCESS_KEY_ID", || "local".to_owned());
            default(shared, "AWS_SECRET_ACCESS_KEY", || "local".to_owned());
            // On AWS a function has its role's credentials, which are temporary and include a token.
            default(function, "AWS_SESSION_TOKEN", || "local".to_owned());
        }
        default(backend, "ADMIN_TOKEN", secret);
        default(backend, "DEV_SESSIONS", || "true".to_owned());
        // All sessions of the page are one developer's.
        default(backend, "MAX_SESSIONS_PER_USER", || "1000".to_owned());
        default(backend, "BIND", || "127.0.0.1".to_owned());
        default(backend, "WS_URL", || websocket_url(config, api));
        default(function, "TABLE_NAME", || TABLE.to_owned());
        default(function, "AWS_ENDPOINT_URL_DYNAMODB", || format!("http://{dynamodb}"));
        environment
    }

    /// Sets the backend's port, and with it the origins of its page.
    pub(super) fn backend_port(&mut self, port: u16) {
        self.backend.retain(|(name, _)| name != "PORT");
        self.backend.push(("PORT".to_owned(), port.to_string()));
        self.shared.retain(|(name, _)| name != "ALLOWED_ORIGINS");
        // The backend reads `FRONTEND_URL` too, the function does not.
        let origins = env::var("FRONTEND_URL").ok().filter(|url| !url.is_empty());
        let origins = origins.unwrap_or_else(|| format!("http://127.0.0.1:{port},http://localhost:{port}"));
        default(&mut self.shared, "ALLOWED_ORIGINS", || origins);
    }

    /// Sets where the backend keeps its sessions' sockets. Not its default place, where one that crashed in another stack
    /// may have left sessions of other secrets.
    pub(super) fn run_dir(&mut self, path: &Path) {
        default(&mut self.backend, "RUN_DIR", || path.display().to_string());
    }

    /// Sets the address at which the function reaches the backend.
    pub(super) fn backend_url(&mut self, url: &str) {
        default(&mut self.function, "BACKEND_URL", || url.to_owned());
    }

    /// Variables for the backend.
    pub(super) fn backend(&self) -> Vec<(String, String)> {
        [self.shared.as_slice(), &self.backend].concat()
    }

    /// Variables for one of several backends, which reaches Redis through a relay.
    pub(super) fn instance(&self, port: u16, run_dir: &Path, redis: SocketAddr) -> Vec<(String, String)> {
        let own = [
            ("PORT", port.to_string()),
            ("RUN_DIR", run_dir.display().to_string()),
            ("REDIS_URL", format!("redis://{redis}")),
            ("INSTANCE_URL", format!("http://127.0.0.1:{port}")),
        ];
        let mut variables = self.backend();
        // The last one of a name holds.
        variables.extend(own.map(|(name, value)| (name.to_owned(), value)));
        variables
    }

    /// Variables for the function.
    pub(super) fn function(&self) -> Vec<(String, String)> {
        [self.shared.as_slice(), &self.function].concat()
    }

    /// Origins of pages that may use the control port.
    pub(super) fn origins(&self) -> Vec<String> {
        let set =
            self.shared.iter().find(|(name, _)| name == "ALLOWED_ORIGINS").map(|(_, value)| value.clone());
        let origins = set.or_else(|| env::var("ALLOWED_ORIGINS").ok()).unwrap_or_default();
        origins
            .split(',')
            .map(|origin| origin.trim().to_owned())
            .filter(|origin| !origin.is_empty())
            .collect()
    }

    /// Writes the function's variables as `NAME=value` lines. Only the owner may read the file, as it holds secrets.
    pub(super) fn write(&self, path: &Path) -> std::io::Result<()> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
        for (name, value) in self.function() {
            writeln!(file, "{name}={value}")?;
        }
        Ok(())
    }
}

/// The address clients connect to.
pub(super) fn websocket_url(config: &Config, api: SocketAddr) -> String {
    let scheme = if config.tls { "wss" } else { "ws" };
    format!("{scheme}://{api}/{}", config.stage)
}

fn unset(name: &str) -> bool {
    env::var_os(name).is_none_or(|value| value.is_empty())
}

fn default(variables: &mut Vec<(String, String)>, name: &str, value: impl FnOnce() -> String) {
    if unset(name) {
        variables.push((name.to_owned(), value()));
    }
}

fn secret() -> String {
    URL_SAFE_NO_PAD.encode(rand::rng().random::<[u8; SECRET_BYTES]>())
}
