//! Output: how much is sent, when, and whom the shell waits for.

use super::*;

#[test]
fn no_more_than_a_window_is_sent_and_a_stopped_client_is_asked() {
    let mut core = core();
    let a = joined(&mut core, "a", MS);
    core.output(&vec![b'x'; 40_000]);
    let frames = pushed(&mut core, MS);
    assert_eq!(output_bytes(&frames, "a"), 16 * 1024);
    assert_eq!(core.read_allowance(MS), 0, "the shell is held");
    assert!(pushed(&mut core, 900 * MS).is_empty());
    let probe = pushed(&mut core, 1001 * MS);
    assert!(matches!(&probe[..], [(_, ServerFrame::Output { offset: 16384, .. })]), "{probe:?}");
    assert_eq!(output_bytes(&probe, "a"), 0);
    core.frame(&a, ack(1000), 1002 * MS);
    let frames = pushed(&mut core, 1002 * MS);
    assert!(matches!(&frames[0].1, ServerFrame::Output { offset: 1000, .. }), "sent again from what it has");
    assert_eq!(core.frame(&a, ack(999_999), MS), None);
    assert_eq!(
        core.connections[&a].attachment.as_ref().unwrap().window.acked(),
        1000,
        "more than was sent is ignored"
    );
}

#[test]
fn a_client_whose_window_ends_with_the_output_is_asked_too() {
    let mut core = core();
    joined(&mut core, "a", MS);
    core.output(&vec![b'x'; 16 * 1024]);
    pushed(&mut core, MS);
    assert_eq!(core.read_allowance(MS), 0, "its acknowledgement was lost, and the shell waits for it");
    assert_eq!(pushed(&mut core, 1001 * MS).len(), 1);
}

#[test]
fn the_first_bytes_leave_at_once_and_the_next_are_gathered() {
    let mut core = core();
    joined(&mut core, "a", MS);
    core.effects.clear();
    core.output(b"one");
    core.tick(MS);
    assert_eq!(core.effects.len(), 1);
    for _ in 0..10 {
        core.output(b"more");
        core.tick(MS);
    }
    assert_eq!(core.effects.len(), 1, "a push is under way");
    core.effects.clear();
    core.pushed(&"a".into(), PushKind::Output, Sent::Delivered, MS);
    let frames = pushed(&mut core, MS);
    assert_eq!((frames.len(), output_bytes(&frames, "a")), (1, 40));
}

#[test]
fn a_slow_writer_does_not_stop_a_quick_one_and_gets_a_picture() {
    let mut core = core();
    let (fast, slow) = (joined(&mut core, "fast", MS), joined(&mut core, "slow", MS));
    let mut sent = 0;
    while sent < 200_000 {
        let allowance = core.read_allowance(MS);
        assert!(allowance > 0, "held back after {sent} bytes");
        core.output(&vec![b'x'; allowance.min(4096)]);
        pushed(&mut core, MS);
        sent = core.log.end();
        core.frame(&fast, ack(sent), MS);
    }
    core.frame(&slow, ack(16 * 1024), MS);
    let frames = pushed(&mut core, MS);
    let snapshot = frames.iter().find_map(|(to, frame)| match frame {
        ServerFrame::Snapshot { offset, gap, .. } if to == &slow => Some((*offset, *gap)),
        _ => None,
    });
    assert_eq!(snapshot, Some((sent, sent - 16 * 1024)));
    assert!(frames.iter().all(|(to, _)| to == &slow));
}

#[test]
fn a_lost_client_holds_the_shell_for_its_grace_and_then_no_longer() {
    let mut core = core();
    let a = joined(&mut core, "a", MS);
    core.output(&vec![b'x'; 1000]);
    pushed(&mut core, MS);
    core.frame(&a, ack(1000), MS);
    core.disconnect(&a, MS);
    while core.read_allowance(2 * MS) > 0 {
        core.output(&vec![b'y'; core.read_allowance(2 * MS).min(4096)]);
        follow(&mut core, 2 * MS);
    }
    assert_eq!(core.log.lost(1000), 0, "nothing that it needs is gone");
    assert_eq!(core.log.end() - 1000, LIMITS.output_buffer as u64);
    follow(&mut core, 61_000 * MS);
    assert!(core.read_allowance(61_000 * MS) > LIMITS.output_buffer / 2);
}

