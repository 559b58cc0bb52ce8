//! The bridge token: a JWT for one request of the Lambda, valid for a minute and bound to path, body and connection.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::{
    ids::ConnectionId,
    limits::{BRIDGE_TOKEN_LEEWAY, BRIDGE_TOKEN_TTL},
    secret::{self, Unfit},
    times::UnixSecs,
};

const ISSUER: &str = "shellbridge-lambda";
const AUDIENCE: &str = "shellbridge-backend";

/// The claims, all of them required.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BridgeToken {
    iss: String,
    aud: String,
    iat: UnixSecs,
    exp: UnixSecs,
    /// Unique per attempt.
    pub jti: String,
    cid: ConnectionId,
    path: String,
    sha256: String,
}

impl BridgeToken {
    /// How long the replay cache must keep its `jti`.
    pub fn remembered_until(&self) -> UnixSecs {
        self.exp.saturating_add(BRIDGE_TOKEN_LEEWAY)
    }
}

/// The keys of `BRIDGE_SECRET`. The first signs; all verify.
pub struct BridgeKeys {
    sign: EncodingKey,
    verify: Vec<DecodingKey>,
    validation: Validation,
}

/// `BRIDGE_SECRET` is invalid. The process does not start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("BRIDGE_SECRET: {0}")]
pub struct KeyError(#[from] Unfit);

/// Why a request is not authenticated as the Lambda's. Only logs distinguish the reasons; the response is always 401.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenRefused {
    /// No token, not a JWT, another algorithm, a missing claim, or a bad signature.
    #[error("signature")]
    Signature,
    /// `iss` or `aud` of another service.
    #[error("issuer or audience")]
    Issuer,
    /// Expired, from the future, or valid for longer than allowed.
    #[error("time")]
    Time,
    /// Signed for another path, connection or body.
    #[error("binding")]
    Binding,
}

impl std::fmt::Debug for BridgeKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BridgeKeys({})", self.verify.len())
    }
}

impl BridgeKeys {
    /// Parses `BRIDGE_SECRET`: one key, or during rotation the new and the old key, separated by a comma.
    pub fn parse(secret: &str) -> Result<Self, KeyError> {
        let keys = secret::keys(secret)?;
        let mut validation = Validation::new(Algorithm::HS256);
        // `verify` checks times, against the caller's clock, and the audience.
        validation.validate_exp = false;
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        Ok(Self {
            sign: EncodingKey::from_secret(keys.first().copied().unwrap_or_default().as_bytes()),
            verify: keys.iter().map(|key| DecodingKey::from_secret(key.as_bytes())).collect(),
            validation,
        })
    }

    /// Signs one attempt of one request; `jti` must be unique.
    ///
    /// # Errors
    /// Only if the crypto library fails.
    pub fn sign(
        &self,
        path: &str,
        connection_id: &ConnectionId,
        body: &[u8],
        now: UnixSecs,
        jti: String,
    ) -> Result<String, jsonwebtoken::errors::Error> {
        let claims = BridgeToken {
            iss: ISSUER.to_owned(),
            aud: AUDIENCE.to_owned(),
            iat: now,
            exp: now.saturating_add(BRIDGE_TOKEN_TTL),
            jti,
            cid: connection_id.clone(),
            path: path.to_owned(),
            sha256: digest(body),
        };
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &self.sign)
    }

    /// Verifies everything except that the `jti` is new, which is up to the [`ReplayCache`](super::ReplayCache).
    pub fn verify(
        &self,
        token: &str,
        path: &str,
        connection_id: &ConnectionId,
        body: &[u8],
        now: UnixSecs,
    ) -> Result<BridgeToken, TokenRefused> {
        let claims = self
            .verify
            .iter()
            .find_map(|key| jsonwebtoken::decode::<BridgeToken>(token, key, &self.validation).ok())
            .ok_or(TokenRefused::Signature)?
            .claims;
        if claims.iss != ISSUER || claims.aud != AUDIENCE {
            return Err(TokenRefused::Issuer);
        }
        let lived = (0..=BRIDGE_TOKEN_TTL).contains(&claims.exp.saturating_since(claims.iat));
        let past = claims.exp.saturating_add(BRIDGE_TOKEN_LEEWAY) < now;
        let future = claims.iat.saturating_sub(BRIDGE_TOKEN_LEEWAY) > now;
        if !lived || past || future {
            return Err(TokenRefused::Time);
        }
        let same = |a: &str, b: &str| a.as_bytes().ct_eq(b.as_bytes());
        let bound =
            same(&claims.cid, connection_id) & same(&claims.path, path) & same(&claims.sha256, &digest(body));
        if bool::from(bound) { Ok(claims) } else { Err(TokenRefused::Binding) }
    }
}

