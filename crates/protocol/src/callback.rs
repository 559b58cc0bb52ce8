//! The callback URL, the base of `@connections`: building and checking it.

/// Builds the callback URL.
///
/// `domain` and `stage` are the settings `DOMAIN_NAME` and `STAGE`, or the event's fields. A custom domain maps its path to a
/// stage by itself, so the stage is omitted; an empty stage means none (API Gateway Developer Guide, "Use @connections
/// commands in your backend service").
pub fn callback_url(domain: &str, stage: &str) -> String {
    if stage.is_empty() || !is_execute_api(domain) {
        format!("https://{domain}")
    } else {
        format!("https://{domain}/{stage}")
    }
}

/// Whether a host is API Gateway's own (`{api}.execute-api.{region}.amazonaws.com`) rather than a custom domain.
fn is_execute_api(host: &str) -> bool {
    host.split('.').nth(1) == Some("execute-api")
}

/// Whether the backend may push to `url` if `CALLBACK_URL` is unset: only https, and only to an API Gateway host of
/// `region`. Otherwise an attacker could direct the backend's signed requests to any host.
pub fn is_allowed_callback(url: &str, region: &str) -> bool {
    let Some(rest) = url.strip_prefix("https://") else { return false };
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let mut labels = host.split('.');
    let api = labels.next().unwrap_or_default();
    let plain = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_$".contains(&b));
    !api.is_empty()
        && plain(api)
        && plain(path)
        && labels.next() == Some("execute-api")
        && labels.next() == Some(region)
        && matches!(
            labels.collect::<Vec<_>>().join(".").as_str(),
            "amazonaws.com" | "amazonaws.com.cn" | "api.aws"
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_default_endpoint_has_the_stage() {
        let default = "abc.execute-api.eu-west-1.amazonaws.com";
        assert_eq!(callback_url(default, "prod"), "https://abc.execute-api.eu-west-1.amazonaws.com/prod");
        assert_eq!(callback_url(default, ""), "https://abc.execute-api.eu-west-1.amazonaws.com");
        assert_eq!(callback_url("ws.example.org", "prod"), "https://ws.example.org");
    }

    #[test]
    fn pushes_go_only_to_api_gateway_in_the_region() {
        let region = "eu-west-1";
        assert!(is_allowed_callback("https://abc.execute-api.eu-west-1.amazonaws.com/prod", region));
        assert!(is_allowed_callback("https://abc.execute-api.eu-west-1.amazonaws.com", region));
        for foreign in [
            "http://abc.execute-api.eu-west-1.amazonaws.com/prod",
            "https://abc.execute-api.us-east-1.amazonaws.com/prod",
            "https://abc.execute-api.eu-west-1.evil.net/prod",
            "https://abc.execute-api.eu-west-1.amazonaws.com.evil.net/prod",
            "https://abc.execute-api.eu-west-1.amazonaws.com:444/prod",
            "https://u@abc.execute-api.eu-west-1.amazonaws.com/prod",
            "https://abc.execute-api.eu-west-1.amazonaws.com/prod/../x",
            "https://.execute-api.eu-west-1.amazonaws.com/prod",
            "https://169.254.169.254/",
            "",
        ] {
            assert!(!is_allowed_callback(foreign, region), "{foreign}");
        }
    }
}
