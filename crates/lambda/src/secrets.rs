//! Secrets from the environment, Parameter Store or Secrets Manager. A stored secret is read on first use, after a
//! failed signature, since it may have been rotated, and periodically, so that a removed key expires.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex as SyncMutex;
use shellbridge_protocol::secret;
use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};

use crate::{
    aws::Aws,
    config::{Config, ConfigError, Limits},
    parameter::Parameters,
};

/// Interval between reads of a secret that has never been read; its store limits the rate.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// One of the two secrets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SecretKind {
    /// `BRIDGE_SECRET`, one key or two.
    Bridge,
    /// `JWT_SECRET`, one key or two.
    Jwt,
}

/// The current texts of both secrets. They must differ: otherwise anyone who knows one could use it as the other.
#[derive(Clone, Default)]
pub(crate) struct DistinctSecrets(Arc<SyncMutex<Texts>>);

#[derive(Default)]
struct Texts {
    bridge: Option<String>,
    jwt: Option<String>,
}

impl DistinctSecrets {
    /// Starts with the secrets in the settings.
    pub(crate) fn new(config: &Config) -> Result<Self, ConfigError> {
        let secrets = Self::default();
        for (kind, text) in
            [(SecretKind::Bridge, &config.bridge_secret), (SecretKind::Jwt, &config.jwt_secret)]
        {
            text.as_deref().map_or(Ok(()), |text| secrets.replace(kind, text))?;
        }
        Ok(secrets)
    }

    /// Replaces a secret, unless it shares a key with the other one.
    fn replace(&self, kind: SecretKind, text: &str) -> Result<(), ConfigError> {
        let mut texts = self.0.lock();
        let (bridge, jwt) = match kind {
            SecretKind::Bridge => (Some(text), texts.jwt.as_deref()),
            SecretKind::Jwt => (texts.bridge.as_deref(), Some(text)),
        };
        if let (Some(bridge), Some(jwt)) = (bridge, jwt)
            && secret::overlap(bridge, jwt)
        {
            return Err(ConfigError::SameSecret);
        }
        let current = match kind {
            SecretKind::Bridge => &mut texts.bridge,
            SecretKind::Jwt => &mut texts.jwt,
        };
        *current = Some(text.to_owned());
        Ok(())
    }
}

/// A secret, parsed into `T`.
pub(crate) struct Secret<T> {
    /// `None` for a secret from the environment, which never changes.
    stored: Option<Stored<T>>,
    state: Mutex<State<T>>,
}

struct Stored<T> {
    name: String,
    kind: SecretKind,
    secrets: DistinctSecrets,
    aws: Aws,
    limits: Limits,
    parse: fn(&str) -> Result<T, ConfigError>,
}

impl<T> Stored<T> {
    fn accept(&self, text: &str) -> Result<T, ConfigError> {
        let value = (self.parse)(text)?;
        self.secrets.replace(self.kind, text)?;
        Ok(value)
    }
}

struct State<T> {
    value: Option<Arc<T>>,
    text: Option<String>,
    read_at: Option<Instant>,
}

impl<T> Secret<T> {
    /// A secret from the environment.
    pub(crate) fn set(value: T) -> Self {
        let state = State { value: Some(Arc::new(value)), text: None, read_at: None };
        Self { stored: None, state: Mutex::new(state) }
    }

    /// A secret in Parameter Store or Secrets Manager, by name or ARN.
    pub(crate) fn stored(
        name: &str,
        (kind, secrets): (SecretKind, &DistinctSecrets),
        aws: Aws,
        limits: Limits,
        parse: fn(&str) -> Result<T, ConfigError>,
    ) -> Self {
        let stored = Stored { name: name.to_owned(), kind, secrets: secrets.clone(), aws, limits, parse };
        Self { stored: Some(stored), state: Mutex::new(State { value: None, text: None, read_at: None }) }
    }

