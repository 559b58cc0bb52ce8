//! `backend --init`: the backend is started again when it crashes, and nothing outlives a stop.

use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
};

use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::timeout;

use crate::{
    hosts::{before, goes_on, pid, run, session, until_dead},
    support::{ADMIN_TOKEN, BACKEND, Backend, Gateway, PATIENCE, Settings, lives, signal},
};

/// Leaves a process that only its host can find, and prints its PID. Each test has its own number of seconds, and each run
/// its own fraction, since a failed run may have left one.
fn daemon(seconds: u32) -> String {
    let sleep = format!("sleep {seconds}.{}", std::process::id());
    format!("setsid -f setsid -f {sleep}; until pgrep -n -x -f '{sleep}'; do sleep 0.1; done")
}

/// Settings with a `RUN_DIR` that outlives init.
fn settings(gateway: &Gateway, home: &TempDir) -> Settings {
    Settings::new().pushing_to(gateway).set("RUN_DIR", home.path().join("run").to_str().unwrap())
}

async fn start(settings: Settings) -> Backend {
    settings.start_by((BACKEND, &["--init".to_owned()])).await
}

async fn fails(settings: Settings) -> (i32, String) {
    settings.fails_by((BACKEND, &["--init".to_owned()])).await
}

fn is_backend(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.contains("--below-init"))
}

/// The backend below an init.
fn backend_of(init: &Backend) -> u32 {
    init.shells().into_iter().find(|pid| is_backend(*pid)).expect("a backend below init")
}

/// Kills the backend below an init, and waits for the next one.
async fn crash(init: &mut Backend) {
    signal(backend_of(init), Signal::SIGKILL);
    init.listens_again().await;
}

