//! What the driver must do or report.

use std::{sync::Arc, time::Duration};

use shellbridge_protocol::ids::{ConnectionId, SessionId};

/// What the driver must do or report, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// The lease lasts until then. Past it, nothing is served.
    Leased {
        /// In the driver's time.
        until: Duration,
    },
    /// The session is served while the lease lasts.
    Confirmed(SessionId),
    /// The session is not served until it is confirmed again.
    Unconfirmed(SessionId),
    /// The session is another's, or was reported as gone. Its shell must end, without a word to its connections.
    Lost(SessionId),
    /// Outcome of [`Fleet::claim`](crate::Fleet::claim).
    Claimed(SessionId, Result<(), Refused>),
    /// Outcome of [`Fleet::look`](crate::Fleet::look).
    Found(SessionId, Place),
    /// Outcome of [`Fleet::ask_for_peer`](crate::Fleet::ask_for_peer): the URL of an instance of the newest release.
    Peer(Option<Arc<str>>),
    /// The session is gone with its instance. Tell its connections, then call
    /// [`Fleet::handle_farewell_done`](crate::Fleet::handle_farewell_done).
    Farewell {
        /// The instance that had it.
        instance: Arc<str>,
        /// The session.
        session: SessionId,
        /// Its connections, with the URL by which each is reached.
        connections: Vec<(ConnectionId, Arc<str>)>,
    },
    /// A later process has this instance's identity. This one serves nothing any more.
    Superseded,
}

/// Where a session is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// At the instance with this URL.
    At(Arc<str>),
    /// It does not exist.
    Nowhere,
    /// Unknown now; a retry helps.
    Unknown,
}

/// Why a session cannot be claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The id is in use.
    #[error("a session with this id exists")]
    Taken,
    /// No lease, or the store did not answer; a retry may help.
    #[error("the registry of sessions is not reachable")]
    NoStore,
}
