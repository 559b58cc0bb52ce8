//! Users' tokens: the keys that verify them, and what a verified token permits.

use jsonwebtoken::{
    Algorithm, DecodingKey, Validation,
    errors::ErrorKind,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, PublicKeyUse},
};
use serde::Deserialize;

pub use jwks::{JwksPolicy, JwksRefused, MAX_JWKS};

use crate::{
    ErrorCode,
    ids::{SessionId, UserId},
    limits::TOKEN_LEEWAY,
    secret::{self, Unfit},
    times::{UnixMs, UnixSecs},
};

mod jwks;

/// Longest token accepted. API Gateway allows URLs of 4,096 characters; headers may be longer.
const MAX_TOKEN: usize = 8_192;
/// Longest session id.
const MAX_SESSION_ID: usize = 128;
/// Keys used of a JWK set; further ones are ignored.
const MAX_KEYS: usize = 32;

/// The keys that verify users' tokens. Each key has exactly one algorithm, so that a public key is never used as an HMAC
/// secret.
#[derive(Clone)]
pub struct TokenKeys(Vec<TokenKey>);

#[derive(Clone)]
struct TokenKey {
    id: Option<String>,
    key: DecodingKey,
    algorithm: Algorithm,
}

/// Why a key is invalid. The process does not start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// `JWT_SECRET` is too weak.
    #[error("JWT_SECRET: {0}")]
    Secret(#[from] Unfit),
    /// `JWT_PUBLIC_KEY` is not a PEM public key of RSA, P-256 or Ed25519.
    #[error("JWT_PUBLIC_KEY: not a PEM public key of RSA, EC P-256 or Ed25519")]
    Pem,
    /// The document is not a JWK set, or contains no usable verification key.
    #[error("JWKS: {0}")]
    Jwks(&'static str),
}

/// Requirements on claims other than times.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClaimRules {
    /// `JWT_ISSUER`: the required `iss`.
    pub issuer: Option<String>,
    /// `JWT_AUDIENCE`: `aud` must equal or contain it.
    pub audience: Option<String>,
}

/// What a verified token permits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The requested session.
    pub session_id: SessionId,
    /// `sub`, or `userId`.
    pub user_id: UserId,
    /// `username`.
    pub username: Option<String>,
    /// Whether the token is view-only.
    pub read_only: bool,
    /// Whether the token itself names the session. A view-only token of another user opens a session only if so.
    pub names_session: bool,
    /// `exp`.
    pub expires_at: UnixSecs,
    /// `shellbridgeId`: identifies a token that the backend minted. Opaque here.
    pub token_id: Option<String>,
}

impl Grant {
    /// Whether the token opens a session owned by `owner`.
    pub fn opens(&self, owner: &UserId) -> bool {
        may_open(&self.user_id, self.read_only, self.names_session, owner)
    }
}

/// The rule of [`Grant::opens`], for a connection whose token has been verified earlier.
pub fn may_open(user_id: &UserId, read_only: bool, names_session: bool, owner: &UserId) -> bool {
    user_id == owner || (read_only && names_session)
}

/// When a token whose `exp` is `expires_at` stops being valid, leeway included. Every check of a token's expiry uses this,
/// so that a handshake accepted at the last moment is not cut by the next check.
pub const fn valid_until(expires_at: UnixSecs) -> UnixMs {
    // `exp` has no fraction, so its whole second is valid.
    expires_at.saturating_add(TOKEN_LEEWAY + 1).ms()
}

