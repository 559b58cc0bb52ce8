//! Untrusted bodies, tokens and key sets are rejected without a panic.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use shellbridge_protocol::{
    access::{ClaimRules, JwksPolicy, TokenKeys},
    bridge::{BridgeKeys, ConnectRequest, DisconnectRequest, Envelope},
    callback::is_allowed_callback,
    origin::AllowedOrigins,
    times::UnixSecs,
};

const NOW: UnixSecs = UnixSecs(1_000);
const SECRET: &str = "secret-secret-secret-secret-secret";

static KEYS: LazyLock<(BridgeKeys, TokenKeys, AllowedOrigins)> = LazyLock::new(|| {
    let origins = AllowedOrigins::parse("https://app.example.org,https://*.pattern.example.org").unwrap();
    (BridgeKeys::parse(SECRET).unwrap(), TokenKeys::from_secret(SECRET).unwrap(), origins)
});

fuzz_target!(|data: &[u8]| {
    let (bridge, access, origins) = &*KEYS;
    let _ = serde_json::from_slice::<ConnectRequest>(data);
    let _ = serde_json::from_slice::<DisconnectRequest>(data);
    let _ = serde_json::from_slice::<Envelope>(data);
    let _ = Envelope::unwrap_frame(data);
    let _ = JwksPolicy::new(false).accept(data, UnixSecs(0));
    let Ok(text) = std::str::from_utf8(data) else { return };
    assert!(bridge.verify(text, "/p", &"c".into(), b"body", NOW).is_err());
    assert!(access.authorize(text, Some("s"), &ClaimRules::default(), NOW).is_err());
    let _ = TokenKeys::from_pem(text);
    let _ = BridgeKeys::parse(text);
    let _ = AllowedOrigins::parse(text);
    if origins.allows(Some(text)) {
        let lower = text.to_ascii_lowercase();
        assert!(lower == "https://app.example.org" || lower.ends_with(".pattern.example.org"), "{text}");
    }
    if is_allowed_callback(text, "eu-west-1") {
        assert!(text.starts_with("https://") && text.contains(".execute-api.eu-west-1.a"), "{text}");
    }
});
