//! Users' tokens at the backend: verified for the sessions API, and minted for new sessions.

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::Serialize;
use shellbridge_protocol::access::{ClaimRules, Denied, Grant, KeyError, TokenKeys};

use crate::{config::Config, unix_secs};

/// Verifies and mints users' tokens.
pub struct Access {
    keys: TokenKeys,
    rules: ClaimRules,
    mint: Option<(Algorithm, EncodingKey)>,
}

/// Why the keys were refused. The process does not start with them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AccessError {
    /// No key, or more than one kind.
    #[error("set exactly one of JWT_SECRET and JWT_PUBLIC_KEY")]
    OneKey,
    /// The key is not good.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// `JWT_PRIVATE_KEY` is not a private key of the kind of `JWT_PUBLIC_KEY`.
    #[error("JWT_PRIVATE_KEY: not the PEM (PKCS #8) private key of JWT_PUBLIC_KEY")]
    PrivateKey,
}

/// The claims of a minted token.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Minted<'a> {
    sub: &'a str,
    session_id: &'a str,
    exp: i64,
    iat: i64,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    read_only: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    aud: Option<&'a str>,
}

impl Access {
    /// Takes the keys from the settings, and tries them.
    ///
    /// # Errors
    /// What is wrong, in words for whoever set it.
    pub fn new(config: &Config) -> Result<Self, AccessError> {
        let (keys, mint) = match (&config.jwt_secret, &config.jwt_public_key) {
            (Some(secret), None) => {
                let key = EncodingKey::from_secret(secret.as_bytes());
                (TokenKeys::from_secret(secret)?, Some((Algorithm::HS256, key)))
            }
            (None, Some(pem)) => {
                (TokenKeys::from_pem(pem)?, config.jwt_private_key.as_deref().map(private_key).transpose()?)
            }
            _ => return Err(AccessError::OneKey),
        };
        let rules = ClaimRules { issuer: config.jwt_issuer.clone(), audience: config.jwt_audience.clone() };
        let access = Self { keys, rules, mint };
        // A private key of another pair would mint tokens that nobody takes.
        if access.mint.is_some() {
            let token =
                access.mint("user", "session", false, unix_secs() + 60).ok_or(AccessError::PrivateKey)?;
            access.verify(&token, Some("session")).map_err(|_| AccessError::PrivateKey)?;
        }
        Ok(access)
    }

    /// What the token allows for a session.
    pub(crate) fn verify(&self, token: &str, session: Option<&str>) -> Result<Grant, Denied> {
        self.keys.authorize(token, session, &self.rules, unix_secs())
    }

    /// Whether tokens can be minted.
    pub(crate) const fn can_mint(&self) -> bool {
        self.mint.is_some()
    }

    /// A token for one user and one session. None when there is no key to mint with.
    pub(crate) fn mint(&self, user: &str, session: &str, read_only: bool, expires_at: i64) -> Option<String> {
        let (algorithm, key) = self.mint.as_ref()?;
        let claims = Minted {
            sub: user,
            session_id: session,
            exp: expires_at,
            iat: unix_secs(),
            read_only,
            iss: self.rules.issuer.as_deref(),
            aud: self.rules.audience.as_deref(),
        };
        jsonwebtoken::encode(&Header::new(*algorithm), &claims, key)
            .inspect_err(|error| tracing::error!(%error, "a token cannot be minted"))
            .ok()
    }
}

fn private_key(pem: &str) -> Result<(Algorithm, EncodingKey), AccessError> {
    let pem = pem.replace("\\n", "\n");
    let pem = pem.trim().as_bytes();
    EncodingKey::from_rsa_pem(pem)
        .map(|key| (Algorithm::RS256, key))
        .or_else(|_| EncodingKey::from_ec_pem(pem).map(|key| (Algorithm::ES256, key)))
        .or_else(|_| EncodingKey::from_ed_pem(pem).map(|key| (Algorithm::EdDSA, key)))
        .map_err(|_| AccessError::PrivateKey)
}
