//! Misspelt settings in the environment: without this check a typo would silently leave the default in force.

/// Names of at least this length may differ in one character; shorter ones resemble other programs' (`PORT`, `WS_URL`).
const ONE_FROM: usize = 8;
/// Names of at least this length may differ in two characters.
const TWO_FROM: usize = 12;

/// The setting that `name` probably misspells; `None` if it is a setting.
///
/// The environment also contains other programs' variables, so only near misses count: the same first letter, and one
/// character (names of 8 or more) or two (12 or more) added, missing, swapped or different, ignoring case.
pub fn misspelt<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    if known.contains(&name) {
        return None;
    }
    let upper = name.to_ascii_uppercase();
    known.iter().copied().find(|setting| {
        let allowed = usize::from(setting.len() >= ONE_FROM) + usize::from(setting.len() >= TWO_FROM);
        upper.len().abs_diff(setting.len()) <= allowed
            && upper.bytes().next() == setting.bytes().next()
            && strsim::osa_distance(&upper, setting) <= allowed
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [&str; 7] =
        ["PORT", "WS_URL", "JWKS_URL", "ADMIN_TOKEN", "CALLBACK_URL", "JWT_PUBLIC_KEY", "MAX_SESSION_TTL"];

    #[test]
    fn near_misses_are_found() {
        for (name, meant) in [
            ("MAX_SESION_TTL", "MAX_SESSION_TTL"),
            ("MAX_SESSIONS_TTLS", "MAX_SESSION_TTL"),
            ("MAX-SESSION-TTL", "MAX_SESSION_TTL"),
            ("max_session_ttl", "MAX_SESSION_TTL"),
            ("ADMIN_TOKENS", "ADMIN_TOKEN"),
            ("ADMNI_TOKEN", "ADMIN_TOKEN"),
            ("JWKS_URI", "JWKS_URL"),
            ("CALLBACK_URI", "CALLBACK_URL"),
        ] {
            assert_eq!(misspelt(name, &KNOWN), Some(meant), "{name}");
        }
    }

    #[test]
    fn settings_and_names_of_others_are_left_alone() {
        for name in KNOWN {
            assert_eq!(misspelt(name, &KNOWN), None);
        }
        for name in [
            "",
            "PATH",
            "PORTS",
            "SHELL",
            "DB_URL",
            "MS_URL",
            "FALLBACK_URL",
            "GITHUB_TOKEN",
            "AWS_REGION",
            "JWT_PRIVATE_KEY",
            "XDG_SESSION_ID",
            "REDIS_PORT",
            "ÄDMIN_TOKEN",
        ] {
            assert_eq!(misspelt(name, &KNOWN), None, "{name}");
        }
    }
}
