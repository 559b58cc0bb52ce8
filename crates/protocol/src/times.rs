//! Times of the wire contract and the shell's epoch, each with its own type so that units cannot be mixed. This crate
//! has no clock: programs construct these from theirs.

use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

/// Unix time in milliseconds; below 2^53 on the wire.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(transparent)]
pub struct UnixMs(pub u64);

/// Unix time in seconds: RFC 7519's `NumericDate` without a fraction. Signed, because a token may hold any number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnixSecs(pub i64);

/// Identifies one shell of a session; offsets belong to an epoch. Below 2^53; a newer shell's epoch is higher.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl UnixMs {
    /// The latest time.
    pub const MAX: Self = Self(u64::MAX);

    /// The time `after` this one, at most [`UnixMs::MAX`].
    #[must_use]
    pub fn saturating_add(self, after: Duration) -> Self {
        Self(self.0.saturating_add(whole_ms(after)))
    }

    /// The time `before` this one, at least 1970.
    #[must_use]
    pub fn saturating_sub(self, before: Duration) -> Self {
        Self(self.0.saturating_sub(whole_ms(before)))
    }

    /// The time since `earlier`; zero if that is later.
    pub const fn saturating_since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// The whole seconds.
    pub const fn secs(self) -> UnixSecs {
        // A thousandth of any u64 fits.
        UnixSecs((self.0 / 1_000).cast_signed())
    }
}

impl From<SystemTime> for UnixMs {
    /// A reading of the caller's clock; 1970 for earlier times.
    fn from(time: SystemTime) -> Self {
        Self(whole_ms(time.duration_since(UNIX_EPOCH).unwrap_or_default()))
    }
}

impl UnixSecs {
    /// The time `after` this one, in seconds, saturating.
    #[must_use]
    pub const fn saturating_add(self, after: i64) -> Self {
        Self(self.0.saturating_add(after))
    }

    /// The time `before` this one, in seconds, saturating.
    #[must_use]
    pub const fn saturating_sub(self, before: i64) -> Self {
        Self(self.0.saturating_sub(before))
    }

    /// Seconds since `earlier`, saturating; negative if that is later.
    pub const fn saturating_since(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0)
    }

    /// In milliseconds: 1970 for earlier times, [`UnixMs::MAX`] for those too late.
    pub const fn ms(self) -> UnixMs {
        if self.0 < 0 { UnixMs(0) } else { UnixMs(self.0.unsigned_abs().saturating_mul(1_000)) }
    }
}

impl Epoch {
    /// The epoch of a shell started at `started` after the shell of this epoch: always higher, even if the clock was set back.
    #[must_use]
    pub fn next(self, started: UnixMs) -> Self {
        Self(started.0.max(self.0.saturating_add(1)))
    }
}

impl From<UnixMs> for Epoch {
    /// The epoch of a session's first shell.
    fn from(started: UnixMs) -> Self {
        Self(started.0)
    }
}

fn whole_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

macro_rules! display {
    ($($name:ident)*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, formatter)
            }
        }
    )*};
}

display! { UnixMs UnixSecs Epoch }

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_convert_and_saturate() {
        assert_eq!(UnixMs::from(UNIX_EPOCH + Duration::from_micros(7_900)), UnixMs(7));
        assert_eq!(UnixMs::from(UNIX_EPOCH - Duration::from_secs(1)), UnixMs(0));
        assert_eq!(UnixMs(1_999).secs(), UnixSecs(1));
        assert_eq!(UnixMs::MAX.secs().ms(), UnixMs(u64::MAX / 1_000 * 1_000));
        assert_eq!(UnixSecs(2).ms(), UnixMs(2_000));
        assert_eq!((UnixSecs(i64::MIN).ms(), UnixSecs(i64::MAX).ms()), (UnixMs(0), UnixMs::MAX));
        assert_eq!(UnixMs::MAX.saturating_add(Duration::MAX), UnixMs::MAX);
        assert_eq!(UnixMs(5).saturating_sub(Duration::from_secs(1)), UnixMs(0));
        assert_eq!(UnixMs(5).saturating_since(UnixMs(9)), Duration::ZERO);
        assert_eq!(UnixSecs(i64::MIN).saturating_sub(1), UnixSecs(i64::MIN));
    }

    #[test]
    fn epochs_rise_even_if_the_clock_does_not() {
        let first = Epoch::from(UnixMs(7));
        assert_eq!(
            (first.next(UnixMs(9)), first.next(UnixMs(7)), first.next(UnixMs(1))),
            (Epoch(9), Epoch(8), Epoch(8))
        );
    }

    #[test]
    fn json_is_the_bare_number() {
        let json = serde_json::to_string(&(UnixMs(1), UnixSecs(-2), Epoch(3))).unwrap();
        assert_eq!(json, "[1,-2,3]");
        assert_eq!(serde_json::from_str::<(UnixMs, UnixSecs, Epoch)>(&json).unwrap().1, UnixSecs(-2));
    }
}
