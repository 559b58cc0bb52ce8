//! The whole way, through the three real programs: browser's side, gateway, function, backend, shell.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

#[path = "../support/mod.rs"]
mod support;

mod counted;
mod flood;
mod idle;
mod keys;
mod leaks;
mod neighbour;
mod outages;
mod promise;
mod terminal;
mod wrong;
