//! The WebSocket API: listener, handshake, and each connection until it ends.
//!
//! `listener` uses `handshake` and `driver`; both use `connection`, `outbox` and `socket`, which use none of them.

mod connection;
mod driver;
mod handshake;
mod head;
mod listener;
mod outbox;
mod registry;
mod socket;

pub use connection::Connection;
pub use listener::serve;
pub use outbox::{End, SendError};
pub use registry::Registry;
