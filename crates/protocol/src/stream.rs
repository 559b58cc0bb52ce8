//! The two byte streams as state machines: bytes and times in, decisions out.
//!
//! [`Reassembler`] receives a stream whose frames come late, twice or not at all. [`OutputLog`] keeps what was
//! sent. [`SendWindow`] says what one receiver may be sent next, and when it must be asked what it has.

mod log;
mod reassembler;
mod window;

pub use log::OutputLog;
pub use reassembler::{Arrival, Reassembler};
pub use window::{Acked, SendWindow};