/// Why a token does not open a session. A retry helps only for [`Denied::UnknownKey`], after fetching the key set again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// Neither the request nor the token names a session, or the name is not a session id.
    #[error("no session is named")]
    NoSession,
    /// There is no token.
    #[error("no token")]
    Missing,
    /// Not a JWT, or a required claim is missing.
    #[error("the token is malformed")]
    Malformed,
    /// Unsigned, signed with another key, or with another algorithm.
    #[error("the token's signature is not valid")]
    Signature,
    /// No known key set contains its `kid`; a newer set may.
    #[error("unknown token key")]
    UnknownKey,
    /// Past `exp`.
    #[error("the token has expired")]
    Expired,
    /// Before `nbf`.
    #[error("the token is not valid yet")]
    Early,
    /// `iss` or `aud` of another service.
    #[error("the token is for another service")]
    Elsewhere,
    /// The token names another session.
    #[error("the token is for another session")]
    OtherSession,
}

impl Denied {
    /// Status of the rejected handshake.
    pub const fn status(self) -> u16 {
        match self {
            Self::NoSession => 400,
            Self::OtherSession => 403,
            _ => 401,
        }
    }

    /// Error code in frames, HTTP bodies and diagnostics.
    pub const fn code(self) -> ErrorCode {
        match self {
            Self::NoSession => ErrorCode::SessionInvalid,
            Self::Missing => ErrorCode::MissingAuth,
            Self::Expired => ErrorCode::TokenExpired,
            Self::OtherSession => ErrorCode::Forbidden,
            Self::Malformed | Self::Signature | Self::UnknownKey | Self::Early | Self::Elsewhere => {
                ErrorCode::Unauthorized
            }
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Claims {
    sub: Option<String>,
    user_id: Option<String>,
    exp: f64,
    nbf: Option<f64>,
    iss: Option<String>,
    aud: Option<OneOrMany>,
    session_id: Option<String>,
    #[serde(default)]
    read_only: Option<bool>,
    username: Option<String>,
    shellbridge_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl std::fmt::Debug for TokenKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|key| (&key.id, key.algorithm))).finish()
    }
}

impl TokenKeys {
    /// HS256 with a shared secret (`JWT_SECRET`): one key, or the new and the old key during rotation.
    pub fn from_secret(secret: &str) -> Result<Self, KeyError> {
        let key = |key: &str| TokenKey {
            id: None,
            key: DecodingKey::from_secret(key.as_bytes()),
            algorithm: Algorithm::HS256,
        };
        Ok(Self(secret::keys(secret)?.into_iter().map(key).collect()))
    }