#[test]
fn a_connected_client_that_says_nothing_for_the_grace_counts_as_lost() {
    let mut core = core();
    joined(&mut core, "a", MS);
    core.output(&vec![b'x'; 16 * 1024]);
    pushed(&mut core, MS);
    assert_eq!(core.read_allowance(59_000 * MS), 0);
    assert!(core.read_allowance(60_002 * MS) > LIMITS.output_buffer / 2);
}

#[test]
fn viewers_never_hold_the_shell() {
    let mut core = core();
    core.connect(info("v", 1, true), MS);
    core.frame(&"v".into(), attach("v", 0), MS);
    core.output(&vec![b'x'; 64 * 1024]);
    pushed(&mut core, MS);
    assert!(core.read_allowance(MS) > LIMITS.output_buffer / 2);
    core.disconnect("v", MS);
    assert!(core.read_allowance(MS) > LIMITS.output_buffer / 2);
}

#[test]
fn an_attach_without_seq_never_goes_behind_what_is_acknowledged_and_an_old_seq_changes_nothing() {
    let mut core = core();
    let a = joined(&mut core, "a", MS);
    core.output(b"0123456789");
    pushed(&mut core, MS);
    core.frame(&a, ack(6), MS);
    let answer = core.frame(&a, attach("a", 2), MS);
    assert!(matches!(answer, Some(ServerFrame::Attached { output_offset: 6, .. })), "{answer:?}");
    let with_seq = |seq, offset| {
        let ClientFrame::Attach { client_id, cols, rows, epoch, .. } = attach("a", 0) else { unreachable!() };
        ClientFrame::Attach { client_id, cols, rows, epoch, output_offset: Some(offset), seq: Some(seq) }
    };
    let answer = core.frame(&a, with_seq(5, 1), MS);
    assert!(matches!(answer, Some(ServerFrame::Attached { output_offset: 1, .. })), "{answer:?}");
    let answer = core.frame(&a, with_seq(5, 9), MS);
    assert!(matches!(answer, Some(ServerFrame::Attached { output_offset: 1, .. })), "{answer:?}");
}

#[test]
fn offsets_of_another_shell_count_as_none() {
    let mut core = core();
    let a = joined(&mut core, "a", MS);
    core.output(b"0123456789");
    let ClientFrame::Attach { client_id, .. } = attach("a", 0) else { unreachable!() };
    let other = |output_offset, epoch| ClientFrame::Attach {
        client_id: client_id.clone(),
        cols: 80,
        rows: 24,
        output_offset: Some(output_offset),
        epoch,
        seq: None,
    };
    for frame in [other(5, Some(6)), other(500, None)] {
        let answer = core.frame(&a, frame, MS);
        assert!(matches!(answer, Some(ServerFrame::Attached { output_offset: 0, .. })), "{answer:?}");
    }
    let foreign = ClientFrame::Ack { output_offset: 3, epoch: Some(6) };
    pushed(&mut core, MS);
    core.frame(&a, foreign, MS);
    assert_eq!(core.connections[&a].attachment.as_ref().unwrap().window.acked(), 0);
}

#[test]
fn a_client_lost_with_a_picture_on_its_way_needs_only_what_follows() {
    let mut core = core();
    core.output(&vec![b'x'; 100_000]);
    let a = joined(&mut core, "a", MS);
    follow(&mut core, MS);
    core.disconnect(&a, MS);
    assert_eq!(core.read_allowance(2 * MS), LIMITS.output_buffer);
}

#[test]
fn a_picture_that_never_arrived_is_part_of_the_next_gap() {
    let mut core = core();
    let slow = joined(&mut core, "slow", MS);
    core.output(&vec![b'x'; 1000]);
    pushed(&mut core, MS);
    core.frame(&slow, ack(1000), MS);
    core.disconnect(&slow, MS);
    core.output(&vec![b'x'; 100_000]);
    core.connect(info("slow", 2, false), MS);
    core.frame(&slow, attach("slow", 1000), MS);
    pushed(&mut core, MS);
    core.output(&vec![b'x'; 100_000]);
    pushed(&mut core, 3000 * MS);
    // The probe says that nothing of the picture came.
    core.frame(&slow, ack(1000), 3001 * MS);
    let frames = pushed(&mut core, 3001 * MS);
    let gap = frames.iter().find_map(|(_, frame)| match frame {
        ServerFrame::Snapshot { gap, offset, .. } => Some((*gap, *offset)),
        _ => None,
    });
    assert_eq!(gap, Some((200_000, 201_000)));
}

