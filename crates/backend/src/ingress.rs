//! The only door for clients' frames: counts them, finds their session, reads them once, hands them on, answers.

use std::time::Duration;

use bytes::Bytes;
use shellbridge_protocol::{
    ErrorCode,
    access::{may_open, valid_until},
    bridge::Envelope,
    frame::{ClientFrame, ErrorFrame, FrameHead, ServerFrame},
    ids::{ConnectionId, SessionId, UserId},
    json::RawJson,
    limits::MAX_FRAME,
    times::{UnixMs, UnixSecs},
};
use shellbridge_session::{ConnectionInfo, OutletLimits, Reply};

use crate::{
    clock::unix_ms,
    directory::Directory,
    metrics,
    rate::{RateLimits, TooMany},
    sessions::{Stale, Status, Unreachable, Use, outlet::Route},
};

/// Clocks of a transport and of this process may differ by this much.
const CLOCK_SKEW: Duration = Duration::from_mins(1);

/// The way from transports to sessions.
pub(crate) struct Ingress {
    directory: Directory,
    rates: RateLimits,
}

/// A client's connection, as its transport has proven it.
pub(crate) struct Identity {
    pub(crate) session: SessionId,
    pub(crate) connection: ConnectionId,
    pub(crate) user: UserId,
    pub(crate) read_only: bool,
    /// The token's `shellbridgeId`.
    pub(crate) token_id: Option<String>,
    /// The token's `exp`.
    pub(crate) token_expires_at: UnixSecs,
    /// When the connection was made.
    pub(crate) connected_at: UnixMs,
}

/// A frame as its transport received it.
pub(crate) struct Received<'a> {
    /// The frame in its envelope.
    pub(crate) body: &'a [u8],
    /// Bytes of it that the client sent.
    pub(crate) bytes: usize,
    /// Names the frame: the id of a `command` without one.
    pub(crate) message_id: String,
    /// The client's own `timestamp`; the envelope has another in its place.
    pub(crate) timestamp: Option<Box<RawJson>>,
}

/// Why a connection or a frame is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    /// There is no such session, or none that this connection may know of.
    #[error("no such session")]
    NoSession,
    /// The session is another user's.
    #[error("not your session")]
    NotOwner,
    /// The session cannot take it.
    #[error(transparent)]
    Unreachable(#[from] Unreachable),
}

impl Refused {
    /// As metrics call it.
    pub(crate) const fn cause(self) -> &'static str {
        match self {
            Self::NoSession | Self::Unreachable(Unreachable::Ended | Unreachable::Stale(Stale::Earlier)) => {
                "no_session"
            }
            Self::NotOwner => "not_owner",
            Self::Unreachable(Unreachable::Busy) => "busy",
            Self::Unreachable(Unreachable::Full) => "full",
            Self::Unreachable(Unreachable::Stale(Stale::Revoked)) => "revoked",
        }
    }
}

impl Ingress {
    pub(crate) const fn new(directory: Directory, rates: RateLimits) -> Self {
        Self { directory, rates }
    }

    /// Forgets what no longer counts. Call about once a second.
    pub(crate) fn tidy(&self) {
        self.rates.forget_silent();
    }

    /// Counts a frame of this connection and user.
    ///
    /// # Errors
    /// When it is above one of their rates.
    pub(crate) fn count(&self, connection: &ConnectionId, user: &UserId) -> Result<(), TooMany> {
        self.rates.check(connection, user).inspect_err(|whose| metrics::rate_limited(*whose))
    }

    /// Lets a connection into its session. `names_session`: its token names the session, so that one of another user
    /// may open it for watching.
    pub(crate) async fn connect(
        &self,
        identity: Identity,
        names_session: bool,
        route: Route,
    ) -> Result<(), Refused> {
        let session = self.directory.find(&identity.session).ok_or(Refused::NoSession)?;
        if !may_open(&identity.user, identity.read_only, names_session, &session.status().owner) {
            return Err(Refused::NotOwner);
        }
        session.connect(identity.info(route.transport.limits()), route).await?;
        metrics::connected();
        Ok(())
    }

    /// Hands a frame to its session and returns the answer as JSON, if there is one. The connection joins the session
    /// if it has not yet.
    pub(crate) async fn frame(
        &self,
        identity: Identity,
        received: Received<'_>,
        route: Route,
    ) -> Result<Option<Bytes>, Refused> {
        let session = self.directory.find(&identity.session).ok_or(Refused::NoSession)?;
        if !identity.may_join(session.status()) {
            return Err(Refused::NoSession);
        }
        let tokens = &session.status().tokens;
        tokens.check(identity.token_id.as_deref(), Use::Connection, unix_ms()).map_err(Unreachable::from)?;
        let Received { body, bytes, message_id, timestamp } = received;
        let frame = read(body, bytes, timestamp.as_deref());
        metrics::frame(frame.as_ref().ok());
        let answer = match frame {
            Ok(frame) => {
                let info = identity.info(route.transport.limits());
                answer(session.frame(info, route, frame, message_id).await?, body)
            }
            Err(error) => Some(error.into()),
        };
        let json = answer.as_ref().map(ServerFrame::to_json);
        metrics::replied(answer.as_ref(), json.as_ref().map_or(0, Bytes::len));
        Ok(json)
    }

    /// A connection is gone.
    pub(crate) async fn disconnect(&self, session: &SessionId, connection: ConnectionId) {
        if let Some(session) = self.directory.find(session) {
            // A session that has ended needs no news of its connections.
            let _ = session.disconnect(connection).await;
        }
    }
}

impl Identity {
    /// Whether a connection that its transport vouches for may belong to this session: made for it by its owner, or
    /// for watching, and not for an earlier session of the same id.
    fn may_join(&self, session: &Status) -> bool {
        (self.user == session.owner || self.read_only)
            && self.connected_at >= session.created_at.saturating_sub(CLOCK_SKEW)
    }

    fn info(self, limits: OutletLimits) -> ConnectionInfo {
        ConnectionInfo {
            id: self.connection,
            read_only: self.read_only,
            user: self.user,
            token_id: self.token_id.map(Into::into),
            connected_at: self.connected_at,
            token_lasts: valid_until(self.token_expires_at).saturating_since(unix_ms()),
            limits,
        }
    }
}

/// Reads a frame, or says what is wrong with it.
fn read(body: &[u8], bytes: usize, timestamp: Option<&RawJson>) -> Result<ClientFrame, ErrorFrame> {
    if bytes > MAX_FRAME {
        return Err(ErrorFrame::new(ErrorCode::TooLarge, "a frame is at most 32768 bytes"));
    }
    let mut frame = ClientFrame::parse(body)?;
    if let ClientFrame::Ping { timestamp: sent, .. } = &mut frame {
        let Ok(number) = timestamp.map(RawJson::number).transpose() else {
            let error = ErrorFrame::new(ErrorCode::BadFrame, "timestamp is a number");
            return Err(error.answering(reference(body)));
        };
        *sent = number.flatten();
    }
    Ok(frame)
}

/// The session's reply as a frame.
fn answer(reply: Reply, body: &[u8]) -> Option<ServerFrame> {
    match reply {
        Reply::Frame(ServerFrame::Error(error)) if error.reference.is_none() => {
            Some(error.answering(reference(body)).into())
        }
        Reply::Frame(frame) => Some(frame),
        Reply::Echo => Some(echo(body)),
        Reply::Unknown => Some(unknown(body)),
        Reply::Nothing | Reply::Later => None,
    }
}

/// What an error calls the frame that it answers.
pub(crate) fn reference(body: &[u8]) -> Option<String> {
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