    /// RS256, ES256 or `EdDSA`, depending on the type of the PEM public key (`JWT_PUBLIC_KEY`).
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        // Settings on one line contain line breaks as \n.
        let pem = pem.replace("\\n", "\n");
        let pem = pem.trim().as_bytes();
        let (key, algorithm) = DecodingKey::from_rsa_pem(pem)
            .map(|key| (key, Algorithm::RS256))
            .or_else(|_| DecodingKey::from_ec_pem(pem).map(|key| (key, Algorithm::ES256)))
            .or_else(|_| DecodingKey::from_ed_pem(pem).map(|key| (key, Algorithm::EdDSA)))
            .map_err(|_| KeyError::Pem)?;
        Ok(Self(vec![TokenKey { id: None, key, algorithm }]))
    }

    /// The verification keys of a JWK set (RFC 7517). Ignores keys of other types.
    pub fn from_jwks(json: &[u8]) -> Result<Self, KeyError> {
        let set: JwkSet = serde_json::from_slice(json).map_err(|_| KeyError::Jwks("not a JWK set"))?;
        let keys: Vec<_> = set.keys.iter().take(MAX_KEYS).filter_map(verifying_key).collect();
        if keys.is_empty() {
            Err(KeyError::Jwks("no RSA, P-256 or Ed25519 key for signatures"))
        } else {
            Ok(Self(keys))
        }
    }

    /// Verifies a token and returns what it permits in `session`, the session that the request names. Time claims have a
    /// leeway of 30 s.
    ///
    /// # Errors
    /// See [`Denied`].
    pub fn authorize(
        &self,
        token: &str,
        session: Option<&str>,
        rules: &ClaimRules,
        now: UnixSecs,
    ) -> Result<Grant, Denied> {
        let claims = self.verified(token)?;
        #[expect(
            clippy::cast_possible_truncation,
            reason = "`as` saturates, and years beyond i64 do not matter"
        )]
        let secs = |number: f64| UnixSecs(number as i64);
        let (expires_at, not_before) = (secs(claims.exp), claims.nbf.map(secs));
        if now.ms() >= valid_until(expires_at) {
            return Err(Denied::Expired);
        }
        if not_before.is_some_and(|nbf| nbf.saturating_sub(TOKEN_LEEWAY) > now) {
            return Err(Denied::Early);
        }
        if rules.issuer.is_some() && claims.iss != rules.issuer {
            return Err(Denied::Elsewhere);
        }
        let in_audience = |audience: &String| match &claims.aud {
            Some(OneOrMany::One(one)) => one == audience,
            Some(OneOrMany::Many(many)) => many.contains(audience),
            None => false,
        };
        if !rules.audience.as_ref().is_none_or(in_audience) {
            return Err(Denied::Elsewhere);
        }
        let user_id =
            claims.sub.or(claims.user_id).filter(|user| !user.is_empty()).ok_or(Denied::Malformed)?.into();
        let names_session = claims.session_id.is_some();
        let session_id: SessionId = match (session, claims.session_id) {
            (Some(asked), Some(named)) if asked != named => return Err(Denied::OtherSession),
            (Some(session), _) => session.into(),
            (None, Some(named)) => named.into(),
            (None, None) => return Err(Denied::NoSession),
        };
        if session_id.is_empty() || session_id.len() > MAX_SESSION_ID {
            return Err(Denied::NoSession);
        }
        Ok(Grant {
            session_id,
            user_id,
            username: claims.username,
            read_only: claims.read_only.unwrap_or(false),
            names_session,
            expires_at,
            token_id: claims.shellbridge_id,
        })
    }

    fn verified(&self, token: &str) -> Result<Claims, Denied> {
        if token.is_empty() {
            return Err(Denied::Missing);
        }
        if token.len() > MAX_TOKEN {
            return Err(Denied::Malformed);
        }
        // `alg: none` and unknown algorithms fail here.
        let header = jsonwebtoken::decode_header(token).map_err(|_| Denied::Malformed)?;
        // RFC 7515, section 4.1.11: a critical extension that is not understood invalidates the token.
        if header.crit.is_some() {
            return Err(Denied::Malformed);
        }
        let named: Vec<_> = self.0.iter().filter(|key| key.id.is_none() || key.id == header.kid).collect();
        if named.is_empty() {
            return Err(Denied::UnknownKey);
        }
        let mut denied = Denied::Signature;
        for TokenKey { key, algorithm, .. } in named {
            let mut validation = Validation::new(*algorithm);
            // `authorize` checks times and audience, against the caller's clock and rules.
            validation.validate_exp = false;
            validation.validate_aud = false;
            validation.required_spec_claims.clear();
            match jsonwebtoken::decode::<Claims>(token, key, &validation) {
                Ok(data) => return Ok(data.claims),
                Err(error) if matches!(error.kind(), ErrorKind::Json(_)) => denied = Denied::Malformed,
                Err(_) => {}
            }
        }
        Err(denied)
    }
}

fn verifying_key(jwk: &Jwk) -> Option<TokenKey> {
    if !matches!(jwk.common.public_key_use, None | Some(PublicKeyUse::Signature)) {
        return None;
    }
    let algorithm = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => Algorithm::RS256,
        AlgorithmParameters::EllipticCurve(curve) if curve.curve == EllipticCurve::P256 => Algorithm::ES256,
        AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => Algorithm::EdDSA,
        _ => return None,
    };
    let key = DecodingKey::from_jwk(jwk).ok()?;
    Some(TokenKey { id: jwk.common.key_id.clone(), key, algorithm })
}

#[cfg(test)]
mod tests;
