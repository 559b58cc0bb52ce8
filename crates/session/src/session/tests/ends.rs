//! Ends of shells, connections and sessions.

use shellbridge_protocol::frame::NoticeCode;

use super::*;
use crate::effect::End;

#[test]
fn exit_follows_the_output_and_the_session_waits_for_its_delivery() {
    let mut session = session();
    let a = joined(&mut session, "a", MS);
    session.handle_output(&vec![b'x'; 20_000]);
    session.handle_exit(Exit { exit_code: 3, signal: None }, MS);
    let frames = pushed(&mut session, MS);
    assert!(!frames.iter().any(|(_, frame)| matches!(frame, ServerFrame::Exit { .. })), "the window is full");
    session.frame(&a, ack(16 * 1024), MS);
    let frames = pushed(&mut session, MS);
    assert!(matches!(frames.last(), Some((_, ServerFrame::Exit { offset: 20_000, .. }))), "{frames:?}");
    assert!(!session.is_over(MS));
    let again = session.frame(&a, attach("a", 0), MS);
    assert!(matches!(again, Some(ServerFrame::Attached { exit: Some(_), .. })), "{again:?}");
    pushed(&mut session, MS);
    session.frame(&a, ack(20_000), MS);
    pushed(&mut session, MS);
    assert!(session.is_over(MS));
}

#[test]
fn the_session_waits_for_a_client_cut_before_exit() {
    let mut session = session();
    let a = joined(&mut session, "a", MS);
    session.handle_output(b"x");
    pushed(&mut session, MS);
    session.frame(&a, ack(1), MS);
    session.handle_exit(Exit { exit_code: 137, signal: None }, MS);
    session.disconnect(&a, MS);
    assert!(!session.is_over(2 * MS), "it has every byte, and not the end");
    session.connect(info("b", 2, false), 3 * MS).unwrap();
    let answer = session.frame(&"b".into(), attach("a", 1), 3 * MS);
    assert!(matches!(answer, Some(ServerFrame::Attached { exit: Some(_), .. })), "{answer:?}");
    pushed(&mut session, 3 * MS);
    session.frame(&"b".into(), ack(1), 3 * MS);
    assert!(session.is_over(4 * MS));
}

#[test]
fn a_session_whose_shell_ended_waits_no_longer_than_the_grace() {
    let mut session = session();
    joined(&mut session, "a", MS);
    session.handle_output(b"x");
    session.handle_exit(Exit { exit_code: 0, signal: None }, MS);
    assert!(!session.is_over(60_000 * MS));
    assert!(session.is_over(60_001 * MS));
}

#[test]
fn a_new_shell_detaches_and_notifies_every_connection() {
    let mut session = session();
    let a = joined(&mut session, "a", MS);
    session.frame(&a, input("a", 0, "abc"), MS);
    session.restarted(UnixMs(8), MS);
    let frames = pushed(&mut session, MS);
    assert!(
        matches!(frames[..], [(_, ServerFrame::Notice { code: NoticeCode::ShellRestarted, .. })]),
        "{frames:?}"
    );
    assert_eq!(session.poll_write(), None, "what was meant for the old shell is not typed into the new one");
    assert_eq!(code(session.frame(&a, input("a", 0, "x"), MS)), Some(ErrorCode::NotAttached));
    assert!(matches!(
        session.frame(&a, attach("a", 3), MS),
        Some(ServerFrame::Attached { epoch: Epoch(8), .. })
    ));
}

#[test]
fn a_connection_ends_with_its_token_after_an_error_frame() {
    let mut session = session();
    session
        .connect(ConnectionInfo { token_lasts: Duration::from_secs(5), ..info("a", 1, false) }, MS)
        .unwrap();
    session.advance(5000 * MS);
    assert!(session.effects.is_empty());
    session.advance(5001 * MS);
    let Some(Effect::Close { last: Some(last), .. }) = session.effects.pop_front() else {
        panic!("still there")
    };
    assert!(std::str::from_utf8(&last).unwrap().contains("TOKEN_EXPIRED"));
    assert!(session.connections.is_empty());
}

#[test]
fn a_push_to_a_closed_connection_ends_it_and_not_the_session() {
    let mut session = session();
    let a = joined(&mut session, "a", MS);
    session.handle_pushed(&a, PushKind::Other, Sent::Gone, MS);
    assert!(
        matches!(session.effects.back(), Some(Effect::Close { connection, last: None, .. }) if *connection == a),
        "made true by a DELETE"
    );
    assert!(session.was_dropped(&"a".into()));
    assert!(session.clients.waited_for(2 * MS, LIMITS.resume_grace, 0).is_some());
}

