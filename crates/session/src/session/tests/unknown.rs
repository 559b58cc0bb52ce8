//! Pushes with an unknown outcome, because the driver that made them is gone.

use super::*;

/// The session's pushes since the last call. Their outcomes are yet to be reported.
fn pushes(session: &mut Session, now: Duration) -> Vec<(ConnectionId, PushKind, ServerFrame)> {
    follow(session, now);
    let effects: Vec<_> = session.effects.drain(..).collect();
    let pushes = effects.into_iter().filter_map(|effect| match effect {
        Effect::Push { to, frame, kind } => Some((to, kind, serde_json::from_slice(&frame).unwrap())),
        _ => None,
    });
    pushes.collect()
}

/// Replaces the driver: the outcomes of its pushes are unknown.
fn lose(session: &mut Session, pushes: Vec<(ConnectionId, PushKind, ServerFrame)>, now: Duration) {
    session.handle_reachable(false);
    for (to, kind, _) in pushes {
        session.handle_pushed(&to, kind, Sent::Unknown, now);
    }
    assert!(self::pushes(session, now).is_empty(), "no push while unreachable");
    session.handle_reachable(true);
}

#[test]
fn output_exit_and_size_are_resent_at_once_after_unknown_outcomes() {
    let mut session = session();
    let a = joined(&mut session, "a", MS);
    let b = joined(&mut session, "b", MS);
    pushed(&mut session, MS);
    session.handle_output(b"first");
    let first = pushes(&mut session, MS);
    assert_eq!(first.len(), 2);
    lose(&mut session, first, MS * 2);
    let again = pushes(&mut session, MS * 2);
    for (to, kind, frame) in &again {
        let ServerFrame::Output { offset: 0, payload, .. } = frame else { panic!("{frame:?}") };
        assert_eq!(
            (*kind, &*payload.clone().decode().unwrap()),
            (PushKind::Output, &b"first"[..]),
            "to {to}"
        );
    }
    assert_eq!(again.len(), 2);
    for (to, kind, _) in again {
        session.handle_pushed(&to, kind, Sent::Delivered, MS * 3);
        session.frame(&to, ack(5), MS * 3);
    }

    let resize = ClientFrame::Resize { cols: 60, rows: 20, seq: None };
    session.frame(&a, resize, MS * 4);
    session.handle_exit(Exit { exit_code: 0, signal: None }, MS * 4);
    let told = |pushes: &[(ConnectionId, PushKind, ServerFrame)]| {
        let to_b = pushes.iter().filter(|(to, ..)| *to == b);
        to_b.map(|(_, kind, _)| *kind).collect::<Vec<_>>()
    };
    let news = pushes(&mut session, MS * 4);
    assert_eq!(told(&news), [PushKind::Size, PushKind::Exit]);
    lose(&mut session, news, MS * 5);
    let again = pushes(&mut session, MS * 5);
    assert_eq!(told(&again), [PushKind::Size, PushKind::Exit]);
    for (to, kind, _) in again {
        session.handle_pushed(&to, kind, Sent::Delivered, MS * 6);
    }
    assert!(pushes(&mut session, MS * 6).is_empty(), "nothing is sent a third time");
}

#[test]
fn an_unreachable_session_sends_nothing_and_ends_after_its_ttl() {
    let mut session = session();
    let a = joined(&mut session, "a", MS);
    pushed(&mut session, MS);
    session.handle_reachable(false);
    session.handle_output(&vec![b'x'; 16 * 1024]);
    assert!(pushes(&mut session, MS).is_empty());
    assert_eq!(session.read_allowance(MS), 0, "the shell waits for the client to come back");
    // The only deadlines are the end of the shell's wait, then the end of the session.
    assert_eq!(session.poll_timeout(), Some(MS + LIMITS.resume_grace));
    let later = MS + LIMITS.resume_grace;
    session.handle_timeout(later);
    assert!(session.read_allowance(later) > 0);
    let end = MS + Duration::from_hours(24);
    assert!(session.poll_timeout().unwrap() > later && session.has(&a));
    session.handle_timeout(end);
    assert!(matches!(session.effects.back(), Some(Effect::End(_))), "{:?}", session.effects);
}
