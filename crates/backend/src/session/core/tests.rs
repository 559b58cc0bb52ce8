//! The rules of the session, one by one.

use std::collections::BTreeMap;

use shellbridge_protocol::limits::{INPUT_WINDOW, MAX_FRAME};

use super::*;
use crate::session::Size;

mod weather;

const MS: Duration = Duration::from_millis(1);
const LIMITS: Limits =
    Limits { output_buffer: 64 * 1024, output_window: 16 * 1024, resume_grace: Duration::from_mins(1) };

fn info(id: &str, connected_at: i64, read_only: bool) -> ConnectionInfo {
    ConnectionInfo { id: id.into(), read_only, connected_at, token_lasts: Duration::from_hours(7) }
}

fn core() -> Core {
    Core::new(LIMITS, 7)
}

fn attach(client_id: &str, offset: u64) -> ClientFrame {
    let client_id = format!("client-{client_id:->16}");
    ClientFrame::Attach { client_id, cols: 80, rows: 24, output_offset: Some(offset), epoch: None, seq: None }
}

fn input(client_id: &str, offset: u64, data: &str) -> ClientFrame {
    let client_id = format!("client-{client_id:->16}");
    let payload = shellbridge_protocol::payload::Payload::new(data.as_bytes());
    ClientFrame::Input { client_id, offset, payload, epoch: None, output_offset: None }
}

fn ack(output_offset: u64) -> ClientFrame {
    ClientFrame::Ack { output_offset, epoch: None }
}

/// A connection that has attached as a client of the same name.
fn joined(core: &mut Core, name: &str, now: Duration) -> ConnectionId {
    let id: ConnectionId = name.into();
    core.connect(info(name, 1, false), now);
    let answer = core.frame(&id, attach(name, 0), now);
    assert!(matches!(answer, Some(ServerFrame::Attached { .. })), "{answer:?}");
    id
}

fn code(answer: Option<ServerFrame>) -> Option<ErrorCode> {
    match answer {
        Some(ServerFrame::Error(error)) => Some(error.code),
        _ => None,
    }
}

/// Frames pushed so far, all of them delivered.
fn pushed(core: &mut Core, now: Duration) -> Vec<(ConnectionId, ServerFrame)> {
    let mut all = Vec::new();
    loop {
        core.tick(now);
        let effects: Vec<_> = core.effects.drain(..).collect();
        if effects.is_empty() {
            return all;
        }
        for effect in effects {
            if let Effect::Push { to, frame, kind } = effect {
                assert!(frame.len() <= MAX_FRAME, "a frame of {} bytes", frame.len());
                core.pushed(&to, kind, Sent::Delivered, now);
                all.push((to, serde_json::from_slice(&frame).unwrap()));
            }
        }
    }
}

fn output_bytes(frames: &[(ConnectionId, ServerFrame)], to: &str) -> usize {
    let mine = frames.iter().filter(|(id, _)| &**id == to);
    mine.map(|(_, frame)| match frame {
        ServerFrame::Output { payload, .. } => payload.clone().decode().unwrap().len(),
        _ => 0,
    })
    .sum()
}

#[test]
fn input_is_written_once_and_in_order_and_a_repeat_is_acknowledged_at_once() {
    let mut core = core();
    let a = joined(&mut core, "a", MS);
    assert_eq!(core.frame(&a, input("a", 2, "cd"), MS), None);
    assert_eq!(core.next_input(), None);
    assert_eq!(core.frame(&a, input("a", 0, "abc"), MS), None);
    let (client, bytes) = core.next_input().unwrap();
    assert_eq!(bytes, b"abcd");
    core.wrote(&client, 4, MS);
    assert_eq!(core.next_input(), None);
    let again = core.frame(&a, input("a", 1, "bc"), MS);
    assert!(matches!(again, Some(ServerFrame::InputAck { input_offset: 4, .. })), "{again:?}");
}

#[test]
fn accepted_input_is_acknowledged_in_time_by_output_or_alone() {
    let mut core = core();
    let a = joined(&mut core, "a", MS);
    core.frame(&a, input("a", 0, "x"), MS);
    let (client, _) = core.next_input().unwrap();
    core.wrote(&client, 1, MS);
    core.output(b"x");
    let frames = pushed(&mut core, MS);
    assert!(matches!(frames[..], [(_, ServerFrame::Output { input_offset: Some(1), .. })]), "{frames:?}");
    core.frame(&a, input("a", 1, "y"), MS);
    core.wrote(&client, 1, MS);
    assert_eq!(pushed(&mut core, 2 * MS).len(), 0);
    let frames = pushed(&mut core, 201 * MS);
    assert!(matches!(frames[..], [(_, ServerFrame::InputAck { input_offset: 2, .. })]), "{frames:?}");
}

