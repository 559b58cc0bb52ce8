//! Each script, against a real Redis.

use std::{sync::Arc, time::Duration};

use shellbridge_fleet::{Asserted, Found, Member, Orphans, Renewed, Reply, Request, Under};
use shellbridge_protocol::times::UnixMs;

use self::server::Redis;
use super::store::{self, Store};
use crate::clock::unix_ms;

#[allow(dead_code, reason = "these tests use a part")]
#[path = "../../../tests/fleet/server.rs"]
mod server;

async fn store(redis: &Redis, uuid: &str, generation: u64, release: &str) -> Store {
    let url = format!("http://{uuid}").into();
    let me = Member { uuid: uuid.into(), generation, url, release: release.into() };
    store::Redis::parse(&redis.url()).unwrap().connect(Arc::new(me)).await.unwrap()
}

async fn renew(store: &Store, under: Option<Under>) -> Renewed {
    match store.clone().perform(Request::Renew(under)).await.unwrap() {
        Reply::Renewed(renewed) => renewed,
        other => panic!("{other:?}"),
    }
}

fn under(renewed: &Renewed) -> Under {
    Under { life: renewed.life, written: renewed.written }
}

/// A lease that outlasts the test.
async fn lease(redis: &Redis, store: &Store, uuid: &str) -> Under {
    let renewed = renew(store, None).await;
    let _: bool = redis.ask(&["PERSIST", &format!("{{sb}}:i:{uuid}")]);
    under(&renewed)
}

async fn ask(store: &Store, request: Request) -> Reply {
    store.clone().perform(request).await.unwrap()
}

fn in_an_hour() -> UnixMs {
    unix_ms().saturating_add(Duration::from_hours(1))
}

fn claim(under: Under, session: &str) -> Request {
    Request::Claim { under, session: session.into(), owner: "alice".into(), expires_at: in_an_hour() }
}

fn assert(under: Under, session: &str, epoch: u64) -> Request {
    let asserted =
        Asserted { session: session.into(), epoch, owner: "alice".into(), expires_at: in_an_hour() };
    Request::Assert { under, sessions: vec![asserted] }
}

async fn find(store: &Store, under: Under, session: &str) -> Reply {
    ask(store, Request::Find { under, session: session.into() }).await
}

/// Ends an instance's lease as time would.
fn expire(redis: &Redis, uuid: &str) {
    assert!(redis.ask::<bool>(&["DEL", &format!("{{sb}}:i:{uuid}")]));
}

#[tokio::test]
async fn renewals_keep_a_life_until_writes_are_lost() {
    let redis = Redis::start();
    let a = store(&redis, "a", 1, "1").await;
    let first = renew(&a, None).await;
    let second = renew(&a, Some(under(&first))).await;
    assert_eq!((second.life, second.written.0), (first.life, first.written.0 + 1));
    let ttl: u64 = redis.ask(&["PTTL", "{sb}:i:a"]);
    assert!((1..=12_000).contains(&ttl), "{ttl}");
    // The store is behind what it has acknowledged.
    let _: u64 = redis.ask(&["HSET", "{sb}:i:a", "writes", "1"]);
    let third = renew(&a, Some(under(&second))).await;
    assert!(third.life > second.life);
    expire(&redis, "a");
    assert!(renew(&a, Some(under(&third))).await.life > third.life);
    // The next process takes the lease over, and the earlier one is out.
    let next = store(&redis, "a", 2, "1").await;
    renew(&next, None).await;
    assert_eq!(ask(&a, Request::Renew(Some(under(&third)))).await, Reply::Superseded);
}

#[tokio::test]
async fn releases_are_ranked_by_appearance_and_forgotten() {
    let redis = Redis::start();
    let (blue, green) = (store(&redis, "a", 1, "blue").await, store(&redis, "b", 1, "green").await);
    let older = renew(&blue, None).await;
    assert_eq!(older.newest, (older.rank, "blue".into()));
    let newer = renew(&green, None).await;
    assert!(newer.rank > older.rank);
    let older = renew(&blue, Some(under(&older))).await;
    assert_eq!(older.newest, (newer.rank, "green".into()));
    let peer = |release: &str| Request::Peer { release: release.into() };
    assert_eq!(ask(&blue, peer("green")).await, Reply::Peer(Some("http://b".into())));
    assert_eq!(ask(&green, peer("green")).await, Reply::Peer(None), "not the caller itself");
    let _: u64 = redis.ask(&["ZADD", "{sb}:releases:seen", "1", "green"]);
    assert_eq!(renew(&blue, Some(under(&older))).await.newest, (older.rank, "blue".into()));
}

