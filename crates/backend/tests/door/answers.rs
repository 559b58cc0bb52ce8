//! Headers of every response (request ids, security, CORS), and how far a session can be extended.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{ADMIN_TOKEN, Backend, Gateway, ORIGIN, Settings, started};

#[tokio::test]
async fn a_well_formed_request_id_is_kept() {
    let backend = Settings::new().start().await;
    let id_for = async |sent: Option<&str>| {
        let request = backend.get("/health");
        let request = match sent {
            Some(id) => request.header("x-request-id", id),
            None => request,
        };
        let response = request.send().await.unwrap();
        response.headers()["x-request-id"].to_str().unwrap().to_owned()
    };
    assert_eq!(
        id_for(Some("c6af9ac6-7b61-11e6-9a41-93e8deadbeef")).await,
        "c6af9ac6-7b61-11e6-9a41-93e8deadbeef"
    );
    let made = id_for(None).await;
    assert!(uuid::Uuid::parse_str(&made).is_ok(), "{made}");
    for bad in ["a b", "<script>", &"x".repeat(129)] {
        let made = id_for(Some(bad)).await;
        assert!(uuid::Uuid::parse_str(&made).is_ok(), "{made} for {bad}");
    }
}

#[tokio::test]
async fn every_response_has_the_security_headers() {
    let backend = Settings::new().start().await;
    for (method, path) in [
        (Method::GET, "/"),
        (Method::GET, "/health"),
        (Method::GET, "/metrics"),
        (Method::GET, "/no/such/page"),
        (Method::GET, "/api/sessions/s"),
        (Method::POST, "/api/ws/message"),
        (Method::PUT, "/api/ws/message"),
    ] {
        let request = backend.http.request(method.clone(), format!("{}{path}", backend.url));
        let response = request.send().await.unwrap();
        let header = |name: &str| response.headers()[name].to_str().unwrap();
        assert_eq!(header("x-content-type-options"), "nosniff", "{method} {path}");
        assert_eq!(header("x-frame-options"), "DENY", "{method} {path}");
        assert_eq!(header("referrer-policy"), "no-referrer", "{method} {path}");
        assert_eq!(header("cross-origin-opener-policy"), "same-origin", "{method} {path}");
        let policy = header("content-security-policy");
        assert!(
            policy.contains("default-src 'self'") && policy.contains("frame-ancestors 'none'"),
            "{policy}"
        );
        assert!(!policy.contains("unsafe-eval") && !policy.contains("script-src 'self' 'unsafe"), "{policy}");
    }
}

#[tokio::test]
async fn regression_the_page_may_connect_only_to_the_server_s_gateway() {
    for (ws_url, sources) in [
        (
            Some("wss://ab12.execute-api.eu-west-1.amazonaws.com/prod"),
            "'self' wss://ab12.execute-api.eu-west-1.amazonaws.com",
        ),
        (Some(""), "'self' ws: wss:"),
        (None, "'self' ws: wss:"),
    ] {
        let settings = ws_url.map_or_else(Settings::new, |url| Settings::new().set("WS_URL", url));
        let page = settings.start().await.get("/").send().await.unwrap();
        let policy = page.headers()["content-security-policy"].to_str().unwrap().to_owned();
        let allowed = policy.split("; ").find_map(|directive| directive.strip_prefix("connect-src "));
        assert_eq!(allowed, Some(sources), "{ws_url:?}");
    }
}

async fn preflight(backend: &Backend, path: &str, origin: &str) -> reqwest::Response {
    let request = backend.http.request(Method::OPTIONS, format!("{}{path}", backend.url));
    let request = request.header("origin", origin).header("access-control-request-method", "POST");
    request.header("access-control-request-headers", "authorization,content-type").send().await.unwrap()
}

