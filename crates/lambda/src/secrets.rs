//! Secrets: from the environment, or from where they are kept, read when first needed, again when they seem to have
//! been changed, and now and then, so that a key that was taken out stops counting.

use std::{
    sync::{Arc, Mutex as SyncMutex, PoisonError},
    time::Duration,
};

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

/// Between two tries while it could not be read at all, because its store limits requests.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Which of the two secrets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Which {
    /// `BRIDGE_SECRET`, one key or two.
    Bridge,
    /// `JWT_SECRET`, one key or two.
    Jwt,
}

/// The texts of both secrets as they are in use, wherever they came from: who knows one must not be able to do
/// what the other is for.
#[derive(Clone, Default)]
pub(crate) struct Apart(Arc<SyncMutex<Texts>>);

#[derive(Default)]
struct Texts {
    bridge: Option<String>,
    jwt: Option<String>,
}

impl Apart {
    /// With those that the settings hold.
    pub(crate) fn new(config: &Config) -> Result<Self, ConfigError> {
        let apart = Self::default();
        for (which, text) in [(Which::Bridge, &config.bridge_secret), (Which::Jwt, &config.jwt_secret)] {
            text.as_deref().map_or(Ok(()), |text| apart.take(which, text))?;
        }
        Ok(apart)
    }

    /// Takes a secret into use in place of the one before, unless it is the other.
    fn take(&self, which: Which, text: &str) -> Result<(), ConfigError> {
        let mut texts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (bridge, jwt) = match which {
            Which::Bridge => (Some(text), texts.jwt.as_deref()),
            Which::Jwt => (texts.bridge.as_deref(), Some(text)),
        };
        if let (Some(bridge), Some(jwt)) = (bridge, jwt)
            && secret::overlap(bridge, jwt)
        {
            return Err(ConfigError::SameSecret);
        }
        let own = match which {
            Which::Bridge => &mut texts.bridge,
            Which::Jwt => &mut texts.jwt,
        };
        *own = Some(text.to_owned());
        Ok(())
    }
}

/// A secret in the form it is used in.
pub(crate) struct Secret<T> {
    /// `None` for one that was set directly, which never changes.
    stored: Option<Stored<T>>,
    state: Mutex<State<T>>,
}

struct Stored<T> {
    name: String,
    which: Which,
    apart: Apart,
    aws: Aws,
    limits: Limits,
    parse: fn(&str) -> Result<T, ConfigError>,
}

impl<T> Stored<T> {
    fn take(&self, text: &str) -> Result<T, ConfigError> {
        let value = (self.parse)(text)?;
        self.apart.take(self.which, text)?;
        Ok(value)
    }
}

struct State<T> {
    value: Option<Arc<T>>,
    text: Option<String>,
    read: Option<Instant>,
}

impl<T> Secret<T> {
    /// One that is known.
    pub(crate) fn set(value: T) -> Self {
        let state = State { value: Some(Arc::new(value)), text: None, read: None };
        Self { stored: None, state: Mutex::new(state) }
    }

    /// One that is kept under a name or ARN, in Parameter Store or Secrets Manager.
    pub(crate) fn stored(
        name: &str,
        (which, apart): (Which, &Apart),
        aws: Aws,
        limits: Limits,
        parse: fn(&str) -> Result<T, ConfigError>,
    ) -> Self {
        let stored = Stored { name: name.to_owned(), which, apart: apart.clone(), aws, limits, parse };
        Self { stored: Some(stored), state: Mutex::new(State { value: None, text: None, read: None }) }
    }

    /// The secret; `None` if it cannot be read now.
    pub(crate) async fn get(&self) -> Option<Arc<T>> {
        let mut state = self.state.lock().await;
        match (&state.value, &self.stored) {
            (None, Some(stored)) if !state.was_read_within(RETRY_AFTER.min(stored.limits.reread)) => {
                state.read(stored).await
            }
            (Some(_), Some(stored)) if !state.was_read_within(stored.limits.keep) => {
                // What was read before serves on while the store does not answer.
                state.read(stored).await.or_else(|| state.value.clone())
            }
            (value, _) => value.clone(),
        }
    }

    /// The secret as it is now, if it is another than before. To be asked after a signature failed.
    pub(crate) async fn changed(&self) -> Option<Arc<T>> {
        let stored = self.stored.as_ref()?;
        let mut state = self.state.lock().await;
        if state.was_read_within(stored.limits.reread) {
            return None;
        }
        state.read(stored).await
    }
}

impl<T> State<T> {
    fn was_read_within(&self, time: Duration) -> bool {
        self.read.is_some_and(|read| read.elapsed() < time)
    }

