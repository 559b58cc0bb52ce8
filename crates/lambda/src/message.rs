//! `$default`: one frame of a client to the backend, and the answer back.

use aws_lambda_events::apigw::ApiGatewayWebsocketProxyRequest as Event;
use base64::{Engine, engine::general_purpose::STANDARD};
use shellbridge_protocol::{
    ErrorCode,
    access::good_until_ms,
    bridge::{BridgeContext, Envelope, MESSAGE_PATH},
    frame::{ErrorFrame, FrameHead},
};

use crate::{
    App,
    backend::{Answer, Failure},
    connections::Record,
    deadline::now_ms,
    event::Invocation,
    metrics::Tally,
    reply::Posted,
};

/// What the client is told, and whether its connection lives on.
struct Failed {
    error: ErrorFrame,
    outcome: &'static str,
    ends: bool,
}

impl App {
    pub(crate) async fn message(&self, event: &Event, invocation: &Invocation, tally: &mut Tally) {
        let frame = text(event);
        tally.bytes_in = frame.as_ref().map_or(0, String::len);
        let posted = match self.forward(frame.as_deref(), event, invocation, tally).await {
            Ok(None) => return,
            Ok(Some(answer)) => match self.reply.post(answer, invocation, tally).await {
                Posted::TooLarge => {
                    tally.outcome = "answer_too_large";
                    let error = ErrorFrame::new(ErrorCode::TooLarge, "the answer is larger than 128 KiB");
                    let error = error.answering(reference(frame.as_deref()));
                    self.reply.error(error, invocation, tally).await
                }
                posted => posted,
            },
            Err(Failed { error, outcome, ends }) => {
                tally.outcome = outcome;
                let error = error.answering(reference(frame.as_deref()));
                let posted = self.reply.error(error, invocation, tally).await;
                if ends {
                    self.connections.delete(&invocation.connection_id, invocation.deadline).await;
                    self.reply.close(invocation).await;
                    return;
                }
                posted
            }
        };
        match posted {
            // The connection that was posted to, which is the one that is gone.
            Posted::Gone => {
                tally.outcome = "gone";
                self.connections.delete(&invocation.connection_id, invocation.deadline).await;
            }
            Posted::TooLarge | Posted::Failed => tally.outcome = "push_failed",
            Posted::Yes => {}
        }
    }

    async fn forward(
        &self,
        frame: Option<&str>,
        event: &Event,
        invocation: &Invocation,
        tally: &mut Tally,
    ) -> Result<Option<String>, Failed> {
        let record = match self.connections.get(&invocation.connection_id, invocation.deadline).await {
            Ok(Some(record)) => record,
            Ok(None) => {
                let mut error =
                    ErrorFrame::new(ErrorCode::SessionInvalid, "this connection is not known; connect again");
                error.retryable = true;
                return Err(Failed { error, outcome: "no_record", ends: true });
            }
            Err(_) => return Err(unavailable("record_unreadable")),
        };
        tally.is_about(&record.session_id);
        let now = now_ms();
        if now >= good_until_ms(record.token_expires_at) {
            let error = ErrorFrame::new(ErrorCode::TokenExpired, "the token has expired");
            return Err(Failed { error, outcome: "token_expired", ends: true });
        }
        let frame = frame.unwrap_or_default();
        let body = envelope(&record, event, invocation, now).wrap(frame).map_err(|error| Failed {
            error,
            outcome: "frame_refused",
            ends: false,
        })?;
        match self.backend.post(MESSAGE_PATH, body, invocation, tally).await {
            Ok(Answer::Object(answer)) => Ok(Some(answer)),
            Ok(Answer::Nothing) => Ok(None),
            Ok(Answer::Refused(status, code)) => Err(refused(status, code)),
            Err(failure) => Err(failed(failure)),
        }
    }
}

/// The client's frame. API Gateway refuses binary frames, so base64 is not expected, but it may be undone.
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

fn envelope(record: &Record, event: &Event, invocation: &Invocation, now: i64) -> Envelope {
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

fn unavailable(outcome: &'static str) -> Failed {
    let error = ErrorFrame::new(ErrorCode::BackendUnavailable, "the service is not available; try again");
    Failed { error, outcome, ends: false }
}

fn failed(failure: Failure) -> Failed {
    let message = match failure {
        Failure::Unavailable(_) => "the terminal's server is not available; try again",
        Failure::Timeout => "the terminal's server did not answer in time; try again",
        Failure::Unsigned => "a fault of ours",
        Failure::TooLarge => "the answer is larger than 128 KiB",
        Failure::Overloaded => "too many frames at once",
    };
    Failed { error: ErrorFrame::new(failure.code(), message), outcome: failure.cause(), ends: false }
}

/// The backend's verdict in our words: its own never reach the client.
fn refused(status: u16, code: ErrorCode) -> Failed {
    let (message, outcome, ends) = match (status, code) {
        (404, ErrorCode::SessionInvalid) => ("the session is unknown or has ended", "session_invalid", true),
        (404, ErrorCode::SessionExpired) => ("the session's time is over", "session_expired", true),
        (403, ErrorCode::TokenExpired) => ("the token was revoked", "token_revoked", true),
        (413, _) => ("the frame is too large", "frame_too_large", false),
        (403, _) => ("not allowed", "forbidden", false),
        _ => ("the terminal's server refused the frame", "backend_refused", false),
    };
    let code = if code == ErrorCode::Unknown { ErrorCode::Internal } else { code };
    Failed { error: ErrorFrame::new(code, message), outcome, ends }
}
