//! Parses clients' frames and serializes answers.

use std::time::SystemTime;

use shellbridge_protocol::{
    ErrorCode,
    bridge::Envelope,
    frame::{ClientFrame, ErrorFrame, FrameHead, ServerFrame},
    limits::MAX_FRAME,
    times::UnixMs,
};
use shellbridge_session::{self as session, link};

/// Parses a frame; the error is the answer to the client.
pub(crate) fn read(frame: &link::Frame) -> Result<ClientFrame, ErrorFrame> {
    let link::Frame { body, bytes, timestamp, .. } = frame;
    if usize::try_from(*bytes).is_ok_and(|bytes| bytes > MAX_FRAME) {
        return Err(ErrorFrame::new(ErrorCode::TooLarge, "a frame is at most 32768 bytes"));
    }
    let mut frame = ClientFrame::parse(body)?;
    if let ClientFrame::Ping { timestamp: sent, .. } = &mut frame {
        let Ok(number) = timestamp.as_deref().map(serde_json::from_str).transpose() else {
            let error = ErrorFrame::new(ErrorCode::BadFrame, "timestamp is a number");
            return Err(error.answering(reference(body)));
        };
        *sent = number.flatten();
    }
    Ok(frame)
}

/// Converts the session's reply to a frame with this `body`.
pub(crate) fn reply(reply: session::Reply, body: &[u8]) -> link::Reply {
    match reply {
        session::Reply::Frame(ServerFrame::Error(error)) if error.reference.is_none() => {
            answer(&error.answering(reference(body)).into())
        }
        session::Reply::Frame(frame) => answer(&frame),
        session::Reply::Echo => answer(&echo(body)),
        session::Reply::Unknown => answer(&unknown(body)),
        session::Reply::Nothing => link::Reply::Nothing,
        session::Reply::Later => link::Reply::Later,
    }
}

/// Converts a frame to an answer.
pub(crate) fn answer(frame: &ServerFrame) -> link::Reply {
    let json = frame.to_json();
    if matches!(frame, ServerFrame::Error(_)) { link::Reply::Error(json) } else { link::Reply::Frame(json) }
}

/// The `ref` of an error that answers this frame.
fn reference(body: &[u8]) -> Option<String> {
    FrameHead::read(body).ok()?.reference()
}

fn echo(body: &[u8]) -> ServerFrame {
    match Envelope::unwrap_frame(body) {
        Ok(received) => ServerFrame::Echo { received, timestamp: unix_ms() },
        Err(_) => ErrorFrame::new(ErrorCode::BadFrame, "a frame is a JSON object").into(),
    }
}

fn unknown(body: &[u8]) -> ServerFrame {
    ServerFrame::UnknownCommand {
        received: FrameHead::read(body).ok().and_then(|head| head.kind),
        message: "unknown frame type".to_owned(),
        timestamp: unix_ms(),
    }
}

fn unix_ms() -> UnixMs {
    SystemTime::now().into()
}
