//! Authorizes handshakes: the token, its keys, and the page's origin.

use std::time::Duration;

use aws_lambda_events::apigw::ApiGatewayWebsocketProxyRequest as Event;
use http::HeaderMap;
use shellbridge_outbound::Jwks;
use shellbridge_protocol::{
    ErrorCode,
    access::{ClaimRules, Denied, Grant, TokenKeys},
    limits::SUBPROTOCOL,
    origin::AllowedOrigins,
    times::UnixSecs,
};
use tokio::time::timeout;

use crate::{
    aws::Aws,
    config::{Config, ConfigError},
    deadline::Deadline,
    secrets::{DistinctSecrets, Secret, SecretKind},
};

/// Time reserved to answer the handshake.
const RESPONSE_TIME: Duration = Duration::from_millis(500);

/// Checks handshakes.
pub(crate) struct Auth {
    keys: Keys,
    rules: ClaimRules,
    origins: AllowedOrigins,
    /// Timeout of a key fetch.
    within: Duration,
}

enum Keys {
    Secret(Secret<TokenKeys>),
    Remote(Jwks),
}

/// Why a handshake is rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AuthError {
    /// The token is missing, invalid or insufficient.
    Token(Denied),
    /// The page's origin is not allowed.
    Origin,
    /// The keys cannot be fetched at the moment.
    NoKeys,
}

impl AuthError {
    /// The status of the handshake.
    pub(crate) const fn status(self) -> u16 {
        match self {
            Self::Token(denied) => denied.status(),
            Self::Origin => 403,
            Self::NoKeys => 503,
        }
    }

    /// The error code in the body.
    pub(crate) const fn code(self) -> ErrorCode {
        match self {
            Self::Token(denied) => denied.code(),
            Self::Origin => ErrorCode::OriginNotAllowed,
            Self::NoKeys => ErrorCode::BackendUnavailable,
        }
    }

    /// The cause in metrics and logs.
    pub(crate) const fn cause(self) -> &'static str {
        match self {
            Self::Token(Denied::NoSession) => "no_session",
            Self::Token(Denied::Missing) => "token_missing",
            Self::Token(Denied::Malformed) => "token_malformed",
            Self::Token(Denied::Signature) => "token_signature",
            Self::Token(Denied::UnknownKey) => "token_key_unknown",
            Self::Token(Denied::Expired) => "token_expired",
            Self::Token(Denied::Early) => "token_early",
            Self::Token(Denied::Elsewhere) => "token_elsewhere",
            Self::Token(Denied::OtherSession) => "token_other_session",
            Self::Origin => "origin",
            Self::NoKeys => "no_keys",
        }
    }
}

impl Auth {
    pub(crate) fn new(config: &Config, aws: &Aws, secrets: &DistinctSecrets) -> Result<Self, ConfigError> {
        let origins = AllowedOrigins::parse(config.allowed_origins.as_deref().unwrap_or_default())?;
        let within = config.limits.aws.max(config.limits.jwks);
        Ok(Self { keys: keys(config, aws, secrets)?, rules: config.claim_rules(), origins, within })
    }

    /// Verifies the handshake's token, then its origin.
    pub(crate) async fn admit(
        &self,
        event: &Event,
        now: UnixSecs,
        deadline: Deadline,
    ) -> Result<Grant, AuthError> {
        let session = event.query_string_parameters.first("sessionId");
        let token = token(event).ok_or(AuthError::Token(Denied::Missing))?;
        let within = deadline.budget(self.within, RESPONSE_TIME);
        let verdict = timeout(within, self.verify(&token, session, now)).await;
        let grant = verdict.unwrap_or(Err(AuthError::NoKeys))?;
        if self.allows_origin(headers(event)) { Ok(grant) } else { Err(AuthError::Origin) }
    }

