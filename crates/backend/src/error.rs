//! Errors of the HTTP API: one mapping to statuses. Internal causes are never sent.

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use shellbridge_protocol::{ErrorCode, access::Denied, frame::ErrorFrame};

use crate::{
    access,
    directory::{Missing, Refused},
    ingress,
    launcher::NotStarted,
    sessions::{Stale, Unreachable},
};

/// An error response: a status and an error frame.
#[derive(Debug, thiserror::Error)]
#[error("{}: {}", .status, .frame.message)]
pub(crate) struct ApiError {
    status: StatusCode,
    frame: ErrorFrame,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, code: ErrorCode, message: impl Into<String>) -> Self {
        Self { status, frame: ErrorFrame::new(code, message) }
    }

    /// Adds the `ref` of the client's frame.
    pub(crate) fn answering(mut self, reference: Option<String>) -> Self {
        self.frame = self.frame.answering(reference);
        self
    }

    /// The status of the response.
    pub(crate) const fn status(&self) -> StatusCode {
        self.status
    }

    /// 404, the same for unknown sessions and for those of other users.
    pub(crate) fn no_session() -> Self {
        Self::new(StatusCode::NOT_FOUND, ErrorCode::SessionInvalid, "no such session")
    }

    pub(crate) fn forbidden(message: &str) -> Self {
        Self::new(StatusCode::FORBIDDEN, ErrorCode::Forbidden, message)
    }

    pub(crate) fn unauthorized(message: &str) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, ErrorCode::Unauthorized, message)
    }

    pub(crate) fn no_token(message: &str) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, ErrorCode::MissingAuth, message)
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, ErrorCode::BadFrame, message)
    }

    pub(crate) fn internal() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, ErrorCode::Internal, "internal error")
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let frame = shellbridge_protocol::frame::ServerFrame::from(self.frame);
        (self.status, Json(frame)).into_response()
    }
}

impl From<ingress::Refused> for ApiError {
    fn from(refused: ingress::Refused) -> Self {
        match refused {
            ingress::Refused::NoSession => Self::no_session(),
            ingress::Refused::NotOwner => Self::forbidden(&refused.to_string()),
            ingress::Refused::Unreachable(unreachable) => unreachable.into(),
        }
    }
}

impl From<Missing> for ApiError {
    fn from(missing: Missing) -> Self {
        ingress::Refused::from(missing).into()
    }
}

impl From<Unreachable> for ApiError {
    fn from(error: Unreachable) -> Self {
        let busy = |code| Self::new(StatusCode::SERVICE_UNAVAILABLE, code, error.to_string());
        match error {
            Unreachable::Ended | Unreachable::Stale(Stale::Earlier) => Self::no_session(),
            Unreachable::Busy => busy(ErrorCode::BackendUnavailable),
            Unreachable::Full => busy(ErrorCode::RateLimited),
            // The Lambda takes 401 for a bad signature of its request, hence 403.
            Unreachable::Stale(Stale::Revoked) => {
                Self::new(StatusCode::FORBIDDEN, ErrorCode::TokenExpired, error.to_string())
            }
        }
    }
}

impl From<Refused> for ApiError {
    fn from(refused: Refused) -> Self {
        let (status, code) = match refused {
            Refused::Taken => (StatusCode::CONFLICT, ErrorCode::SessionInvalid),
            Refused::Quota(_) => (StatusCode::TOO_MANY_REQUESTS, ErrorCode::RateLimited),
            Refused::Full => (StatusCode::SERVICE_UNAVAILABLE, ErrorCode::RateLimited),
            Refused::Closed | Refused::NoRegistry => {
                (StatusCode::SERVICE_UNAVAILABLE, ErrorCode::BackendUnavailable)
            }
        };
        Self::new(status, code, refused.to_string())
    }
}

impl From<NotStarted> for ApiError {
    fn from(error: NotStarted) -> Self {
        match error {
            NotStarted::Full => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::RateLimited, error.to_string())
            }
            NotStarted::Image(why) => Self::bad_request(why),
            // A retry helps.
            NotStarted::Pulling(_) | NotStarted::NotPulled(_) | NotStarted::Engine(_) => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::BackendUnavailable, error.to_string())
            }
            NotStarted::Failed(_) => Self::internal(),
        }
    }
}

impl From<access::Refused> for ApiError {
    fn from(refused: access::Refused) -> Self {
        match refused {
            access::Refused::Token(denied) => denied.into(),
            access::Refused::NoKeys => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                ErrorCode::BackendUnavailable,
                "the keys that verify tokens are unavailable",
            ),
        }
    }
}

impl From<Denied> for ApiError {
    fn from(denied: Denied) -> Self {
        let status = StatusCode::from_u16(denied.status()).unwrap_or(StatusCode::UNAUTHORIZED);
        Self::new(status, denied.code(), denied.to_string())
    }
}

impl From<Stale> for ApiError {
    fn from(stale: Stale) -> Self {
        match stale {
            Stale::Earlier => Self::no_session(),
            Stale::Revoked => Self::new(StatusCode::UNAUTHORIZED, ErrorCode::TokenExpired, stale.to_string()),
        }
    }
}
