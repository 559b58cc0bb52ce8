//! Output: what is sent when, and for which clients the shell waits.

use super::*;

#[test]
fn no_more_than_a_window_is_sent_and_a_stopped_client_is_probed() {
    let mut session = session();
    let a = joined(&mut session, "a", MS);
    session.handle_output(&vec![b'x'; 40_000]);
    let frames = pushed(&mut session, MS);
    assert_eq!(output_bytes(&frames, "a"), 16 * 1024);
    assert_eq!(session.read_allowance(MS), 0, "the shell is held");
    assert!(pushed(&mut session, 900 * MS).is_empty());
    let probe = pushed(&mut session, 1001 * MS);
    assert!(matches!(&probe[..], [(_, ServerFrame::Output { offset: 16384, .. })]), "{probe:?}");
    assert_eq!(output_bytes(&probe, "a"), 0);
    session.frame(&a, ack(1000), 1002 * MS);
    let frames = pushed(&mut session, 1002 * MS);
    assert!(matches!(&frames[0].1, ServerFrame::Output { offset: 1000, .. }), "sent again from what it has");
    assert_eq!(session.frame(&a, ack(999_999), MS), None);
    assert_eq!(
        session.connections[&a].attachment.as_ref().unwrap().window.acked(),
        1000,
        "more than was sent is ignored"
    );
}

#[test]
fn a_client_whose_window_ends_with_the_output_is_probed_too() {
    let mut session = session();
    joined(&mut session, "a", MS);
    session.handle_output(&vec![b'x'; 16 * 1024]);
    pushed(&mut session, MS);
    assert_eq!(session.read_allowance(MS), 0, "its acknowledgement was lost, and the shell waits for it");
    assert_eq!(pushed(&mut session, 1001 * MS).len(), 1);
}

#[test]
fn the_first_bytes_leave_at_once_and_the_next_are_gathered() {
    let mut session = session();
    joined(&mut session, "a", MS);
    session.effects.clear();
    session.handle_output(b"one");
    session.advance(MS);
    assert_eq!(session.effects.len(), 1);
    for _ in 0..10 {
        session.handle_output(b"more");
        session.advance(MS);
    }
    assert_eq!(session.effects.len(), 1, "a push is under way");
    session.effects.clear();
    session.handle_pushed(&"a".into(), PushKind::Output, Sent::Delivered, MS);
    let frames = pushed(&mut session, MS);
    assert_eq!((frames.len(), output_bytes(&frames, "a")), (1, 40));
}

#[test]
fn a_slow_writer_does_not_stop_a_quick_one_and_gets_a_picture() {
    let mut session = session();
    let (fast, slow) = (joined(&mut session, "fast", MS), joined(&mut session, "slow", MS));
    let mut sent = 0;
    while sent < 200_000 {
        let allowance = session.read_allowance(MS);
        assert!(allowance > 0, "held back after {sent} bytes");
        session.handle_output(&vec![b'x'; allowance.min(4096)]);
        pushed(&mut session, MS);
        sent = session.log.end();
        session.frame(&fast, ack(sent), MS);
    }
    session.frame(&slow, ack(16 * 1024), MS);
    let frames = pushed(&mut session, MS);
    let snapshot = frames.iter().find_map(|(to, frame)| match frame {
        ServerFrame::Snapshot { offset, gap, .. } if to == &slow => Some((*offset, *gap)),
        _ => None,
    });
    assert_eq!(snapshot, Some((sent, sent - 16 * 1024)));
    assert!(frames.iter().all(|(to, _)| to == &slow));
}

#[test]
fn a_lost_client_holds_the_shell_for_its_grace_and_then_no_longer() {
    let mut session = session();
    let a = joined(&mut session, "a", MS);
    session.handle_output(&vec![b'x'; 1000]);
    pushed(&mut session, MS);
    session.frame(&a, ack(1000), MS);
    session.disconnect(&a, MS);
    while session.read_allowance(2 * MS) > 0 {
        session.handle_output(&vec![b'y'; session.read_allowance(2 * MS).min(4096)]);
        follow(&mut session, 2 * MS);
    }
    assert_eq!(session.log.lost(1000), 0, "nothing that it needs is gone");
    assert_eq!(session.log.end() - 1000, LIMITS.output_buffer as u64);
    follow(&mut session, 61_000 * MS);
    assert!(session.read_allowance(61_000 * MS) > LIMITS.output_buffer / 2);
}