#[test]
fn a_hole_open_for_two_seconds_is_told_with_where_to_go_on() {
    let mut core = core();
    let a = joined(&mut core, "a", MS);
    core.frame(&a, input("a", 5, "x"), MS);
    assert!(pushed(&mut core, 1999 * MS).is_empty());
    let frames = pushed(&mut core, 2001 * MS);
    let [(_, ServerFrame::Error(error))] = &frames[..] else { panic!("{frames:?}") };
    assert_eq!((error.code, error.input_offset), (ErrorCode::InputGap, Some(0)));
}

#[test]
fn bytes_beyond_the_input_window_are_dropped() {
    let mut core = core();
    let a = joined(&mut core, "a", MS);
    let page = "x".repeat(20_000);
    for n in 0..5 {
        core.frame(&a, input("a", n * 20_000, &page), MS);
    }
    let mut taken = 0;
    while let Some((client, bytes)) = core.next_input() {
        taken += bytes.len();
        // Nothing was written yet, so nothing may be beyond the window.
        assert!(taken <= INPUT_WINDOW);
        core.wrote(&client, bytes.len(), MS);
    }
    assert_eq!(taken, INPUT_WINDOW);
}

#[test]
fn two_writers_each_keep_their_own_order() {
    let mut core = core();
    let (a, b) = (joined(&mut core, "a", MS), joined(&mut core, "b", MS));
    core.frame(&a, input("a", 0, "a1"), MS);
    core.frame(&b, input("b", 0, "b1"), MS);
    core.frame(&a, input("a", 2, "a2"), MS);
    let mut all = BTreeMap::<String, Vec<u8>>::new();
    while let Some((client, bytes)) = core.next_input() {
        core.wrote(&client, bytes.len(), MS);
        all.entry(client).or_default().extend(bytes);
    }
    assert_eq!(all.into_values().collect::<Vec<_>>(), [b"a1a2".to_vec(), b"b1".to_vec()]);
}

#[test]
fn the_newest_connection_holds_the_client() {
    let mut core = core();
    let old = joined(&mut core, "a", MS);
    let new: ConnectionId = "new".into();
    core.connect(info("new", 2, false), MS);
    assert_eq!(
        code(core.frame(&new, input("a", 0, "x"), MS)),
        Some(ErrorCode::NotAttached),
        "not yet attached"
    );
    assert!(matches!(core.frame(&new, attach("a", 0), MS), Some(ServerFrame::Attached { .. })));
    assert_eq!(code(core.frame(&old, input("a", 0, "x"), MS)), Some(ErrorCode::Replaced));
    assert_eq!(code(core.frame(&old, attach("a", 0), MS)), Some(ErrorCode::Replaced));
    assert_eq!(core.frame(&new, input("a", 0, "x"), MS), None);
}

#[test]
fn a_later_page_does_not_complete_what_an_earlier_one_typed() {
    let mut core = core();
    let old = joined(&mut core, "a", MS);
    core.frame(&old, input("a", 0, "ls"), MS);
    core.frame(&old, input("a", 4, "beyond a hole"), MS);
    core.disconnect(&old, MS);
    let new: ConnectionId = "new".into();
    core.connect(info("new", 2, false), MS);
    let answer = core.frame(&new, attach("a", 0), MS);
    assert!(matches!(answer, Some(ServerFrame::Attached { input_offset: 2, .. })), "{answer:?}");
    core.frame(&new, input("a", 2, "xy"), MS);
    assert_eq!(core.next_input().unwrap().1, b"lsxy");
}

