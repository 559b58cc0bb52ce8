//! Rates: new connections, and requests of the account.

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
    /// Buckets as configured; a rate of 0 is no limit.
    pub fn new(limits: &Limits) -> Self {
        Self {
            connects: bucket(limits.connect_rate, limits.connect_rate),
            requests: bucket(limits.request_rate, limits.request_burst),
        }
    }

    /// Whether one more connection may open now.
    pub fn allow_connect(&self) -> bool {
        self.connects.as_ref().is_none_or(|bucket| bucket.check().is_ok())
    }

    /// Whether one more message, or call of `@connections`, may pass now. Both share the account's rate.
    pub fn allow_request(&self) -> bool {
        self.requests.as_ref().is_none_or(|bucket| bucket.check().is_ok())
    }
}

fn bucket(rate: u32, burst: u32) -> Option<DefaultDirectRateLimiter> {
    let rate = NonZeroU32::new(rate)?;
    let burst = NonZeroU32::new(burst).unwrap_or(NonZeroU32::MIN);
    Some(DefaultDirectRateLimiter::direct(Quota::per_second(rate).allow_burst(burst)))
}
