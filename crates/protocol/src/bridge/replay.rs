//! Which bridge tokens were used: bounded, and exact within the bound.

use std::collections::{HashSet, VecDeque};

/// What the cache says of a `jti`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replay {
    /// Not seen before; now remembered.
    Fresh,
    /// Seen before: refuse with 401.
    Seen,
    /// Cannot remember more: refuse with 503. Nothing is evicted, or an attacker could make room for a replay.
    Full,
}

/// Remembers each `jti` until its token has expired. Only verified tokens may be asked about.
#[derive(Debug)]
pub struct ReplayCache {
    seen: HashSet<String>,
    /// In order of arrival. Tokens live equally long, so this is nearly the order of expiry.
    order: VecDeque<(i64, String)>,
    capacity: usize,
}

impl ReplayCache {
    /// Entries that the contract wants remembered.
    pub const CAPACITY: usize = 1_000_000;

    /// An empty cache for at most `capacity` ids.
    pub fn new(capacity: usize) -> Self {
        Self { seen: HashSet::new(), order: VecDeque::new(), capacity }
    }

    /// Records the use of `jti`, which must be remembered while `now <= until` (Unix seconds).
    pub fn check(&mut self, jti: &str, until: i64, now: i64) -> Replay {
        while let Some((expired, _)) = self.order.front()
            && *expired < now
        {
            if let Some((_, jti)) = self.order.pop_front() {
                self.seen.remove(&jti);
            }
        }
        if self.seen.contains(jti) {
            return Replay::Seen;
        }
        if self.seen.len() >= self.capacity {
            return Replay::Full;
        }
        self.seen.insert(jti.to_owned());
        self.order.push_back((until, jti.to_owned()));
        Replay::Fresh
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_used_once() {
        let mut cache = ReplayCache::new(10);
        assert_eq!(cache.check("a", 65, 0), Replay::Fresh);
        assert_eq!(cache.check("a", 65, 65), Replay::Seen);
        assert_eq!(cache.check("b", 65, 65), Replay::Fresh);
    }

    #[test]
    fn a_full_cache_refuses_and_evicts_nothing_until_time_does() {
        let mut cache = ReplayCache::new(2);
        assert_eq!(cache.check("a", 65, 0), Replay::Fresh);
        assert_eq!(cache.check("b", 70, 5), Replay::Fresh);
        assert_eq!(cache.check("c", 70, 5), Replay::Full);
        assert_eq!(cache.check("a", 65, 5), Replay::Seen);
        assert_eq!(cache.check("c", 131, 66), Replay::Fresh);
        assert_eq!(cache.order.len(), 2);
    }
}
