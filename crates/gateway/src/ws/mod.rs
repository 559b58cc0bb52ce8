//! The WebSocket API: listening, the handshake, and what a connection does until it ends.

mod connection;
mod handshake;
mod head;
mod listener;
mod outbox;
mod registry;
mod socket;

pub use connection::Connection;
pub use listener::serve;
pub use outbox::{End, Refused};
pub use registry::Registry;
