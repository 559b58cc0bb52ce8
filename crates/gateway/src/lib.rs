//! Stand-in for Amazon API Gateway's WebSocket APIs, the Lambda service and `DynamoDB`: one program, so that a
//! function and its backend run on a laptop as they do on AWS, and meet there what they will meet on AWS: frames
//! that overtake each other, connections that are cut, pushes that fail.
//!
//! [`stack`] starts everything in order; [`ws`] holds the clients' connections; [`dispatch`] turns their messages
//! into invocations of the [`function`]; [`control`] changes the [`faults`] and shows the [`counters`].
//!
//! The table in [`conformance`] says what is imitated, where it is known from, and which test shows it.

mod backend_calls;
pub mod clock;
pub mod config;
pub mod conformance;
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
