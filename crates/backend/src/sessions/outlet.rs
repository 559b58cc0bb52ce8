//! Outlets, by which frames reach clients. A session knows a connection only as an [`Outlet`].

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use shellbridge_protocol::{
    ErrorCode,
    frame::{ErrorFrame, FrameHead, ServerFrame},
    ids::ConnectionId,
    times::UnixMs,
};
use shellbridge_session::{OutletLimits, Sent};
use tokio::time::timeout;

/// How long a connection waits for its last frame before it is closed.
const LAST_FRAME_WITHIN: Duration = Duration::from_millis(1500);

/// A boxed future that can be sent between threads.
pub(crate) type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Sends to one client.
pub(crate) trait Outlet: Send + Sync {
    /// Sends one text frame, and retries as long as that may help.
    fn send(&self, frame: Bytes) -> Boxed<Sent>;
    /// Closes the connection, so that a client that is still there notices. Transports with close codes send `reason`.
    fn close(&self, reason: Option<ErrorCode>) -> Boxed<()>;
    /// Whether the connection still exists; true if unknown.
    fn exists(&self) -> Boxed<bool>;
}

/// Makes outlets.
pub(crate) trait Transport: Send + Sync {
    /// Limits of its connections.
    fn limits(&self) -> OutletLimits;
    /// Makes the outlet of an adopted connection. `made_at` is set for a connection made just now, whose handshake may
    /// still be in progress.
    fn outlet(self: Arc<Self>, connection: ConnectionId, made_at: Option<UnixMs>) -> Arc<dyn Outlet>;
}

/// Route to a connection. No outlet is made until the connection is adopted.
#[derive(Clone)]
pub(crate) struct Route {
    pub(crate) transport: Arc<dyn Transport>,
    /// See [`Transport::outlet`].
    pub(crate) made_at: Option<UnixMs>,
    /// Address from which [`FindRoute`] restores the route.
    pub(crate) address: Arc<str>,
}

/// Restores the route to a connection of an earlier backend from its [`Route::address`]. `None` if the address is not
/// allowed.
pub(crate) type FindRoute = Arc<dyn Fn(&str) -> Option<Route> + Send + Sync>;

impl Route {
    pub(crate) fn outlet(&self, connection: ConnectionId) -> Arc<dyn Outlet> {
        self.transport.clone().outlet(connection, self.made_at)
    }
}

/// Sends a frame. If it is too large for the connection and `replaceable`, sends an error instead.
pub(crate) async fn push(outlet: &dyn Outlet, frame: Bytes, replaceable: bool) -> Sent {
    match outlet.send(frame.clone()).await {
        Sent::TooLarge if replaceable => {
            let reference = FrameHead::read(&frame).ok().and_then(|head| head.reference());
            let error = ErrorFrame::new(ErrorCode::TooLarge, "frame too large for this connection");
            outlet.send(ServerFrame::from(error.answering(reference)).to_json()).await
        }
        sent => sent,
    }
}

/// Closes a connection, after a last frame if given.
pub(crate) async fn close(outlet: &dyn Outlet, last: Option<Bytes>, reason: Option<ErrorCode>) {
    if let Some(frame) = last {
        // Close in any case, delivered or not, and leave time for that.
        let _ = timeout(LAST_FRAME_WITHIN, outlet.send(frame)).await;
    }
    outlet.close(reason).await;
}
