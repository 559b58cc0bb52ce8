//! Users' tokens: verifies them for the sessions API, and mints them for new sessions.

use axum::http::{HeaderMap, header};
use jsonwebtoken::{
    Algorithm, EncodingKey, Header,
    jwk::{AlgorithmParameters, Jwk},
};
use serde::Serialize;
use shellbridge_outbound::{Jwks, jwks::FETCH_WITHIN};
use shellbridge_protocol::{
    access::{ClaimRules, Denied, Grant, JwksRefused, KeyError, TokenKeys},
    ids::{SessionId, UserId},
    secret,
    times::UnixSecs,
};

use crate::{clock::unix_secs, config::Config};

/// Verifies and mints users' tokens.
pub struct Access {
    keys: Keys,
    rules: ClaimRules,
    mint: Option<(Algorithm, EncodingKey)>,
}

enum Keys {
    Set(TokenKeys),
    /// With the public half of `JWT_PRIVATE_KEY`, whose `kid` is looked up in the set.
    Remote(Box<Jwks>, Option<AlgorithmParameters>),
}

/// Why the configured keys cannot be used. The process does not start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AccessError {
    /// No source of keys is set, or more than one.
    #[error("set exactly one of JWT_SECRET, JWT_PUBLIC_KEY and JWKS_URL")]
    OneKey,
    /// The key is invalid.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// `JWKS_URL` is invalid or not allowed.
    #[error("JWKS_URL: {0}")]
    Jwks(#[from] JwksRefused),
    /// `JWT_PRIVATE_KEY` is no private key, or does not belong to `JWT_PUBLIC_KEY`.
    #[error("JWT_PRIVATE_KEY: not the PEM (PKCS #8) private key of JWT_PUBLIC_KEY")]
    PrivateKey,
}

/// Why a token was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// It is invalid, expired, or for another session.
    Token(Denied),
    /// No keys are available: the JWK set could not be fetched.
    NoKeys,
}

/// A token to be minted.
pub(crate) struct Mint<'a> {
    pub(crate) user: &'a UserId,
    pub(crate) session: &'a SessionId,
    pub(crate) read_only: bool,
    /// `shellbridgeId`, by which the session recognises it (`sessions/tokens.rs`).
    pub(crate) id: &'a str,
    pub(crate) expires_at: UnixSecs,
}

/// The claims of a minted token.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Minted<'a> {
    sub: &'a UserId,
    session_id: &'a SessionId,
    exp: UnixSecs,
    iat: UnixSecs,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    read_only: bool,
    shellbridge_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    aud: Option<&'a str>,
}

impl Access {
    /// Loads the keys from the settings and checks that they work.
    ///
    /// # Errors
    /// When a key is missing, invalid or of another pair. The message names the setting.
    pub fn new(config: &Config) -> Result<Self, AccessError> {
        let rules = ClaimRules { issuer: config.jwt_issuer.clone(), audience: config.jwt_audience.clone() };
        let private = config.jwt_private_key.as_deref().map(private_key).transpose()?;
        let (keys, mint) = match (&config.jwt_secret, &config.jwt_public_key, &config.jwks_url) {
            (Some(secret), None, None) => {
                let keys = TokenKeys::from_secret(secret)?;
                // The first key signs; the one it replaces only verifies.
                let newest = secret::keys(secret).map_err(KeyError::from)?.into_iter().next();
                let key = EncodingKey::from_secret(newest.unwrap_or_default().as_bytes());
                (Keys::Set(keys), Some((Algorithm::HS256, key)))
            }
            (None, Some(pem), None) => (Keys::Set(TokenKeys::from_pem(pem)?), private),
            (None, None, Some(url)) => {
                let public = private.as_ref().map(public_half).transpose()?;
                let jwks = Jwks::new(url, config.jwks_allow_private, FETCH_WITHIN)?;
                (Keys::Remote(jwks.into(), public), private)
            }
            _ => return Err(AccessError::OneKey),
        };
        let access = Self { keys, rules, mint };
        // A private key of another pair would mint tokens that no verifier accepts. With a JWK set, `mint` checks this
        // instead: the set need not be reachable at start-up.
        if let (Keys::Set(keys), Some((algorithm, _))) = (&access.keys, &access.mint) {
            let now = unix_secs();
            let (user, session) = (&"user".into(), &"session".into());
            let expires_at = now.saturating_add(60);
            let mint = Mint { user, session, read_only: false, id: "id", expires_at };
            let token = access.sign(&Header::new(*algorithm), &mint).ok_or(AccessError::PrivateKey)?;
            keys.authorize(&token, Some("session"), &access.rules, now)
                .map_err(|_| AccessError::PrivateKey)?;
        }
        Ok(access)
    }

    /// Verifies a token and returns what it grants.
    pub(crate) async fn verify(&self, token: &str, session: Option<&str>) -> Result<Grant, Refused> {
        let now = unix_secs();
        let authorize = |keys: &TokenKeys| keys.authorize(token, session, &self.rules, now);
        let verdict = match &self.keys {
            Keys::Set(keys) => authorize(keys),
            // A request without a token must not trigger a fetch.
            Keys::Remote(..) if token.is_empty() => Err(Denied::Missing),
            Keys::Remote(jwks, _) => match authorize(&jwks.keys(false, now).await.ok_or(Refused::NoKeys)?) {
                Err(Denied::UnknownKey) => authorize(&jwks.keys(true, now).await.ok_or(Refused::NoKeys)?),
                verdict => verdict,
            },
        };
        verdict.map_err(Refused::Token)
    }

    /// Whether tokens can be minted.
    pub(crate) const fn can_mint(&self) -> bool {
        self.mint.is_some()
    }

    /// Mints a token for one user and one session. None without a private key, or if its public half is not in the set.
    pub(crate) async fn mint(&self, mint: &Mint<'_>) -> Option<String> {
        let mut header = Header::new(self.mint.as_ref()?.0);
        if let Keys::Remote(jwks, Some(public)) = &self.keys {
            let Some(kid) = jwks.kid_of(public, unix_secs()).await else {
                tracing::error!(
                    "the JWK set lacks the public key of JWT_PRIVATE_KEY: its tokens would be refused"
                );
                return None;
            };
            header.kid = kid;
        }
        self.sign(&header, mint)
    }

    fn sign(&self, header: &Header, mint: &Mint<'_>) -> Option<String> {
        let (_, key) = self.mint.as_ref()?;
        let claims = Minted {
            sub: mint.user,
            session_id: mint.session,
            exp: mint.expires_at,
            iat: unix_secs(),
            read_only: mint.read_only,
            shellbridge_id: mint.id,
            iss: self.rules.issuer.as_deref(),
            aud: self.rules.audience.as_deref(),
        };
        jsonwebtoken::encode(header, &claims, key)
            .inspect_err(|error| tracing::error!(%error, "cannot mint a token"))
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

fn public_half((algorithm, key): &(Algorithm, EncodingKey)) -> Result<AlgorithmParameters, AccessError> {
    Jwk::from_encoding_key(key, *algorithm).map(|jwk| jwk.algorithm).map_err(|_| AccessError::PrivateKey)
}

/// Returns the token of `Authorization: Bearer`.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}