#[tokio::test]
async fn an_id_is_claimed_once_and_found() {
    let redis = Redis::start();
    let (a, b) = (store(&redis, "a", 1, "1").await, store(&redis, "b", 1, "1").await);
    let (of_a, of_b) = (lease(&redis, &a, "a").await, lease(&redis, &b, "b").await);
    let Reply::Claimed { epoch, written } = ask(&a, claim(of_a, "s")).await else { panic!("not claimed") };
    assert_eq!(written.0, of_a.written.0 + 1);
    assert_eq!(ask(&b, claim(of_b, "s")).await, Reply::Taken);
    let at = Found::At { instance: "a".into(), url: "http://a".into(), epoch };
    assert_eq!(find(&b, of_b, "s").await, Reply::Found(at));
    assert_eq!(find(&b, of_b, "other").await, Reply::Found(Found::Absent));
    let stale = Under { life: of_b.life + 1, ..of_b };
    assert_eq!(find(&b, stale, "s").await, Reply::NoLease);
    assert_eq!(ask(&b, claim(stale, "t")).await, Reply::NoLease);
    let ttl: u64 = redis.ask(&["PTTL", "{sb}:s:s"]);
    assert!((3_000_000..=3_600_000).contains(&ttl), "{ttl}");
    // A late release of an earlier claim does nothing.
    let release = |epoch| Request::Release { session: "s".into(), epoch };
    ask(&a, release(epoch - 1)).await;
    assert_eq!(ask(&b, claim(of_b, "s")).await, Reply::Taken);
    ask(&a, release(epoch)).await;
    let Reply::Claimed { epoch: next, .. } = ask(&b, claim(of_b, "s")).await else { panic!("not claimed") };
    assert!(next > epoch);
    expire(&redis, "b");
    assert_eq!(find(&a, of_a, "s").await, Reply::Found(Found::Ownerless));
    assert_eq!(ask(&a, claim(of_a, "s")).await, Reply::Taken, "until it is buried");
}

#[tokio::test]
async fn an_assertion_restores_what_is_lost_and_loses_to_a_later_claim() {
    let redis = Redis::start();
    let (a, b) = (store(&redis, "a", 1, "1").await, store(&redis, "b", 1, "1").await);
    let (of_a, of_b) = (lease(&redis, &a, "a").await, lease(&redis, &b, "b").await);
    let Reply::Claimed { epoch, .. } = ask(&a, claim(of_a, "s")).await else { panic!("not claimed") };
    let epochs = |reply| match reply {
        Reply::Asserted(epochs, _) => epochs,
        other => panic!("{other:?}"),
    };
    assert_eq!(epochs(ask(&a, assert(of_a, "s", 0)).await), [Some(epoch)], "of a restarted process");
    let _: u64 = redis.ask(&["DEL", "{sb}:s:s"]);
    assert_eq!(epochs(ask(&a, assert(of_a, "s", epoch)).await), [Some(epoch)]);
    assert_eq!(epochs(ask(&b, assert(of_b, "s", epoch)).await), [None]);
    assert_eq!(epochs(ask(&b, assert(of_b, "s", epoch + 1)).await), [Some(epoch + 1)]);
    assert_eq!(epochs(ask(&a, assert(of_a, "s", epoch)).await), [None]);
    let highest: u64 = redis.ask(&["GET", "{sb}:epoch"]);
    assert!(highest > epoch);
    assert_eq!(ask(&a, assert(Under { life: 1, ..of_a }, "s", epoch)).await, Reply::NoLease);
}

