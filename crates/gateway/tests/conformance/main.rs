//! API Gateway's behaviour on real sockets with a real function. Sections are those of README.md; its section 12 says
//! which test shows what.

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
mod instances;
mod limits;
mod management;
mod routing;
mod sdks;
mod starting;
mod tls;
mod wrong_use;
