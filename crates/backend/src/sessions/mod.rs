//! The sessions of this process: one task per session, which owns the link to its host.

mod bounds;
mod claim;
#[cfg(fuzzing)]
pub mod fuzzing;
mod greet;
mod handle;
mod link;
mod open;
pub(crate) mod outlet;
mod seal;
mod stream;
#[cfg(test)]
pub(crate) mod tests;
mod tokens;

pub(crate) use self::{
    claim::{Change, Claim, Roster, Standing},
    greet::NotOpened,
    handle::{Handle, Incoming, Status, Unreachable},
    open::{Start, start, take_over},
    seal::Seal,
    tokens::{Stale, Use},
};
