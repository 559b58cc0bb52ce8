//! What a shell must not reach outside its session, tried as an attacker would: in a real `backend`, through its door.
//! Needs root, to start a backend as the image's user with file capabilities.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

mod attacks;
mod room;
#[allow(dead_code, reason = "shared with the tests of the door")]
#[path = "../door/support.rs"]
mod support;
mod survivors;
mod table;
mod users;
