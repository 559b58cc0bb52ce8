//! Where frames of a connection go. A session knows no more of a connection than this.

use std::{future::Future, pin::Pin, sync::Arc};

use bytes::Bytes;

/// API Gateway's id of a connection, or whatever names one elsewhere.
pub(crate) type ConnectionId = Arc<str>;

/// What became of a frame, after all retries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sent {
    /// It was handed to the client's socket.
    Delivered,
    /// There is no such connection any more, or it takes nothing.
    Gone,
    /// This frame is larger than the connection takes, however often it is sent.
    TooLarge,
}

/// A future that may cross threads.
pub(crate) type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A way to one client.
pub(crate) trait Outlet: Send + Sync {
    /// Sends one text frame, trying again as long as that may help.
    fn send(&self, frame: Bytes) -> Boxed<Sent>;
    /// Ends the connection, so that a client who is still there notices.
    fn close(&self) -> Boxed<()>;
    /// Whether the connection still exists; true when that cannot be told.
    fn exists(&self) -> Boxed<bool>;
}
