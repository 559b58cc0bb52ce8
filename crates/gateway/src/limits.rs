//! Rate limits: new connections, and the account's requests.

use std::num::NonZeroU32;

use governor::{DefaultDirectRateLimiter, Quota};

use crate::config::Limits;

/// Token buckets of one API.
#[derive(Debug)]
pub struct Rates {
    connects: Option<DefaultDirectRateLimiter>,
    requests: Option<DefaultDirectRateLimiter>,
}

impl Rates {
    /// Buckets as configured. A rate of 0 means no limit.
    pub fn new(limits: &Limits) -> Self {
        Self {
            connects: bucket(limits.connect_rate, limits.connect_rate),
            requests: bucket(limits.request_rate, limits.request_burst),
        }
    }

    /// Takes a token for a new connection, if there is one.
    pub fn allow_connect(&self) -> bool {
        self.connects.as_ref().is_none_or(|bucket| bucket.check().is_ok())
    }

    /// Takes a token for a message or an `@connections` call, which share the account's rate.
    pub fn allow_request(&self) -> bool {
        self.requests.as_ref().is_none_or(|bucket| bucket.check().is_ok())
    }
}

fn bucket(rate: u32, burst: u32) -> Option<DefaultDirectRateLimiter> {
    let rate = NonZeroU32::new(rate)?;
    let burst = NonZeroU32::new(burst).unwrap_or(NonZeroU32::MIN);
    Some(DefaultDirectRateLimiter::direct(Quota::per_second(rate).allow_burst(burst)))
}
