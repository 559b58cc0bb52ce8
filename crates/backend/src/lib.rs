//! The backend: runs shells, keeps their byte streams, and speaks only HTTP.
//!
//! A transport proves who a client is and hands its frames to `ingress`, which finds the session in `directory`. A
//! session is one task (`sessions`) around a state machine without I/O (`shellbridge_session`); what it sends goes out
//! through the outlet that the transport gave it. Modules import only from those below them in this list.

mod run;

mod http;

mod transport;

mod ingress;

mod directory;

mod sessions;

mod launcher;

pub mod access;
mod admin;
mod clock;
pub mod config;
mod deployment;
mod emf;
pub mod error;
mod hop;
mod keep_awake;
mod metrics;
mod observe;
mod rate;

#[cfg(fuzzing)]
pub use self::sessions::fuzzing;
pub use self::{
    launcher::{
        BadLimits, Limits, Sandbox, UsersLeft, below_init, give_up_capabilities, init, is_init, keep_secrets,
        protect,
    },
    run::run,
};
