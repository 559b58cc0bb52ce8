//! The sessions that this process is in charge of: one task for the link to each host, which does what it asks for.

mod end;
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
