//! The time of day.

use std::time::{SystemTime, UNIX_EPOCH};

use shellbridge_protocol::times::{UnixMs, UnixSecs};

/// The time of day.
pub(crate) fn unix_ms() -> UnixMs {
    UnixMs::from_epoch(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

/// The time of day in seconds, as tokens have it.
pub(crate) fn unix_secs() -> UnixSecs {
    unix_ms().secs()
}
