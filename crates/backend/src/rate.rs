//! Rate limits: frames per second, per connection and per user.

use std::{
    hash::{BuildHasher, RandomState},
    num::NonZeroU32,
};

use governor::{
    Quota, RateLimiter,
    clock::{Clock, DefaultClock},
    middleware::NoOpMiddleware,
    state::keyed::HashMapStateStore,
};
use shellbridge_protocol::ids::{ConnectionId, UserId};

/// Connections, and likewise users, tracked at once: far more than a process can serve. Each takes 16 bytes.
const MAX_KEYS: usize = 100_000;

/// Rate limits of connections and users.
pub(crate) struct RateLimits<C: Clock = DefaultClock> {
    connections: Counted<C>,
    users: Counted<C>,
    /// Keys are hashes of ids, seeded at random: a long id costs no memory, and clients cannot construct colliding ids.
    hasher: RandomState,
}

/// One kind of limit. Forgets keys whose quota is full again.
struct Counted<C: Clock> {
    limiter: RateLimiter<u64, HashMapStateStore<u64>, C, NoOpMiddleware<C::Instant>>,
    most: usize,
}

/// Why a frame exceeds the limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TooMany {
    /// Its connection sends too many.
    Connection,
    /// The connections of its user send too many.
    User,
    /// Too many other keys are tracked, so this one cannot be counted.
    Others,
}

impl TooMany {
    /// The metrics label.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Connection => "connection",
            Self::User => "user",
            Self::Others => "others",
        }
    }
}

impl RateLimits {
    /// `connection`, `user`: frames per second; also the burst.
    pub(crate) fn new(connection: NonZeroU32, user: NonZeroU32) -> Self {
        Self::with(connection, user, MAX_KEYS, &DefaultClock::default())
    }
}

impl<C: Clock + Clone> RateLimits<C> {
    fn with(connection: NonZeroU32, user: NonZeroU32, most: usize, clock: &C) -> Self {
        let counted = |quota| Counted {
            limiter: RateLimiter::hashmap_with_clock(Quota::per_second(quota), clock.clone()),
            most,
        };
        Self { connections: counted(connection), users: counted(user), hasher: RandomState::new() }
    }

    /// Counts a frame and checks it against both limits.
    pub(crate) fn check(&self, connection: &ConnectionId, user: &UserId) -> Result<(), TooMany> {
        self.connections.check(self.hasher.hash_one(connection), TooMany::Connection)?;
        self.users.check(self.hasher.hash_one(user), TooMany::User)
    }

    /// Forgets keys that have been silent for a second: their quota is full again. Call periodically.
    pub(crate) fn forget_silent(&self) {
        for counted in [&self.connections, &self.users] {
            counted.limiter.retain_recent();
            counted.limiter.shrink_to_fit();
        }
    }
}

impl<C: Clock> Counted<C> {
    fn check(&self, key: u64, too_many: TooMany) -> Result<(), TooMany> {
        // No eviction: with many other ids a client could evict its own count. `forget_silent` makes room.
        if self.limiter.len() >= self.most {
            return Err(TooMany::Others);
        }
        self.limiter.check_key(&key).map_err(|_| too_many)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use governor::clock::FakeRelativeClock;

    use super::*;

    fn limits(most: usize) -> (RateLimits<FakeRelativeClock>, FakeRelativeClock) {
        let clock = FakeRelativeClock::default();
        let number = |n| NonZeroU32::new(n).unwrap();
        (RateLimits::with(number(10), number(25), most, &clock), clock)
    }

    #[test]
    fn a_connection_is_limited_and_recovers() {
        let (limits, clock) = limits(100);
        for _ in 0..10 {
            assert_eq!(limits.check(&"c".into(), &"u".into()), Ok(()));
        }
        assert_eq!(limits.check(&"c".into(), &"u".into()), Err(TooMany::Connection));
        assert_eq!(limits.check(&"another".into(), &"u".into()), Ok(()), "other connections are unaffected");
        clock.advance(Duration::from_millis(100));
        assert_eq!(limits.check(&"c".into(), &"u".into()), Ok(()));
        assert_eq!(limits.check(&"c".into(), &"u".into()), Err(TooMany::Connection));
    }

    #[test]
    fn connections_of_a_user_share_one_limit() {
        let (limits, _) = limits(100);
        let sent =
            (0..50).filter(|n| limits.check(&format!("c{}", n % 5).into(), &"u".into()).is_ok()).count();
        assert_eq!(sent, 25);
        assert_eq!(limits.check(&"fresh".into(), &"u".into()), Err(TooMany::User));
        assert_eq!(limits.check(&"fresh".into(), &"somebody else".into()), Ok(()));
    }

    #[test]
    fn tracked_keys_are_bounded_and_silent_ones_are_forgotten() {
        let (limits, clock) = limits(3);
        for name in ["a", "b", "c"] {
            assert_eq!(limits.check(&name.into(), &name.into()), Ok(()));
        }
        assert_eq!(limits.check(&"d".into(), &"d".into()), Err(TooMany::Others));
        limits.forget_silent();
        assert_eq!(limits.connections.limiter.len(), 3, "active a moment ago");
        clock.advance(Duration::from_secs(2));
        limits.forget_silent();
        assert_eq!((limits.connections.limiter.len(), limits.users.limiter.len()), (0, 0));
        assert_eq!(limits.check(&"d".into(), &"d".into()), Ok(()));
    }
}