/// The children of init, zombies included.
fn children(init: &Backend) -> Vec<u32> {
    let list = fs::read_to_string(format!("/proc/{0}/task/{0}/children", init.pid())).unwrap();
    list.split_ascii_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

/// Waits until these are the children of init, besides the backend.
async fn until_children(init: &Backend, others: &[u32]) {
    let others: HashSet<u32> = others.iter().copied().collect();
    let found = || -> HashSet<u32> { children(init).into_iter().filter(|pid| !is_backend(*pid)).collect() };
    let until = async {
        while found() != others {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, until).await.unwrap_or_else(|_| panic!("{:?} instead of {others:?}", found()));
}

/// A `session-host` that can be taken away, so that no backend can start.
fn own_host(home: &TempDir) -> PathBuf {
    let path = home.path().join("session-host");
    fs::copy(Path::new(BACKEND).with_file_name("session-host"), &path).unwrap();
    path
}

/// Kills the backend while none can start, and waits until init has noticed.
async fn down(init: &Backend, host: &Path) -> PathBuf {
    let away = host.with_extension("away");
    fs::rename(host, &away).unwrap();
    let backend = backend_of(init);
    signal(backend, Signal::SIGKILL);
    let until = async {
        while children(init).contains(&backend) {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, until).await.expect("init reaps it");
    away
}

#[tokio::test]
async fn init_starts_a_killed_backend_again_and_its_sessions_go_on() {
    let (gateway, home) = (Gateway::start().await, TempDir::new().unwrap());
    let mut init = start(settings(&gateway, &home)).await;
    let host = session(&init, &gateway, "s").await;
    let mut state = before(&init, &gateway).await;
    for _ in 0..3 {
        crash(&mut init).await;
        goes_on(&init, &gateway, &mut state).await;
        until_children(&init, &[host]).await;
    }
    let shell = pid(&init, &gateway, "s", "echo $$").await;
    let last = session(&init, &gateway, "last").await;
    init.terminate();
    let (code, log) = init.ended().await;
    assert_eq!(code, 0, "{log}");
    until_dead(&[host, shell, last]).await;
    let left: Vec<_> =
        fs::read_dir(home.path().join("run")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["lock"]);
    assert_eq!(log.matches("starting it again").count(), 3, "{log}");
}

#[tokio::test]
async fn sigterm_ends_all_sessions_even_if_no_backend_can_start() {
    for stop in [Signal::SIGTERM, Signal::SIGINT] {
        let home = TempDir::new().unwrap();
        let program = own_host(&home);
        let gateway = Gateway::start().await;
        let settings = Settings::new().pushing_to(&gateway).set("SESSION_HOST", program.to_str().unwrap());
        let init = start(settings).await;
        let host = session(&init, &gateway, "s").await;
        let orphan = pid(&init, &gateway, "s", &daemon(1005)).await;
        let deaf = pid(&init, &gateway, "s", "(trap '' HUP TERM; exec sleep 1006) & echo $!").await;
        let crashed = init.pid();
        down(&init, &program).await;
        assert!(lives(host) && lives(orphan) && lives(deaf));
        signal(crashed, stop);
        let (code, log) = init.ended().await;
        assert_eq!(code, 0, "{log}");
        for pid in [host, orphan, deaf] {
            assert!(!Path::new(&format!("/proc/{pid}")).exists(), "{pid} is left: {log}");
        }
    }
}

#[tokio::test]
async fn init_retries_until_a_backend_can_start_again() {
    let home = TempDir::new().unwrap();
    let program = own_host(&home);
    let gateway = Gateway::start().await;
    let settings = Settings::new().pushing_to(&gateway).set("SESSION_HOST", program.to_str().unwrap());
    let mut init = start(settings).await;
    let (host, victim) = (session(&init, &gateway, "s").await, session(&init, &gateway, "victim").await);
    let mut state = before(&init, &gateway).await;
    let orphan = pid(&init, &gateway, "victim", &daemon(1007)).await;
    let away = down(&init, &program).await;
    // Nobody else would end what it leaves.
    signal(victim, Signal::SIGKILL);
    until_dead(&[victim, orphan]).await;
    until_children(&init, &[host]).await;
    init.logs("is not a file").await;
    fs::rename(away, &program).unwrap();
    init.listens_again().await;
    goes_on(&init, &gateway, &mut state).await;
    init.terminate();
    let (code, log) = init.ended().await;
    assert_eq!(code, 0, "{log}");
}

#[tokio::test]
async fn init_ends_what_a_killed_host_of_an_earlier_backend_leaves_and_nothing_else() {
    let gateway = Gateway::start().await;
    let mut init = start(Settings::new().pushing_to(&gateway)).await;
    let old = session(&init, &gateway, "old").await;
    let victim = session(&init, &gateway, "victim").await;
    let orphan = pid(&init, &gateway, "victim", &daemon(1008)).await;
    crash(&mut init).await;
    let new = session(&init, &gateway, "new").await;
    until_children(&init, &[old, victim]).await;
    signal(victim, Signal::SIGKILL);
    until_dead(&[victim, orphan]).await;
    until_children(&init, &[old]).await;
    let gone = init.get("/api/sessions/victim").bearer_auth(ADMIN_TOKEN).send().await.unwrap();
    assert_eq!(gone.status(), 404);
    crash(&mut init).await;
    until_children(&init, &[old, new]).await;
    for (name, host) in [("old", old), ("new", new)] {
        assert_eq!(run(&init, &gateway, name, "after", "echo $PPID").await, host.to_string(), "{name}");
    }
}

#[tokio::test]
async fn sighup_to_init_leaves_sessions_to_the_next_one() {
    let (gateway, home) = (Gateway::start().await, TempDir::new().unwrap());
    let init = start(settings(&gateway, &home)).await;
    let host = session(&init, &gateway, "s").await;
    let mut state = before(&init, &gateway).await;
    signal(init.pid(), Signal::SIGHUP);
    let (code, log) = init.ended().await;
    assert_eq!(code, 0, "{log}");
    assert!(lives(host));

    let init = start(settings(&gateway, &home)).await;
    goes_on(&init, &gateway, &mut state).await;
    init.terminate();
    let (code, log) = init.ended().await;
    assert_eq!(code, 0, "{log}");
    until_dead(&[host]).await;
}

#[tokio::test]
async fn a_backend_dies_with_its_init_and_its_sessions_do_not() {
    let (gateway, home) = (Gateway::start().await, TempDir::new().unwrap());
    let init = start(settings(&gateway, &home)).await;
    let host = session(&init, &gateway, "s").await;
    let backend = backend_of(&init);
    init.crash().await;
    until_dead(&[backend]).await;
    assert!(lives(host));
    let init = start(settings(&gateway, &home)).await;
    let ready: Value =
        init.get("/ready").bearer_auth(ADMIN_TOKEN).send().await.unwrap().json().await.unwrap();
    assert_eq!(ready["sessions"], 1);
    let ended = init.delete("/api/sessions/s").bearer_auth(ADMIN_TOKEN).send().await.unwrap();
    assert_eq!(ended.status(), 204);
    until_dead(&[host]).await;
}

#[tokio::test]
async fn an_error_of_the_settings_ends_init_at_once() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    for (settings, words) in [
        (Settings::new().set("JWT_SECRET", "short"), "JWT_SECRET: each key is at least 32 bytes"),
        (Settings::new().set("SOCKET_IO", "true"), "SOCKET_IO is not implemented yet"),
        (Settings::new().set("PORT", &port), "cannot listen on 127.0.0.1"),
    ] {
        let (code, said) = fails(settings).await;
        assert_eq!(code, 1, "{said}");
        assert!(said.contains(&format!("backend: {words}")) && !said.contains("starting it again"), "{said}");
    }
}

/// A shell bound the port of a crashed backend, and received the tokens meant for the next one.
#[tokio::test]
async fn regression_the_port_of_a_crashed_backend_is_not_free() {
    let home = TempDir::new().unwrap();
    let program = own_host(&home);
    let mut init = start(Settings::new().set("SESSION_HOST", program.to_str().unwrap())).await;
    let address = init.url.trim_start_matches("http://").to_owned();
    let take = || std::net::TcpListener::bind(&address).expect_err("the port is taken").kind();
    let away = down(&init, &program).await;
    assert_eq!(take(), std::io::ErrorKind::AddrInUse);
    // No backend can start: requests fail, instead of waiting for one.
    init.logs("is not a file").await;
    init.get("/health").send().await.expect_err("no backend serves it");
    fs::rename(away, &program).unwrap();
    init.listens_again().await;
    for _ in 0..2 {
        assert_eq!(init.get("/health").send().await.unwrap().status(), 200);
        assert_eq!(take(), std::io::ErrorKind::AddrInUse);
        crash(&mut init).await;
    }
    init.terminate();
    let (code, log) = init.ended().await;
    assert_eq!(code, 0, "{log}");
}