/// SHA-256 as base64url without padding.
fn digest(body: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(Sha256::digest(body))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "old-old-old-old-old-old-old-old-";
    const NEW: &str = "new-new-new-new-new-new-new-new-";

    fn keys(secret: &str) -> BridgeKeys {
        BridgeKeys::parse(secret).unwrap()
    }

    fn signed(secret: &str) -> String {
        keys(secret).sign("/p", &"c".into(), b"body", UnixSecs(1_000), "j".into()).unwrap()
    }

    #[test]
    fn a_token_is_valid_for_its_own_request_only() {
        let keys = keys(NEW);
        let token = signed(NEW);
        assert_eq!(keys.verify(&token, "/p", &"c".into(), b"body", UnixSecs(1_000)).unwrap().jti, "j");
        assert_eq!(
            keys.verify(&token, "/q", &"c".into(), b"body", UnixSecs(1_000)),
            Err(TokenRefused::Binding)
        );
        assert_eq!(
            keys.verify(&token, "/p", &"d".into(), b"body", UnixSecs(1_000)),
            Err(TokenRefused::Binding)
        );
        assert_eq!(
            keys.verify(&token, "/p", &"c".into(), b"Body", UnixSecs(1_000)),
            Err(TokenRefused::Binding)
        );
    }

    #[test]
    fn a_token_is_valid_for_a_minute_plus_the_leeway() {
        let keys = keys(NEW);
        let token = signed(NEW);
        for (now, good) in [(994, false), (995, true), (1_065, true), (1_066, false)] {
            assert_eq!(keys.verify(&token, "/p", &"c".into(), b"body", UnixSecs(now)).is_ok(), good, "{now}");
        }
    }

    #[test]
    fn either_key_verifies_during_rotation_and_the_first_signs() {
        let both = format!("{NEW},{OLD}");
        assert!(keys(&both).verify(&signed(OLD), "/p", &"c".into(), b"body", UnixSecs(1_000)).is_ok());
        assert!(keys(NEW).verify(&signed(&both), "/p", &"c".into(), b"body", UnixSecs(1_000)).is_ok());
        assert_eq!(
            keys(NEW).verify(&signed(OLD), "/p", &"c".into(), b"body", UnixSecs(1_000)),
            Err(TokenRefused::Signature)
        );
    }

    #[test]
    fn other_algorithms_and_missing_claims_are_refused() {
        let encode = |algorithm, claims: serde_json::Value| {
            jsonwebtoken::encode(&Header::new(algorithm), &claims, &EncodingKey::from_secret(NEW.as_bytes()))
                .unwrap()
        };
        let all = serde_json::json!({"iss":ISSUER,"aud":AUDIENCE,"iat":1_000,"exp":1_060,"jti":"j","cid":"c",
            "path":"/p","sha256":digest(b"body")});
        let verify = |token: &str| keys(NEW).verify(token, "/p", &"c".into(), b"body", UnixSecs(1_000));
        assert!(verify(&encode(Algorithm::HS256, all.clone())).is_ok());
        assert_eq!(verify(&encode(Algorithm::HS512, all.clone())), Err(TokenRefused::Signature));
        for claim in ["iss", "aud", "iat", "exp", "jti", "cid", "path", "sha256"] {
            let mut without = all.clone();
            without.as_object_mut().unwrap().remove(claim);
            assert_eq!(verify(&encode(Algorithm::HS256, without)), Err(TokenRefused::Signature), "{claim}");
        }
        let mut long = all.clone();
        long["exp"] = 2_000.into();
        assert_eq!(verify(&encode(Algorithm::HS256, long)), Err(TokenRefused::Time));
        let mut foreign = all;
        foreign["iss"] = "somebody".into();
        assert_eq!(verify(&encode(Algorithm::HS256, foreign)), Err(TokenRefused::Issuer));
        assert_eq!(verify(""), Err(TokenRefused::Signature));
        assert_eq!(verify("a.b.c"), Err(TokenRefused::Signature));
    }

    #[test]
    fn an_extreme_time_is_refused_and_does_not_overflow() {
        let claims = serde_json::json!({"iss":ISSUER,"aud":AUDIENCE,"iat":i64::MIN,"exp":i64::MAX,"jti":"j","cid":"c",
            "path":"/p","sha256":digest(b"body")});
        let token = jsonwebtoken::encode(
            &Header::new(Algorithm::HS256),
            &claims,
            &EncodingKey::from_secret(NEW.as_bytes()),
        );
        assert_eq!(
            keys(NEW).verify(&token.unwrap(), "/p", &"c".into(), b"body", UnixSecs(0)),
            Err(TokenRefused::Time)
        );
    }

    #[test]
    fn weak_secrets_are_refused() {
        assert_eq!(BridgeKeys::parse("short").err(), Some(KeyError(Unfit::Short)));
        assert_eq!(BridgeKeys::parse(&format!("{NEW},{OLD},{OLD}")).err(), Some(KeyError(Unfit::TooMany)));
    }
}
