//! Input: order, acknowledgements and ownership.

use std::collections::{BTreeMap, BTreeSet};

use shellbridge_protocol::limits::INPUT_WINDOW;

use super::*;

#[test]
fn input_is_written_in_order_and_repeats_are_acknowledged_at_once() {
    let mut session = session();
    let a = joined(&mut session, "a", MS);
    assert_eq!(session.frame(&a, input("a", 2, "cd"), MS), None);
    assert_eq!(session.poll_write(), None);
    assert_eq!(session.frame(&a, input("a", 0, "abc"), MS), None);
    let (client, bytes) = session.poll_write().unwrap();
    assert_eq!(bytes, b"abcd");
    session.handle_written(&client, 4, MS);
    assert_eq!(session.poll_write(), None);
    let again = session.frame(&a, input("a", 1, "bc"), MS);
    assert!(matches!(again, Some(ServerFrame::InputAck { input_offset: 4, .. })), "{again:?}");
}

#[test]
fn accepted_input_is_acknowledged_in_time_by_output_or_alone() {
    let mut session = session();
    let a = joined(&mut session, "a", MS);
    session.frame(&a, input("a", 0, "x"), MS);
    let (client, _) = session.poll_write().unwrap();
    session.handle_written(&client, 1, MS);
    session.handle_output(b"x");
    let frames = pushed(&mut session, MS);
    assert!(matches!(frames[..], [(_, ServerFrame::Output { input_offset: Some(1), .. })]), "{frames:?}");
    session.frame(&a, input("a", 1, "y"), MS);
    session.handle_written(&client, 1, MS);
    assert_eq!(pushed(&mut session, 2 * MS).len(), 0);
    let frames = pushed(&mut session, 201 * MS);
    assert!(matches!(frames[..], [(_, ServerFrame::InputAck { input_offset: 2, .. })]), "{frames:?}");
}

#[test]
fn a_hole_open_for_two_seconds_is_reported_with_its_offset() {
    let mut session = session();
    let a = joined(&mut session, "a", MS);
    session.frame(&a, input("a", 5, "x"), MS);
    assert!(pushed(&mut session, 1999 * MS).is_empty());
    let frames = pushed(&mut session, 2001 * MS);
    let [(_, ServerFrame::Error(error))] = &frames[..] else { panic!("{frames:?}") };
    assert_eq!((error.code, error.input_offset), (ErrorCode::InputGap, Some(0)));
}

#[test]
fn bytes_beyond_the_input_window_are_dropped() {
    let mut session = session();
    let a = joined(&mut session, "a", MS);
    let page = "x".repeat(20_000);
    for n in 0..5 {
        session.frame(&a, input("a", n * 20_000, &page), MS);
    }
    let mut taken = 0;
    while let Some((client, bytes)) = session.poll_write() {
        taken += bytes.len();
        // Nothing has been written, so the window ends here.
        assert!(taken <= INPUT_WINDOW);
        session.handle_written(&client, bytes.len(), MS);
    }
    assert_eq!(taken, INPUT_WINDOW);
}

#[test]
fn two_writers_each_keep_their_own_order() {
    let mut session = session();
    let (a, b) = (joined(&mut session, "a", MS), joined(&mut session, "b", MS));
    session.frame(&a, input("a", 0, "a1"), MS);
    session.frame(&b, input("b", 0, "b1"), MS);
    session.frame(&a, input("a", 2, "a2"), MS);
    let mut all = BTreeMap::<_, Vec<u8>>::new();
    while let Some((client, bytes)) = session.poll_write() {
        session.handle_written(&client, bytes.len(), MS);
        all.entry(client).or_default().extend(bytes);
    }
    assert_eq!(all.into_values().collect::<Vec<_>>(), [b"a1a2".to_vec(), b"b1".to_vec()]);
}

#[test]
fn the_newest_connection_holds_the_client() {
    let mut session = session();
    let old = joined(&mut session, "a", MS);
    let new: ConnectionId = "new".into();
    session.connect(info("new", 2, false), MS).unwrap();
    assert_eq!(
        code(session.frame(&new, input("a", 0, "x"), MS)),
        Some(ErrorCode::NotAttached),
        "not yet attached"
    );
    assert!(matches!(session.frame(&new, attach("a", 0), MS), Some(ServerFrame::Attached { .. })));
    assert_eq!(code(session.frame(&old, input("a", 0, "x"), MS)), Some(ErrorCode::Replaced));
    assert_eq!(code(session.frame(&old, attach("a", 0), MS)), Some(ErrorCode::Replaced));
    assert_eq!(session.frame(&new, input("a", 0, "x"), MS), None);
}

#[test]
fn a_later_page_does_not_complete_what_an_earlier_one_typed() {
    let mut session = session();
    let old = joined(&mut session, "a", MS);
    session.frame(&old, input("a", 0, "ls"), MS);
    session.frame(&old, input("a", 4, "beyond a hole"), MS);
    session.disconnect(&old, MS);
    let new: ConnectionId = "new".into();
    session.connect(info("new", 2, false), MS).unwrap();
    let answer = session.frame(&new, attach("a", 0), MS);
    assert!(matches!(answer, Some(ServerFrame::Attached { input_offset: 2, .. })), "{answer:?}");
    session.frame(&new, input("a", 2, "xy"), MS);
    assert_eq!(session.poll_write().unwrap().1, b"lsxy");
}

#[test]
fn a_viewer_cannot_displace_a_writer_type_or_resize() {
    let mut session = session();
    let a = joined(&mut session, "a", MS);
    let viewer: ConnectionId = "v".into();
    session.connect(info("v", 9, true), MS).unwrap();
    assert!(matches!(
        session.frame(&viewer, attach("a", 0), MS),
        Some(ServerFrame::Attached { read_only: true, .. })
    ));
    assert_eq!(code(session.frame(&viewer, input("a", 0, "x"), MS)), Some(ErrorCode::ReadOnly));
    let resize = ClientFrame::Resize { cols: 10, rows: 5, seq: None };
    assert_eq!(code(session.frame(&viewer, resize, MS)), Some(ErrorCode::ReadOnly));
    assert_eq!(session.frame(&a, input("a", 0, "x"), MS), None);
    assert_eq!(session.size, Size { cols: 80, rows: 24 });
}

#[test]
fn writers_take_turns_however_much_one_has_typed() {
    let mut session = session();
    let names: Vec<String> = (0..8).map(|n| format!("w{n}")).collect();
    for name in &names {
        let id = joined(&mut session, name, MS);
        session.frame(&id, input(name, 0, &"x".repeat(40_000)), MS);
    }
    let mut turns = Vec::new();
    // The kernel accepts a little at a time.
    for _ in 0..names.len() * 3 {
        let (client, _) = session.poll_write().unwrap();
        session.handle_written(&client, 10, MS);
        turns.push(client);
    }
    for round in turns.chunks(names.len()) {
        let all: BTreeSet<_> = round.iter().collect();
        assert_eq!(all.len(), names.len(), "{turns:?}");
    }
}
