//! Policy for fetching JWK sets: when, from where, and what to accept. The fetcher (`shellbridge-outbound`) resolves the host,
//! calls [`JwksPolicy::admit`], connects to exactly those addresses, follows no redirect, reads at most [`MAX_JWKS`] bytes
//! and passes them to [`JwksPolicy::accept`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{KeyError, TokenKeys};
use crate::times::UnixSecs;

/// Largest JWK set accepted, bytes. Sets of large providers have a few KiB.
pub const MAX_JWKS: usize = 256 * 1024;
/// Seconds between two fetches, regardless of how many tokens name unknown keys.
const REFETCH_AFTER: i64 = 30;
/// Seconds between two attempts while no set is available.
const RETRY_AFTER: i64 = 1;
/// Seconds after which a set is fetched again, so that a removed key stops working.
const MAX_AGE: i64 = 600;
/// Seconds that a set stays in use while its source does not respond.
const KEEP: i64 = 24 * 3600;

/// Why a source of JWK sets is not allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JwksRefused {
    /// Not `http` or `https`.
    #[error("not an http or https URL")]
    Scheme,
    /// `http`, where an attacker on the network could replace the keys.
    #[error("plain http needs JWKS_ALLOW_PRIVATE=true")]
    Plain,
    /// The host has no address.
    #[error("the host has no address")]
    NoAddress,
    /// One of the host's addresses is not public.
    #[error("an address that is not public needs JWKS_ALLOW_PRIVATE=true")]
    Private,
}

/// The state of one `JWKS_URL`.
#[derive(Debug)]
pub struct JwksPolicy {
    allow_private: bool,
    keys: Option<(TokenKeys, UnixSecs)>,
    asked: Option<UnixSecs>,
}

impl JwksPolicy {
    /// No set has been fetched. `allow_private`: `JWKS_ALLOW_PRIVATE`.
    pub const fn new(allow_private: bool) -> Self {
        Self { allow_private, keys: None, asked: None }
    }

    /// Checks the URL's scheme.
    pub fn admit_scheme(&self, scheme: &str) -> Result<(), JwksRefused> {
        match scheme {
            "https" => Ok(()),
            "http" if self.allow_private => Ok(()),
            "http" => Err(JwksRefused::Plain),
            _ => Err(JwksRefused::Scheme),
        }
    }

    /// Checks the host's addresses. All must be public: a private address among public ones indicates DNS rebinding.
    pub fn admit(&self, addresses: impl IntoIterator<Item = IpAddr>) -> Result<(), JwksRefused> {
        let mut addresses = addresses.into_iter().peekable();
        addresses.peek().ok_or(JwksRefused::NoAddress)?;
        if self.allow_private || addresses.all(is_public) { Ok(()) } else { Err(JwksRefused::Private) }
    }

    /// The keys, unless they are missing or too old.
    pub fn keys(&self, now: UnixSecs) -> Option<&TokenKeys> {
        self.keys.as_ref().filter(|(_, fetched)| now.saturating_since(*fetched) < KEEP).map(|(keys, _)| keys)
    }

    /// Whether a fetch is due. `unknown_kid`: a token names a key that the set lacks.
    pub fn is_due(&self, unknown_kid: bool, now: UnixSecs) -> bool {
        let wait = if self.keys(now).is_some() { REFETCH_AFTER } else { RETRY_AFTER };
        let asked_lately = self.asked.is_some_and(|asked| (0..wait).contains(&now.saturating_since(asked)));
        let fresh = self.keys.as_ref().is_some_and(|(_, fetched)| now.saturating_since(*fetched) < MAX_AGE);
        !asked_lately && (unknown_kid || !fresh)
    }

    /// Like [`Self::is_due`], and notes the fetch that the caller then makes.
    pub fn wants_fetch(&mut self, unknown_kid: bool, now: UnixSecs) -> bool {
        let due = self.is_due(unknown_kid, now);
        if due {
            self.asked = Some(now);
        }
        due
    }

    /// Replaces the set with a fetched one.
    ///
    /// # Errors
    /// The set is too large or contains no usable key. The previous set stays in use.
    pub fn accept(&mut self, set: &[u8], now: UnixSecs) -> Result<(), KeyError> {
        if set.len() > MAX_JWKS {
            return Err(KeyError::Jwks("larger than 256 KiB"));
        }
        self.keys = Some((TokenKeys::from_jwks(set)?, now));
        Ok(())
    }
}