#[test]
fn a_viewer_cannot_take_a_writer_s_place_nor_type_nor_resize() {
    let mut core = core();
    let a = joined(&mut core, "a", MS);
    let viewer: ConnectionId = "v".into();
    core.connect(info("v", 9, true), MS);
    assert!(matches!(
        core.frame(&viewer, attach("a", 0), MS),
        Some(ServerFrame::Attached { read_only: true, .. })
    ));
    assert_eq!(code(core.frame(&viewer, input("a", 0, "x"), MS)), Some(ErrorCode::ReadOnly));
    let resize = ClientFrame::Resize { cols: 10, rows: 5, seq: None };
    assert_eq!(code(core.frame(&viewer, resize, MS)), Some(ErrorCode::ReadOnly));
    assert_eq!(core.frame(&a, input("a", 0, "x"), MS), None);
    assert_eq!(core.size, Size { cols: 80, rows: 24 });
}

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
    }
    assert_eq!(core.log.lost(1000), 0, "nothing that it needs is gone");
    assert_eq!(core.log.end() - 1000, LIMITS.output_buffer as u64);
    assert_eq!(core.read_allowance(61_000 * MS), usize::MAX);
}

#[test]
fn a_connected_client_that_says_nothing_for_the_grace_counts_as_lost() {
    let mut core = core();
    joined(&mut core, "a", MS);
    core.output(&vec![b'x'; 16 * 1024]);
    pushed(&mut core, MS);
    assert_eq!(core.read_allowance(59_000 * MS), 0);
    assert_eq!(core.read_allowance(60_002 * MS), usize::MAX);
}

