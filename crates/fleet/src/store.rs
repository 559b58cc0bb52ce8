//! The interface to the store: what is asked, and what it answers.

use std::sync::Arc;

use shellbridge_protocol::{
    ids::{ConnectionId, SessionId, UserId},
    times::UnixMs,
};

/// Identity of an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Stays the same as long as the instance's session hosts may live.
    pub uuid: Arc<str>,
    /// Higher at each start. With the uuid, the fencing token: never used twice.
    pub generation: u64,
    /// URL by which other instances reach it.
    pub url: Arc<str>,
    /// Name of the program's release.
    pub release: Arc<str>,
}

impl Member {
    /// The fencing token.
    pub fn token(&self) -> String {
        format!("{}:{}", self.uuid, self.generation)
    }
}

/// Number of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// The lease under which a request is made. A store that does not have it, or has seen fewer writes under it, has lost
/// some, and refuses the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Under {
    /// See [`Renewed::life`].
    pub life: u64,
    /// Writes that the store has acknowledged.
    pub written: Written,
}

/// A request, which the store applies atomically.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Extends the sender's lease, or makes another if the store does not have this one. → [`Reply::Renewed`],
    /// [`Reply::Superseded`].
    Renew(Option<Under>),
    /// Registers a session, if its id is absent, buried or the sender's. → [`Reply::Claimed`], [`Reply::Taken`],
    /// [`Reply::NoLease`].
    Claim {
        /// The lease.
        under: Under,
        /// Id of the session.
        session: SessionId,
        /// Its owner.
        owner: UserId,
        /// When the entry expires.
        expires_at: UnixMs,
    },
    /// Registers sessions again. → [`Reply::Asserted`], [`Reply::NoLease`].
    Assert {
        /// The lease.
        under: Under,
        /// At most [`limits::BATCH`](crate::limits::BATCH).
        sessions: Vec<Asserted>,
    },
    /// Stores the connections of a session, for its farewell. → [`Reply::Done`].
    Connections {
        /// The lease.
        under: Under,
        /// The session.
        session: SessionId,
        /// All its connections, with the URL by which each is reached.
        connections: Vec<(ConnectionId, Arc<str>)>,
        /// When they expire.
        expires_at: UnixMs,
    },
    /// Removes a session, if it has this epoch. → [`Reply::Done`].
    Release {
        /// The session.
        session: SessionId,
        /// Epoch of the claim.
        epoch: u64,
    },
    /// Asks for a session's instance. → [`Reply::Found`], [`Reply::NoLease`].
    Find {
        /// The lease.
        under: Under,
        /// The session.
        session: SessionId,
    },
    /// Asks for an instance of this release, other than the sender. → [`Reply::Peer`].
    Peer {
        /// Name of the release.
        release: Arc<str>,
    },
    /// Asks for the sessions of an instance without a lease, and for the right to bury them; an instance may always ask
    /// for its own. → [`Reply::Orphans`].
    Reap {
        /// The instance.
        instance: Arc<str>,
    },
    /// Marks a session as gone, if the instance has no lease. With `epoch`: if the entry has that epoch, lease or not.
    /// → [`Reply::Buried`].
    Bury {
        /// The instance that had it.
        instance: Arc<str>,
        /// The session.
        session: SessionId,
        /// Set for the sender's own entries.
        epoch: Option<u64>,
    },
    /// Removes what is left of a session that is not the instance's any more. → [`Reply::Done`].
    Forget {
        /// The instance that had it.
        instance: Arc<str>,
        /// The session.
        session: SessionId,
    },
    /// Gives up the sender's lease. → [`Reply::Done`].
    Leave,
}

/// A session that is asserted again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asserted {
    /// Its id.
    pub session: SessionId,
    /// Epoch of the claim; 0 if an earlier process made it.
    pub epoch: u64,
    /// Its owner.
    pub owner: UserId,
    /// When the entry expires.
    pub expires_at: UnixMs,
}

/// An answer of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// The lease is extended.
    Renewed(Renewed),
    /// A later generation holds the lease.
    Superseded,
    /// The session is registered.
    Claimed {
        /// Epoch of the claim: higher than those of all earlier ones.
        epoch: u64,
        /// See [`Written`].
        written: Written,
    },
    /// The id is in use.
    Taken,
    /// The request's lease is gone.
    NoLease,
    /// Per session, its epoch, or `None` if it is another's or buried.
    Asserted(Vec<Option<u64>>, Written),
    /// Where a session is.
    Found(Found),
    /// URL of an instance.
    Peer(Option<Arc<str>>),
    /// Sessions to bury.
    Orphans(Orphans),
    /// The session is marked as gone. It had these connections; none if it is not the instance's.
    Buried(Vec<(ConnectionId, Arc<str>)>),
    /// Done, as far as it was possible.
    Done,
}

/// Number of writes under a lease.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Written(pub u64);

/// A renewed lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renewed {
    /// Identifies the lease from its creation to its end.
    pub life: u64,
    /// Writes under it, this one included.
    pub written: Written,
    /// Rank of the sender's release: higher if it appeared later.
    pub rank: u64,
    /// Rank and name of the newest release present.
    pub newest: (u64, Arc<str>),
    /// Some instances that have not renewed for [`limits::LEASE`](crate::limits::LEASE).
    pub dead: Vec<Arc<str>>,
}

/// Where a session is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// At an instance with a lease.
    At {
        /// Its uuid.
        instance: Arc<str>,
        /// Its URL.
        url: Arc<str>,
        /// Epoch of the claim.
        epoch: u64,
    },
    /// At an instance without a lease.
    Ownerless,
    /// Marked as gone.
    Buried,
    /// Not registered.
    Absent,
}

/// Sessions of an instance without a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Orphans {
    /// Some of them, at most [`limits::BATCH`](crate::limits::BATCH). None: the instance is forgotten.
    Some(Vec<SessionId>),
    /// The instance has a lease, or another instance buries them.
    NotYours,
}

/// The store did not answer: refused, broken or timed out. The request may have been applied, or may still be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failed;
