//! The sessions of this process: one task around each state machine (`shellbridge_session`).

mod door;
mod drain;
mod end;
mod handle;
pub(crate) mod outlet;
mod task;
#[cfg(test)]
mod tests;
mod thread;
mod tokens;

pub(crate) use self::{
    handle::{Handle, Status, Unreachable},
    task::{Start, spawn},
    tokens::{Stale, Use},
};