#[test]
fn a_silent_connection_is_checked() {
    let mut session = session();
    joined(&mut session, "a", MS);
    session.advance(89_000 * MS);
    assert!(!session.effects.iter().any(|effect| matches!(effect, Effect::Check(_))));
    session.advance(91_000 * MS);
    assert_eq!(session.effects.iter().filter(|effect| matches!(effect, Effect::Check(_))).count(), 1);
    session.handle_checked(&"a".into(), false, 91_001 * MS);
    assert!(session.connections.is_empty());
}

/// Last frames of closed connections so far, with their recipients.
fn farewells(session: &mut Session) -> Vec<(String, String)> {
    let closes = session.effects.drain(..).filter_map(|effect| match effect {
        Effect::Close { connection, last: Some(last), .. } => Some((connection.to_string(), last)),
        _ => None,
    });
    let code =
        |last: bytes::Bytes| serde_json::from_slice::<serde_json::Value>(&last).unwrap()["code"].clone();
    closes.map(|(id, last)| (id, code(last).as_str().unwrap().to_owned())).collect()
}

fn viewer(id: &str, token: &str) -> ConnectionInfo {
    ConnectionInfo { token_id: Some(token.into()), ..info(id, 1, true) }
}

#[test]
fn connections_are_bounded_and_the_newest_writer_gets_in() {
    let mut session = session();
    for n in 0..MAX_CONNECTIONS {
        assert!(session.connect(info(&n.to_string(), 1, false), MS * u32::try_from(n).unwrap()).is_ok());
    }
    let now = MS * 1_000;
    session.frame(&"0".into(), ClientFrame::Ping { timestamp: None, output_offset: None }, now);
    assert!(session.connect(viewer("one too many", "t"), now).is_err());
    assert!(session.connect(info("one more", 1, false), now).is_ok());
    assert_eq!(farewells(&mut session), [("1".to_owned(), "REPLACED".to_owned())], "the longest silent");
    assert!(session.connect(info("1", 1, false), now).is_err(), "its late frames throw out nobody");
    assert_eq!(session.connections.len(), MAX_CONNECTIONS);
    for n in 0..MAX_CONNECTIONS {
        session.disconnect(&n.to_string().into(), now);
    }
    assert_eq!(session.dropped.len(), MAX_DROPPED);
}

#[test]
fn regression_a_share_link_does_not_lock_the_owner_out() {
    let mut session = session();
    for n in 0..MAX_CONNECTIONS {
        let let_in = session.connect(viewer(&format!("viewer-{n}"), "one link"), MS).is_ok();
        assert_eq!(let_in, n < MAX_VIEWERS_PER_TOKEN, "{n}");
    }
    for n in 0..MAX_CONNECTIONS {
        let _ = session.connect(viewer(&format!("guest-{n}"), &n.to_string()), MS);
    }
    assert_eq!(session.connections.len(), MAX_VIEWERS);
    for n in 0..MAX_CONNECTIONS - MAX_VIEWERS {
        assert!(session.connect(info(&n.to_string(), 1, false), MS * 2).is_ok());
    }
    assert!(farewells(&mut session).is_empty(), "there were places for writers");
    joined(&mut session, "newest", MS * 2);
    let [(evicted, code)] = farewells(&mut session).try_into().unwrap();
    assert!(evicted.starts_with("viewer-") || evicted.starts_with("guest-"), "{evicted}");
    assert_eq!(code, "RATE_LIMITED");
}

#[test]
fn the_newest_writer_attaches_even_if_all_input_streams_are_taken() {
    let mut session = session();
    for n in 0..=u32::try_from(shellbridge_protocol::limits::MAX_CLIENTS).unwrap() {
        joined(&mut session, &format!("{n:02}"), MS * n);
    }
    assert_eq!(farewells(&mut session), [("00".to_owned(), "REPLACED".to_owned())]);
}

#[test]
fn only_connections_of_a_revoked_token_end() {
    let mut session = session();
    for (id, token) in [("a", "good"), ("b", "bad"), ("c", "bad")] {
        let _ = session.connect(viewer(id, token), MS);
    }
    let bad = |info: &ConnectionInfo| info.token_id.as_deref() == Some("bad");
    session.handle_revoked(MS * 10, MS, bad);
    session.advance(MS * 10);
    assert!(farewells(&mut session).is_empty(), "not yet");
    session.advance(MS * 11);
    let ended = farewells(&mut session);
    assert_eq!(ended.iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>(), ["b", "c"]);
    assert!(ended.iter().all(|(_, code)| code == "TOKEN_EXPIRED"));
}

