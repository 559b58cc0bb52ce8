//! The only door for clients' frames: counts them, finds their session, hands them on, answers. It reads none.

use std::time::Duration;

use bytes::Bytes;
use shellbridge_protocol::{
    access::{may_open, valid_until},
    frame::FrameHead,
    ids::{ConnectionId, SessionId, UserId},
    times::{UnixMs, UnixSecs},
};
use shellbridge_session::{ConnectionInfo, OutletLimits, link::Reply};

use crate::{
    clock::unix_ms,
    directory::{Directory, Located, Missing},
    metrics,
    rate::{RateLimits, TooMany},
    sessions::{Incoming, Stale, Status, Unreachable, Use, outlet::Route},
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

impl From<Missing> for Refused {
    fn from(missing: Missing) -> Self {
        match missing {
            Missing::Nowhere => Self::NoSession,
            // Its host is of another version: it will end, and meanwhile it is there.
            Missing::Unusable => Self::Unreachable(Unreachable::Busy),
        }
    }
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

    /// Whether there are several instances.
    pub(crate) const fn is_shared(&self) -> bool {
        self.directory.is_shared()
    }

    /// Finds the instance of a session. See [`Directory::locate`].
    pub(crate) async fn locate(&self, session: &SessionId, hopped: bool) -> Result<Located, Refused> {
        Ok(self.directory.locate(session, hopped).await?)
    }

    /// The instance that [`Ingress::locate`] named did not have the session.
    pub(crate) fn misled(&self, session: &SessionId) {
        self.directory.misled(session);
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
        let session = self.directory.find(&identity.session)?;
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
        frame: Incoming,
        route: Route,
    ) -> Result<Option<Bytes>, Refused> {
        let session = self.directory.find(&identity.session)?;
        if !identity.may_join(session.status()) {
            return Err(Refused::NoSession);
        }
        let tokens = &session.status().tokens;
        tokens.check(identity.token_id.as_deref(), Use::Connection, unix_ms()).map_err(Unreachable::from)?;
        let info = identity.info(route.transport.limits());
        let reply = session.frame(info, route, frame).await?;
        metrics::replied(&reply);
        Ok(match reply {
            Reply::Frame(json) | Reply::Error(json) => Some(json),
            Reply::Nothing | Reply::Later => None,
        })
    }

    /// A connection is gone.
    pub(crate) async fn disconnect(&self, session: &SessionId, connection: ConnectionId) {
        if let Ok(session) = self.directory.find(session) {
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

/// What an error calls the frame that it answers.
pub(crate) fn reference(body: &[u8]) -> Option<String> {
    FrameHead::read(body).ok()?.reference()
}
