//! Where a session is.

mod local;

pub(crate) use self::local::{Directory, Refused};
