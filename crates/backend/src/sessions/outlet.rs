//! The ways to clients. A session knows no more of a connection than an [`Outlet`].

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
#[derive(Clone)]
pub(crate) struct Route {
    pub(crate) transport: Arc<dyn Transport>,
    /// See [`Transport::outlet`].
    pub(crate) made_at: Option<UnixMs>,
    /// What [`FindRoute`] finds it again by.
    pub(crate) address: Arc<str>,
}

/// Finds the way to a connection that an earlier backend had, by its [`Route::address`]. None if frames must not be sent
/// there.
pub(crate) type FindRoute = Arc<dyn Fn(&str) -> Option<Route> + Send + Sync>;

impl Route {
    pub(crate) fn outlet(&self, connection: ConnectionId) -> Arc<dyn Outlet> {
        self.transport.clone().outlet(connection, self.made_at)
    }
}

/// Sends a frame; once its connection turns out to be too narrow for an answer, an error in its place.
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

/// Ends a connection, after a last frame if there is one.
pub(crate) async fn close(outlet: &dyn Outlet, last: Option<Bytes>, reason: Option<ErrorCode>) {
    if let Some(frame) = last {
        // It is closed next, delivered or not, and while there is time for that.
        let _ = timeout(LAST_FRAME_WITHIN, outlet.send(frame)).await;
    }
    outlet.close(reason).await;
}