/// Whether an address belongs to the public Internet (IANA special-purpose address registries).
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => is_public_v6(v6),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    !(address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_documentation()
        || a == 0
        || a >= 240
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 198 && (18..20).contains(&b)))
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let embedded = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        is_public_v4(Ipv4Addr::new(a, b, c, d))
    };
    match address.segments() {
        // IPv4-mapped; NAT64 (RFC 6052); 6to4.
        [0, 0, 0, 0, 0, 0xffff, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [0x2002, high, low, ..] => embedded(high, low),
        // IETF protocol assignments, such as Teredo; documentation.
        [0x2001, 0..=0x1ff | 0xdb8, ..] => false,
        // Everything else allocated so far is in 2000::/3.
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jsonwebtoken::{Algorithm, EncodingKey, jwk::Jwk};

    fn set() -> Vec<u8> {
        let key = EncodingKey::from_ed_pem(include_bytes!("keys/ed.pem")).unwrap();
        let jwk = Jwk::from_encoding_key(&key, Algorithm::EdDSA).unwrap();
        serde_json::to_vec(&serde_json::json!({ "keys": [jwk] })).unwrap()
    }

    #[test]
    fn a_set_is_fetched_once_and_again_when_it_has_aged() {
        let mut policy = JwksPolicy::new(false);
        assert!(policy.wants_fetch(false, UnixSecs(1_000)));
        policy.accept(&set(), UnixSecs(1_000)).unwrap();
        assert!(!policy.wants_fetch(false, UnixSecs(1_599)));
        assert!(policy.wants_fetch(false, UnixSecs(1_600)));
    }

    #[test]
    fn an_unknown_kid_fetches_at_most_every_30_s() {
        let mut policy = JwksPolicy::new(false);
        assert!(policy.wants_fetch(false, UnixSecs(1_000)));
        policy.accept(&set(), UnixSecs(1_000)).unwrap();
        assert!(!policy.wants_fetch(true, UnixSecs(1_029)));
        assert!(policy.wants_fetch(true, UnixSecs(1_030)));
        assert!(!policy.wants_fetch(true, UnixSecs(1_031)), "even if that fetch failed");
        assert!(policy.wants_fetch(true, UnixSecs(1_060)));
    }

    #[test]
    fn without_a_set_it_is_tried_every_second() {
        let mut policy = JwksPolicy::new(false);
        assert!(policy.wants_fetch(false, UnixSecs(1_000)));
        assert!(!policy.wants_fetch(true, UnixSecs(1_000)));
        assert!(policy.wants_fetch(false, UnixSecs(1_001)));
        assert!(policy.wants_fetch(false, UnixSecs(5)), "and when the clock was set back");
    }

    #[test]
    fn a_set_outlives_its_source_for_a_day_and_a_bad_one_replaces_nothing() {
        let mut policy = JwksPolicy::new(false);
        policy.accept(&set(), UnixSecs(0)).unwrap();
        assert!(policy.accept(b"<html>", UnixSecs(10)).is_err());
        assert!(policy.accept(&vec![b' '; MAX_JWKS + 1], UnixSecs(10)).is_err());
        assert!(policy.keys(UnixSecs(KEEP - 1)).is_some());
        assert!(policy.keys(UnixSecs(KEEP)).is_none());
    }

    #[test]
    fn only_public_addresses_are_asked() {
        let policy = JwksPolicy::new(false);
        let admit = |list: &[&str]| policy.admit(list.iter().map(|text| text.parse().unwrap()));
        for private in [
            "127.0.0.1",
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "192.0.0.8",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::a00:1",
            "2002:a00:1::",
            "2001:0:1::",
            "2001:db8::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "ff02::1",
        ] {
            assert_eq!(admit(&[private]), Err(JwksRefused::Private), "{private}");
            assert_eq!(admit(&["8.8.8.8", private]), Err(JwksRefused::Private), "8.8.8.8 and {private}");
        }
        for public in ["8.8.8.8", "100.128.0.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"] {
            assert_eq!(admit(&[public]), Ok(()), "{public}");
        }
        assert_eq!(admit(&[]), Err(JwksRefused::NoAddress));
        assert_eq!(JwksPolicy::new(true).admit(["127.0.0.1".parse().unwrap()]), Ok(()));
    }

    #[test]
    fn plain_http_must_be_allowed() {
        let strict = JwksPolicy::new(false);
        assert_eq!(strict.admit_scheme("https"), Ok(()));
        assert_eq!(strict.admit_scheme("http"), Err(JwksRefused::Plain));
        assert_eq!(strict.admit_scheme("file"), Err(JwksRefused::Scheme));
        assert_eq!(JwksPolicy::new(true).admit_scheme("http"), Ok(()));
    }
}
