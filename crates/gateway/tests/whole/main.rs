//! End-to-end tests with the three real programs: client, gateway, function, backend, shell.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "../support/mod.rs"]
mod support;

mod balancer;
mod counted;
mod fleet;
mod flood;
mod idle;
mod keys;
mod leaks;
mod neighbour;
mod outages;
mod promise;
mod rotation;
mod terminal;
mod wrong;
