//! What a session uses, as its host says.

use shellbridge_session::link::Measured;

use super::*;

fn measured(request: u64, processes: u32) -> Measured {
    Measured { request, processes, memory: 1, cpu_ms: 2, disk: Some(3) }
}

impl Actor {
    async fn measure(&mut self) -> u64 {
        match self.heard().await {
            Some(ToHost::Measure(measure)) => measure.request,
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn requests_share_a_measurement_and_a_host_that_does_not_answer_is_left_out() {
    let (handle, mut actor, _ended) = started().await;
    let unanswered = handle.usage().await;
    assert_eq!(unanswered, None);
    let late = actor.measure().await;
    let asks = async { tokio::join!(handle.usage(), handle.usage()) };
    let says = async {
        let request = actor.measure().await;
        assert_ne!(request, late);
        actor.say(measured(late, 9)).await;
        actor.say(measured(999, 9)).await;
        actor.say(measured(request, 7)).await;
    };
    let ((first, second), ()) = tokio::join!(asks, says);
    assert_eq!(first.map(|usage| usage.processes), Some(7));
    assert_eq!(second, first, "one measurement answers both");
    // Nothing but a next request.
    let (again, ()) = tokio::join!(handle.usage(), async {
        let request = actor.measure().await;
        actor.say(measured(request, 8)).await;
    });
    assert_eq!(again.map(|usage| usage.processes), Some(8));
}

#[tokio::test]
async fn a_host_of_minor_version_0_is_not_asked() {
    let tokens = tokens::Tokens::new();
    let (mut actor, host) = Actor::new();
    actor.stream.write_all(b"SBL1\x01\x00\x00\x00\x01s").await.unwrap();
    // The channel's own preface precedes this message; skip it.
    actor.channel.wrote(actor.channel.to_write().len());
    let routes: crate::sessions::outlet::FindRoute = Arc::new(|_| None);
    let (taken, ()) = tokio::join!(
        take_over(host, seal(), &routes, |_| Claim::alone(), |_| ()),
        actor.say(here(notes_of(&tokens)))
    );
    let handle = taken.ok().unwrap();
    assert_eq!(handle.status().room, Room::default(), "it noted none");
    assert_eq!(handle.usage().await, None);
    handle.drain().await.unwrap();
    assert!(matches!(actor.heard().await, Some(ToHost::Hello(_))));
    assert!(matches!(actor.heard().await, Some(ToHost::Drain(_))), "no `Measure` came before it");
}
