//! The session of a terminal as one state machine: frames, output and time go in, effects come out.
//!
//! There is no I/O, no clock and no runtime here, so that schedules are generated in tests instead of waited for, and
//! the crate builds for `wasm32-unknown-unknown`. Whoever drives a [`Session`] owns the terminal, the running command
//! and the ways to the clients. The order of calls, after each thing that happened:
//!
//! 1. one `handle_*`, with the time at which it happened;
//! 2. [`Session::poll_effect`] until it returns none, doing what each [`Effect`] says;
//! 3. [`Session::poll_write`] and [`Session::read_allowance`], for what the terminal may take and give;
//! 4. [`Session::poll_timeout`], and [`Session::handle_timeout`] no later than that.
//!
//! Times are durations since the session's start, by a monotonic clock. What clients are told in Unix time is derived
//! from the start.

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