#[test]
fn every_connection_is_notified_once_before_expiry() {
    let mut session = session();
    joined(&mut session, "a", MS);
    let told = |session: &mut Session| {
        session.expires_soon();
        let frames = pushed(session, MS);
        let notice = |frame: &ServerFrame| matches!(frame, ServerFrame::Notice { code, .. } if *code == NoticeCode::SessionExpiring);
        frames.iter().filter(|(_, frame)| notice(frame)).map(|(to, _)| to.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(told(&mut session), ["a"]);
    joined(&mut session, "b", MS);
    assert_eq!(told(&mut session), ["b"], "one that came later is told too");
    assert!(told(&mut session).is_empty());
    session.handle_extend(UnixMs(0));
    assert_eq!(told(&mut session), ["a", "b"], "of the new end");
}

/// A session with these settings that expires in an hour.
fn short(settings: Settings) -> Session {
    Session::new("s".into(), settings, UnixMs(7), UnixMs(7 + 60 * 60 * 1000))
}

const HOUR: Duration = Duration::from_hours(1);
const ONCE: Settings =
    Settings { limits: LIMITS, detached_ttl: Duration::from_mins(15), shell_restart: false };

/// All effects at this time.
fn effects(session: &mut Session, now: Duration) -> Vec<Effect> {
    session.handle_timeout(now);
    std::iter::from_fn(|| session.poll_effect(now)).collect()
}

#[test]
fn expiry_is_announced_five_minutes_before_it_ends_the_session() {
    let mut session = short(ONCE);
    session.handle_connect(info("a", 1, false), MS).unwrap();
    effects(&mut session, MS);
    let notice = Duration::from_mins(55);
    assert!(
        effects(&mut session, notice.saturating_sub(MS))
            .iter()
            .all(|effect| matches!(effect, Effect::Check(_)))
    );
    let [Effect::Push { frame, .. }] = &effects(&mut session, notice)[..] else { panic!("no notice") };
    assert!(std::str::from_utf8(frame).unwrap().contains("SESSION_EXPIRING"));
    session.handle_extend(UnixMs(7 + 2 * 60 * 60 * 1000));
    assert!(effects(&mut session, HOUR).iter().all(|effect| matches!(effect, Effect::Check(_))), "extended");
    let over = effects(&mut session, 2 * HOUR);
    let [.., Effect::Close { last: Some(last), reason, .. }, Effect::End(End::Expired)] = &over[..] else {
        panic!("{over:?}")
    };
    assert!(std::str::from_utf8(last).unwrap().contains("SESSION_EXPIRED"));
    assert_eq!(*reason, Some(ErrorCode::SessionExpired));
    assert!(effects(&mut session, 3 * HOUR).is_empty());
    assert_eq!(session.poll_timeout(), None);
}

#[test]
fn only_a_session_without_a_connection_ends_after_its_ttl() {
    let mut session = short(ONCE);
    assert!(effects(&mut session, MS).is_empty());
    let ttl = ONCE.detached_ttl;
    session.handle_connect(info("a", 1, false), ttl).unwrap();
    assert!(!effects(&mut session, 2 * ttl).iter().any(|effect| matches!(effect, Effect::End(_))));
    session.handle_gone(&"a".into(), 2 * ttl);
    assert!(effects(&mut session, 2 * ttl).is_empty());
    assert_eq!(session.poll_timeout(), Some(3 * ttl), "nothing else is due");
    assert!(effects(&mut session, (3 * ttl).saturating_sub(MS)).is_empty());
    assert!(matches!(effects(&mut session, 3 * ttl)[..], [Effect::End(End::Detached)]));
}

#[test]
fn shells_that_end_at_once_restart_with_a_backoff() {
    let mut session = short(Settings { shell_restart: true, ..ONCE });
    let mut now = MS;
    let mut waits = Vec::new();
    for _ in 0..8 {
        session.handle_exit(Exit { exit_code: 1, signal: None }, now);
        let died = now;
        let mut asked = effects(&mut session, now);
        while !asked.iter().any(|effect| matches!(effect, Effect::StartShell)) {
            now = session.poll_timeout().unwrap();
            asked = effects(&mut session, now);
        }
        assert!(effects(&mut session, now).is_empty(), "asked once");
        waits.push(now.saturating_sub(died).as_secs());
        session.handle_restarted(now);
        effects(&mut session, now);
    }
    assert_eq!(waits, [0, 2, 4, 8, 16, 30, 30, 30]);
    session.handle_exit(Exit { exit_code: 1, signal: None }, now + HOUR / 2);
    session.handle_restart_failed();
    assert!(effects(&mut session, now + HOUR / 2).iter().any(|e| matches!(e, Effect::End(End::ShellEnded))));
}
