//! The stickiness cookies of the backend's load balancer, per session, so that a frame reaches the instance that has the
//! session without a hop.
//!
//! Every response sets the cookies of the instance that the request went to. They are kept while responses say that this
//! instance has the session, and dropped when one says that it passed the request on. Backends that say nothing have one
//! instance, and nothing is kept. A lost or stale cookie costs a hop, and nothing else.

use std::collections::HashMap;

use ::http::{
    HeaderMap, HeaderValue, StatusCode,
    header::{HeaderName, SET_COOKIE},
};
use parking_lot::Mutex;
use shellbridge_protocol::{bridge::HOP_HEADER, ids::SessionId};

/// The response's header that says `0` (the session is there) or `1` (it is at another instance).
const HOP: HeaderName = HeaderName::from_static(HOP_HEADER);
/// Cookies of an Application Load Balancer with duration-based stickiness.
const NAMES: [&str; 2] = ["AWSALB", "AWSALBCORS"];
/// Sessions with a cookie. A process has one frame at a time, but may see many sessions in its life.
const MAX_SESSIONS: usize = 1024;
/// Longest cookies kept, bytes: an ALB's have 150 each.
const MAX_BYTES: usize = 1024;

/// The cookies by session.
#[derive(Debug, Default)]
pub(crate) struct Sticky(Mutex<Cookies>);

#[derive(Debug, Default)]
struct Cookies {
    by_session: HashMap<SessionId, Cookie>,
    /// Grows with each use.
    clock: u64,
}

#[derive(Debug)]
struct Cookie {
    value: HeaderValue,
    used: u64,
}

impl Sticky {
    /// The `Cookie` header for a request about this session.
    pub(crate) fn cookie(&self, session: &SessionId) -> Option<HeaderValue> {
        let mut cookies = self.0.lock();
        cookies.clock += 1;
        let now = cookies.clock;
        let cookie = cookies.by_session.get_mut(session)?;
        cookie.used = now;
        Some(cookie.value.clone())
    }

    /// Learns from a response. Returns whether the request took a hop.
    pub(crate) fn learn(&self, session: &SessionId, status: StatusCode, headers: &HeaderMap) -> bool {
        match headers.get(&HOP).map(HeaderValue::as_bytes) {
            // An instance that cannot find the session now may not have it.
            Some(b"0") if !status.is_server_error() => {
                if let Some(value) = cookie(headers) {
                    self.0.lock().keep(session, value);
                }
                false
            }
            Some(b"1") => {
                self.0.lock().by_session.remove(session);
                true
            }
            _ => false,
        }
    }
}

impl Cookies {
    fn keep(&mut self, session: &SessionId, value: HeaderValue) {
        self.clock += 1;
        if self.by_session.len() >= MAX_SESSIONS && !self.by_session.contains_key(session) {
            let oldest = self.by_session.iter().min_by_key(|(_, cookie)| cookie.used);
            if let Some(oldest) = oldest.map(|(session, _)| session.clone()) {
                self.by_session.remove(&oldest);
            }
        }
        self.by_session.insert(session.clone(), Cookie { value, used: self.clock });
    }
}

/// `NAME=value; NAME=value` of the response's stickiness cookies, without their attributes.
fn cookie(headers: &HeaderMap) -> Option<HeaderValue> {
    let set = headers.get_all(SET_COOKIE).iter().filter_map(|cookie| cookie.to_str().ok());
    let pairs = set.filter_map(|cookie| {
        let pair = cookie.split(';').next()?.trim();
        NAMES.contains(&pair.split_once('=')?.0).then_some(pair)
    });
    let cookie = pairs.collect::<Vec<_>>().join("; ");
    if cookie.is_empty() || cookie.len() > MAX_BYTES {
        return None;
    }
    let mut value = HeaderValue::from_str(&cookie).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(hop: &str, value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(HOP, hop.parse().unwrap());
        for (name, attributes) in [("AWSALB", ""), ("AWSALBCORS", "; SameSite=None; Secure"), ("other", "")] {
            let cookie = format!("{name}={value}; Expires=Tue, 08 Dec 2026 00:00:00 GMT; Path=/{attributes}");
            headers.append(SET_COOKIE, cookie.parse().unwrap());
        }
        headers
    }

    #[test]
    fn cookies_are_kept_without_a_hop_and_dropped_after_one() {
        let (sticky, session) = (Sticky::default(), SessionId::from("s"));
        assert!(!sticky.learn(&session, StatusCode::OK, &headers("0", "a")));
        assert_eq!(sticky.cookie(&session).unwrap(), "AWSALB=a; AWSALBCORS=a");
        assert_eq!(sticky.cookie(&"another".into()), None);
        assert!(!sticky.learn(&session, StatusCode::OK, &headers("0", "b")));
        assert_eq!(sticky.cookie(&session).unwrap(), "AWSALB=b; AWSALBCORS=b");
        assert!(sticky.learn(&session, StatusCode::OK, &headers("1", "c")));
        assert_eq!(sticky.cookie(&session), None);
    }

    #[test]
    fn nothing_is_kept_of_a_single_instance_or_of_excess() {
        let (sticky, session) = (Sticky::default(), SessionId::from("s"));
        let mut silent = headers("0", "a");
        silent.remove(HOP);
        assert!(!sticky.learn(&session, StatusCode::OK, &silent));
        assert!(!sticky.learn(&session, StatusCode::OK, &headers("0", &"x".repeat(MAX_BYTES))));
        assert!(!sticky.learn(&session, StatusCode::OK, &headers("2", "a")));
        assert!(!sticky.learn(&session, StatusCode::SERVICE_UNAVAILABLE, &headers("0", "a")));
        assert_eq!(sticky.cookie(&session), None);
    }

    #[test]
    fn the_sessions_not_used_for_longest_are_forgotten() {
        let sticky = Sticky::default();
        let session = |n: usize| SessionId::from(n.to_string());
        for n in 0..MAX_SESSIONS {
            sticky.learn(&session(n), StatusCode::OK, &headers("0", "a"));
        }
        assert!(sticky.cookie(&session(0)).is_some());
        sticky.learn(&session(MAX_SESSIONS), StatusCode::OK, &headers("0", "a"));
        assert_eq!(sticky.cookie(&session(1)), None);
        assert!(sticky.cookie(&session(0)).is_some() && sticky.cookie(&session(MAX_SESSIONS)).is_some());
        assert_eq!(sticky.0.lock().by_session.len(), MAX_SESSIONS);
    }
}
