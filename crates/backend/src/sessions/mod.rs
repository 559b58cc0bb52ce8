//! The sessions of this process: one task per session, which owns the link to its host.

mod bounds;
mod handle;
mod link;
mod open;
pub(crate) mod outlet;
mod stream;
#[cfg(test)]
pub(crate) mod tests;
mod tokens;

pub(crate) use self::{
    handle::{Handle, Incoming, Status, Unreachable},
    open::{NotOpened, Start, start, take_over},
    tokens::{Stale, Use},
};