#[test]
fn viewers_never_hold_the_shell() {
    let mut core = core();
    core.connect(info("v", 1, true), MS);
    core.frame(&"v".into(), attach("v", 0), MS);
    core.output(&vec![b'x'; 64 * 1024]);
    pushed(&mut core, MS);
    assert_eq!(core.read_allowance(MS), usize::MAX);
    core.disconnect("v", MS);
    assert_eq!(core.read_allowance(MS), usize::MAX);
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
fn a_shell_that_ends_is_told_after_its_output_and_the_session_waits_for_the_word() {
    let mut core = core();
    let a = joined(&mut core, "a", MS);
    core.output(&vec![b'x'; 20_000]);
    core.exited(Exit { exit_code: 3, signal: None }, MS);
    let frames = pushed(&mut core, MS);
    assert!(!frames.iter().any(|(_, frame)| matches!(frame, ServerFrame::Exit { .. })), "the window is full");
    core.frame(&a, ack(16 * 1024), MS);
    let frames = pushed(&mut core, MS);
    assert!(matches!(frames.last(), Some((_, ServerFrame::Exit { offset: 20_000, .. }))), "{frames:?}");
    assert!(!core.is_over(MS));
    let again = core.frame(&a, attach("a", 0), MS);
    assert!(matches!(again, Some(ServerFrame::Attached { exit: Some(_), .. })), "{again:?}");
    pushed(&mut core, MS);
    core.frame(&a, ack(20_000), MS);
    pushed(&mut core, MS);
    assert!(core.is_over(MS));
}

#[test]
fn a_client_cut_before_the_news_of_the_end_is_waited_for() {
    let mut core = core();
    let a = joined(&mut core, "a", MS);
    core.output(b"x");
    pushed(&mut core, MS);
    core.frame(&a, ack(1), MS);
    core.exited(Exit { exit_code: 137, signal: None }, MS);
    core.disconnect(&a, MS);
    assert!(!core.is_over(2 * MS), "it has every byte, and not the end");
    core.connect(info("b", 2, false), 3 * MS);
    let answer = core.frame(&"b".into(), attach("a", 1), 3 * MS);
    assert!(matches!(answer, Some(ServerFrame::Attached { exit: Some(_), .. })), "{answer:?}");
    pushed(&mut core, 3 * MS);
    core.frame(&"b".into(), ack(1), 3 * MS);
    assert!(core.is_over(4 * MS));
}

#[test]
fn a_client_lost_with_a_picture_on_its_way_needs_only_what_follows() {
    let mut core = core();
    core.output(&vec![b'x'; 100_000]);
    let a = joined(&mut core, "a", MS);
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

#[test]
fn a_session_whose_shell_ended_waits_no_longer_than_the_grace() {
    let mut core = core();
    joined(&mut core, "a", MS);
    core.output(b"x");
    core.exited(Exit { exit_code: 0, signal: None }, MS);
    assert!(!core.is_over(60_000 * MS));
    assert!(core.is_over(60_001 * MS));
}

#[test]
fn a_new_shell_detaches_everybody_and_tells_them() {
    let mut core = core();
    let a = joined(&mut core, "a", MS);
    core.frame(&a, input("a", 0, "abc"), MS);
    core.restarted(8, MS);
    let frames = pushed(&mut core, MS);
    assert!(
        matches!(frames[..], [(_, ServerFrame::Notice { code: NoticeCode::ShellRestarted, .. })]),
        "{frames:?}"
    );
    assert_eq!(core.next_input(), None, "what was meant for the old shell is not typed into the new one");
    assert_eq!(code(core.frame(&a, input("a", 0, "x"), MS)), Some(ErrorCode::NotAttached));
    assert!(matches!(core.frame(&a, attach("a", 3), MS), Some(ServerFrame::Attached { epoch: 8, .. })));
}

#[test]
fn a_connection_ends_with_its_token_and_a_last_word() {
    let mut core = core();
    core.connect(ConnectionInfo { token_lasts: Duration::from_secs(5), ..info("a", 1, false) }, MS);
    core.tick(5000 * MS);
    assert!(core.effects.is_empty());
    core.tick(5001 * MS);
    let Some(Effect::Close(_, Some(last))) = core.effects.pop_front() else { panic!("still there") };
    assert!(std::str::from_utf8(&last).unwrap().contains("TOKEN_EXPIRED"));
    assert!(core.connections.is_empty());
}

#[test]
fn a_push_that_finds_nobody_ends_the_connection_and_never_the_session() {
    let mut core = core();
    let a = joined(&mut core, "a", MS);
    core.pushed(&a, PushKind::Other, Sent::Gone, MS);
    assert!(
        matches!(core.effects.back(), Some(Effect::Close(id, None)) if *id == a),
        "made true by a DELETE"
    );
    assert!(core.was_dropped("a"));
    assert!(core.clients.waited_for(2 * MS, LIMITS.resume_grace, 0).is_some());
}

#[test]
fn a_silent_connection_is_looked_after() {
    let mut core = core();
    joined(&mut core, "a", MS);
    core.tick(89_000 * MS);
    assert!(!core.effects.iter().any(|effect| matches!(effect, Effect::Check(_))));
    core.tick(91_000 * MS);
    assert_eq!(core.effects.iter().filter(|effect| matches!(effect, Effect::Check(_))).count(), 1);
    core.checked(&"a".into(), false, 91_001 * MS);
    assert!(core.connections.is_empty());
}

#[test]
fn connections_are_bounded() {
    let mut core = core();
    for n in 0..MAX_CONNECTIONS {
        assert!(core.connect(info(&n.to_string(), 1, false), MS));
    }
    assert!(!core.connect(info("one too many", 1, false), MS));
    for n in 0..MAX_CONNECTIONS {
        core.disconnect(&n.to_string(), MS);
    }
    assert_eq!(core.dropped.len(), MAX_DROPPED);
}

#[test]
fn writers_take_turns_however_much_one_has_typed() {
    let mut core = core();
    let names: Vec<String> = (0..8).map(|n| format!("w{n}")).collect();
    for name in &names {
        let id = joined(&mut core, name, MS);
        core.frame(&id, input(name, 0, &"x".repeat(40_000)), MS);
    }
    let mut turns = Vec::new();
    // The kernel takes a little at a time.
    for _ in 0..names.len() * 3 {
        let (client, _) = core.next_input().unwrap();
        core.wrote(&client, 10, MS);
        turns.push(client);
    }
    for round in turns.chunks(names.len()) {
        let all: std::collections::BTreeSet<_> = round.iter().collect();
        assert_eq!(all.len(), names.len(), "{turns:?}");
    }
}

#[test]
fn every_connection_is_told_once_that_the_time_is_nearly_over() {
    let mut core = core();
    joined(&mut core, "a", MS);
    let told = |core: &mut Core| {
        core.expires_soon();
        let frames = pushed(core, MS);
        let notice = |frame: &ServerFrame| matches!(frame, ServerFrame::Notice { code, .. } if *code == NoticeCode::SessionExpiring);
        frames.iter().filter(|(_, frame)| notice(frame)).map(|(to, _)| to.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(told(&mut core), ["a"]);
    joined(&mut core, "b", MS);
    assert_eq!(told(&mut core), ["b"], "one that came later is told too");
    assert!(told(&mut core).is_empty());
    core.extended();
    assert_eq!(told(&mut core), ["a", "b"], "of the new end");
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