#[test]
fn a_connected_client_silent_for_the_grace_counts_as_lost() {
    let mut session = session();
    joined(&mut session, "a", MS);
    session.handle_output(&vec![b'x'; 16 * 1024]);
    pushed(&mut session, MS);
    assert_eq!(session.read_allowance(59_000 * MS), 0);
    assert!(session.read_allowance(60_002 * MS) > LIMITS.output_buffer / 2);
}

#[test]
fn viewers_never_hold_the_shell() {
    let mut session = session();
    session.connect(info("v", 1, true), MS).unwrap();
    session.frame(&"v".into(), attach("v", 0), MS);
    session.handle_output(&vec![b'x'; 64 * 1024]);
    pushed(&mut session, MS);
    assert!(session.read_allowance(MS) > LIMITS.output_buffer / 2);
    session.disconnect(&"v".into(), MS);
    assert!(session.read_allowance(MS) > LIMITS.output_buffer / 2);
}

#[test]
fn an_attach_without_seq_or_with_an_old_one_never_moves_back() {
    let mut session = session();
    let a = joined(&mut session, "a", MS);
    session.handle_output(b"0123456789");
    pushed(&mut session, MS);
    session.frame(&a, ack(6), MS);
    let answer = session.frame(&a, attach("a", 2), MS);
    assert!(matches!(answer, Some(ServerFrame::Attached { output_offset: 6, .. })), "{answer:?}");
    let with_seq = |seq, offset| {
        let ClientFrame::Attach { client_id, cols, rows, epoch, .. } = attach("a", 0) else { unreachable!() };
        ClientFrame::Attach { client_id, cols, rows, epoch, output_offset: Some(offset), seq: Some(seq) }
    };
    let answer = session.frame(&a, with_seq(5, 1), MS);
    assert!(matches!(answer, Some(ServerFrame::Attached { output_offset: 1, .. })), "{answer:?}");
    let answer = session.frame(&a, with_seq(5, 9), MS);
    assert!(matches!(answer, Some(ServerFrame::Attached { output_offset: 1, .. })), "{answer:?}");
}

#[test]
fn offsets_of_another_shell_count_as_none() {
    let mut session = session();
    let a = joined(&mut session, "a", MS);
    session.handle_output(b"0123456789");
    let ClientFrame::Attach { client_id, .. } = attach("a", 0) else { unreachable!() };
    let other = |output_offset, epoch| ClientFrame::Attach {
        client_id: client_id.clone(),
        cols: 80,
        rows: 24,
        output_offset: Some(output_offset),
        epoch,
        seq: None,
    };
    for frame in [other(5, Some(Epoch(6))), other(500, None)] {
        let answer = session.frame(&a, frame, MS);
        assert!(matches!(answer, Some(ServerFrame::Attached { output_offset: 0, .. })), "{answer:?}");
    }
    let foreign = ClientFrame::Ack { output_offset: 3, epoch: Some(Epoch(6)) };
    pushed(&mut session, MS);
    session.frame(&a, foreign, MS);
    assert_eq!(session.connections[&a].attachment.as_ref().unwrap().window.acked(), 0);
}

#[test]
fn a_client_lost_with_a_picture_on_its_way_needs_only_what_follows() {
    let mut session = session();
    session.handle_output(&vec![b'x'; 100_000]);
    let a = joined(&mut session, "a", MS);
    follow(&mut session, MS);
    session.disconnect(&a, MS);
    assert_eq!(session.read_allowance(2 * MS), LIMITS.output_buffer);
}

#[test]
fn a_picture_that_never_arrived_is_part_of_the_next_gap() {
    let mut session = session();
    let slow = joined(&mut session, "slow", MS);
    session.handle_output(&vec![b'x'; 1000]);
    pushed(&mut session, MS);
    session.frame(&slow, ack(1000), MS);
    session.disconnect(&slow, MS);
    session.handle_output(&vec![b'x'; 100_000]);
    session.connect(info("slow", 2, false), MS).unwrap();
    session.frame(&slow, attach("slow", 1000), MS);
    pushed(&mut session, MS);
    session.handle_output(&vec![b'x'; 100_000]);
    pushed(&mut session, 3000 * MS);
    // The response to the probe shows that the picture was lost.
    session.frame(&slow, ack(1000), 3001 * MS);
    let frames = pushed(&mut session, 3001 * MS);
    let gap = frames.iter().find_map(|(_, frame)| match frame {
        ServerFrame::Snapshot { gap, offset, .. } => Some((*gap, *offset)),
        _ => None,
    });
    assert_eq!(gap, Some((200_000, 201_000)));
}

