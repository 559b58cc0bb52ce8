//! Three backends over one Redis: requests reach any of them, and what happens to one is not felt by the others' sessions.

use std::{sync::Arc, time::Duration};

use futures_util::future::{join, join_all, select_all};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::{
    sync::Notify,
    time::{Instant, timeout},
};

use super::{
    leaks,
    promise::{bad_weather, patience, script_in, size},
    support::{Stack, until},
    terminal::{Session, Terminal},
};

const INSTANCES: usize = 3;
/// Frames whose hops are counted, and the share of them that may take one.
const FRAMES: u64 = 1000;
const HOPS: f64 = 0.05;

async fn fleet() -> Stack {
    Stack::whole().flag("--instances", INSTANCES.to_string()).start().await
}

/// A session that runs `sh`, and its terminal. Requests for one go round robin, so that each of as many as there are
/// instances has another.
async fn session(stack: &Stack, name: &str) -> (Session, Terminal) {
    let session = Session::with(stack, json!({"shell": "/bin/sh"})).await;
    let mut terminal = Terminal::new(stack, &session, name);
    terminal.ended = Some(Arc::default());
    (session, terminal)
}

/// Runs until it is done, or until the session has ended with its instance; returns whether it is done.
async fn unless_ended(ended: &Notify, done: impl Future<Output = ()>) -> bool {
    tokio::select! {
        () = done => true,
        () = ended.notified() => false,
    }
}

/// Drives terminals until the first one's session has ended with its instance; says which.
async fn first_to_end(terminals: impl Iterator<Item = &mut Terminal>) -> usize {
    let all = terminals.map(|terminal| {
        Box::pin(async {
            let ended = terminal.ended.clone().unwrap();
            assert!(!unless_ended(&ended, terminal.drive(patience(), |_| false)).await);
        })
    });
    select_all(all).await.1
}

/// The instance whose session a terminal shows: the shell's parent is its host, and that one's parent is the backend.
async fn instance(stack: &Stack, terminal: &mut Terminal) -> String {
    terminal.run("echo p''id $$. ; echo wo''rks", "works").await;
    let shell = *leaks::pids(&terminal.output).last().unwrap();
    let backend = leaks::parent(shell).and_then(leaks::parent).unwrap();
    let log = stack.log();
    let line = log.lines().rfind(|line| line.contains(&format!("pid={backend} "))).unwrap();
    let instance = line.split("instance=").nth(1).unwrap().split_whitespace().next().unwrap();
    format!("instance={instance}")
}

/// How often a fault has paused an instance.
fn pauses(stack: &Stack, instance: &str) -> usize {
    let log = stack.log();
    log.lines().filter(|line| line.contains("a fault paused") && line.contains(instance)).count()
}

/// Runs the promise's script in a new session. False if the session ended with its instance.
async fn keeps_the_promise(stack: &Stack, seed: u64, size: (usize, usize)) -> bool {
    let (session, mut terminal) = session(stack, &format!("promise-{seed}")).await;
    let ended = terminal.ended.clone().unwrap();
    let mut owner = None;
    let script = async {
        owner = Some(instance(stack, &mut terminal).await);
        script_in(stack, &mut terminal, seed, size).await;
    };
    let done = unless_ended(&ended, script).await;
    println!(
        "seed {seed}, {owner:?}, done {done}: {} cuts, {} refusals, {:?}",
        terminal.cuts, terminal.refusals, terminal.client.counts
    );
    if done {
        session.end_somewhere().await;
    } else if let Some(owner) = owner {
        assert!(pauses(stack, &owner) > 0, "the session ended although its instance was never paused");
    }
    done
}

/// Bad weather, and requests that reach all instances.
fn weather(seed: u64, faults: &Value) -> Value {
    let mut weather = bad_weather(seed);
    weather["spreadRequests"] = true.into();
    weather.as_object_mut().unwrap().extend(faults.as_object().unwrap().clone());
    weather
}