    /// Reads it; `None` when that fails or it is what it was.
    async fn read(&mut self, stored: &Stored<T>) -> Option<Arc<T>> {
        self.read = Some(Instant::now());
        let text = match timeout(stored.limits.aws, Box::pin(fetch(stored))).await {
            Ok(Ok(text)) => text,
            Ok(Err(error)) => {
                tracing::error!(secret = stored.name, error, "a secret cannot be read");
                return None;
            }
            Err(_) => {
                tracing::error!(secret = stored.name, "a secret was not read in time");
                return None;
            }
        };
        if self.text.as_ref() == Some(&text) {
            return None;
        }
        match stored.take(text.trim_end_matches('\n')) {
            Ok(value) => {
                self.text = Some(text);
                self.value = Some(Arc::new(value));
                self.value.clone()
            }
            Err(error) => {
                tracing::error!(secret = stored.name, %error, "a stored secret is of no use");
                None
            }
        }
    }
}

async fn fetch<T>(stored: &Stored<T>) -> Result<String, String> {
    // Made for each reading: there are one or two in the life of a process.
    let store = Parameters::new(&stored.aws, &stored.limits).await.map_err(|error| format!("{error:#}"))?;
    let (likely, other) = parameters(&stored.name);
    match (read(&store, &stored.name, &likely).await, other) {
        (Err(Unread::NotThere(first)), Some(other)) => {
            let second = read(&store, &stored.name, &other).await;
            second.map_err(|second| format!("{first}; as {other}: {}", second.why()))
        }
        (text, _) => text.map_err(Unread::why),
    }
}

/// Why a parameter gave no text.
enum Unread {
    /// There is none of that name, or it is not for us to know.
    NotThere(String),
    /// It may be there.
    Failed(String),
}

impl Unread {
    fn why(self) -> String {
        match self {
            Self::NotThere(why) | Self::Failed(why) => why,
        }
    }
}

async fn read(store: &Parameters, name: &str, parameter: &str) -> Result<String, Unread> {
    let parameter = store.get(parameter).await.map_err(|error| {
        let said = [error.code(), error.message()].into_iter().flatten();
        let why = said.fold(shellbridge_outbound::chain(&error), |why, said| format!("{why}: {said}"));
        match error.code() {
            // Secrets Manager says the second of what is not there, too, to whom may not read everything.
            Some("ParameterNotFound" | "AccessDeniedException") => Unread::NotThere(why),
            _ => Unread::Failed(why),
        }
    })?;
    if parameter.arn.as_deref().is_some_and(|arn| is_another_secret(name, arn)) {
        return Err(Unread::NotThere("that name is another secret's".to_owned()));
    }
    parameter.value.ok_or_else(|| Unread::Failed("it has no value".to_owned()))
}

/// The Parameter Store name of a secret, and the one it has if that is not there.
///
/// Parameter Store hands out Secrets Manager's secrets too, by name and not by ARN: what follows a colon is a version
/// (Systems Manager User Guide, "Referencing AWS Secrets Manager secrets from Parameter Store parameters"). Their ARNs
/// end in a hyphen and six characters that are not part of the name, unless they are partial ARNs. One that ends so
/// is taken for a whole one first, as Secrets Manager does it (Secrets Manager User Guide, "Troubleshoot AWS Secrets
/// Manager"); but a partial ARN of a name that ends so is no other.
fn parameters(name: &str) -> (String, Option<String>) {
    let Some(secret) = named(name) else { return (name.to_owned(), None) };
    let parameter = |secret: &str| format!("/aws/reference/secretsmanager/{secret}");
    match without_suffix(secret) {
        Some(whole) => (parameter(whole), Some(parameter(secret))),
        None => (parameter(secret), None),
    }
}

/// Whether a secret's ARN is not the one that was asked for, whole or partial.
fn is_another_secret(asked: &str, arn: &str) -> bool {
    let both_secrets = named(asked).is_some() && named(arn).is_some();
    both_secrets && arn != asked && without_suffix(arn) != Some(asked)
}

/// What follows `arn:…:secret:`.
fn named(arn: &str) -> Option<&str> {
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
    fn one_client_reads_both_kinds() {
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
            // Not what Secrets Manager adds.
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
    fn an_arn_is_of_one_secret() {
        let arn = |secret: &str| format!("arn:aws:secretsmanager:eu-west-1:123456789012:secret:{secret}");
        for (asked, read, another) in [
            (arn("jwt-a1B2c3"), arn("jwt-a1B2c3"), false),
            (arn("jwt"), arn("jwt-a1B2c3"), false),
            (arn("bridge-secret"), arn("bridge-secret-a1B2c3"), false),
            (arn("bridge-secret"), arn("bridge-a1B2c3"), true),
            // Deleted, and made anew.
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
