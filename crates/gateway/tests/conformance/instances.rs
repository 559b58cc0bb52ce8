//! Several backends: what each gets, and the faults of instances and of their Redis.

use std::{collections::BTreeMap, net::SocketAddr, path::Path};

use rustix::process::Signal;
use serde_json::json;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    starting::{FOR_EVER, alive, backend},
    support::{Stack, StackBuilder, until},
};

/// An init that starts what it is again, and notes each start's environment.
const INIT: &str = "if [ $1 = --init ]; then
        trap 'kill $!; wait $!; exit 0' TERM
        while true; do
            $0 below &
            wait
        done
    fi
    env > $(dirname $0)/env-$PORT-$$";

fn three(directory: &TempDir) -> StackBuilder {
    let program = backend(directory, INIT, FOR_EVER);
    Stack::scripted().flag("--backend", &program).flag("--instances", "3")
}

/// The environments of all starts so far, by process id.
fn starts(directory: &Path) -> BTreeMap<String, BTreeMap<String, String>> {
    let mut starts = BTreeMap::new();
    for entry in std::fs::read_dir(directory).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        let Some((_, pid)) = name.strip_prefix("env-").and_then(|rest| rest.split_once('-')) else {
            continue;
        };
        let text = std::fs::read_to_string(entry.path()).unwrap();
        let pairs = text.lines().filter_map(|line| line.split_once('='));
        starts
            .insert(pid.to_owned(), pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect());
    }
    starts
}

/// The addresses at which the instances reach Redis, in their order.
fn redis(directory: &Path) -> Vec<SocketAddr> {
    let mut all: Vec<_> = starts(directory)
        .into_values()
        .map(|env| {
            (env["RUN_DIR"].clone(), env["REDIS_URL"].strip_prefix("redis://").unwrap().parse().unwrap())
        })
        .collect();
    all.sort();
    all.dedup();
    all.into_iter().map(|(_, address)| address).collect()
}

