//! The allow-list of page origins (`ALLOWED_ORIGINS`).

/// Origins that may open a terminal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowedOrigins(Vec<Pattern>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Pattern {
    Any,
    Exact(String),
    /// Scheme with `://`, suffix after the first label (`.example.org`), and port with its colon.
    Subdomain {
        scheme: String,
        suffix: String,
        port: String,
    },
}

/// Why a list is invalid. The process does not start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OriginError {
    /// The list is empty; allowing every origin takes an explicit `*`.
    #[error("no origin is allowed: list some, or * to allow all")]
    Empty,
    /// Not `*`, `scheme://host[:port]` or `scheme://*.host[:port]`.
    #[error("not an origin: {0:?} (expected https://app.example.org or https://*.example.org)")]
    Malformed(String),
}

impl AllowedOrigins {
    /// Parses a comma-separated list of `*`, `https://app.example.org[:port]`, `https://*.example.org[:port]`.
    pub fn parse(list: &str) -> Result<Self, OriginError> {
        let patterns: Vec<_> = list
            .split(',')
            .map(str::trim)
            .filter(|s| !s.is_empty())
            .map(pattern)
            .collect::<Result<_, _>>()?;
        if patterns.is_empty() { Err(OriginError::Empty) } else { Ok(Self(patterns)) }
    }

    /// Whether a handshake with this `Origin` header may proceed. Only browsers send one, so `None` is allowed.
    pub fn allows(&self, origin: Option<&str>) -> bool {
        let Some(origin) = origin else { return true };
        let origin = origin.to_ascii_lowercase();
        self.0.iter().any(|pattern| match pattern {
            Pattern::Any => origin != "null",
            Pattern::Exact(exact) => *exact == origin,
            Pattern::Subdomain { scheme, suffix, port } => origin
                .strip_prefix(scheme.as_str())
                .and_then(|rest| rest.strip_suffix(port.as_str()))
                .and_then(|host| host.strip_suffix(suffix.as_str()))
                .is_some_and(|labels| !labels.is_empty() && labels.split('.').all(is_label)),
        })
    }

    /// The normalized list, for diagnostics.
    pub fn patterns(&self) -> Vec<String> {
        let text = |pattern: &Pattern| match pattern {
            Pattern::Any => "*".to_owned(),
            Pattern::Exact(exact) => exact.clone(),
            Pattern::Subdomain { scheme, suffix, port } => format!("{scheme}*{suffix}{port}"),
        };
        self.0.iter().map(text).collect()
    }
}

fn pattern(text: &str) -> Result<Pattern, OriginError> {
    if text == "*" {
        return Ok(Pattern::Any);
    }
    let malformed = || OriginError::Malformed(text.to_owned());
    // Browsers serialize an origin in lower case, without trailing slash or default port.
    let origin = text.trim_end_matches('/').to_ascii_lowercase();
    let (scheme, rest) = origin.split_once("://").ok_or_else(malformed)?;
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (rest, None),
    };
    if port.is_some_and(|port| port.parse::<u16>().is_err()) {
        return Err(malformed());
    }
    let port = match (scheme, port) {
        ("https", Some("443")) | ("http", Some("80")) | (_, None) => String::new(),
        (_, Some(port)) => format!(":{port}"),
    };
    let labels = host.strip_prefix("*.").unwrap_or(host);
    let ipv6 = labels.starts_with('[') && labels.ends_with(']');
    if !(scheme == "https" || scheme == "http") || !(ipv6 || labels.split('.').all(is_label)) {
        return Err(malformed());
    }
    if host == labels {
        Ok(Pattern::Exact(format!("{scheme}://{host}{port}")))
    } else {
        Ok(Pattern::Subdomain { scheme: format!("{scheme}://"), suffix: format!(".{labels}"), port })
    }
}

/// A host label as browsers serialize it: letters, digits, `-` and `_`.
fn is_label(label: &str) -> bool {
    !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(list: &str) -> AllowedOrigins {
        AllowedOrigins::parse(list).unwrap()
    }

    #[test]
    fn an_exact_origin_matches_as_a_whole() {
        let allowed = list("https://app.example.org, http://127.0.0.1:3001/");
        assert!(allowed.allows(Some("https://app.example.org")));
        assert!(allowed.allows(Some("http://127.0.0.1:3001")));
        for foreign in [
            "https://app.example.org.evil.net",
            "https://evil.net/https://app.example.org",
            "http://app.example.org",
            "https://app.example.org:8443",
            "https://xapp.example.org",
            "null",
            "",
        ] {
            assert!(!allowed.allows(Some(foreign)), "{foreign}");
        }
    }

    #[test]
    fn a_pattern_matches_host_labels_and_never_substrings() {
        let allowed = list("https://*.example.org");
        assert!(allowed.allows(Some("https://a.example.org")));
        assert!(allowed.allows(Some("https://a.b.example.org")));
        for foreign in [
            "https://example.org",
            "https://evilexample.org",
            "https://evil.net#.example.org",
            "https://evil.net/.example.org",
            "https://user@evil.net?.example.org",
            "https://a.example.org:444",
            "https://.example.org",
            "http://a.example.org",
        ] {
            assert!(!allowed.allows(Some(foreign)), "{foreign}");
        }
    }

    #[test]
    fn a_request_without_an_origin_is_allowed() {
        assert!(list("https://a.example").allows(None));
    }

    #[test]
    fn a_star_must_be_explicit_and_still_refuses_null() {
        assert_eq!(AllowedOrigins::parse(" , "), Err(OriginError::Empty));
        assert!(list("*").allows(Some("https://any.example")));
        assert!(!list("*").allows(Some("null")));
    }

    #[test]
    fn malformed_entries_are_refused() {
        for bad in
            ["example.org", "ftp://a.example", "https://", "https://a.*.org", "https://a:port", "https://*"]
        {
            assert!(matches!(AllowedOrigins::parse(bad), Err(OriginError::Malformed(_))), "{bad}");
        }
    }

    #[test]
    fn the_default_port_equals_no_port() {
        assert!(list("https://a.example:443").allows(Some("https://a.example")));
    }
}
