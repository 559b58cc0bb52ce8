//! Ends: of the shell, of a connection, of the session.

use super::*;
use crate::session::places::{MAX_CONNECTIONS, MAX_VIEWERS, MAX_VIEWERS_PER_TOKEN};

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

/// Last words so far, and to whom.
fn farewells(core: &mut Core) -> Vec<(String, String)> {
    let closes = core.effects.drain(..).filter_map(|effect| match effect {
        Effect::Close(id, Some(last)) => Some((id.to_string(), last)),
        _ => None,
    });
    let code = |last: Bytes| serde_json::from_slice::<serde_json::Value>(&last).unwrap()["code"].clone();
    closes.map(|(id, last)| (id, code(last).as_str().unwrap().to_owned())).collect()
}

fn viewer(id: &str, token: &str) -> ConnectionInfo {
    ConnectionInfo { token_id: Some(token.into()), ..info(id, 1, true) }
}

#[test]
fn connections_are_bounded_and_the_newest_writer_gets_in() {
    let mut core = core();
    for n in 0..MAX_CONNECTIONS {
        assert!(core.connect(info(&n.to_string(), 1, false), MS * u32::try_from(n).unwrap()));
    }
    let now = MS * 1_000;
    core.frame(&"0".into(), ClientFrame::Ping { timestamp: None, output_offset: None }, now);
    assert!(!core.connect(viewer("one too many", "t"), now));
    assert!(core.connect(info("one more", 1, false), now));
    assert_eq!(farewells(&mut core), [("1".to_owned(), "REPLACED".to_owned())], "the longest silent");
    assert!(!core.connect(info("1", 1, false), now), "its late frames throw out nobody");
    assert_eq!(core.connections.len(), MAX_CONNECTIONS);
    for n in 0..MAX_CONNECTIONS {
        core.disconnect(&n.to_string(), now);
    }
    assert_eq!(core.dropped.len(), MAX_DROPPED);
}

#[test]
fn regression_a_share_link_does_not_lock_the_owner_out() {
    let mut core = core();
    for n in 0..MAX_CONNECTIONS {
        let let_in = core.connect(viewer(&format!("viewer-{n}"), "one link"), MS);
        assert_eq!(let_in, n < MAX_VIEWERS_PER_TOKEN, "{n}");
    }
    for n in 0..MAX_CONNECTIONS {
        core.connect(viewer(&format!("guest-{n}"), &n.to_string()), MS);
    }
    assert_eq!(core.connections.len(), MAX_VIEWERS);
    for n in 0..MAX_CONNECTIONS - MAX_VIEWERS {
        assert!(core.connect(info(&n.to_string(), 1, false), MS * 2));
    }
    assert!(farewells(&mut core).is_empty(), "there were places for writers");
    joined(&mut core, "newest", MS * 2);
    let [(evicted, code)] = farewells(&mut core).try_into().unwrap();
    assert!(evicted.starts_with("viewer-") || evicted.starts_with("guest-"), "{evicted}");
    assert_eq!(code, "RATE_LIMITED");
}

#[test]
fn the_newest_writer_attaches_though_all_input_streams_are_taken() {
    let mut core = core();
    for n in 0..=u32::try_from(shellbridge_protocol::limits::MAX_CLIENTS).unwrap() {
        joined(&mut core, &format!("{n:02}"), MS * n);
    }
    assert_eq!(farewells(&mut core), [("00".to_owned(), "REPLACED".to_owned())]);
}

#[test]
fn a_revoked_token_s_connections_end_and_no_others() {
    let mut core = core();
    for (id, token) in [("a", "good"), ("b", "bad"), ("c", "bad")] {
        core.connect(viewer(id, token), MS);
    }
    let bad = |info: &ConnectionInfo| info.token_id.as_deref() == Some("bad");
    core.revoke(MS * 10, MS, bad);
    core.tick(MS * 10);
    assert!(farewells(&mut core).is_empty(), "not yet");
    core.tick(MS * 11);
    let ended = farewells(&mut core);
    assert_eq!(ended.iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>(), ["b", "c"]);
    assert!(ended.iter().all(|(_, code)| code == "TOKEN_EXPIRED"));
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
