//! State machines of the two byte streams. They take bytes and times and return decisions.
//!
//! [`Reassembler`] receives a stream whose frames arrive late, twice or not at all. [`OutputLog`] keeps sent bytes for
//! replay. [`SendWindow`] decides what to send to one receiver, and when to probe it.

mod log;
mod reassembler;
mod window;

pub use log::OutputLog;
pub use reassembler::{Arrival, Reassembler};
pub use window::{Acked, SendWindow};
