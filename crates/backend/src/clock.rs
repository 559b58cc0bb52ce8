//! The time of day.

use std::time::SystemTime;

use shellbridge_protocol::times::{UnixMs, UnixSecs};

/// The time of day.
pub(crate) fn unix_ms() -> UnixMs {
    SystemTime::now().into()
}

/// The time of day in seconds, as tokens have it.
pub(crate) fn unix_secs() -> UnixSecs {
    unix_ms().secs()
}
