//! State that outlives a backend, and taking over a host.

use shellbridge_session::link::Known;

use super::*;
use crate::sessions::outlet::FindRoute;

#[tokio::test]
async fn a_takeover_restores_connections_and_tokens() {
    let tokens = tokens::Tokens::new();
    let (good, bad) = (tokens.new_id(), tokens.new_id());
    tokens.renew(&good, None, unix_ms());
    let (mut actor, host) = Actor::new();
    let (known_route, mut said) = noted();
    let routes: FindRoute = Arc::new(move |address| (address == "https://api").then(|| known_route.clone()));
    let peer = |id: &str, token: Option<&str>, address: &str| Peer {
        id: id.into(),
        read_only: false,
        user: "alice".into(),
        token_id: token.map(str::to_owned),
        connected_at: UnixMs(1),
        token_lasts: 60_000,
        max_frame: 32_768,
        in_flight: 4,
        address: seal().put(&["s", id], address),
    };
    let (ended, _told) = oneshot::channel();
    let says = async {
        let Some(ToHost::Hello(hello)) = actor.heard().await else { panic!("no hello") };
        assert!(hello.start.is_none());
        for peer in [
            peer("c", Some(&good), "https://api"),
            peer("revoked", Some(&bad), "https://api"),
            peer("elsewhere", None, "https://attacker.example"),
            // Another session's connection: the host knows its id, but has no seal for it.
            Peer { id: "victim".into(), ..peer("c", None, "https://api") },
        ] {
            actor.say(Known { peer }).await;
        }
        actor.say(here(notes_of(&tokens))).await;
    };
    let (handle, ()) =
        tokio::join!(take_over(host, seal(), &routes, |_| Claim::alone(), |_| ended.send(()).unwrap()), says);
    let handle = handle.unwrap();
    let status = handle.status();
    assert_eq!((&*status.id, &*status.owner, status.created_at), ("s", "alice", UnixMs(1)));
    assert_eq!(status.tokens.check(Some(&good), Use::Door, unix_ms()), Ok(()));
    let Some(ToHost::Revoke(revoke)) = actor.heard().await else { panic!("no Revoke of the revoked token") };
    assert_eq!((revoke.wait, &revoke.connections[..]), (0, &["revoked".into()][..]));
    let Some(ToHost::Gone(gone)) = actor.heard().await else { panic!("no Gone for the forbidden address") };
    assert_eq!(&*gone.connection, "elsewhere");
    let Some(ToHost::Gone(gone)) = actor.heard().await else { panic!("no Gone for the stolen connection") };
    assert_eq!(&*gone.connection, "victim");
    actor.push(1, "c", "hello again").await;
    assert_eq!(timeout(PATIENCE, said.recv()).await.unwrap().unwrap(), "hello again");
}

#[tokio::test]
async fn changed_tokens_reach_the_host_before_the_request_is_answered() {
    let (handle, mut actor, _) = started().await;
    let id = handle.status().tokens.new_id();
    handle.status().tokens.renew(&id, None, unix_ms());
    handle.tokens_changed().await.unwrap();
    // From here on, the change survives a crash of the backend.
    let Some(ToHost::Keep(keep)) = actor.heard().await else { panic!() };
    let (_, notes) = keep.notes.split_at(43);
    let (tokens, room) = Status::noted(std::str::from_utf8(notes).unwrap());
    assert_eq!(room, handle.status().room);
    assert_eq!(tokens.check(Some(&id), Use::Door, unix_ms()), Ok(()));
}

/// A host could name any session, and get its clients while its own host was refused and ended.
#[tokio::test]
async fn regression_a_host_cannot_claim_another_session() {
    let own = notes_of(&tokens::Tokens::new());
    let lies = [
        Here { id: "victim".into(), ..here(own.clone()) },
        Here { owner: "mallory".into(), ..here(own.clone()) },
        Here { created_at: UnixMs(2), ..here(own.clone()) },
        here(Bytes::new()),
    ];
    for lie in lies {
        let what = format!("{lie:?}");
        let (mut actor, host) = Actor::new();
        let routes: FindRoute = Arc::new(|_| None);
        let (taken, ()) =
            tokio::join!(take_over(host, seal(), &routes, |_| Claim::alone(), |_| ()), actor.say(lie));
        assert!(matches!(taken, Err(NotOpened::Nonsense)), "{what}");
    }
}

#[tokio::test]
async fn a_host_of_another_major_version_is_left_alone() {
    let (mut actor, host) = Actor::new();
    actor.stream.write_all(b"SBL1\x09\x00\x00\x00\x03abc").await.unwrap();
    let routes: FindRoute = Arc::new(|_| None);
    match take_over(host, seal(), &routes, |_| Claim::alone(), |_| ()).await {
        Err(NotOpened::Foreign { session, .. }) => assert_eq!(&*session, "abc"),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("the session was taken over"),
    }
}
