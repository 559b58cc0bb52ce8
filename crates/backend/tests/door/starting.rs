//! Dangerous or useless settings: the process explains why it does not start.

use crate::support::{ADMIN_TOKEN, BRIDGE_SECRET, JWT_SECRET, Settings};

/// Runs a backend that must explain why it does not start; returns its stderr.
async fn fails(what: &str, settings: Settings, words: &str) -> String {
    let (code, output) = settings.fails().await;
    assert_eq!(code, 1, "{what}: {output}");
    // In plain text, not only as a JSON line of the log.
    assert!(output.contains(words) && output.contains("backend: "), "{what}: {output}");
    output
}

#[tokio::test]
async fn invalid_settings_are_refused_with_an_explanation() {
    let pem = include_str!("../../../protocol/src/access/keys/rsa.pub.pem");
    let other = include_str!("../../../protocol/src/access/keys/ec.pem");
    let some = Settings::new;
    for (what, settings, words) in [
        (
            "shells for anyone",
            some().set("DEV_SESSIONS", "true").set("BIND", "0.0.0.0"),
            "DEV_SESSIONS=true gives a shell to anyone: set BIND=127.0.0.1",
        ),
        (
            "shells for anyone over IPv6",
            some().set("DEV_SESSIONS", "true").set("BIND", "::"),
            "set BIND=127.0.0.1",
        ),
        (
            "no key",
            some().without("JWT_SECRET"),
            "set exactly one of JWT_SECRET, JWT_PUBLIC_KEY and JWKS_URL",
        ),
        ("an empty key", some().set("JWT_SECRET", ""), "set exactly one of JWT_SECRET"),
        ("two keys", some().set("JWT_PUBLIC_KEY", pem), "set exactly one of JWT_SECRET"),
        ("a key and a set", some().set("JWKS_URL", "https://example.org"), "set exactly one of JWT_SECRET"),
        ("no bridge secret", some().without("BRIDGE_SECRET"), "BRIDGE_SECRET"),
        (
            "an empty bridge secret",
            some().set("BRIDGE_SECRET", ""),
            "BRIDGE_SECRET: each key is at least 32 bytes",
        ),
        (
            "a short bridge secret",
            some().set("BRIDGE_SECRET", "short"),
            "BRIDGE_SECRET: each key is at least 32 bytes",
        ),
        (
            "a short old bridge secret",
            some().set("BRIDGE_SECRET", &format!("{BRIDGE_SECRET},old")),
            "BRIDGE_SECRET: each key is at least 32 bytes",
        ),
        ("a short secret", some().set("JWT_SECRET", "short"), "JWT_SECRET: each key is at least 32 bytes"),
        (
            "a short old secret",
            some().set("JWT_SECRET", &format!("{JWT_SECRET},old")),
            "JWT_SECRET: each key is at least 32 bytes",
        ),
        (
            "three secrets",
            some().set("JWT_SECRET", &format!("{JWT_SECRET},{JWT_SECRET},{JWT_SECRET}")),
            "JWT_SECRET: at most two keys",
        ),
        (
            "a short ADMIN_TOKEN",
            some().set("ADMIN_TOKEN", &"x".repeat(31)),
            "ADMIN_TOKEN: each key is at least 32 bytes",
        ),
        (
            "JWT_SECRET as ADMIN_TOKEN",
            some().set("ADMIN_TOKEN", JWT_SECRET),
            "JWT_SECRET and ADMIN_TOKEN must differ",
        ),
        (
            "BRIDGE_SECRET as the old ADMIN_TOKEN",
            some().set("ADMIN_TOKEN", &format!("{ADMIN_TOKEN}, {BRIDGE_SECRET}")),
            "BRIDGE_SECRET and ADMIN_TOKEN must differ",
        ),
        (
            "a port without an address",
            some().set("METRICS_BIND", "9090"),
            "METRICS_BIND must be an address and a port",
        ),
        (
            "the same secrets",
            some().set("BRIDGE_SECRET", JWT_SECRET),
            "BRIDGE_SECRET and JWT_SECRET must differ",
        ),
        (
            "the same secret during rotation",
            some().set("BRIDGE_SECRET", &format!("{BRIDGE_SECRET}, {JWT_SECRET}")),
            "BRIDGE_SECRET and JWT_SECRET must differ",
        ),
        (
            "no public key",
            some().without("JWT_SECRET").set("JWT_PUBLIC_KEY", "ssh-ed25519 AAAA"),
            "JWT_PUBLIC_KEY: not a PEM public key",
        ),
        (
            "keys of two pairs",
            some().without("JWT_SECRET").set("JWT_PUBLIC_KEY", pem).set("JWT_PRIVATE_KEY", other),
            "JWT_PRIVATE_KEY: not the PEM (PKCS #8) private key of JWT_PUBLIC_KEY",
        ),
        (
            "keys by plain http",
            some().without("JWT_SECRET").set("JWKS_URL", "http://issuer.example.org/jwks"),
            "JWKS_URL: plain http needs JWKS_ALLOW_PRIVATE=true",
        ),
        (
            "keys of a file",
            some().without("JWT_SECRET").set("JWKS_URL", "file:///etc/passwd"),
            "JWKS_URL: not an http or https URL",
        ),
        (
            "a page's address",
            some().set("WS_URL", "https://app.example.org"),
            "WS_URL must be a WebSocket URL",
        ),
        ("no origin", some().set("ALLOWED_ORIGINS", " , "), "ALLOWED_ORIGINS: no origin is allowed"),
        (
            "an origin with a path",
            some().set("ALLOWED_ORIGINS", "https://a.example/x"),
            "ALLOWED_ORIGINS: not an origin",
        ),
        (
            "a word instead of an origin",
            some().set("ALLOWED_ORIGINS", "everybody"),
            "ALLOWED_ORIGINS: not an origin",
        ),
        ("a window above the buffer", some().set("OUTPUT_BUFFER", "40000"), "OUTPUT_WINDOW must be from"),
        ("no frames at all", some().set("RATE_LIMIT_USER", "0"), "RATE_LIMIT_USER"),
        (
            "a URL to keep awake with another scheme",
            some().set("KEEP_AWAKE_URL", "ftp://example.org"),
            "KEEP_AWAKE_URL: not an http or https URL",
        ),
        ("no port", some().set("PORT", "http"), "PORT"),
        ("neither true nor false", some().set("DEV_SESSIONS", "perhaps"), "DEV_SESSIONS"),
    ] {
        let output = fails(what, settings, words).await;
        for secret in [JWT_SECRET, BRIDGE_SECRET, ADMIN_TOKEN] {
            assert!(!output.contains(secret), "{what}: {output}");
        }
    }
}