    /// The secret; `None` if it has never been read successfully.
    pub(crate) async fn get(&self) -> Option<Arc<T>> {
        let mut state = self.state.lock().await;
        match (&state.value, &self.stored) {
            (None, Some(stored)) if !state.was_read_within(RETRY_AFTER.min(stored.limits.secret_reread)) => {
                state.read(stored).await
            }
            (Some(_), Some(stored)) if !state.was_read_within(stored.limits.secret_max_age) => {
                // During an outage of the store, the last value stays in use.
                state.read(stored).await.or_else(|| state.value.clone())
            }
            (value, _) => value.clone(),
        }
    }

    /// Reads the secret again and returns it if it has changed. Call after a failed signature.
    pub(crate) async fn changed(&self) -> Option<Arc<T>> {
        let stored = self.stored.as_ref()?;
        let mut state = self.state.lock().await;
        if state.was_read_within(stored.limits.secret_reread) {
            return None;
        }
        state.read(stored).await
    }
}

impl<T> State<T> {
    fn was_read_within(&self, time: Duration) -> bool {
        self.read_at.is_some_and(|read_at| read_at.elapsed() < time)
    }

    /// Reads the secret. Returns `None` if that fails or the secret has not changed.
    async fn read(&mut self, stored: &Stored<T>) -> Option<Arc<T>> {
        self.read_at = Some(Instant::now());
        let text = match timeout(stored.limits.aws, Box::pin(fetch(stored))).await {
            Ok(Ok(text)) => text,
            Ok(Err(error)) => {
                tracing::error!(secret = stored.name, error, "cannot read a secret");
                return None;
            }
            Err(_) => {
                tracing::error!(secret = stored.name, "reading a secret timed out");
                return None;
            }
        };
        if self.text.as_ref() == Some(&text) {
            return None;
        }
        match stored.accept(text.trim_end_matches('\n')) {
            Ok(value) => {
                self.text = Some(text);
                self.value = Some(Arc::new(value));
                self.value.clone()
            }
            Err(error) => {
                tracing::error!(secret = stored.name, %error, "a stored secret is invalid");
                None
            }
        }
    }
}

async fn fetch<T>(stored: &Stored<T>) -> Result<String, String> {
    // Created for each read: a process reads only a few times.
    let store = Parameters::new(&stored.aws, &stored.limits).await.map_err(|error| format!("{error:#}"))?;
    let (likely, other) = parameters(&stored.name);
    match (read(&store, &stored.name, &likely).await, other) {
        (Err(ReadError::NotFound(first)), Some(other)) => {
            let second = read(&store, &stored.name, &other).await;
            second.map_err(|second| format!("{first}; as {other}: {}", second.why()))
        }
        (text, _) => text.map_err(ReadError::why),
    }
}

/// Why a secret was not read.
enum ReadError {
    /// No parameter has that name, or the function may not know.
    NotFound(String),
    /// The parameter may exist.
    Other(String),
}

impl ReadError {
    fn why(self) -> String {
        match self {
            Self::NotFound(why) | Self::Other(why) => why,
        }
    }
}

async fn read(store: &Parameters, name: &str, parameter: &str) -> Result<String, ReadError> {
    let parameter = store.get(parameter).await.map_err(|error| {
        let details = [error.code(), error.message()].into_iter().flatten();
        let why = details.fold(shellbridge_outbound::chain(&error), |why, detail| format!("{why}: {detail}"));
        match error.code() {
            // Without permission to read every secret, Secrets Manager denies access to a missing one.
            Some("ParameterNotFound" | "AccessDeniedException") => ReadError::NotFound(why),
            _ => ReadError::Other(why),
        }
    })?;
    if parameter.arn.as_deref().is_some_and(|arn| is_another_secret(name, arn)) {
        return Err(ReadError::NotFound("the name belongs to another secret".to_owned()));
    }
    parameter.value.ok_or_else(|| ReadError::Other("the parameter has no value".to_owned()))
}

