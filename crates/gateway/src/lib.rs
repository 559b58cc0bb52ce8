#![doc = include_str!("../README.md")]
//!
//! # Modules
//!
//! [`stack`] starts everything in order; [`ws`] holds the clients' connections; [`dispatch`] turns their messages into
//! invocations of the [`function`]; [`control`] changes the [`faults`] and shows the [`counters`].

mod backend_calls;
pub mod balancer;
pub mod clock;
pub mod config;
#[cfg(test)]
mod conformance;
pub mod control;
pub mod counters;
pub mod descriptors;
pub mod dispatch;
pub mod dynamodb;
pub mod event;
pub mod faults;
pub mod function;
pub mod gateway;
mod http1;
pub mod id;
pub mod limits;
mod management;
pub mod reply;
pub mod route;
pub mod stack;
pub mod tls;
pub mod ws;