#[test]
fn a_frame_that_is_too_large_ends_the_connection_with_the_reason() {
    let mut core = core();
    let a = joined(&mut core, "a", MS);
    core.output(b"x");
    core.tick(MS);
    core.effects.clear();
    core.pushed(&a, PushKind::Output, Sent::TooLarge, MS);
    let Some(Effect::Close(_, Some(last))) = core.effects.pop_front() else { panic!("it would come again") };
    assert!(std::str::from_utf8(&last).unwrap().contains("TOO_LARGE"));
    assert!(core.connections.is_empty());
}

#[test]
fn all_who_are_behind_share_one_picture_each_with_a_gap_of_its_own() {
    let mut core = core();
    core.output(&"line after line\r\n".repeat(10_000).into_bytes());
    let ids: Vec<_> = ["a", "b", "c"].iter().map(|name| joined(&mut core, name, MS)).collect();
    let pictures: Vec<_> = ids
        .iter()
        .map(|id| core.connections[id].attachment.as_ref().unwrap().snapshot.as_ref().unwrap().picture())
        .collect();
    assert!(pictures.iter().all(|picture| std::ptr::eq(*picture, pictures[0])));
    assert_eq!(core.picture.strong_count(), ids.len());
    // Another size is another picture.
    core.frame(&ids[0], ClientFrame::Resize { cols: 60, rows: 20, seq: None }, MS);
    core.connect(info("v", 9, true), MS);
    core.frame(&"v".into(), attach("v", 100), MS);
    let frames = pushed(&mut core, MS);
    let shown = |to: &str| {
        frames.iter().find_map(|(id, frame)| match frame {
            ServerFrame::Snapshot { cols, gap, part: 0, .. } if &**id == to => Some((*cols, *gap)),
            _ => None,
        })
    };
    let end = core.log.end();
    assert_eq!(shown("a"), Some((80, end)));
    assert_eq!(shown("v"), Some((60, end - 100)));
}

/// An acknowledgement from before a replay must not stand for a picture that is still to be sent.
#[test]
fn a_late_acknowledgement_does_not_take_a_picture_away() {
    let mut core = core();
    let a = joined(&mut core, "a", MS);
    // A picture of many frames: scrollback that says more with colours than with text.
    let line = "\x1b[38;2;1;2;3mx\x1b[38;2;4;5;6my".repeat(40) + "\r\n";
    for _ in 0..600 {
        core.output(line.as_bytes());
        pushed(&mut core, MS);
        let end = core.log.end();
        core.frame(&a, ack(end), MS);
    }
    let end = core.log.end();
    let ClientFrame::Attach { client_id, cols, rows, output_offset, epoch, .. } = attach("a", 0) else {
        unreachable!()
    };
    core.frame(&a, ClientFrame::Attach { client_id, cols, rows, output_offset, epoch, seq: Some(1) }, MS);
    follow(&mut core, MS);
    core.tick(MS);
    let first: Vec<_> = core.effects.drain(..).collect();
    core.frame(&a, ack(end), MS);
    let mut parts = 0;
    let mut told = 0;
    for effect in first {
        if let Effect::Push { frame, kind, .. } = effect {
            core.pushed(&a, kind, Sent::Delivered, MS);
            if let ServerFrame::Snapshot { parts: of, .. } = serde_json::from_slice(&frame).unwrap() {
                (parts, told) = (of, told + 1);
            }
        }
    }
    assert!(told < parts, "{told} of {parts} parts at once");
    let rest = pushed(&mut core, MS);
    told += u32::try_from(rest.iter().filter(|(_, f)| matches!(f, ServerFrame::Snapshot { .. })).count())
        .unwrap();
    assert_eq!(told, parts);
}
