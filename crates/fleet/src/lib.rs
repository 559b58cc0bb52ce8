//! An instance's part in a fleet: its lease, the registry of its sessions, and what it may do without asking.
//!
//! [`Fleet`] is a state machine without I/O and without a clock. The driver passes the current time to each call, sends
//! what [`Fleet::poll_request`] returns to the store, and passes each outcome to [`Fleet::handle_reply`]. After any call,
//! it drains [`Fleet::poll_request`] and [`Fleet::poll_effect`], and calls [`Fleet::handle_timeout`] at
//! [`Fleet::poll_timeout`].
//!
//! The store is any that applies a [`Request`] atomically and expires what it is told to. It may lose its last writes
//! when it fails over, all of its writes when it restarts, and apply a request long after its sender has given up. It
//! must break its clients' connections when it fails over; the driver reports that by [`Fleet::handle_reconnected`].
//!
//! **Two instances never serve one session.** An instance serves a session only while its lease lasts, measured from
//! before the renewal was sent, and only after the store has confirmed the session since the last sign of a lost write.
//! An instance takes an id that others may know, declares a session absent, or buries an instance's sessions only after
//! [`limits::SETTLED`] of renewals without a gap on one connection. By then, every other owner has asserted its sessions
//! again or serves none.

mod effect;
pub mod limits;
mod machine;
mod store;
#[cfg(test)]
mod tests;

pub use self::{
    effect::{Effect, Place, Refused},
    machine::{Fleet, NewSession},
    store::{Asserted, Failed, Found, Member, Orphans, Renewed, Reply, Request, RequestId, Under, Written},
};