/// The Parameter Store name of a secret, and a second name to try if the first does not exist.
///
/// Parameter Store also serves Secrets Manager's secrets, by name but not by ARN: text after a colon is a version
/// (Systems Manager User Guide, "Referencing AWS Secrets Manager secrets from Parameter Store parameters"). A complete
/// ARN ends in a hyphen and six random characters, a partial ARN in the secret's name. An ARN with such an ending is
/// tried as complete first, as Secrets Manager does (Secrets Manager User Guide, "Troubleshoot AWS Secrets Manager"),
/// then as partial, since a name may end the same way.
fn parameters(name: &str) -> (String, Option<String>) {
    let Some(secret) = secret_name(name) else { return (name.to_owned(), None) };
    let parameter = |secret: &str| format!("/aws/reference/secretsmanager/{secret}");
    match without_suffix(secret) {
        Some(whole) => (parameter(whole), Some(parameter(secret))),
        None => (parameter(secret), None),
    }
}

/// Whether `arn` differs from the requested ARN, complete or partial.
fn is_another_secret(requested: &str, arn: &str) -> bool {
    let both_secrets = secret_name(requested).is_some() && secret_name(arn).is_some();
    both_secrets && arn != requested && without_suffix(arn) != Some(requested)
}

/// The part after `arn:…:secret:`.
fn secret_name(arn: &str) -> Option<&str> {
    let fields: Vec<&str> = arn.splitn(7, ':').collect();
    match *fields.as_slice() {
        [_, _, "secretsmanager", _, _, "secret", secret] => Some(secret),
        _ => None,
    }
}

fn without_suffix(secret: &str) -> Option<&str> {
    let (name, suffix) = secret.rsplit_once('-')?;
    let random = suffix.len() == 6 && suffix.bytes().all(|byte| byte.is_ascii_alphanumeric());
    random.then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_arns_map_to_parameter_names() {
        for (name, likely, other) in [
            ("/shellbridge/jwt", "/shellbridge/jwt", None),
            (
                "arn:aws:ssm:eu-west-1:123456789012:parameter/shellbridge/jwt-a1B2c3",
                "arn:aws:ssm:eu-west-1:123456789012:parameter/shellbridge/jwt-a1B2c3",
                None,
            ),
            (
                "arn:aws:secretsmanager:eu-west-1:123456789012:secret:shell/bridge-jwt-a1B2c3",
                "/aws/reference/secretsmanager/shell/bridge-jwt",
                Some("/aws/reference/secretsmanager/shell/bridge-jwt-a1B2c3"),
            ),
            // Without the six characters.
            (
                "arn:aws-cn:secretsmanager:cn-north-1:123456789012:secret:jwt",
                "/aws/reference/secretsmanager/jwt",
                None,
            ),
            (
                "arn:aws:secretsmanager:eu-west-1:123456789012:secret:bridge-secret",
                "/aws/reference/secretsmanager/bridge",
                Some("/aws/reference/secretsmanager/bridge-secret"),
            ),
            // Not a suffix of Secrets Manager.
            (
                "arn:aws:secretsmanager:eu-west-1:123456789012:secret:bridge-key_v2",
                "/aws/reference/secretsmanager/bridge-key_v2",
                None,
            ),
        ] {
            assert_eq!(parameters(name), (likely.to_owned(), other.map(str::to_owned)));
        }
    }

    #[test]
    fn an_arn_identifies_one_secret() {
        let arn = |secret: &str| format!("arn:aws:secretsmanager:eu-west-1:123456789012:secret:{secret}");
        for (asked, read, another) in [
            (arn("jwt-a1B2c3"), arn("jwt-a1B2c3"), false),
            (arn("jwt"), arn("jwt-a1B2c3"), false),
            (arn("bridge-secret"), arn("bridge-secret-a1B2c3"), false),
            (arn("bridge-secret"), arn("bridge-a1B2c3"), true),
            // Deleted and created again.
            (arn("jwt-a1B2c3"), arn("jwt-d4E5f6"), true),
            (arn("jwt"), arn("jwt-next-a1B2c3"), true),
            (arn("jwt-a1B2c3"), arn("jwt-a1B2c3").replace("eu-west-1", "us-east-1"), true),
            ("/jwt".to_owned(), "arn:aws:ssm:eu-west-1:123456789012:parameter/jwt".to_owned(), false),
            ("/aws/reference/secretsmanager/jwt".to_owned(), arn("jwt-a1B2c3"), false),
        ] {
            assert_eq!(is_another_secret(&asked, &read), another, "{asked} {read}");
        }
    }
}
