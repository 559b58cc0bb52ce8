//! Hosts that send more than they may.

use std::io::Write as _;

use shellbridge_protocol::limits::MAX_MESSAGE;
use shellbridge_session::link::{self, Check, Close, Ending, Known, Log, MAX_LOG, MAX_NOTES, Status};

use super::*;

/// Never finishes a check.
struct Unsure;

impl Outlet for Unsure {
    fn send(&self, _: Bytes) -> Boxed<Sent> {
        Box::pin(async { Sent::Delivered })
    }

    fn close(&self, _: Option<ErrorCode>) -> Boxed<()> {
        Box::pin(async {})
    }

    fn exists(&self) -> Boxed<bool> {
        Box::pin(pending())
    }
}

/// The bytes of a message.
fn bytes(message: impl Into<FromHost>) -> Vec<u8> {
    let mut out = bytes::BytesMut::new();
    link::encode(&message.into(), &mut out).unwrap();
    out.to_vec()
}

fn push_to(to: &str, push: u64) -> Vec<u8> {
    bytes(Push { push, to: to.into(), frame: Bytes::from_static(b"{}"), replaceable: true })
}

/// How many of these the backend reads. It has stopped once a write takes a second, which is ample.
async fn taken(actor: &mut Actor, message: &[u8], most: usize) -> usize {
    const AT_ONCE: usize = 100;
    let many = message.repeat(AT_ONCE);
    let mut sent = 0;
    while sent < most && timeout(Duration::from_secs(1), actor.stream.write_all(&many)).await.is_ok() {
        sent += AT_ONCE;
    }
    sent
}

/// Each used to start a task that nothing counted.
#[tokio::test]
async fn regression_checks_count_against_the_bytes_held() {
    let (handle, mut actor, _ended) = started().await;
    joined(&handle, &mut actor, "c", &route(Unsure)).await;
    let check = bytes(Check { connection: "c".into() });
    let sent = taken(&mut actor, &check, 100_000).await;
    assert!(sent < 50_000, "the backend runs {sent} checks at once");
}

/// The outcomes of pushes used to queue without bound.
#[tokio::test]
async fn regression_a_host_that_reads_nothing_is_not_read_either() {
    let (handle, mut actor, _ended) = started().await;
    let (route, mut said) = noted();
    joined(&handle, &mut actor, "c", &route).await;
    tokio::spawn(async move { while said.recv().await.is_some() {} });
    let sent = taken(&mut actor, &push_to("c", u64::MAX), 400_000).await;
    assert!(sent < 300_000, "the backend queues the outcomes of {sent} pushes");
    // Once the host reads, the session goes on.
    for _ in 0..1_000 {
        assert!(matches!(actor.heard().await, Some(ToHost::Pushed(_))));
    }
}

#[tokio::test]
async fn a_flood_does_not_delay_the_end_of_its_session() {
    let (handle, mut actor, _ended) = started().await;
    joined(&handle, &mut actor, "c", &route(Unsure)).await;
    let Actor { stream, .. } = actor;
    let mut reading = stream.into_std().unwrap();
    let mut writing = reading.try_clone().unwrap();
    reading.set_nonblocking(false).unwrap();
    let reads = std::thread::spawn(move || std::io::copy(&mut reading, &mut std::io::sink()));
    let (running, runs) = oneshot::channel();
    let flood = std::thread::spawn(move || {
        let many = push_to("c", 1).repeat(10_000);
        let mut running = Some(running);
        while writing.write_all(&many).is_ok() {
            running.take().map(|running| running.send(()));
        }
    });
    runs.await.unwrap();
    tokio::time::pause();
    let end = tokio::spawn(async move { handle.end().await });
    let began = tokio::time::Instant::now();
    while !end.is_finished() {
        assert!(began.elapsed() < Duration::from_mins(1), "the host is not killed");
        tokio::time::advance(Duration::from_millis(10)).await;
    }
    flood.join().unwrap();
    let _ = reads.join().unwrap();
}

