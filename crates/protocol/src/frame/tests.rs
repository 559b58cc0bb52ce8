use serde_json::json;

use super::*;
use crate::{ErrorCode, limits, payload::Payload, times::Epoch};

fn parse(value: &serde_json::Value) -> Result<ClientFrame, ErrorFrame> {
    ClientFrame::parse(value.to_string().as_bytes())
}

#[test]
fn frames_read_as_the_contract_writes_them() {
    let frame =
        parse(&json!({"type":"attach","clientId":"0123456789abcdef","cols":80,"rows":24,"action":"x"}));
    assert_eq!(
        frame,
        Ok(ClientFrame::Attach {
            client_id: "0123456789abcdef".into(),
            cols: 80,
            rows: 24,
            output_offset: None,
            epoch: None,
            seq: None
        })
    );
    let input = json!({"type":"input","clientId":"0123456789abcdef","offset":7,"b64":"AA==","epoch":1});
    let Ok(ClientFrame::Input { payload, .. }) = parse(&input) else { panic!("not input") };
    assert_eq!(payload.decode().unwrap(), [0]);
}

#[test]
fn a_missing_or_unknown_type_is_unknown_and_not_an_error() {
    for value in [json!({}), json!({"type": 7}), json!({"type": "reboot"}), json!({"type": null})] {
        assert_eq!(parse(&value), Ok(ClientFrame::Unknown), "{value}");
    }
}

#[test]
fn regression_a_type_or_id_inside_an_object_is_none() {
    let hidden = json!({"$serde_json::private::RawValue": "\"ping\""});
    let frame = json!({"type": hidden, "id": hidden}).to_string();
    assert_eq!(FrameHead::read(frame.as_bytes()).unwrap(), FrameHead::default());
    assert_eq!(ClientFrame::parse(frame.as_bytes()).unwrap(), ClientFrame::Unknown);
}

#[test]
fn regression_an_echo_is_read_as_it_was_written() {
    let text = r#"{"type":"echo","received":{"x":{"$serde_json::private::RawValue":"[1]"},"y":[1,2.5,null,true,-3]},"timestamp":1}"#;
    let frame: ServerFrame = serde_json::from_str(text).unwrap();
    assert_eq!(serde_json::to_string(&frame).unwrap(), text);
}

#[test]
fn wrong_json_types_and_ranges_are_bad_frames_that_name_their_cause() {
    let id = "0123456789abcdef";
    for value in [
        json!({"type":"resize","cols":"80","rows":24}),
        json!({"type":"resize","cols":0,"rows":24}),
        json!({"type":"resize","cols":-1,"rows":24}),
        json!({"type":"resize","cols":80.5,"rows":24}),
        json!({"type":"resize","cols":80}),
        json!({"type":"attach","clientId":"short","cols":80,"rows":24}),
        json!({"type":"attach","clientId":"0123456789abcde/","cols":80,"rows":24}),
        json!({"type":"input","clientId":id,"offset":-1,"data":"x"}),
        json!({"type":"command","command":["ls"]}),
        json!({"type":"command","command":"ls","timeoutMs":"1"}),
    ] {
        let error = parse(&value).unwrap_err();
        assert_eq!(error.code, ErrorCode::BadFrame, "{value}");
        assert_eq!(error.reference.as_deref(), value["type"].as_str(), "{value}");
    }
    for text in ["", "x", "[]", "[\"ping\"]", "null", "7", "{", "{\"type\":\"ping\"} x", "\u{feff}{}"] {
        assert_eq!(ClientFrame::parse(text.as_bytes()).unwrap_err().code, ErrorCode::BadFrame, "{text}");
    }
    assert_eq!(ClientFrame::parse(b"{\"type\":\"\xff\"}").unwrap_err().code, ErrorCode::BadFrame);
}

/// Its answer names the frame, so that the name must be one.
#[test]
fn regression_an_unknown_frame_with_two_ids_is_a_bad_frame() {
    let error = ClientFrame::parse(br#"{"type":"reboot","id":"1","id":"2"}"#).unwrap_err();
    assert_eq!(error.code, ErrorCode::BadFrame);
}

#[test]
fn deep_nesting_is_an_error_and_not_a_stack_overflow() {
    let deep = format!("{{\"type\":\"echo\",\"x\":{}1{}}}", "[".repeat(16_000), "]".repeat(16_000));
    assert_eq!(ClientFrame::parse(deep.as_bytes()).unwrap_err().code, ErrorCode::BadFrame);
}

#[test]
fn the_size_of_a_giant_terminal_is_clamped() {
    let frame = parse(&json!({"type":"resize","cols":65535,"rows":65535}));
    assert_eq!(frame, Ok(ClientFrame::Resize { cols: limits::MAX_COLS, rows: limits::MAX_ROWS, seq: None }));
}

#[test]
fn errors_name_the_frame_by_id_before_type() {
    let error = parse(&json!({"type":"command","id":"c1","command":1})).unwrap_err();
    assert_eq!(error.reference.as_deref(), Some("c1"));
}

#[test]
fn server_frames_write_as_the_contract_has_them() {
    let text = |frame: &ServerFrame| serde_json::to_value(frame).unwrap();
    let output =
        ServerFrame::Output { epoch: Epoch(5), offset: 3, payload: Payload::new(b"hi"), input_offset: None };
    assert_eq!(text(&output), json!({"type":"output","epoch":5,"offset":3,"data":"hi"}));
    let error = ErrorFrame::new(ErrorCode::NotAttached, "attach first").answering(Some("input".into()));
    assert_eq!(
        text(&error.into()),
        json!({"type":"error","code":"NOT_ATTACHED","message":"attach first","retryable":true,"ref":"input"})
    );
    let exit = Exit { exit_code: 0, signal: None };
    assert_eq!(
        text(&ServerFrame::Exit { epoch: Epoch(1), offset: 2, exit }),
        json!({"type":"exit","epoch":1,"offset":2,"exitCode":0})
    );
    assert_eq!(text(&ServerFrame::Detached), json!({"type":"detached"}));
}

#[test]
fn frames_of_a_newer_server_survive_as_unknown() {
    let frame: ServerFrame = serde_json::from_value(json!({"type":"hologram","x":[1]})).unwrap();
    assert_eq!(frame, ServerFrame::Unknown);
    let frame: ServerFrame =
        serde_json::from_value(json!({"type":"error","code":"NEW","message":"m","retryable":false})).unwrap();
    assert!(matches!(frame, ServerFrame::Error(ErrorFrame { code: ErrorCode::Unknown, .. })));
}
