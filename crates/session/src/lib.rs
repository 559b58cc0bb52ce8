//! The state machine of a terminal session: consumes frames, output and time; produces effects.
//!
//! It has no I/O, no clock and no runtime, so that tests generate schedules instead of waiting, and the crate builds for
//! `wasm32-unknown-unknown`. The driver of a [`Session`] owns the terminal, the running command and the connections. After
//! each event it calls, in this order:
//!
//! 1. the event's `handle_*`, with the time of the event;
//! 2. [`Session::poll_effect`] until it returns `None`, executing each [`Effect`];
//! 3. [`Session::poll_write`] and [`Session::read_allowance`], for input to write and output to read;
//! 4. [`Session::poll_timeout`], and [`Session::handle_timeout`] by that time.
//!
//! Times are durations since the session's start, by a monotonic clock. Unix times in frames are derived from the start.

mod admit;
mod advance;
mod attach;
mod client;
mod commands;
mod connection;
mod effect;
mod model;
mod screen;
mod session;
mod snapshot;
mod timers;

pub use self::{
    commands::{CommandEnd, CommandOutcome},
    connection::{ConnectionInfo, OutletLimits},
    effect::{Effect, End, PushKind, Reply, Request, Sent},
    model::Work,
    session::{Limits, Session, Settings, Status, TooManyConnections},
};
