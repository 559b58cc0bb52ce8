//! The size in force and its announcements.

use super::*;

#[test]
fn the_size_is_the_smallest_of_the_attached_writers() {
    let mut session = session();
    let (a, b) = (joined(&mut session, "a", MS), joined(&mut session, "b", MS));
    let resize = |session: &mut Session, id: &ConnectionId, cols, rows, seq| {
        session.frame(id, ClientFrame::Resize { cols, rows, seq }, MS)
    };
    resize(&mut session, &a, 100, 20, Some(1));
    assert_eq!(session.size, Size { cols: 80, rows: 20 });
    let told = pushed(&mut session, MS);
    assert_eq!(told.iter().filter(|(_, f)| matches!(f, ServerFrame::ResizeAck { rows: 20, .. })).count(), 2);
    let answer = resize(&mut session, &a, 10, 10, Some(1));
    assert!(
        matches!(answer, Some(ServerFrame::ResizeAck { cols: 80, rows: 20, .. })),
        "an old seq has no effect"
    );
    session.disconnect(&b, MS);
    assert_eq!(session.size, Size { cols: 100, rows: 20 });
    session.connect(info("c", 3, false), MS).unwrap();
    resize(&mut session, &"c".into(), 5, 5, None);
    assert_eq!(session.size, Size { cols: 100, rows: 20 }, "not attached, while somebody is");
}

#[test]
fn an_old_attach_has_no_effect_after_a_detach_or_a_newer_resize() {
    let mut session = session();
    let a: ConnectionId = "a".into();
    session.connect(info("a", 1, false), MS).unwrap();
    let numbered = |seq| {
        let ClientFrame::Attach { client_id, epoch, output_offset, .. } = attach("a", 0) else {
            unreachable!()
        };
        ClientFrame::Attach { client_id, cols: 80, rows: 24, epoch, output_offset, seq: Some(seq) }
    };
    session.frame(&a, ClientFrame::Resize { cols: 100, rows: 30, seq: Some(2) }, MS);
    assert!(matches!(
        session.frame(&a, numbered(1), MS),
        Some(ServerFrame::Attached { cols: 100, rows: 30, .. })
    ));
    session.frame(&a, ClientFrame::Detach { seq: Some(3) }, MS);
    assert_eq!(code(session.frame(&a, numbered(1), MS)), Some(ErrorCode::NotAttached));
    assert!(matches!(session.frame(&a, numbered(4), MS), Some(ServerFrame::Attached { .. })));
}

#[test]
fn a_slow_connection_receives_only_the_newest_size() {
    let mut session = session();
    let (a, b) = (joined(&mut session, "a", MS), joined(&mut session, "b", MS));
    pushed(&mut session, MS);
    for cols in 10..60 {
        session.frame(&a, ClientFrame::Resize { cols, rows: 20, seq: None }, MS);
        session.advance(MS);
    }
    let sizes =
        session.effects.iter().filter(|effect| matches!(effect, Effect::Push { to, .. } if *to == b)).count();
    assert_eq!(sizes, 1, "one at a time");
    session.effects.clear();
    session.handle_pushed(&b, PushKind::Size, Sent::Delivered, MS);
    let frames = pushed(&mut session, MS);
    assert!(matches!(&frames[..], [(to, ServerFrame::ResizeAck { cols: 59, .. })] if *to == b), "{frames:?}");
}

/// The screen model lags behind the output, and a resize waits for it.
#[test]
fn a_resize_applies_at_its_offset_of_the_output() {
    let mut session = session();
    let a = joined(&mut session, "a", MS);
    let mut followed = crate::screen::Screen::new(session.size);
    for (turn, (cols, rows)) in [(40, 10), (120, 30), (33, 24)].into_iter().enumerate() {
        // More than the buffer holds, in pieces that do not divide it; lines that wrap, colours that last.
        let text = format!("\x1b[3{turn}m{}\r\nturn {turn}: {}\r\n", "wide ".repeat(30), "x".repeat(50));
        let bytes = text.repeat(LIMITS.output_buffer / text.len() + 2);
        for piece in bytes.as_bytes().chunks(5_000) {
            session.handle_output(piece);
            follow(&mut session, MS);
        }
        followed.feed_all(bytes.as_bytes());
        session.frame(&a, ClientFrame::Resize { cols, rows, seq: None }, MS);
        followed.resize(Size { cols, rows });
    }
    session.handle_output(b"\x1b[1mthe end");
    followed.feed_all(b"\x1b[1mthe end");
    session.connect(info("v", 9, true), MS).unwrap();
    session.frame(&"v".into(), attach("v", 0), MS);
    let frames = pushed(&mut session, MS);
    let shown: Vec<u8> = frames
        .into_iter()
        .filter(|(to, _)| &**to == "v")
        .filter_map(|(_, frame)| match frame {
            ServerFrame::Snapshot { payload, .. } => Some(payload.decode().unwrap()),
            _ => None,
        })
        .flatten()
        .collect();
    assert_eq!(String::from_utf8(shown), String::from_utf8(followed.snapshot()));
}
