//! Times and bounds.

use std::time::Duration;

/// Life of a lease in the store without a renewal.
pub const LEASE: Duration = Duration::from_secs(12);
/// How much of [`LEASE`] an instance uses, from before it sends a renewal. The rest is for requests in flight and for clocks
/// that run at different rates.
pub const HELD: Duration = Duration::from_secs(10);
/// Time between renewals.
pub const RENEW: Duration = Duration::from_secs(3);
/// Time between attempts while the store fails.
pub const RETRY: Duration = Duration::from_millis(250);
/// How long renewals must have succeeded without a gap before absence from the store counts. More than [`LEASE`], so that
/// an owner whose writes were lost in a failover has asserted them again or serves nothing.
pub const SETTLED: Duration = Duration::from_secs(15);
/// How long a positive look-up is used.
pub const CACHED: Duration = Duration::from_secs(3);
/// How long a release counts as present after its last renewal.
pub const RELEASE_SEEN: Duration = Duration::from_secs(30);
/// How long one instance has the right to bury the sessions of another.
pub const REAPING: Duration = Duration::from_secs(10);
/// Sessions per [`Request::Assert`](crate::Request::Assert) and per answer to [`Request::Reap`](crate::Request::Reap).
pub const BATCH: usize = 128;
/// Requests in flight; renewals are not counted.
pub const MAX_IN_FLIGHT: usize = 32;
/// Cached look-ups.
pub const MAX_CACHED: usize = 10_000;
/// Connections of a session that are kept for its farewell.
pub const MAX_CONNECTIONS: usize = 16;
