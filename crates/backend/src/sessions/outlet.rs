//! The ways to clients. A session knows no more of a connection than an [`Outlet`].

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use shellbridge_protocol::{ErrorCode, ids::ConnectionId, times::UnixMs};
use shellbridge_session::{OutletLimits, Sent};

/// How long a connection waits for its last frame before it is closed.
const LAST_FRAME_WITHIN: Duration = Duration::from_millis(1500);

/// A future that may cross threads.
pub(crate) type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A way to one client.
pub(crate) trait Outlet: Send + Sync {
    /// Sends one text frame, and retries as long as that may help.
    fn send(&self, frame: Bytes) -> Boxed<Sent>;
    /// Closes the connection, so that a client who is still there notices. Transports with close codes say the reason.
    fn close(&self, reason: Option<ErrorCode>) -> Boxed<()>;
    /// Whether the connection still exists; true when that cannot be told.
    fn exists(&self) -> Boxed<bool>;
}

/// Makes outlets.
pub(crate) trait Transport: Send + Sync {
    /// What its connections can carry.
    fn limits(&self) -> OutletLimits;
    /// The way to a connection that was adopted. `made_at` says when the connection was made, if that was just
    /// now, so that its handshake may not have ended.
    fn outlet(self: Arc<Self>, connection: ConnectionId, made_at: Option<UnixMs>) -> Arc<dyn Outlet>;
}

/// Where the frames of a connection go. Makes nothing until the connection is adopted.
pub(crate) struct Route {
    pub(crate) transport: Arc<dyn Transport>,
    /// See [`Transport::outlet`].
    pub(crate) made_at: Option<UnixMs>,
}

impl Route {
    pub(crate) fn outlet(&self, connection: ConnectionId) -> Arc<dyn Outlet> {
        self.transport.clone().outlet(connection, self.made_at)
    }
}

/// Ends a connection, after a last frame if there is one.
pub(crate) async fn close(outlet: Arc<dyn Outlet>, last: Option<Bytes>, reason: Option<ErrorCode>) {
    if let Some(frame) = last {
        // It is closed next, delivered or not, and while there is time for that.
        let _ = tokio::time::timeout(LAST_FRAME_WITHIN, outlet.send(frame)).await;
    }
    outlet.close(reason).await;
}
