//! The screen model: its budget, and how skipped output is reported.

use shellbridge_protocol::limits::{MAX_COLS, MAX_ROWS};

use super::*;

/// The bytes that cost most for their length.
const FLOOD: &str = "\x1b[41m\x1b[2J\x1b[500S";

fn largest(session: &mut Session, id: &ConnectionId) {
    session.frame(id, ClientFrame::Resize { cols: MAX_COLS, rows: MAX_ROWS, seq: None }, MS);
}

/// Runs all turns that are possible now and returns their cost.
fn turns(session: &mut Session, now: Duration) -> usize {
    let mut count = 0;
    loop {
        session.advance(now);
        let Some(at) = session.effects.iter().position(|effect| matches!(effect, Effect::Follow(_))) else {
            return count;
        };
        let Some(Effect::Follow(mut work)) = session.effects.remove(at) else { unreachable!() };
        work.run();
        session.handle_followed(work);
        count += 1;
    }
}

#[test]
fn regression_a_flood_stays_in_budget_and_barely_holds_the_shell() {
    let mut session = session();
    let a = joined(&mut session, "a", MS);
    largest(&mut session, &a);
    pushed(&mut session, MS);
    session.disconnect(&a, MS);
    let flood = FLOOD.repeat(64);
    let (mut now, mut read, mut count) = (120_000 * MS, 0, 0);
    // The budget of one second, after the saved-up one.
    for _ in 0..1_000 {
        now += MS;
        let room = session.read_allowance(now).min(flood.len());
        session.handle_output(&flood.as_bytes()[..room]);
        read += room;
        count += turns(&mut session, now);
    }
    assert!(count <= 220, "{count} turns, where a second has a hundred");
    assert!(read > 500_000, "held: {read} bytes were read");
}

#[test]
fn a_picture_during_a_flood_comes_soon_and_reports_skipped_output() {
    let mut session = session();
    let a = joined(&mut session, "a", MS);
    largest(&mut session, &a);
    pushed(&mut session, MS);
    for _ in 0..100 {
        session.handle_output(FLOOD.repeat(200).as_bytes());
        session.advance(2 * MS);
    }
    session.handle_output(b"\x1b[m\x1b[2J\x1b[Hthe end");
    session.connect(info("v", 9, true), 2 * MS).unwrap();
    session.frame(&"v".into(), attach("v", 0), 2 * MS);
    let mut shown = Vec::new();
    for millisecond in 2..1000 {
        for (to, frame) in pushed(&mut session, millisecond * MS) {
            if let ServerFrame::Snapshot { payload, .. } = frame
                && &*to == "v"
            {
                shown.extend(payload.decode().unwrap());
            }
        }
    }
    let shown = String::from_utf8(shown).unwrap();
    assert!(shown.contains("bytes of output came too fast"), "{shown:.200?}");
}

#[test]
fn output_waits_for_its_picture() {
    let mut session = session();
    session.handle_output(&b"line\r\n".repeat(20_000));
    let a = joined(&mut session, "a", MS);
    session.handle_output(b"more");
    session.advance(MS);
    let output = |effect: &Effect| matches!(effect, Effect::Push { kind: PushKind::Output, .. });
    assert!(!session.effects.iter().any(output), "nothing is painted yet");
    let kinds: Vec<_> = pushed(&mut session, MS)
        .into_iter()
        .filter(|(to, _)| *to == a)
        .filter_map(|(_, frame)| match frame {
            ServerFrame::Snapshot { .. } => Some("snapshot"),
            ServerFrame::Output { .. } => Some("output"),
            _ => None,
        })
        .collect();
    assert_eq!(kinds.first(), Some(&"snapshot"));
    assert_eq!(kinds.last(), Some(&"output"));
}

/// 2,000 frames per second are allowed, and one resize to the largest size costs as much as a second of text.
#[test]
fn frequent_resizes_do_not_pile_up() {
    let mut session = session();
    let a = joined(&mut session, "a", MS);
    for n in 0..2_000 {
        session.handle_output(b"x\r\n");
        session.frame(&a, ClientFrame::Resize { cols: 400 + n % 100, rows: 200, seq: None }, MS);
        session.advance(MS);
    }
    let mut now = MS;
    let mut count = turns(&mut session, now);
    while count < 500 && now < 10_000 * MS {
        now += 10 * MS;
        count += turns(&mut session, now);
    }
    assert!(count < 100, "{count} turns");
}