#[tokio::test]
async fn only_pages_on_the_allow_list_may_use_the_api() {
    let origins = format!("{ORIGIN}, https://*.labs.example.org");
    let backend = Settings::new().set("ALLOWED_ORIGINS", &origins).start().await;
    for origin in [ORIGIN, "https://one.labs.example.org"] {
        let response = preflight(&backend, "/api/sessions/s/extend", origin).await;
        let header = |name: &str| response.headers()[name].to_str().unwrap().to_lowercase();
        assert_eq!(header("access-control-allow-origin"), origin);
        assert_eq!(header("access-control-allow-credentials"), "true");
        assert_eq!(header("access-control-max-age"), "86400");
        assert!(header("access-control-allow-methods").contains("post"));
        assert!(header("access-control-allow-headers").contains("authorization"));
        assert!(header("vary").contains("origin"));
        let refused = backend.get("/api/sessions/s").header("origin", origin).send().await.unwrap();
        assert_eq!(refused.status(), 401);
        assert_eq!(refused.headers()["access-control-allow-origin"], origin, "the page can read the error");
    }
    for origin in [
        "https://evil.example",
        "https://app.example.org.evil.example",
        "https://evil-app.example.org",
        "http://app.example.org",
        "https://labs.example.org",
        "null",
        "*",
    ] {
        let response = preflight(&backend, "/api/sessions/s/extend", origin).await;
        assert!(!response.headers().contains_key("access-control-allow-origin"), "{origin}");
    }
    // Pages may not call the bridge's endpoints.
    let response = preflight(&backend, "/api/ws/message", ORIGIN).await;
    assert!(!response.headers().contains_key("access-control-allow-origin"));
    // Diagnostics answer every page, so that it learns why it is refused, but without credentials.
    let response = preflight(&backend, "/api/diagnostics/websocket", "https://evil.example").await;
    assert_eq!(response.headers()["access-control-allow-origin"], "*");
    assert!(!response.headers().contains_key("access-control-allow-credentials"));
}

#[tokio::test]
async fn a_session_is_extended_to_max_session_ttl_at_most() {
    let gateway = Gateway::start().await;
    let backend = Settings::new().set("MAX_SESSION_TTL", "7200").pushing_to(&gateway).start().await;
    let session = backend.session("alice", "s").await;
    let token = session["token"].as_str().unwrap().to_owned();
    let about: Value =
        backend.get("/api/sessions/s").bearer_auth(&token).send().await.unwrap().json().await.unwrap();
    let created = about["createdAt"].as_u64().unwrap();
    let extend = async |seconds: u64| -> Value {
        let request = backend.post("/api/sessions/s/extend").bearer_auth(&token);
        let response = request.json(&json!({"seconds": seconds})).send().await.unwrap();
        assert_eq!(response.status(), 200);
        response.json().await.unwrap()
    };
    let first = session["expiresAt"].as_u64().unwrap();
    assert_eq!(extend(60).await["expiresAt"].as_u64(), Some(first + 60_000));
    for seconds in [100_000, u64::MAX] {
        assert_eq!(extend(seconds).await["expiresAt"].as_u64(), Some(created + 7_200_000));
    }
    let token = extend(1).await["token"].as_str().unwrap().to_owned();
    let claims = jsonwebtoken::dangerous::insecure_decode::<Value>(&token).unwrap().claims;
    assert_eq!(claims["exp"].as_u64(), Some((created + 7_200_000) / 1000), "and so does its token");
    let long = json!({"userId": "bob", "sessionId": "long", "ttlSeconds": u64::MAX, "shell": "/bin/sh"});
    let made = backend.post("/api/sessions").bearer_auth(crate::support::ADMIN_TOKEN).json(&long);
    let made: Value = made.send().await.unwrap().json().await.unwrap();
    assert!(made["expiresAt"].as_u64().unwrap() <= created + 7_200_000 + 60_000);
}

#[tokio::test]
async fn a_push_that_is_too_large_ends_the_connection_without_a_retry() {
    let (gateway, backend) = started().await;
    backend.session("alice", "s").await;
    gateway.fail_with.store(413, std::sync::atomic::Ordering::Relaxed);
    backend.connect("s", "alice", "c").await;
    gateway.until("DELETE", |call| call.method == "DELETE").await;
    let pushed: Vec<_> = gateway.calls().iter().map(|call| call.frame["type"].clone()).collect();
    // The greeting, its replacement, the reason for closing, the DELETE.
    assert_eq!(pushed, [json!("connected"), json!("error"), json!("error"), Value::Null]);
    backend.counts("shellbridge_pushes_total{outcome=\"too_large\"} 3").await;
    assert_eq!(
        backend.get("/api/sessions/s/validate").bearer_auth(ADMIN_TOKEN).send().await.unwrap().status(),
        200
    );
}
