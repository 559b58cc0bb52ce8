//! The limit on open descriptors: each connection takes one.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::warn;

/// Descriptors wanted: connections of a large test, and a few hundred for everything else.
pub const WANTED: u64 = 65_536;

/// Raises the limit as far as it goes, and says so clearly when that is not far enough.
pub fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    let (Some(current), maximum) = (limit.current, limit.maximum) else { return };
    if current >= WANTED {
        return;
    }
    let goal = maximum.map_or(WANTED, |maximum| maximum.min(WANTED));
    let raised = setrlimit(Resource::Nofile, Rlimit { current: Some(goal), maximum });
    let reached = if raised.is_ok() { goal } else { current };
    if reached < WANTED {
        let cause =
            raised.err().map_or_else(|| "the hard limit is lower".to_owned(), |error| error.to_string());
        warn!(
            limit = reached,
            wanted = WANTED,
            cause,
            "cannot raise the limit on open descriptors: connections beyond it will be refused (try `ulimit -Hn {WANTED}`)"
        );
    }
}
