#![doc = include_str!("../README.md")]

mod admit;
mod advance;
mod attach;
mod client;
mod commands;
mod connection;
mod effect;
mod lifecycle;
#[cfg(feature = "link")]
pub mod link;
mod model;
mod screen;
mod session;
mod snapshot;
mod timers;

pub use self::{
    admit::MAX_CONNECTIONS,
    commands::{CommandEnd, CommandOutcome},
    connection::{ConnectionInfo, OutletLimits},
    effect::{Effect, End, PushKind, Reply, Request, Sent},
    model::Work,
    session::{Limits, Session, Settings, Status, TooManyConnections},
};
