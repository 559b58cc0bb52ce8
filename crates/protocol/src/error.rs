//! Error codes that clients see.

use serde::{Deserialize, Serialize};

/// Code of an `error` frame. [`ErrorCode::retryable`] says whether a retry may help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ErrorCode {
    /// Not JSON, not an object, or a field of the wrong type or range.
    BadFrame,
    /// The frame or its response exceeds the limit.
    TooLarge,
    /// Too many frames or commands at once.
    RateLimited,
    /// The token has expired (leeway included) or was revoked; the connection is deleted next.
    TokenExpired,
    /// There is no token.
    MissingAuth,
    /// The token is malformed, badly signed, not valid yet, or for another service.
    Unauthorized,
    /// The page's origin is not in `ALLOWED_ORIGINS`.
    OriginNotAllowed,
    /// Not allowed for this user.
    Forbidden,
    /// The session does not exist; the connection is deleted next.
    SessionInvalid,
    /// The session has expired.
    SessionExpired,
    /// The connection must `attach` (again) first.
    NotAttached,
    /// The token is view-only.
    ReadOnly,
    /// A newer connection took over this `clientId`, or a writer's place.
    Replaced,
    /// Earlier input is missing; resend from `inputOffset`.
    InputGap,
    /// The command ran past its `timeoutMs` and was killed.
    CommandTimeout,
    /// The command could not be started, or its end not observed.
    CommandFailed,
    /// The backend is down, refused the request, or sent an invalid response.
    BackendUnavailable,
    /// The backend did not respond in time.
    BackendTimeout,
    /// Internal error.
    Internal,
    /// A code of a newer server.
    #[serde(other)]
    #[cfg_attr(test, ts(skip))]
    Unknown,
}

impl ErrorCode {
    /// Whether the same request may succeed later, or after attaching again. The Lambda also marks `SESSION_INVALID` as
    /// retryable if it lost the connection's record.
    pub const fn retryable(self) -> bool {
        matches!(
            self,
            Self::RateLimited
                | Self::NotAttached
                | Self::InputGap
                | Self::BackendUnavailable
                | Self::BackendTimeout
        )
    }
}
