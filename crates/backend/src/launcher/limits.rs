//! How sessions are kept apart, and what each may use.

use std::str::FromStr;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// Smallest and largest value of each limit.
const MEMORY_MB: std::ops::RangeInclusive<u32> = 16..=1_048_576;
const CPUS: std::ops::RangeInclusive<f32> = 0.01..=1024.0;
const PIDS: std::ops::RangeInclusive<u32> = 8..=1_000_000;
const DISK_MB: std::ops::RangeInclusive<u32> = 1..=1_048_576;

/// How sessions are kept apart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sandbox {
    /// All shells run as the backend's user.
    #[default]
    None,
    /// Each session has its own user id.
    User,
    /// Each session has its own container.
    Container,
}

/// How a session is kept apart, and what it may use.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Room {
    /// How it is kept apart.
    pub(crate) sandbox: Sandbox,
    /// Image of its container.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) image: Option<String>,
    /// Its limits; without a sandbox, nothing enforces any.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) limits: Option<Limits>,
}

/// What a session may use. `None` is unlimited in the maxima, and the default in a session's request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Limits {
    /// Memory, MiB.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub memory_mb: Option<u32>,
    /// Processors.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cpus: Option<f32>,
    /// Processes and threads.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pids: Option<u32>,
    /// Files, MiB.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub disk_mb: Option<u32>,
}

/// Why limits are invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadLimits {
    /// Not of the form NAME=NUMBER.
    #[error("limits: memoryMb=N,cpus=N,pids=N,diskMb=N, each optional")]
    Form,
    /// Outside the range that makes sense.
    #[error("limits: {0} is out of range")]
    Range(&'static str),
    /// The server has no sandbox.
    #[error("limits: not enforced by this server (SHELL_SANDBOX=none)")]
    Unenforced,
    /// Above `SHELL_LIMITS_MAX`.
    #[error("limits: {0} is above the maximum of this server")]
    Above(&'static str),
}

impl Sandbox {
    /// Its name in settings, answers and metrics.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::User => "user",
            Self::Container => "container",
        }
    }
}

impl Limits {
    /// These limits, where unset `default`, if none exceeds `max`.
    ///
    /// # Errors
    /// Names the first limit that is out of range or above its maximum.
    pub(crate) fn within(self, default: Self, max: Self) -> Result<Self, BadLimits> {
        self.check()?;
        let chosen = Self {
            memory_mb: self.memory_mb.or(default.memory_mb),
            cpus: self.cpus.or(default.cpus),
            pids: self.pids.or(default.pids),
            disk_mb: self.disk_mb.or(default.disk_mb),
        };
        let above = |name, is: bool| if is { Err(BadLimits::Above(name)) } else { Ok(()) };
        above("memoryMb", exceeds(chosen.memory_mb, max.memory_mb))?;
        above("cpus", exceeds(chosen.cpus, max.cpus))?;
        above("pids", exceeds(chosen.pids, max.pids))?;
        above("diskMb", exceeds(chosen.disk_mb, max.disk_mb))?;
        Ok(chosen)
    }

    fn check(&self) -> Result<(), BadLimits> {
        let range = |name, fits: bool| if fits { Ok(()) } else { Err(BadLimits::Range(name)) };
        range("memoryMb", self.memory_mb.is_none_or(|mb| MEMORY_MB.contains(&mb)))?;
        range("cpus", self.cpus.is_none_or(|cpus| CPUS.contains(&cpus)))?;
        range("pids", self.pids.is_none_or(|pids| PIDS.contains(&pids)))?;
        range("diskMb", self.disk_mb.is_none_or(|mb| DISK_MB.contains(&mb)))
    }
}

/// Whether a limit is above its maximum. No limit is above any.
fn exceeds<T: PartialOrd>(limit: Option<T>, max: Option<T>) -> bool {
    max.is_some_and(|max| limit.is_none_or(|limit| limit > max))
}

impl FromStr for Limits {
    type Err = BadLimits;

    fn from_str(text: &str) -> Result<Self, BadLimits> {
        let mut limits = Self::default();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (name, number) = part.split_once('=').ok_or(BadLimits::Form)?;
            let whole = || number.parse().map(Some).map_err(|_| BadLimits::Form);
            match name {
                "memoryMb" => limits.memory_mb = whole()?,
                "pids" => limits.pids = whole()?,
                "diskMb" => limits.disk_mb = whole()?,
                "cpus" => limits.cpus = Some(number.parse().map_err(|_| BadLimits::Form)?),
                _ => return Err(BadLimits::Form),
            }
        }
        limits.check()?;
        Ok(limits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(text: &str) -> Limits {
        text.parse().unwrap()
    }

    #[test]
    fn limits_are_read_from_text() {
        let all = limits("memoryMb=64, cpus=0.5,pids=32,diskMb=10");
        assert_eq!(all, Limits { memory_mb: Some(64), cpus: Some(0.5), pids: Some(32), disk_mb: Some(10) });
        assert_eq!(limits(""), Limits::default());
        for bad in ["memory=1", "pids", "pids=x", "pids=-1", "pids=1", "cpus=NaN", "cpus=inf"] {
            assert!(bad.parse::<Limits>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_session_gets_what_it_asks_for_up_to_the_maximum() {
        let (default, max) = (limits("memoryMb=64,pids=32"), limits("memoryMb=128,pids=64,cpus=2"));
        let within = |asked: &str| limits(asked).within(default, max);
        assert_eq!(within("pids=64,cpus=1"), Ok(limits("memoryMb=64,pids=64,cpus=1")));
        assert_eq!(within("pids=65,cpus=1"), Err(BadLimits::Above("pids")));
        assert_eq!(within(""), Err(BadLimits::Above("cpus")), "without a default it is unlimited");
    }
}