async fn kill_redis(stack: &Stack) {
    let log = stack.log();
    let line = log.lines().rfind(|line| line.contains("Redis listens")).unwrap();
    let pid = line.split("pid=").nth(1).unwrap().split_whitespace().next().unwrap();
    kill_process(Pid::from_raw(pid.parse().unwrap()).unwrap(), Signal::KILL).unwrap();
    let starts = log.matches("Redis listens").count();
    until("another Redis", || async {
        (stack.log().matches("Redis listens").count() > starts).then_some(())
    })
    .await;
}

/// A session lives as long as its instance does: one that stands still for 15 s is dead for the others. Such a session
/// is told so, and no session shows a wrong byte. Five with a fifth of the usual size each: short enough that some live.
#[tokio::test]
async fn every_byte_arrives_while_instances_stand_still_and_redis_starts_empty() {
    let stack = fleet().await;
    stack.faults(weather(6, &json!({"pauseInstanceEveryMs": 20_000, "pauseInstanceMs": 15_000}))).await;
    let redis = async {
        stack.until_state("a pause", |state| state["pauses"].as_u64() >= Some(1)).await;
        kill_redis(&stack).await;
    };
    let scripts = async {
        let (mut seed, mut kept) = (10, 0);
        let fifth = (size().0 / 5, size().1 / 5);
        loop {
            let stack = &stack;
            let all = [0, 1, 2].map(|n| keeps_the_promise(stack, seed + n, fifth));
            kept += join_all(all).await.into_iter().filter(|done| *done).count();
            seed += 3;
            if kept >= 5 && stack.state().await["pauses"].as_u64() >= Some(2) {
                return kept;
            }
        }
    };
    let ((), kept) = timeout(patience(), join(redis, scripts)).await.expect("some sessions live");
    println!("{kept} sessions kept the promise, {}", stack.state().await["hops"]);
}

#[tokio::test]
async fn every_byte_arrives_while_instances_are_killed_and_start_again() {
    let stack = fleet().await;
    stack.faults(weather(7, &json!({"killInstanceEveryMs": 4000}))).await;
    let mut seed = 30;
    // Each start takes the sessions over within its lease, so that none ends.
    while stack.state().await["backendKills"].as_u64() < Some(2) {
        assert!(keeps_the_promise(&stack, seed, size()).await, "a session ended");
        seed += 1;
    }
    println!("{} kills", stack.state().await["backendKills"]);
}

#[tokio::test]
async fn every_byte_arrives_while_an_instance_is_cut_off_from_redis() {
    let stack = fleet().await;
    let mut all = Vec::new();
    for n in 0..INSTANCES {
        all.push(session(&stack, &format!("cut-{n}")).await);
    }
    for (_, terminal) in &mut all {
        terminal.run("echo he''re", "here").await;
    }
    stack.faults(weather(8, &json!({"partition": [1]}))).await;
    let scripts = all.into_iter().zip(40..).map(|((session, mut terminal), seed)| {
        let stack = &stack;
        async move {
            let ended = terminal.ended.clone().unwrap();
            let done = unless_ended(&ended, script_in(stack, &mut terminal, seed, size())).await;
            done.then_some((session, terminal))
        }
    });
    let results = timeout(patience(), join_all(scripts)).await.unwrap();
    let mut left: Vec<_> = results.into_iter().flatten().collect();
    // The session of the instance that is cut off ends, now or already. Its clients are told by another.
    if left.len() == INSTANCES {
        let ended = first_to_end(left.iter_mut().map(|(_, terminal)| terminal)).await;
        left.remove(ended);
    }
    assert_eq!(left.len(), INSTANCES - 1, "so many sessions kept the promise");
    for (_, terminal) in &mut left {
        terminal.run("printf 'al''so'", "also").await;
    }
    stack.faults(json!({"partition": [], "cutEveryMs": 0})).await;
    for (session, _) in &left {
        session.end_somewhere().await;
    }
}