async fn ask(stream: &mut TcpStream, command: &str) -> std::io::Result<String> {
    stream.write_all(format!("{command}\r\n").as_bytes()).await?;
    let mut answer = vec![0; 1024];
    let count = stream.read(&mut answer).await?;
    answer.truncate(count);
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

async fn asks(redis: SocketAddr, command: &str) -> String {
    let mut stream = TcpStream::connect(redis).await.unwrap();
    ask(&mut stream, command).await.unwrap()
}

/// The process id that the log's line about Redis names last.
fn redis_pid(stack: &Stack) -> String {
    let log = stack.log();
    let line = log.lines().rfind(|line| line.contains("Redis listens")).unwrap();
    line.split("pid=").nth(1).unwrap().split_whitespace().next().unwrap().to_owned()
}

/// The state of a process in `/proc`, such as `T` for a stopped one.
fn state(pid: &str) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

#[tokio::test]
async fn each_gets_its_port_its_directory_and_its_way_to_redis_and_all_end() {
    let directory = TempDir::new().unwrap();
    let mut stack = three(&directory).start().await;
    let all = starts(directory.path());
    assert_eq!(all.len(), 3);
    for name in ["PORT", "RUN_DIR", "REDIS_URL", "INSTANCE_URL"] {
        let mut values: Vec<_> = all.values().map(|env| env[name].clone()).collect();
        values.sort();
        values.dedup();
        assert_eq!(values.len(), 3, "{name}: {values:?}");
    }
    let page = stack.page.clone().unwrap();
    for env in all.values() {
        assert_eq!(env["INSTANCE_URL"], format!("http://127.0.0.1:{}", env["PORT"]));
        assert!(env["ALLOWED_ORIGINS"].starts_with(page.trim_end_matches('/')), "{}", env["ALLOWED_ORIGINS"]);
    }
    let redis_pid = redis_pid(&stack);
    assert!(alive(&redis_pid));
    for redis in redis(directory.path()) {
        assert_eq!(asks(redis, "PING").await, "+PONG\r\n");
    }
    let stopped = tokio::task::spawn_blocking(move || stack.stop(Signal::INT)).await.unwrap();
    assert_eq!(stopped.code(), Some(0));
    let left: Vec<_> = all.keys().filter(|pid| alive(pid)).collect();
    assert!(left.is_empty() && !alive(&redis_pid), "{left:?}");
}

#[tokio::test]
async fn a_random_instance_is_killed_or_paused() {
    let directory = TempDir::new().unwrap();
    let stack = three(&directory).start().await;
    stack.faults(json!({ "killInstanceEveryMs": 50 })).await;
    stack.until_state("two kills", |state| state["backendKills"].as_u64() >= Some(2)).await;
    stack.faults(json!({ "killInstanceEveryMs": 0 })).await;
    until("other starts", || async { (starts(directory.path()).len() >= 5).then_some(()) }).await;
    let paused = || starts(directory.path()).into_keys().filter(|pid| state(pid) == Some('T')).count();
    stack.faults(json!({ "pauseInstanceEveryMs": 50, "pauseInstanceMs": 3_600_000 })).await;
    until("a pause", || async { (paused() == 1).then_some(()) }).await;
    let state = stack.until_state("its count", |state| state["pauses"].as_u64() >= Some(1)).await;
    assert_eq!(state["pauses"], 1, "one at a time");
    stack.faults(json!({ "pauseInstanceEveryMs": 0 })).await;
    until("its end", || async { (paused() == 0).then_some(()) }).await;
}

#[tokio::test]
async fn redis_is_cut_off_emptied_paused_and_started_again() {
    let directory = TempDir::new().unwrap();
    let stack = three(&directory).start().await;
    let redis = redis(directory.path());
    assert_eq!(redis.len(), 3);

    let mut early = TcpStream::connect(redis[1]).await.unwrap();
    assert_eq!(ask(&mut early, "SET x 1").await.unwrap(), "+OK\r\n");
    stack.faults(json!({ "partition": [1] })).await;
    let mut late = TcpStream::connect(redis[1]).await.unwrap();
    for stream in [&mut early, &mut late] {
        stream.write_all(b"PING\r\n").await.unwrap();
    }
    assert_eq!(asks(redis[0], "GET x").await, "$1\r\n1\r\n", "the others go on");
    for stream in [&early, &late] {
        assert!(stream.try_read(&mut [0]).is_err(), "no answer");
    }
    stack.faults(json!({ "partition": [] })).await;
    for stream in [&mut early, &mut late] {
        let mut answer = [0; 7];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"+PONG\r\n", "what was on the way arrives");
    }

    let answer = stack.faults(json!({ "redisFlush": true })).await;
    assert_eq!(answer["redisFlush"], false, "it happens once");
    until("an empty Redis", || async { (asks(redis[2], "GET x").await == "$-1\r\n").then_some(()) }).await;
    asks(redis[0], "SET x 2").await;

    let pid = redis_pid(&stack);
    stack.faults(json!({ "redisPauseMs": 300 })).await;
    until("the pause", || async { stack.log().contains("Redis stands still").then_some(()) }).await;
    assert_eq!(asks(redis[0], "PING").await, "+PONG\r\n", "after its end");

    let process = rustix::process::Pid::from_raw(pid.parse().unwrap()).unwrap();
    rustix::process::kill_process(process, Signal::KILL).unwrap();
    until("another Redis", || async { (redis_pid(&stack) != pid).then_some(()) }).await;
    assert_eq!(asks(redis[0], "GET x").await, "$-1\r\n", "it starts empty");
}

#[tokio::test]
async fn what_is_missing_is_named() {
    let directory = TempDir::new().unwrap();
    let (status, said) = three(&directory).env("PATH", "/nowhere").fails();
    assert_eq!(status.code(), Some(1));
    assert!(said.contains("needs redis-server, which is not installed"), "{said}");
    let (_, said) = three(&directory).env("METRICS_BIND", "127.0.0.1:1").fails();
    assert!(said.contains("METRICS_BIND"), "{said}");
    let (_, said) = three(&directory).flag("--partition", "3").fails();
    assert!(said.contains("there is no instance 3"), "{said}");
}
