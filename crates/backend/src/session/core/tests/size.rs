//! The size in force, and who is told.

use super::*;

#[test]
fn the_size_is_the_smallest_of_the_attached_writers() {
    let mut core = core();
    let (a, b) = (joined(&mut core, "a", MS), joined(&mut core, "b", MS));
    let resize = |core: &mut Core, id: &ConnectionId, cols, rows, seq| {
        core.frame(id, ClientFrame::Resize { cols, rows, seq }, MS)
    };
    resize(&mut core, &a, 100, 20, Some(1));
    assert_eq!(core.size, Size { cols: 80, rows: 20 });
    let told = pushed(&mut core, MS);
    assert_eq!(told.iter().filter(|(_, f)| matches!(f, ServerFrame::ResizeAck { rows: 20, .. })).count(), 2);
    let answer = resize(&mut core, &a, 10, 10, Some(1));
    assert!(
        matches!(answer, Some(ServerFrame::ResizeAck { cols: 80, rows: 20, .. })),
        "an old seq has no effect"
    );
    core.disconnect(&b, MS);
    assert_eq!(core.size, Size { cols: 100, rows: 20 });
    core.connect(info("c", 3, false), MS);
    resize(&mut core, &"c".into(), 5, 5, None);
    assert_eq!(core.size, Size { cols: 100, rows: 20 }, "not attached, while somebody is");
}

#[test]
fn an_old_attach_has_no_effect_after_a_detach_or_a_newer_resize() {
    let mut core = core();
    let a: ConnectionId = "a".into();
    core.connect(info("a", 1, false), MS);
    let numbered = |seq| {
        let ClientFrame::Attach { client_id, epoch, output_offset, .. } = attach("a", 0) else {
            unreachable!()
        };
        ClientFrame::Attach { client_id, cols: 80, rows: 24, epoch, output_offset, seq: Some(seq) }
    };
    core.frame(&a, ClientFrame::Resize { cols: 100, rows: 30, seq: Some(2) }, MS);
    assert!(matches!(
        core.frame(&a, numbered(1), MS),
        Some(ServerFrame::Attached { cols: 100, rows: 30, .. })
    ));
    core.frame(&a, ClientFrame::Detach { seq: Some(3) }, MS);
    assert_eq!(code(core.frame(&a, numbered(1), MS)), Some(ErrorCode::NotAttached));
    assert!(matches!(core.frame(&a, numbered(4), MS), Some(ServerFrame::Attached { .. })));
}

#[test]
fn a_slow_connection_is_told_of_the_newest_size_only() {
    let mut core = core();
    let (a, b) = (joined(&mut core, "a", MS), joined(&mut core, "b", MS));
    pushed(&mut core, MS);
    for cols in 10..60 {
        core.frame(&a, ClientFrame::Resize { cols, rows: 20, seq: None }, MS);
        core.tick(MS);
    }
    let sizes =
        core.effects.iter().filter(|effect| matches!(effect, Effect::Push { to, .. } if *to == b)).count();
    assert_eq!(sizes, 1, "one at a time");
    core.effects.clear();
    core.pushed(&b, PushKind::Size, Sent::Delivered, MS);
    let frames = pushed(&mut core, MS);
    assert!(matches!(&frames[..], [(to, ServerFrame::ResizeAck { cols: 59, .. })] if *to == b), "{frames:?}");
}

/// The model of the screen lags behind the output; a new size waits for it.
#[test]
fn a_new_size_comes_at_its_place_in_the_output() {
    let mut core = core();
    let a = joined(&mut core, "a", MS);
    let mut followed = crate::screen::Screen::new(core.size);
    for (turn, (cols, rows)) in [(40, 10), (120, 30), (33, 24)].into_iter().enumerate() {
        // More than the buffer holds, in pieces that do not divide it; lines that wrap, colours that last.
        let text = format!("\x1b[3{turn}m{}\r\nturn {turn}: {}\r\n", "wide ".repeat(30), "x".repeat(50));
        let bytes = text.repeat(LIMITS.output_buffer / text.len() + 2);
        for piece in bytes.as_bytes().chunks(5_000) {
            core.output(piece);
            follow(&mut core, MS);
        }
        followed.feed_all(bytes.as_bytes());
        core.frame(&a, ClientFrame::Resize { cols, rows, seq: None }, MS);
        followed.resize(Size { cols, rows });
    }
    core.output(b"\x1b[1mthe end");
    followed.feed_all(b"\x1b[1mthe end");
    core.connect(info("v", 9, true), MS);
    core.frame(&"v".into(), attach("v", 0), MS);
    let frames = pushed(&mut core, MS);
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