    async fn verify(&self, token: &str, session: Option<&str>, now: UnixSecs) -> Result<Grant, AuthError> {
        let authorize = |keys: &TokenKeys| keys.authorize(token, session, &self.rules, now);
        let verdict = match &self.keys {
            Keys::Secret(secret) => match authorize(&*secret.get().await.ok_or(AuthError::NoKeys)?) {
                Err(Denied::Signature) => match secret.changed().await {
                    Some(changed) => authorize(&changed),
                    None => Err(Denied::Signature),
                },
                verdict => verdict,
            },
            Keys::Remote(jwks) => match authorize(&jwks.keys(false, now).await.ok_or(AuthError::NoKeys)?) {
                Err(Denied::UnknownKey) => authorize(&jwks.keys(true, now).await.ok_or(AuthError::NoKeys)?),
                verdict => verdict,
            },
        };
        verdict.map_err(AuthError::Token)
    }

    /// Rejects two `Origin` headers, which a browser never sends.
    fn allows_origin(&self, headers: &HeaderMap) -> bool {
        let mut origins = headers.get_all(http::header::ORIGIN).iter();
        match (origins.next(), origins.next()) {
            (None, _) => self.origins.allows(None),
            (Some(origin), None) => origin.to_str().is_ok_and(|origin| self.origins.allows(Some(origin))),
            _ => false,
        }
    }
}

/// Requires exactly one kind of key, because the kind determines the algorithm family.
fn keys(config: &Config, aws: &Aws, secrets: &DistinctSecrets) -> Result<Keys, ConfigError> {
    let set = (&config.jwt_secret, &config.jwt_secret_arn, &config.jwt_public_key, &config.jwks_url);
    match set {
        (Some(secret), None, None, None) => Ok(Keys::Secret(Secret::set(TokenKeys::from_secret(secret)?))),
        (None, Some(name), None, None) => {
            let kind = (SecretKind::Jwt, secrets);
            Ok(Keys::Secret(Secret::stored(name, kind, aws.clone(), config.limits, |secret| {
                Ok(TokenKeys::from_secret(secret)?)
            })))
        }
        (None, None, Some(pem), None) => Ok(Keys::Secret(Secret::set(TokenKeys::from_pem(pem)?))),
        (None, None, None, Some(url)) => {
            Ok(Keys::Remote(Jwks::new(url, config.jwks_allow_private, config.limits.jwks)?))
        }
        (None, None, None, None) => {
            Err(ConfigError::Missing("one of JWT_SECRET, JWT_SECRET_ARN, JWT_PUBLIC_KEY, JWKS_URL"))
        }
        _ => Err(ConfigError::Conflicting("JWT_SECRET, JWT_SECRET_ARN, JWT_PUBLIC_KEY, JWKS_URL")),
    }
}

/// The subprotocol to accept, if the client offered it. API Gateway does not select one itself.
pub(crate) fn subprotocol(event: &Event) -> Option<String> {
    offered(headers(event)).any(|offer| offer == SUBPROTOCOL).then(|| SUBPROTOCOL.to_owned())
}

/// The token from the subprotocol, the `Authorization` header or the query, in this order.
fn token(event: &Event) -> Option<String> {
    let headers = headers(event);
    let offer = offered(headers).find_map(|offer| offer.strip_prefix("bearer."));
    let header = || {
        let header = headers.get(http::header::AUTHORIZATION)?.to_str().ok()?;
        let (scheme, token) = header.trim().split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
    };
    let query = || event.query_string_parameters.first("token");
    offer.or_else(header).or_else(query).map(str::to_owned)
}

/// The offered subprotocols, separated by commas in one header or several (RFC 6455, section 4.1).
fn offered(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(http::header::SEC_WEBSOCKET_PROTOCOL).iter();
    values.filter_map(|value| value.to_str().ok()).flat_map(|list| list.split(',').map(str::trim))
}

/// All values of each header; the event's `headers` has only the last.
fn headers(event: &Event) -> &HeaderMap {
    if event.multi_value_headers.is_empty() { &event.headers } else { &event.multi_value_headers }
}
