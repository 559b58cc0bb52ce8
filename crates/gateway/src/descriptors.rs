//! The limit on open descriptors, of which each connection takes one.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::warn;

/// Descriptors for 10,000 connections and everything else.
pub const WANTED: u64 = 16_384;

/// Raises the limit to the hard limit, and warns if that is too low.
pub fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    let (Some(current), maximum) = (limit.current, limit.maximum) else { return };
    // Only a privileged process may raise the hard limit.
    let goal = maximum.unwrap_or(WANTED).max(current);
    if goal <= current && current >= WANTED {
        return;
    }
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
