//! Hosts that die, violate the protocol or flood, and pushes that panic.

use shellbridge_session::link::{Close, Log};

use super::*;

#[tokio::test]
async fn a_dead_host_ends_its_session_and_notifies_clients_at_once() {
    let (handle, mut actor, ended) = started().await;
    let (route, mut said) = noted();
    joined(&handle, &mut actor, "c", &route).await;
    let waits = async {
        let waits = frame(&handle, "c", &route).await;
        assert_eq!(waits.err(), Some(Unreachable::Ended), "pending requests fail too");
    };
    let dies = async {
        actor.frame().await;
        drop(actor);
    };
    let died = std::time::Instant::now();
    tokio::join!(waits, dies);
    let words = last_words(&mut said).await;
    assert!(died.elapsed() < Duration::from_secs(1), "{:?}", died.elapsed());
    assert!(words[0].contains("SESSION_INVALID"), "{words:?}");
    timeout(PATIENCE, ended).await.unwrap().expect("the directory is notified");
    timeout(PATIENCE, handle.end()).await.expect("the task ends");
    assert!(handle.status().has_ended());
}

#[tokio::test]
async fn a_host_that_violates_the_protocol_ends_only_its_own_session() {
    let length = |length: u32| length.to_le_bytes().to_vec();
    let lies: [(&str, Vec<u8>); 3] = [
        ("too large", [length(u32::MAX), vec![0; 64]].concat()),
        ("empty", length(0)),
        // A `Push` with a malformed body.
        ("nonsense", [length(14), vec![3, 0], vec![0xff; 12]].concat()),
    ];
    let (other, mut other_actor, _) = started().await;
    let (other_route, mut other_said) = noted();
    joined(&other, &mut other_actor, "victim", &other_route).await;
    for (what, lie) in lies {
        let (handle, mut actor, ended) = started().await;
        let (route, mut said) = noted();
        joined(&handle, &mut actor, "c", &route).await;
        actor.stream.write_all(&lie).await.unwrap();
        let words = last_words(&mut said).await;
        assert!(words[0].contains("SESSION_INVALID"), "{what}: {words:?}");
        timeout(PATIENCE, ended).await.unwrap().unwrap();
    }
    let said: [FromHost; 3] = [
        answer(77, Reply::Nothing).into(),
        here(Bytes::new()).into(),
        Taken { request: 9, connection: "c".into(), taken: true }.into(),
    ];
    for lie in said {
        let (handle, mut actor, ended) = started().await;
        let (route, mut said) = noted();
        joined(&handle, &mut actor, "c", &route).await;
        let what = format!("{lie:?}");
        actor.say(lie).await;
        assert!(last_words(&mut said).await[0].contains("SESSION_INVALID"), "{what}");
        timeout(PATIENCE, ended).await.unwrap().unwrap();
    }
    let (chatty, mut actor, ended) = started().await;
    for _ in 0..100 {
        actor.channel.say(&FromHost::from(Log { warning: false, message: "x".to_owned() })).unwrap();
    }
    actor.write().await;
    timeout(PATIENCE, ended).await.unwrap().unwrap();
    drop(chatty);

    let (foreign, mut actor, _ended) = started().await;
    let (route, _said) = noted();
    joined(&foreign, &mut actor, "c", &route).await;
    actor.push(7, "victim", r#"{"type":"stolen"}"#).await;
    let Some(ToHost::Pushed(pushed)) = actor.heard().await else { panic!() };
    assert_eq!((pushed.push, pushed.sent), (7, Sent::Gone), "another session's connection is unknown");
    other_actor.push(1, "victim", r#"{"type":"own"}"#).await;
    assert_eq!(other_said.recv().await.unwrap(), r#"{"type":"own"}"#, "the victim got only its own frame");
}

#[tokio::test]
async fn a_host_that_pushes_faster_than_clients_receive_is_throttled() {
    let (handle, mut actor, _) = started().await;
    joined(&handle, &mut actor, "c", &route(Stuck)).await;
    let frame = "x".repeat(MAX_FRAME);
    let mut pushed: usize = 0;
    // A second is ample for a backend that reads. A backend too slow for it only ends the loop earlier.
    while timeout(Duration::from_secs(1), actor.push(0, "c", &frame)).await.is_ok() {
        pushed += frame.len();
        assert!(pushed < 8 * 1024 * 1024, "the backend holds {pushed} bytes and keeps reading");
    }
    assert!(pushed > 2 * 1024 * 1024, "the backend read only {pushed} bytes");
}

#[tokio::test]
async fn a_panic_in_a_push_ends_its_connection_and_not_the_session() {
    let (handle, mut actor, _ended) = started().await;
    joined(&handle, &mut actor, "c", &route(Faulty)).await;
    actor.push(1, "c", "{}").await;
    let Some(ToHost::Pushed(pushed)) = actor.heard().await else { panic!() };
    assert_eq!(pushed.sent, Sent::Gone);
    actor.say(Close { connection: "c".into(), last: None, reason: None }).await;
    let (route, _said) = noted();
    joined(&handle, &mut actor, "d", &route).await;
}