/// `SHELL_SANDBOX` used to be accepted silently, and every shell ran as the backend's user.
#[tokio::test]
async fn regression_settings_without_effect_are_refused_without_their_values() {
    for (name, value, words) in [
        ("SHELL_SANDBOX", "container", "SHELL_SANDBOX=container needs SHELL_IMAGE"),
        ("REDIS_URL", "rediss://user:hush@redis.example:6379", "with REDIS_URL, INSTANCE_URL must say"),
        ("REDIS_URL", "redis.example:hush", "REDIS_URL must be redis://HOST:PORT"),
        ("ADMIN_TOKENS", "hush", "ADMIN_TOKENS is not a setting; did you mean ADMIN_TOKEN?"),
        ("MAX_SESION_TTL", "60", "MAX_SESION_TTL is not a setting; did you mean MAX_SESSION_TTL?"),
    ] {
        let output = fails(name, Settings::new().set(name, value), words).await;
        assert!(!output.contains("hush"), "{output}");
    }
    let backend = Settings::new().set("REDIS_URL", "").set("SHELL", "/bin/zsh").start().await;
    backend.terminate();
    let (code, log) = backend.ended().await;
    assert_eq!(code, 0, "{log}");
}

#[tokio::test]
async fn an_address_in_use_is_reported() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let words = format!("cannot listen on 127.0.0.1:{port}");
    fails("a port in use", Settings::new().set("PORT", &port), &words).await;
}

#[tokio::test]
async fn frontend_url_is_an_older_name_of_allowed_origins() {
    let backend =
        Settings::new().set("ALLOWED_ORIGINS", "").set("FRONTEND_URL", "https://old.example").start().await;
    let response =
        backend.get("/api/sessions/s").header("origin", "https://old.example").send().await.unwrap();
    assert_eq!(response.headers()["access-control-allow-origin"], "https://old.example");
}
