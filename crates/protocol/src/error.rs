//! Error codes, as the client sees them.

use serde::{Deserialize, Serialize};

/// Code of an `error` frame. What a client may do about it is [`ErrorCode::retryable`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ErrorCode {
    /// Not JSON, not an object, or a field of the wrong type or range.
    BadFrame,
    /// The frame, or its answer, is over the limit.
    TooLarge,
    /// Too many frames or commands at once.
    RateLimited,
    /// The token's `exp` and its leeway have passed, or it was revoked; the connection is deleted next.
    TokenExpired,
    /// There is no token.
    MissingAuth,
    /// The token is malformed, badly signed, not valid yet, or for another service.
    Unauthorized,
    /// The page's origin is not in `ALLOWED_ORIGINS`.
    OriginNotAllowed,
    /// Not allowed for this user.
    Forbidden,
    /// The session is unknown here; the connection is deleted next.
    SessionInvalid,
    /// The session's time is over.
    SessionExpired,
    /// The connection must `attach` (again) first.
    NotAttached,
    /// The token only allows to watch.
    ReadOnly,
    /// A newer connection took this `clientId`, or a writer's place.
    Replaced,
    /// Input is missing before what arrived; send again from `inputOffset`.
    InputGap,
    /// The command ran past its `timeoutMs` and was killed.
    CommandTimeout,
    /// The command could not be run at all.
    CommandFailed,
    /// The backend refused, is down, or answered nonsense.
    BackendUnavailable,
    /// The backend did not answer in time.
    BackendTimeout,
    /// A fault of ours.
    Internal,
    /// A code of a newer server.
    #[serde(other)]
    #[cfg_attr(test, ts(skip))]
    Unknown,
}

impl ErrorCode {
    /// Whether the same request may succeed later, or after attaching again. (`SESSION_INVALID` is so only
    /// where the Lambda lost the connection's record; it says so in the frame.)
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