#[test]
fn a_frame_that_is_too_large_ends_the_connection_with_the_reason() {
    let mut session = session();
    let a = joined(&mut session, "a", MS);
    session.handle_output(b"x");
    session.advance(MS);
    session.effects.clear();
    session.handle_pushed(&a, PushKind::Output, Sent::TooLarge, MS);
    let Some(Effect::Close { last: Some(last), .. }) = session.effects.pop_front() else {
        panic!("it would come again")
    };
    assert!(std::str::from_utf8(&last).unwrap().contains("TOO_LARGE"));
    assert!(session.connections.is_empty());
}

#[test]
fn clients_that_are_behind_share_one_picture_with_separate_gaps() {
    let mut session = session();
    session.handle_output(&"line after line\r\n".repeat(10_000).into_bytes());
    let ids: Vec<_> = ["a", "b", "c"].iter().map(|name| joined(&mut session, name, MS)).collect();
    let pictures: Vec<_> = ids
        .iter()
        .map(|id| session.connections[id].attachment.as_ref().unwrap().snapshot.as_ref().unwrap().picture())
        .collect();
    assert!(pictures.iter().all(|picture| std::ptr::eq(*picture, pictures[0])));
    assert_eq!(session.picture.strong_count(), ids.len());
    // Another size is another picture.
    session.frame(&ids[0], ClientFrame::Resize { cols: 60, rows: 20, seq: None }, MS);
    session.connect(info("v", 9, true), MS).unwrap();
    session.frame(&"v".into(), attach("v", 100), MS);
    let frames = pushed(&mut session, MS);
    let shown = |to: &str| {
        frames.iter().find_map(|(id, frame)| match frame {
            ServerFrame::Snapshot { cols, gap, part: 0, .. } if &**id == to => Some((*cols, *gap)),
            _ => None,
        })
    };
    let end = session.log.end();
    assert_eq!(shown("a"), Some((80, end)));
    assert_eq!(shown("v"), Some((60, end - 100)));
}

/// An acknowledgement from before a replay must not count for a picture that is not sent yet.
#[test]
fn a_late_acknowledgement_does_not_take_a_picture_away() {
    let mut session = session();
    let a = joined(&mut session, "a", MS);
    // A picture of many frames: colours make the scrollback long.
    let line = "\x1b[38;2;1;2;3mx\x1b[38;2;4;5;6my".repeat(40) + "\r\n";
    for _ in 0..600 {
        session.handle_output(line.as_bytes());
        pushed(&mut session, MS);
        let end = session.log.end();
        session.frame(&a, ack(end), MS);
    }
    let end = session.log.end();
    let ClientFrame::Attach { client_id, cols, rows, output_offset, epoch, .. } = attach("a", 0) else {
        unreachable!()
    };
    session.frame(&a, ClientFrame::Attach { client_id, cols, rows, output_offset, epoch, seq: Some(1) }, MS);
    follow(&mut session, MS);
    session.advance(MS);
    let first: Vec<_> = session.effects.drain(..).collect();
    session.frame(&a, ack(end), MS);
    let mut parts = 0;
    let mut told = 0;
    for effect in first {
        if let Effect::Push { frame, kind, .. } = effect {
            session.handle_pushed(&a, kind, Sent::Delivered, MS);
            if let ServerFrame::Snapshot { parts: of, .. } = serde_json::from_slice(&frame).unwrap() {
                (parts, told) = (of, told + 1);
            }
        }
    }
    assert!(told < parts, "{told} of {parts} parts at once");
    let rest = pushed(&mut session, MS);
    told += u32::try_from(rest.iter().filter(|(_, f)| matches!(f, ServerFrame::Snapshot { .. })).count())
        .unwrap();
    assert_eq!(told, parts);
}
