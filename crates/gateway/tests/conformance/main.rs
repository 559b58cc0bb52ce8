//! What API Gateway does, shown on real sockets with a real function. One module a section of
//! README.md; its section 12 has the table.

#![expect(unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "../support/mod.rs"]
mod support;

mod control;
mod disconnect;
mod dispatch;
mod events;
mod faults;
mod function;
mod handshake;
mod limits;
mod management;
mod routing;
mod sdks;
mod starting;
mod tls;
mod wrong_use;
