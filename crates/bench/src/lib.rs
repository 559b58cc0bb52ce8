//! Measures the whole way, beside floors of the same run, and smokes deployed stacks.
//!
//! `stack` starts the built programs, `target` says how sessions are had, `terminal` and `socket` are the client,
//! `load` runs closed and open loops of the `exchange`s.

pub mod all;
pub mod compare;
pub mod cost;
pub mod counts;
pub mod exchange;
pub mod floor;
pub mod function;
pub mod idle;
pub mod load;
pub mod mixed;
pub mod mode;
pub mod neighbour;
pub mod output;
pub mod process;
pub mod report;
pub mod smoke;
pub mod socket;
pub mod stack;
pub mod target;
pub mod targets;
pub mod terminal;
mod tls;
