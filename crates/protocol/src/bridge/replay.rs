//! Replay protection: a bounded record of used bridge tokens, which no single user can fill.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    hash::{BuildHasher, RandomState},
};

use crate::{ids::UserId, times::UnixSecs};

/// Result of checking a `jti`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replay {
    /// Not seen before; now recorded.
    Fresh,
    /// Seen before: reject with 401.
    Seen,
    /// This user's entries have reached the room left for others: reject with 429.
    Share,
    /// Full: reject with 503. Evicting an entry would let an attacker make room for a replay.
    Full,
}

/// Records each `jti` until its token has expired. Check only verified tokens.
///
/// A user may hold no more entries than are free (dynamic thresholds, Choudhury and Hahne 1998). A single flooding user
/// stops at half the capacity, two at a third each; users that send little always find room.
#[derive(Debug)]
pub struct ReplayCache {
    /// Ids and users are stored as hashes: 24 bytes an entry instead of two strings. The hash is keyed at random, so that an
    /// attacker cannot construct collisions. An accidental one has a probability of 10^-13, and the Lambda then signs
    /// again.
    seen: HashSet<u64>,
    /// In order of arrival, which is nearly the order of expiry because all tokens have the same lifetime.
    order: VecDeque<Used>,
    /// Entries per user; never 0.
    users: HashMap<u64, usize>,
    hasher: RandomState,
    capacity: usize,
}

#[derive(Debug)]
struct Used {
    until: UnixSecs,
    jti: u64,
    user: u64,
}

impl ReplayCache {
    /// Capacity that the contract requires.
    pub const CAPACITY: usize = 1_000_000;

    /// An empty cache for at most `capacity` ids.
    pub fn new(capacity: usize) -> Self {
        Self {
            seen: HashSet::new(),
            order: VecDeque::new(),
            users: HashMap::new(),
            hasher: RandomState::new(),
            capacity,
        }
    }

    /// Whether `jti` is recorded. Lets a caller reject a replay before other checks, such as rates, without recording
    /// anything.
    pub fn has(&self, jti: &str) -> bool {
        self.seen.contains(&self.hasher.hash_one(jti))
    }

    /// Records `jti` for `user` while `now <= until`.
    pub fn check(&mut self, jti: &str, user: &UserId, until: UnixSecs, now: UnixSecs) -> Replay {
        self.forget(now);
        let (jti, user) = (self.hasher.hash_one(jti), self.hasher.hash_one(user));
        if self.seen.contains(&jti) {
            return Replay::Seen;
        }
        let room = self.capacity.saturating_sub(self.seen.len());
        if room == 0 {
            return Replay::Full;
        }
        let mine = self.users.get(&user).copied().unwrap_or_default();
        if mine >= room {
            return Replay::Share;
        }
        self.seen.insert(jti);
        self.order.push_back(Used { until, jti, user });
        self.users.insert(user, mine + 1);
        Replay::Fresh
    }

    fn forget(&mut self, now: UnixSecs) {
        while let Some(used) = self.order.pop_front_if(|used| used.until < now) {
            self.seen.remove(&used.jti);
            match self.users.get_mut(&used.user) {
                Some(count) if *count > 1 => *count -= 1,
                _ => drop(self.users.remove(&used.user)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(cache: &mut ReplayCache, jti: &str, user: &str, until: i64, now: i64) -> Replay {
        cache.check(jti, &user.into(), UnixSecs(until), UnixSecs(now))
    }

    #[test]
    fn a_token_is_used_once() {
        let mut cache = ReplayCache::new(10);
        assert!(!cache.has("a"));
        assert_eq!(check(&mut cache, "a", "u", 65, 0), Replay::Fresh);
        assert!(cache.has("a"));
        assert_eq!(check(&mut cache, "a", "u", 65, 65), Replay::Seen);
        assert_eq!(check(&mut cache, "a", "another", 65, 65), Replay::Seen);
        assert_eq!(check(&mut cache, "b", "u", 65, 65), Replay::Fresh);
    }

    #[test]
    fn a_full_cache_refuses_and_evicts_nothing_until_time_does() {
        let mut cache = ReplayCache::new(2);
        assert_eq!(check(&mut cache, "a", "u", 65, 0), Replay::Fresh);
        assert_eq!(check(&mut cache, "b", "v", 70, 5), Replay::Fresh);
        assert_eq!(check(&mut cache, "c", "w", 70, 5), Replay::Full);
        assert_eq!(check(&mut cache, "a", "u", 65, 5), Replay::Seen);
        assert_eq!(check(&mut cache, "c", "w", 131, 66), Replay::Fresh);
        assert_eq!((cache.order.len(), cache.users.len()), (2, 2));
    }

    #[test]
    fn regression_one_user_cannot_fill_the_cache() {
        let mut cache = ReplayCache::new(1_000);
        let taken = |cache: &mut ReplayCache, user: &str| {
            let tries = (0..2_000).map(|n| check(cache, &format!("{user}-{n}"), user, 65, 0));
            tries.filter(|replay| *replay == Replay::Fresh).count()
        };
        assert_eq!(taken(&mut cache, "mallory"), 500);
        assert_eq!(check(&mut cache, "one more", "mallory", 65, 0), Replay::Share);
        for n in 0..100 {
            assert_eq!(check(&mut cache, &format!("a-{n}"), "ann", 65, 0), Replay::Fresh, "others go on");
        }
        assert_eq!(taken(&mut cache, "trudy"), 200, "as much as is left then");
        assert_eq!(check(&mut cache, "late", "late", 65, 0), Replay::Fresh);
        assert_eq!(check(&mut cache, "later", "mallory", 165, 66), Replay::Fresh);
        assert_eq!((cache.seen.len(), cache.users.len()), (1, 1), "and time gives all of it back");
    }
}
