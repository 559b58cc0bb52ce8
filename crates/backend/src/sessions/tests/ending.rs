//! The end of a session.

use futures_util::FutureExt as _;
use shellbridge_session::link::{Close, Ended, Ending};

use super::*;

#[tokio::test]
async fn an_unresponsive_host_can_be_ended() {
    let (handle, mut actor, _) = started().await;
    let route = route(Stuck);
    joined(&handle, &mut actor, "c", &route).await;
    // Reach the limit of open requests, and fill the inbox.
    let mut asked: Vec<_> = (0..1_000).map(|_| Box::pin(frame(&handle, "c", &route))).collect();
    for request in &mut asked {
        assert!(request.as_mut().now_or_never().is_none());
        tokio::task::yield_now().await;
    }
    tokio::time::pause();
    timeout(PATIENCE, handle.end()).await.expect("the host is killed");
}

/// Once all handles were dropped, the task used to poll its closed inbox in a busy loop.
#[tokio::test]
async fn regression_a_session_without_handles_is_read_until_it_ends() {
    let (handle, mut actor, ended) = started().await;
    drop(handle);
    actor.say(Ending { why: "its shell has ended".to_owned() }).await;
    timeout(PATIENCE, ended).await.unwrap().unwrap();
    actor.say(Ended {}).await;
    while actor.heard().await.is_some() {}
}

/// A failed write to a host that has exited must not discard the messages it sent before.
#[tokio::test]
async fn regression_last_messages_are_read_after_a_write_fails() {
    let (handle, mut actor, ended) = started().await;
    let (route, mut said) = noted();
    joined(&handle, &mut actor, "c", &route).await;
    let last = Bytes::from_static(b"last");
    // Sent together, as by a host that then exits: nothing reads the outcome of the push.
    for message in [
        FromHost::from(Push { push: 1, to: "c".into(), frame: last.clone(), replaceable: true }),
        Close { connection: "c".into(), last: Some(last), reason: None }.into(),
        Ending { why: "its shell has ended".to_owned() }.into(),
        Ended {}.into(),
    ] {
        actor.channel.say(&message).unwrap();
    }
    let bytes = actor.channel.to_write().to_vec();
    let (first, rest) = bytes.split_at(60);
    actor.stream.write_all(first).await.unwrap();
    assert_eq!(said.recv().await.unwrap(), "last", "the push");
    actor.stream.write_all(rest).await.unwrap();
    drop(actor);
    timeout(PATIENCE, ended).await.unwrap().unwrap();
    let words = last_words(&mut said).await;
    assert_eq!(words, ["last", "closed"], "no error");
}

#[tokio::test]
async fn pending_and_new_requests_fail_at_once_when_a_session_ends() {
    let (handle, mut actor, ended) = started().await;
    let stuck = route(Stuck);
    joined(&handle, &mut actor, "c", &stuck).await;
    let waits = frame(&handle, "c", &stuck);
    let ends = async {
        let request = actor.frame().await;
        actor.say(answer(request, Reply::Later)).await;
        let end = tokio::spawn({
            let handle = handle.clone();
            async move { handle.end().await }
        });
        assert!(matches!(actor.heard().await, Some(ToHost::End(_))));
        actor.say(Ending { why: "deleted".to_owned() }).await;
        timeout(PATIENCE, ended).await.unwrap().unwrap();
        // The host is still ending its processes; requests must not wait for that.
        let (late, _said) = noted();
        assert_eq!(handle.connect(info("d"), late).await, Err(Unreachable::Ended));
        assert_eq!(frame(&handle, "c", &route(Stuck)).await.err(), Some(Unreachable::Ended));
        assert!(!end.is_finished(), "requests failed before the session was gone");
        actor.say(Ended {}).await;
        timeout(PATIENCE, end).await.unwrap().unwrap();
    };
    let (waited, ()) = tokio::join!(waits, ends);
    assert_eq!(waited.err(), Some(Unreachable::Ended));
}