#[tokio::test]
async fn messages_over_their_limits_end_the_session() {
    let large = Bytes::from(vec![b' '; MAX_MESSAGE + 1]);
    let long = "x".repeat(MAX_LOG + 1);
    let push = |frame: Bytes| Push { push: 1, to: "c".into(), frame, replaceable: true };
    let close = |last: Bytes| Close { connection: "c".into(), last: Some(last), reason: None };
    let lies: [FromHost; 7] = [
        push(large.clone()).into(),
        push(Bytes::from_static(b"\xff")).into(),
        close(large.clone()).into(),
        close(Bytes::from_static(b"\xff")).into(),
        Log { warning: false, message: long.clone() }.into(),
        Ending { why: long }.into(),
        Check { connection: "c".repeat(1_000).as_str().into() }.into(),
    ];
    for lie in lies {
        let what = format!("{:.80}", format!("{lie:?}"));
        let (handle, mut actor, ended) = started().await;
        let (route, mut said) = noted();
        joined(&handle, &mut actor, "c", &route).await;
        actor.say(lie).await;
        assert!(last_words(&mut said).await[0].contains("SESSION_INVALID"), "{what}");
        timeout(PATIENCE, ended).await.unwrap().unwrap();
    }
    for reply in [Reply::Frame(large), Reply::Error(Bytes::from_static(b"\xff"))] {
        let (handle, mut actor, ended) = started().await;
        let (route, _said) = noted();
        joined(&handle, &mut actor, "c", &route).await;
        let asks = frame(&handle, "c", &route);
        let answers = async {
            let request = actor.frame().await;
            actor.say(answer(request, reply)).await;
        };
        let (asked, ()) = tokio::join!(asks, answers);
        assert_eq!(asked.err(), Some(Unreachable::Ended));
        timeout(PATIENCE, ended).await.unwrap().unwrap();
    }
}

/// Each costs the backend time, although it holds nothing.
#[tokio::test]
async fn a_flood_of_messages_without_effect_ends_the_session() {
    let status = bytes(Status { connections: 1, exited: false });
    for message in [status, push_to("nobody", 1), bytes(Check { connection: "nobody".into() })] {
        let (_handle, mut actor, ended) = started().await;
        let many = message.repeat(20_000);
        let reads = async { while actor.stream.write_all(&many).await.is_ok() {} };
        tokio::select! {
            () = reads => {}
            ended = timeout(PATIENCE, ended) => ended.unwrap().unwrap(),
        }
    }
}

#[tokio::test]
async fn a_takeover_is_bounded_too() {
    let peer = |size: usize| Peer::new(info("c"), "x".repeat(size));
    let line = || Log { warning: false, message: "x".to_owned() };
    let floods: [(&str, Vec<FromHost>); 4] = [
        ("peers", (0..300).map(|_| Known { peer: peer(1) }.into()).collect()),
        ("bytes", (0..100).map(|_| Known { peer: peer(100_000) }.into()).collect()),
        ("lines", (0..300).map(|_| line().into()).collect()),
        ("notes", vec![here(Bytes::from(vec![b'x'; MAX_NOTES + 1])).into()]),
    ];
    for (what, flood) in floods {
        let (mut actor, host) = Actor::new();
        let routes: outlet::FindRoute = Arc::new(|_| None);
        let says = async {
            for message in flood {
                actor.channel.say(&message).unwrap();
                let many = actor.channel.to_write().to_vec();
                actor.channel.wrote(many.len());
                if actor.stream.write_all(&many).await.is_err() {
                    break;
                }
            }
            drop(actor);
        };
        let (taken, ()) = tokio::join!(take_over(host, seal(), &routes, |_| Claim::alone(), |_| ()), says);
        assert!(matches!(taken, Err(NotOpened::Nonsense)), "{what}");
    }
}