#[tokio::test]
async fn sessions_of_an_instance_that_stands_still_for_long_end_and_never_come_back() {
    let stack = fleet().await;
    let mut all = Vec::new();
    for n in 0..INSTANCES {
        let (session, mut terminal) = session(&stack, &format!("still-{n}")).await;
        terminal.run("echo p''id $$. ; echo wo''rks", "works").await;
        let pid = leaks::pids(&terminal.output)[0];
        all.push((session, terminal, pid));
    }
    let began = Instant::now();
    stack.faults(json!({"pauseInstanceEveryMs": 100, "pauseInstanceMs": 3_600_000})).await;
    let ended = first_to_end(all.iter_mut().map(|(_, terminal, _)| terminal)).await;
    println!("told after {:?}", began.elapsed());
    let (_, _, shell) = all.remove(ended);
    for (_, terminal, _) in &mut all {
        terminal.run("echo al''so", "also").await;
    }
    assert!(leaks::is_alive(shell), "it waits for its instance");
    stack.faults(json!({"pauseInstanceEveryMs": 0})).await;
    until("its end", || async { (!leaks::is_alive(shell)).then_some(()) }).await;
    for (session, _, pid) in &all {
        assert!(leaks::is_alive(*pid));
        session.end_somewhere().await;
    }
}

#[tokio::test]
async fn with_the_cookie_nearly_all_frames_reach_their_instance_without_a_hop() {
    // Each process of the function learns each session's cookie by itself.
    let instances = INSTANCES.to_string();
    let stack = Stack::whole().flag("--instances", instances).flag("--concurrency", "2").start().await;
    let mut all = Vec::new();
    for _ in 0..INSTANCES {
        let session = Session::new(&stack).await;
        let mut client = stack.connect_with(&session.query()).await;
        super::wrong::frame(&mut client, "connected").await;
        all.push((session, client));
    }
    let ping = async |count: u64, all: &mut Vec<(Session, super::support::Client)>| {
        for _ in 0..count {
            // In turn, each session would have the same wrong instance's turn for ever.
            let (_, client) = &mut all[rand::random_range(0..INSTANCES)];
            client.send(r#"{"type":"ping"}"#).await;
            super::wrong::frame(client, "pong").await;
        }
    };
    let hops = async || {
        let state = stack.state().await;
        ["0", "1"].map(|hop| state["hops"][hop].as_u64().unwrap_or_default())
    };
    ping(FRAMES, &mut all).await;
    let [stayed, hopped] = hops().await;
    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    let share = hopped as f64 / (stayed + hopped) as f64;
    assert!(stayed + hopped >= FRAMES && share <= HOPS, "{hopped} of {} frames took a hop", stayed + hopped);
    // Without it, two thirds do.
    stack.faults(json!({"spreadRequests": true})).await;
    ping(FRAMES / 10, &mut all).await;
    let [_, spread] = hops().await;
    assert!(spread - hopped > FRAMES / 20, "{spread} after {hopped}");
    for (session, _) in &all {
        session.end_somewhere().await;
    }
}

/// How long a session's first answers may take after Redis is back.
const BACK: Duration = Duration::from_secs(10);

#[tokio::test]
async fn an_outage_of_redis_is_a_pause_and_no_loss() {
    let stack = fleet().await;
    let (session, mut terminal) = session(&stack, "pause").await;
    terminal.ended = None;
    terminal.run("cd /usr; echo he''re", "here").await;
    // Longer than a lease: the instances fence themselves, and Redis forgets them.
    stack.faults(json!({"spreadRequests": true, "redisPauseMs": 15_000})).await;
    until("the pause", || async { stack.log().contains("Redis stands still").then_some(()) }).await;
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(15) + BACK {
        terminal.drive(super::support::DEADLINE, |_| began.elapsed() > Duration::from_secs(16)).await;
        terminal.run("pwd; echo ag''ain", "again").await;
    }
    stack.faults(json!({"redisFlush": true})).await;
    until("the loss", || async { stack.log().contains("Redis is empty").then_some(()) }).await;
    terminal.run("pwd; echo on''ward", "onward").await;
    assert!(String::from_utf8_lossy(&terminal.output).matches("/usr").count() >= 2);
    session.end_somewhere().await;
}
