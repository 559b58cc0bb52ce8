//! `$default`: forwards a client's frame to the backend and posts the response.

use aws_lambda_events::apigw::ApiGatewayWebsocketProxyRequest as Event;
use base64::{Engine, engine::general_purpose::STANDARD};
use shellbridge_protocol::{
    ErrorCode,
    access::valid_until,
    bridge::{BridgeContext, Envelope, MESSAGE_PATH},
    frame::{ErrorFrame, FrameHead},
    times::UnixMs,
};

use crate::{
    App,
    backend::{BackendError, BackendResponse},
    connections::Record,
    deadline::unix_ms,
    event::Invocation,
    metrics::InvocationStats,
    reply::Posted,
};

/// Why a frame failed: the error frame, the outcome in the metrics, and whether the connection closes.
struct FrameError {
    error: ErrorFrame,
    outcome: &'static str,
    closes: bool,
}

impl App {
    pub(crate) async fn message(&self, event: &Event, invocation: &Invocation, stats: &mut InvocationStats) {
        let frame = text(event);
        stats.bytes_in = frame.as_ref().map_or(0, String::len);
        let posted = match self.forward(frame.as_deref(), event, invocation, stats).await {
            Ok(None) => return,
            Ok(Some(response)) => match self.reply.post(response, invocation, stats).await {
                Posted::TooLarge => {
                    stats.outcome = "answer_too_large";
                    let error = ErrorFrame::new(ErrorCode::TooLarge, "the response exceeds 128 KiB");
                    let error = error.answering(reference(frame.as_deref()));
                    self.reply.error(error, invocation, stats).await
                }
                posted => posted,
            },
            Err(FrameError { error, outcome, closes }) => {
                stats.outcome = outcome;
                let error = error.answering(reference(frame.as_deref()));
                let posted = self.reply.error(error, invocation, stats).await;
                if closes {
                    self.connections.delete(&invocation.connection_id, invocation.deadline).await;
                    self.reply.close(invocation).await;
                    return;
                }
                posted
            }
        };
        match posted {
            Posted::Gone => {
                stats.outcome = "gone";
                self.connections.delete(&invocation.connection_id, invocation.deadline).await;
            }
            Posted::TooLarge | Posted::Failed => stats.outcome = "push_failed",
            Posted::Delivered => {}
        }
    }

    async fn forward(
        &self,
        frame: Option<&str>,
        event: &Event,
        invocation: &Invocation,
        stats: &mut InvocationStats,
    ) -> Result<Option<String>, FrameError> {
        let record = match self.connections.get(&invocation.connection_id, invocation.deadline).await {
            Ok(Some(record)) => record,
            Ok(None) => {
                let mut error =
                    ErrorFrame::new(ErrorCode::SessionInvalid, "unknown connection; connect again");
                error.retryable = true;
                return Err(FrameError { error, outcome: "no_record", closes: true });
            }
            Err(_) => return Err(unavailable("record_unreadable")),
        };
        stats.set_session(&record.session_id);
        let now = unix_ms();
        if now >= valid_until(record.token_expires_at) {
            let error = ErrorFrame::new(ErrorCode::TokenExpired, "the token has expired");
            return Err(FrameError { error, outcome: "token_expired", closes: true });
        }
        let frame = frame.unwrap_or_default();
        let body = envelope(&record, event, invocation, now).wrap(frame).map_err(|error| FrameError {
            error,
            outcome: "frame_refused",
            closes: false,
        })?;
        match self.backend.post(MESSAGE_PATH, body, invocation, stats).await {
            Ok(BackendResponse::Object(frame)) => Ok(Some(frame)),
            Ok(BackendResponse::Empty) => Ok(None),
            Ok(BackendResponse::Error(status, code)) => Err(rejected(status, code)),
            Err(error) => Err(failed(error)),
        }
    }
}

/// The client's frame. API Gateway rejects binary frames, so base64 is unexpected, but decoding it is harmless.
fn text(event: &Event) -> Option<String> {
    let body = event.body.as_ref()?;
    if event.is_base64_encoded {
        String::from_utf8(STANDARD.decode(body).ok()?).ok()
    } else {
        Some(body.clone())
    }
}

fn reference(frame: Option<&str>) -> Option<String> {
    FrameHead::read(frame?.as_bytes()).ok()?.reference()
}

fn envelope(record: &Record, event: &Event, invocation: &Invocation, now: UnixMs) -> Envelope {
    let from = &event.request_context;
    let message_id = from.message_id.clone().or_else(|| from.request_id.clone());
    Envelope {
        connection_id: record.connection_id.clone(),
        session_id: record.session_id.clone(),
        user_id: record.user_id.clone(),
        timestamp: now,
        bridge: BridgeContext {
            message_id: message_id.unwrap_or_else(|| invocation.request_id.clone()),
            connected_at: record.connected_at,
            callback_url: record.callback_url.clone(),
            token_expires_at: record.token_expires_at,
            username: record.username.clone(),
            read_only: record.read_only,
            token_id: record.token_id.clone(),
            client_timestamp: None,
        },
    }
}

fn unavailable(outcome: &'static str) -> FrameError {
    let error = ErrorFrame::new(ErrorCode::BackendUnavailable, "the service is unavailable; try again");
    FrameError { error, outcome, closes: false }
}

fn failed(error: BackendError) -> FrameError {
    let message = match error {
        BackendError::Unavailable(_) => "the terminal's server is unavailable; try again",
        BackendError::Timeout => "the terminal's server did not answer in time; try again",
        BackendError::Unauthorized => "internal error",
        BackendError::TooLarge => "the response exceeds 128 KiB",
        BackendError::Overloaded => "too many frames at once",
    };
    FrameError { error: ErrorFrame::new(error.code(), message), outcome: error.cause(), closes: false }
}

/// Maps a backend error to a fixed message: the backend's text never reaches the client.
fn rejected(status: u16, code: ErrorCode) -> FrameError {
    let (message, outcome, closes) = match (status, code) {
        (404, ErrorCode::SessionInvalid) => ("unknown or ended session", "session_invalid", true),
        (404, ErrorCode::SessionExpired) => ("the session has expired", "session_expired", true),
        (403, ErrorCode::TokenExpired) => ("the token was revoked", "token_revoked", true),
        (413, _) => ("the frame is too large", "frame_too_large", false),
        (403, _) => ("not allowed", "forbidden", false),
        _ => ("the terminal's server rejected the frame", "backend_refused", false),
    };
    let code = if code == ErrorCode::Unknown { ErrorCode::Internal } else { code };
    FrameError { error: ErrorFrame::new(code, message), outcome, closes }
}
