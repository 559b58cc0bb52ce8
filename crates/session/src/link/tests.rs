//! Tests of the codec: messages survive any fragmentation, and malformed input is an error.

use std::time::Duration;

use bytes::BytesMut;
use proptest::prelude::*;
use serde::Serialize;
use shellbridge_protocol::{ErrorCode, times::UnixMs};

use super::*;

fn push(frame: &[u8]) -> FromHost {
    Push { push: 7, to: "c".into(), frame: frame.to_vec().into(), replaceable: true }.into()
}

/// The bytes of a message with this kind and body.
fn raw(kind: u16, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 2).unwrap();
    [&length.to_le_bytes()[..], &kind.to_le_bytes(), body].concat()
}

fn decode<M: Message>(bytes: &[u8]) -> Result<Option<M>, Broken> {
    let mut decoder = Decoder::default();
    decoder.buffer().extend_from_slice(bytes);
    decoder.message()
}

#[test]
fn the_preface_never_changes() {
    let mut out = BytesMut::new();
    Preface { major: 1, minor: 2, session: "abc".into() }.encode(&mut out);
    assert_eq!(&out[..], b"SBL1\x01\x00\x02\x00\x03abc");
    let mut decoder = Decoder::default();
    for byte in out.iter().take(out.len() - 1) {
        decoder.buffer().extend_from_slice(&[*byte]);
        assert_eq!(decoder.preface(), Ok(None));
    }
    decoder.buffer().extend_from_slice(b"c");
    let read = decoder.preface().unwrap().unwrap();
    assert_eq!((read.major, read.minor, &*read.session), (1, 2, "abc"));
    assert!(read.fits() && !Preface { major: 2, ..read }.fits());
    let mut stranger = Decoder::default();
    stranger.buffer().extend_from_slice(b"GET");
    assert_eq!(stranger.preface(), Err(Broken::NotALink));
}

#[test]
fn a_message_over_the_limit_is_neither_encoded_nor_decoded() {
    let mut out = BytesMut::from(&b"before"[..]);
    assert_eq!(encode(&push(&vec![b'x'; MAX_MESSAGE]), &mut out), Err(Broken::TooLarge));
    assert_eq!(&out[..], b"before");
    encode(&push(&vec![b'x'; MAX_MESSAGE - 64]), &mut out).unwrap();
    let length = u32::try_from(MAX_MESSAGE + 1).unwrap().to_le_bytes();
    assert_eq!(decode::<FromHost>(&length).unwrap_err(), Broken::TooLarge, "before the body arrives");
}

#[test]
fn kinds_of_a_newer_version_are_skipped() {
    let mut bytes = raw(999, b"whatever it is");
    let mut out = BytesMut::new();
    encode(&push(b"{}"), &mut out).unwrap();
    bytes.extend_from_slice(&out);
    assert!(matches!(decode(&bytes), Ok(Some(FromHost::Push(Push { push: 7, .. })))));
}

#[test]
fn unknown_trailing_fields_are_ignored_and_missing_ones_read_as_zero() {
    #[derive(Serialize)]
    struct Newer {
        status: Status,
        more: &'static str,
    }
    #[derive(Serialize)]
    struct Older {
        connections: u32,
    }
    let newer = Newer { status: Status { connections: 3, exited: true }, more: "new" };
    let mut bytes = [0; 64];
    let read = |body: &[u8]| match decode(&raw(8, body)) {
        Ok(Some(FromHost::Status(status))) => status,
        other => panic!("{other:?}"),
    };
    let body = postcard::to_slice(&newer, &mut bytes).unwrap();
    assert_eq!(read(body), Status { connections: 3, exited: true });
    let body = postcard::to_slice(&Older { connections: 4 }, &mut bytes).unwrap();
    assert_eq!(read(body), Status { connections: 4, exited: false });
}

#[test]
fn a_start_of_minor_version_0_has_no_files_and_no_init() {
    let limits = crate::Limits { output_buffer: 1, output_window: 1, resume_grace: Duration::ZERO };
    let start = Start {
        id: "s".into(),
        owner: "alice".into(),
        created_at: UnixMs(1),
        expires_at: UnixMs(2),
        settings: crate::Settings { limits, detached_ttl: Duration::ZERO, shell_restart: false },
        shell: ShellSpec { shell: "sh".to_owned(), cwd: "/".to_owned(), env: [].into() },
        notes: b"notes".to_vec().into(),
        files: vec![File { path: "a".to_owned(), content: b"b".to_vec().into(), mode: 0o644 }],
        init: Some("true".to_owned()),
    };
    let read = |body: &[u8]| match decode(&raw(1, body)) {
        Ok(Some(ToHost::Hello(Hello { start: Some(start) }))) => start,
        other => panic!("{other:?}"),
    };
    let mut bytes = [0; 256];
    let body = postcard::to_slice(&Hello { start: Some(start) }, &mut bytes).unwrap();
    let newer = read(body);
    assert_eq!((newer.files.len(), newer.init.as_deref()), (1, Some("true")));
    // One file: its count, path, content and mode; `init`.
    let appended = 1 + 2 + 2 + 2 + 1 + 5;
    let older = read(&body[..body.len() - appended]);
    assert_eq!((&older.notes[..], older.files, older.init), (&b"notes"[..], vec![], None));
}

#[test]
fn a_host_receives_larger_messages_than_it_sends() {
    let mut out = BytesMut::new();
    encode(&ToHost::from(Keep { notes: vec![0; MAX_TO_HOST - 64].into() }), &mut out).unwrap();
    assert!(matches!(decode::<ToHost>(&out), Ok(Some(ToHost::Keep(_)))));
    assert_eq!(decode::<FromHost>(&out).unwrap_err(), Broken::TooLarge);
    assert_eq!(
        encode(&ToHost::from(Keep { notes: vec![0; MAX_TO_HOST].into() }), &mut out),
        Err(Broken::TooLarge)
    );
}

#[test]
fn reasons_are_encoded_by_name_and_unknown_names_are_decoded() {
    for code in [ErrorCode::SessionInvalid, ErrorCode::Replaced, ErrorCode::Internal] {
        assert_eq!(ErrorCode::from(Reason::from(code)), code);
    }
    let newer: Reason = postcard::from_bytes(b"\x05NEWER").unwrap();
    assert_eq!(ErrorCode::from(newer), ErrorCode::Unknown);
}

proptest! {
    #[test]
    fn messages_survive_any_fragmentation(
        frames in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..2_000), 1..8),
        piece in 1_usize..3_000,
    ) {
        let mut out = BytesMut::new();
        for frame in &frames {
            encode(&push(frame), &mut out).unwrap();
        }
        let mut decoder = Decoder::default();
        let mut arrived = Vec::new();
        for piece in out.chunks(piece) {
            decoder.buffer().extend_from_slice(piece);
            while let Some(FromHost::Push(push)) = decoder.message().unwrap() {
                arrived.push(push.frame.to_vec());
            }
        }
        prop_assert_eq!(arrived, frames);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..4_000), kind in 0_u16..15) {
        for bytes in [bytes.clone(), raw(kind, &bytes)] {
            let mut decoder = Decoder::default();
            decoder.buffer().extend_from_slice(&bytes);
            while let Ok(Some(_)) = decoder.message::<FromHost>() {}
            decoder.buffer().extend_from_slice(&bytes);
            while let Ok(Some(_)) = decoder.message::<ToHost>() {}
        }
    }
}
