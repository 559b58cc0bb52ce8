//! End-to-end benchmarks, each next to floors measured in the same run, and a smoke test of deployed stacks.
//!
//! `stack` starts the built programs, `target` creates sessions, `terminal` and `socket` are the client, and `load` runs
//! `exchange`s in closed and open loops.

pub mod compare;
pub mod cost;
pub mod counts;
pub mod exchange;
pub mod fleet;
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
pub mod sandbox;
pub mod smoke;
pub mod socket;
pub mod stack;
pub mod suite;
pub mod target;
pub mod targets;
pub mod terminal;
mod tls;
