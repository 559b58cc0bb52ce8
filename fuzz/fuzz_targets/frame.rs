//! Frames parse without a panic, and unwrapping an envelope restores the frame that was wrapped.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use shellbridge_protocol::{
    bridge::{BridgeContext, Envelope},
    frame::{ClientFrame, FrameHead, ServerFrame},
    times::{UnixMs, UnixSecs},
};

fuzz_target!(|data: &[u8]| {
    let parsed = ClientFrame::parse(data);
    let head = FrameHead::read(data);
    assert!(parsed != Ok(ClientFrame::Unknown) || head.is_ok());
    let _ = serde_json::from_slice::<ServerFrame>(data);

    let Ok(text) = std::str::from_utf8(data) else { return };
    let envelope = Envelope {
        connection_id: "c=".into(),
        session_id: "the-session".into(),
        user_id: "the-user".into(),
        timestamp: UnixMs(5),
        bridge: BridgeContext {
            message_id: "m=".into(),
            connected_at: UnixMs(1),
            callback_url: "https://x".into(),
            token_expires_at: UnixSecs(2),
            username: None,
            read_only: true,
            token_id: None,
            client_timestamp: None,
        },
    };
    let Ok(body) = envelope.wrap(text) else { return };
    let read: Envelope = serde_json::from_slice(&body).expect("the Lambda's fields are whole");
    assert_eq!((read.session_id.as_str(), read.user_id.as_str()), ("the-session", "the-user"));
    assert!(read.bridge.read_only);

    // A number beyond f64 is forwarded as written but cannot be compared as a value.
    let Ok(Value::Object(mut sent)) = serde_json::from_str(text) else { return };
    for field in ["connectionId", "sessionId", "userId", "bridge"] {
        sent.remove(field);
    }
    let received = Envelope::unwrap_frame(&body).expect("a frame comes out as it went in");
    assert_eq!(serde_json::from_str::<Value>(received.get()).expect("JSON"), Value::Object(sent));
});
