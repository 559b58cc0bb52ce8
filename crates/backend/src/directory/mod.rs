//! Looks up sessions.

mod local;

pub(crate) use self::local::{Directory, Missing, Refused, Reservation};
