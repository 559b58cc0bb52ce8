//! Clients' frames as they come, and answers as they go.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use shellbridge_protocol::{
    ErrorCode,
    bridge::Envelope,
    frame::{ClientFrame, ErrorFrame, FrameHead, ServerFrame},
    limits::MAX_FRAME,
    times::UnixMs,
};
use shellbridge_session::{self as session, ConnectionInfo, OutletLimits, link};

/// Reads a frame, or says what is wrong with it.
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

/// The session's reply to a frame.
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

/// A frame as an answer.
pub(crate) fn answer(frame: &ServerFrame) -> link::Reply {
    let json = frame.to_json();
    if matches!(frame, ServerFrame::Error(_)) { link::Reply::Error(json) } else { link::Reply::Frame(json) }
}

/// Who a connection is, as the state machine wants it.
pub(crate) fn info(peer: link::Peer) -> ConnectionInfo {
    ConnectionInfo {
        id: peer.id,
        read_only: peer.read_only,
        user: peer.user,
        token_id: peer.token_id.map(Into::into),
        connected_at: peer.connected_at,
        token_lasts: Duration::from_millis(peer.token_lasts),
        limits: OutletLimits {
            max_frame: usize::try_from(peer.max_frame).unwrap_or(usize::MAX),
            in_flight: usize::try_from(peer.in_flight).unwrap_or(usize::MAX),
        },
    }
}

/// And back again, for the next backend.
pub(crate) fn peer(info: &ConnectionInfo, address: String) -> link::Peer {
    link::Peer {
        id: info.id.clone(),
        read_only: info.read_only,
        user: info.user.clone(),
        token_id: info.token_id.as_deref().map(str::to_owned),
        connected_at: info.connected_at,
        token_lasts: u64::try_from(info.token_lasts.as_millis()).unwrap_or(u64::MAX),
        max_frame: u32::try_from(info.limits.max_frame).unwrap_or(u32::MAX),
        in_flight: u32::try_from(info.limits.in_flight).unwrap_or(u32::MAX),
        address,
    }
}

/// What an error calls the frame that it answers.
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
        message: "this type of frame is not known".to_owned(),
        timestamp: unix_ms(),
    }
}

fn unix_ms() -> UnixMs {
    UnixMs::from_epoch(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}
