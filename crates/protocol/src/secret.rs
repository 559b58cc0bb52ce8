//! Shared secrets that can be rotated: one key, or the new and the old key, separated by a comma.
//!
//! `BRIDGE_SECRET`, `JWT_SECRET` and `ADMIN_TOKEN` are all parsed here. The first key signs and mints; every key verifies.

use crate::limits::MIN_SECRET;

/// Most keys in use at a time: the new one and the one that it replaces.
pub const MAX_KEYS: usize = 2;

/// Why a secret is invalid. The process does not start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// A key is shorter than [`MIN_SECRET`].
    #[error("each key is at least {MIN_SECRET} bytes")]
    Short,
    /// More than [`MAX_KEYS`] keys.
    #[error("at most two keys, separated by a comma")]
    TooMany,
}

/// The keys of a secret, one or two, newest first. Ignores white space around a key.
pub fn keys(secret: &str) -> Result<Vec<&str>, Unfit> {
    let keys: Vec<&str> = parts(secret).collect();
    if keys.len() > MAX_KEYS {
        return Err(Unfit::TooMany);
    }
    if keys.iter().any(|key| key.len() < MIN_SECRET) {
        return Err(Unfit::Short);
    }
    Ok(keys)
}

/// Whether two secrets share a key. A holder of one could then act with the other's authority.
pub fn overlap(one: &str, other: &str) -> bool {
    parts(one).any(|key| parts(other).any(|theirs| key == theirs))
}

fn parts(secret: &str) -> impl Iterator<Item = &str> {
    secret.split(',').map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "old-old-old-old-old-old-old-old-";
    const NEW: &str = "new-new-new-new-new-new-new-new-";

    #[test]
    fn a_secret_is_one_key_or_the_new_and_the_old() {
        assert_eq!(keys(NEW), Ok(vec![NEW]));
        assert_eq!(keys(&format!(" {NEW}, {OLD}\n")), Ok(vec![NEW, OLD]));
        assert_eq!(keys(&format!("{NEW},{OLD},{OLD}")), Err(Unfit::TooMany));
        for short in ["", "short", &NEW[1..], &format!("{NEW},"), &format!("{NEW},{}", &OLD[1..])] {
            assert_eq!(keys(short), Err(Unfit::Short), "{short}");
        }
    }

    #[test]
    fn secrets_overlap_in_any_of_their_keys() {
        assert!(overlap(&format!("{NEW}, {OLD}"), OLD) && overlap(OLD, &format!("{NEW},{OLD} ")));
        assert!(!overlap(NEW, OLD));
    }
}
