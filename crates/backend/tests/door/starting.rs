//! Settings that are dangerous or of no use: the process says why and does not start.

use crate::support::{BRIDGE_SECRET, JWT_SECRET, Settings};

#[tokio::test]
async fn settings_that_do_not_go_together_are_refused_in_words() {
    let pem = include_str!("../../../protocol/src/access/keys/rsa.pub.pem");
    let other = include_str!("../../../protocol/src/access/keys/ec.pem");
    let some = Settings::new;
    for (what, settings, words) in [
        (
            "shells for everybody",
            some().set("DEV_SESSIONS", "true").set("BIND", "0.0.0.0"),
            "DEV_SESSIONS=true gives shells to everybody: set BIND=127.0.0.1",
        ),
        (
            "shells for everybody by IPv6",
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
        ("a short secret", some().set("JWT_SECRET", "short"), "JWT_SECRET: at least 32 bytes"),
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
            "WS_URL must be a WebSocket address",
        ),
        ("no origin", some().set("ALLOWED_ORIGINS", " , "), "ALLOWED_ORIGINS: no origin is allowed"),
        (
            "an origin with a path",
            some().set("ALLOWED_ORIGINS", "https://a.example/x"),
            "ALLOWED_ORIGINS: not an origin",
        ),
        ("an origin of words", some().set("ALLOWED_ORIGINS", "everybody"), "ALLOWED_ORIGINS: not an origin"),
        ("a window above the buffer", some().set("OUTPUT_BUFFER", "40000"), "OUTPUT_WINDOW must be from"),
        ("no frames at all", some().set("RATE_LIMIT_USER", "0"), "RATE_LIMIT_USER"),
        (
            "a bell of another kind",
            some().set("KEEP_AWAKE_URL", "ftp://example.org"),
            "KEEP_AWAKE_URL: not an http or https URL",
        ),
        ("no port", some().set("PORT", "http"), "PORT"),
        ("neither yes nor no", some().set("DEV_SESSIONS", "perhaps"), "DEV_SESSIONS"),
    ] {
        let (code, said) = settings.fails().await;
        assert_eq!(code, 1, "{what}: {said}");
        // For people: the last lines, not JSON.
        assert!(said.contains(words) && said.contains("backend: "), "{what}: {said}");
        assert!(!said.contains(JWT_SECRET) && !said.contains(BRIDGE_SECRET), "{what}: {said}");
    }
}

#[tokio::test]
async fn a_setting_without_effect_is_said_so_without_its_secret() {
    let backend = Settings::new().set("REDIS_URL", "rediss://user:hush@redis.example:6379").start().await;
    backend.terminate();
    let (code, log) = backend.ended().await;
    assert_eq!(code, 0, "{log}");
    assert!(log.contains("REDIS_URL is not used yet") && log.contains("run exactly one instance"), "{log}");
    assert!(!log.contains("hush"), "{log}");
    let backend = Settings::new().set("REDIS_URL", "").start().await;
    backend.terminate();
    let (_, log) = backend.ended().await;
    assert!(!log.contains("REDIS_URL"), "{log}");
}

#[tokio::test]
async fn an_address_in_use_is_said() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let (code, said) = Settings::new().set("PORT", &port).fails().await;
    assert_eq!(code, 1);
    assert!(said.contains("cannot listen on 127.0.0.1:") && said.contains(&port), "{said}");
}

#[tokio::test]
async fn frontend_url_is_the_older_name_of_the_origins() {
    let backend =
        Settings::new().set("ALLOWED_ORIGINS", "").set("FRONTEND_URL", "https://old.example").start().await;
    let response =
        backend.get("/api/sessions/s").header("origin", "https://old.example").send().await.unwrap();
    assert_eq!(response.headers()["access-control-allow-origin"], "https://old.example");
}
