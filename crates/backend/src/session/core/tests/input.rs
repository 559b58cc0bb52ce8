//! Input: written once and in order, acknowledged, and by whom.

use std::collections::{BTreeMap, BTreeSet};

use shellbridge_protocol::limits::INPUT_WINDOW;

use super::*;

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
        let all: BTreeSet<_> = round.iter().collect();
        assert_eq!(all.len(), names.len(), "{turns:?}");
    }
}
