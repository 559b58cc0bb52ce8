//! Secrets: from the environment, or from where they are kept, read when first needed and again when they
//! seem to have been changed.

use std::{
    sync::{Arc, Mutex as SyncMutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};

use crate::{
    aws::{self, Aws},
    config::{Config, ConfigError, Limits},
};

/// Between two tries while it could not be read at all, because its store limits requests.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Which of the two secrets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Which {
    /// `BRIDGE_SECRET`, one key or two.
    Bridge,
    /// `JWT_SECRET`.
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
            && bridge.split(',').any(|key| key.trim() == jwt)
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
    parameter: String,
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
        let stored = Stored { parameter: parameter(name), which, apart: apart.clone(), aws, limits, parse };
        Self { stored: Some(stored), state: Mutex::new(State { value: None, text: None, read: None }) }
    }

    /// The secret; `None` if it cannot be read now.
    pub(crate) async fn get(&self) -> Option<Arc<T>> {
        let mut state = self.state.lock().await;
        match (&state.value, &self.stored) {
            (None, Some(stored)) if !state.was_read_within(RETRY_AFTER.min(stored.limits.reread)) => {
                state.read(stored).await
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
        let text = match timeout(stored.limits.aws, fetch(stored)).await {
            Ok(Ok(text)) => text,
            Ok(Err(error)) => {
                tracing::error!(parameter = stored.parameter, error, "a secret cannot be read");
                return None;
            }
            Err(_) => {
                tracing::error!(parameter = stored.parameter, "a secret was not read in time");
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
                tracing::error!(parameter = stored.parameter, %error, "a stored secret is of no use");
                None
            }
        }
    }
}

async fn fetch<T>(stored: &Stored<T>) -> Result<String, String> {
    // Made for each reading: there are one or two in the life of a process.
    let config = aws_sdk_ssm::config::Builder::from(stored.aws.config().await)
        .timeout_config(aws::timeouts(&stored.limits))
        .retry_config(aws::repeats());
    let client = aws_sdk_ssm::Client::from_conf(config.build());
    let answer = client.get_parameter().name(&stored.parameter).with_decryption(true).send().await;
    let answer = answer.map_err(|error| error.into_service_error().to_string())?;
    answer.parameter.and_then(|parameter| parameter.value).ok_or_else(|| "it has no value".to_owned())
}

/// The Parameter Store name of a secret. Parameter Store hands out Secrets Manager's secrets too, by name
/// (Systems Manager User Guide, "Referencing AWS Secrets Manager secrets from Parameter Store parameters");
/// their ARNs end in six characters that are not part of the name.
fn parameter(name: &str) -> String {
    let fields: Vec<&str> = name.splitn(7, ':').collect();
    let [_, _, "secretsmanager", _, _, "secret", secret] = *fields.as_slice() else {
        return name.to_owned();
    };
    let name = match secret.rsplit_once('-') {
        Some((name, suffix)) if suffix.len() == 6 => name,
        _ => secret,
    };
    format!("/aws/reference/secretsmanager/{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_client_reads_both_kinds() {
        for (name, read) in [
            ("/shellbridge/jwt", "/shellbridge/jwt"),
            (
                "arn:aws:ssm:eu-west-1:123456789012:parameter/shellbridge/jwt",
                "arn:aws:ssm:eu-west-1:123456789012:parameter/shellbridge/jwt",
            ),
            (
                "arn:aws:secretsmanager:eu-west-1:123456789012:secret:shell/bridge-jwt-a1B2c3",
                "/aws/reference/secretsmanager/shell/bridge-jwt",
            ),
            (
                "arn:aws-cn:secretsmanager:cn-north-1:123456789012:secret:jwt",
                "/aws/reference/secretsmanager/jwt",
            ),
        ] {
            assert_eq!(parameter(name), read);
        }
    }
}