#[tokio::test]
async fn the_sessions_of_a_dead_instance_are_buried_with_their_connections() {
    let redis = Redis::start();
    let (a, b, c) = (
        store(&redis, "a", 1, "1").await,
        store(&redis, "b", 1, "1").await,
        store(&redis, "c", 1, "1").await,
    );
    let (of_a, of_b) = (lease(&redis, &a, "a").await, lease(&redis, &b, "b").await);
    let Reply::Claimed { epoch, .. } = ask(&a, claim(of_a, "s")).await else { panic!("not claimed") };
    let connections = vec![("c1".into(), "https://api".into())];
    let stored = Request::Connections {
        under: of_a,
        session: "s".into(),
        connections: connections.clone(),
        expires_at: in_an_hour(),
    };
    assert_eq!(ask(&a, stored).await, Reply::Done);
    let reap = || Request::Reap { instance: "a".into() };
    let bury = |epoch| Request::Bury { instance: "a".into(), session: "s".into(), epoch };
    assert_eq!(ask(&b, reap()).await, Reply::Orphans(Orphans::NotYours), "it lives");
    assert_eq!(ask(&b, bury(None)).await, Reply::Buried(Vec::new()), "it lives");
    assert_eq!(ask(&a, bury(Some(epoch + 1))).await, Reply::Buried(Vec::new()), "another session");
    expire(&redis, "a");
    let _: u64 = redis.ask(&["ZADD", "{sb}:instances", "1", "a"]);
    assert_eq!(renew(&b, Some(of_b)).await.dead, [Arc::<str>::from("a")]);
    assert_eq!(ask(&b, reap()).await, Reply::Orphans(Orphans::Some(vec!["s".into()])));
    assert_eq!(ask(&c, reap()).await, Reply::Orphans(Orphans::NotYours), "one survivor does it");
    assert_eq!(ask(&b, bury(None)).await, Reply::Buried(connections));
    assert_eq!(find(&b, of_b, "s").await, Reply::Found(Found::Buried));
    let again = lease(&redis, &a, "a").await;
    assert!(
        matches!(ask(&a, assert(again, "s", epoch)).await, Reply::Asserted(epochs, _) if epochs == [None])
    );
    let forget = Request::Forget { instance: "a".into(), session: "s".into() };
    ask(&b, forget).await;
    expire(&redis, "a");
    assert_eq!(ask(&b, reap()).await, Reply::Orphans(Orphans::Some(Vec::new())));
    let instances: Vec<String> = redis.ask(&["ZRANGE", "{sb}:instances", "0", "-1"]);
    assert_eq!(instances, ["b"]);
    assert!(matches!(ask(&b, claim(of_b, "s")).await, Reply::Claimed { .. }), "the id is free again");
}

#[tokio::test]
async fn an_instance_that_leaves_is_forgotten_at_once() {
    let redis = Redis::start();
    let a = store(&redis, "a", 1, "1").await;
    lease(&redis, &a, "a").await;
    ask(&a, Request::Leave).await;
    assert_eq!(redis.ask::<Vec<String>>(&["KEYS", "{sb}:i:*"]), Vec::<String>::new());
    assert_eq!(redis.ask::<u64>(&["ZCARD", "{sb}:instances"]), 0);
}

/// A session takes little memory, and all keys have the same hash tag.
#[tokio::test]
async fn a_session_takes_less_than_a_kibibyte() {
    const SESSIONS: u64 = 1_000;
    let redis = Redis::start();
    let a = store(&redis, "a", 1, "1").await;
    let under = lease(&redis, &a, "a").await;
    let used = || {
        let info: String = redis.ask(&["INFO", "memory"]);
        let line = info.lines().find_map(|line| line.strip_prefix("used_memory_dataset:"));
        line.unwrap().trim().parse::<u64>().unwrap()
    };
    let before = used();
    for n in 0..SESSIONS {
        let session = format!("0189f7e4-7f2e-7f2e-8f2e-{n:012}");
        ask(&a, claim(under, &session)).await;
        let url: Arc<str> = "https://a1b2c3d4e5.execute-api.eu-west-1.amazonaws.com/production".into();
        let connections = vec![("JGHdYd7vjoEFsFg=".into(), url)];
        let session = session.as_str().into();
        ask(&a, Request::Connections { under, session, connections, expires_at: in_an_hour() }).await;
    }
    let each = (used() - before) / SESSIONS;
    println!("{each} bytes a session");
    assert!(each < 1024, "{each} bytes");
    let keys: Vec<String> = redis.ask(&["KEYS", "*"]);
    assert!(keys.iter().all(|key| key.starts_with("{sb}:")));
}
