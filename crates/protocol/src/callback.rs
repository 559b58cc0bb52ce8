//! Where `@connections` of a connection's API is: the callback URL, its making and its check.

/// The URL to post to, from what the function is told about its API.
///
/// `domain` and `stage` are the settings `DOMAIN_NAME` and `STAGE` or else the event's fields. A custom
/// domain maps its path to a stage by itself, so the stage is left out there; an empty stage means none
/// (API Gateway Developer Guide, "Use @connections commands in your backend service").
pub fn callback_url(domain: &str, stage: &str) -> String {
    if stage.is_empty() || !is_execute_api(domain) {
        format!("https://{domain}")
    } else {
        format!("https://{domain}/{stage}")
    }
}

/// Whether a host is API Gateway's own (`{api}.execute-api.{region}.amazonaws.com`) and not a custom domain.
fn is_execute_api(host: &str) -> bool {
    host.split('.').nth(1) == Some("execute-api")
}

/// Whether the backend may push to `url` when no `CALLBACK_URL` is set: https, and an API Gateway host of
/// `region`. Anything else could make the backend send signed requests to a host of an attacker's choice.
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
    fn the_stage_belongs_to_the_default_endpoint_only() {
        let default = "abc.execute-api.eu-west-1.amazonaws.com";
        assert_eq!(callback_url(default, "prod"), "https://abc.execute-api.eu-west-1.amazonaws.com/prod");
        assert_eq!(callback_url(default, ""), "https://abc.execute-api.eu-west-1.amazonaws.com");
        assert_eq!(callback_url("ws.example.org", "prod"), "https://ws.example.org");
    }

    #[test]
    fn only_api_gateway_of_the_region_is_pushed_to() {
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
