//! What outlives what: sessions the backend, and nothing its session.

use nix::sys::signal::Signal;
use serde_json::json;

use super::{Site, Typist, create, delete, done, run, session, until};
use crate::support::{ADMIN_TOKEN, lives, signal};

/// Lines that a shell prints while backends come and go.
const LINES: u32 = 60_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_byte_is_lost_when_the_backend_is_killed_again_and_again() {
    let (site, mut backend) = Site::started().await;
    session(&backend, "s", json!({})).await;
    let mut typist = Typist::new(&site.gateway, "s");
    typist.attach(&backend).await;
    typist.types(&backend, &format!("stty -echo; echo rea''dy; i=0; while [ $i -lt {LINES} ]; do echo line $i; i=$((i+1)); done; echo en''d\n")).await;
    typist.reads(&backend, "ready").await;
    for at in [5_000, 20_000, 40_000] {
        typist.reads(&backend, &format!("line {at}\r\n")).await;
        backend.crash().await;
        backend = site.settings().start().await;
        let attached = typist.attach(&backend).await;
        assert_eq!(attached["inputOffset"], typist.typed, "what was typed was taken");
    }
    let output = typist.reads(&backend, "end\r\n").await;
    let lines: Vec<_> = output.lines().filter_map(|line| line.strip_prefix("line ")).collect();
    assert_eq!(lines.len(), LINES as usize);
    assert!(lines.iter().enumerate().all(|(n, line)| line.parse() == Ok(n)), "each line once, in order");
    delete(&backend, "s").await;
    site.empties().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_survives_its_session() {
    let (site, backend) = Site::started().await;
    session(&backend, "s", json!({"limits": {"pids": 200}})).await;
    let leave = "setsid sh -c 'setsid sleep 1000 & sleep 1000' >/dev/null 2>&1 & nohup sleep 1000 >/dev/null 2>&1 & \
        sh -c 'trap \"\" HUP TERM INT QUIT; while :; do sleep 1; done' >/dev/null 2>&1 & \
        sleep 1000 >/dev/null 2>&1 & kill -STOP $!; \
        sh -c 'b() { b | b & }; b' >/dev/null 2>&1 & sleep 1; echo left";
    // The bomb may leave no process for what follows a command.
    let said = done(&backend, &site.gateway, "s", leave).await;
    assert!(said["result"].as_str().unwrap().contains("left"), "{said}");
    let processes = site.processes();
    assert!(processes.len() > 5, "{processes:?}");
    delete(&backend, "s").await;
    site.empties().await;
    until("no process", || !processes.iter().any(|pid| lives(*pid))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_host_ends_its_session_and_container() {
    let (site, backend) = Site::started().await;
    session(&backend, "s", json!({})).await;
    session(&backend, "other", json!({})).await;
    let containers = site.engine.containers();
    let container = containers.iter().find(|one| one["Labels"]["shellbridge.session"] == "s").unwrap();
    let host = u32::try_from(container["Pid"].as_u64().unwrap()).unwrap();
    signal(host, Signal::SIGKILL);
    site.gateway
        .until("SESSION_INVALID", |call| call.connection == "s" && call.frame["code"] == "SESSION_INVALID")
        .await;
    until("one container", || site.engine.containers().len() == 1).await;
    assert_eq!(run(&backend, &site.gateway, "other", "echo here").await, "here");
    // The name is free again.
    session(&backend, "s", json!({})).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_sessions_leave_nothing() {
    let (site, backend) = Site::started().await;
    session(&backend, "first", json!({})).await;
    delete(&backend, "first").await;
    let descriptors = || std::fs::read_dir(format!("/proc/{}/fd", backend.pid())).unwrap().count();
    let before = descriptors();
    // Four at a time.
    for turn in 0..50 {
        let all = (0..4).map(|n| {
            let (backend, gateway) = (&backend, &site.gateway);
            async move {
                let name = format!("s-{turn}-{n}");
                session(backend, &name, json!({})).await;
                if n == 0 {
                    done(backend, gateway, &name, "setsid sleep 1000 >/dev/null 2>&1 & echo x").await;
                }
                delete(backend, &name).await;
            }
        });
        futures_util::future::join_all(all).await;
    }
    site.empties().await;
    // Idle connections to the gateway stay open for a while.
    until("no descriptor left", || descriptors() <= before + 20).await;
    assert_eq!(site.processes(), Vec::<u32>::new());
    let volumes = site.engine.run(&["volume", "ls", "--quiet"]);
    assert_eq!(volumes.lines().count(), 1, "only the one with the host: {volumes}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ended_containers_of_any_backend_are_removed_and_living_ones_left_alone() {
    let site = Site::new().await;
    let make = |instance: &str, command: &str| {
        let (instance, session) = (format!("shellbridge.instance={instance}"), "shellbridge.session=x");
        let labels = ["--label", &instance, "--label", session];
        let all =
            [&["run", "--detach", "--network", "none"][..], &labels, &["lab", "sh", "-c", command]].concat();
        site.engine.run(&all)
    };
    let alive = make("another", "sleep 1000");
    let over = make("another", "true");
    let foreign = site.engine.run(&["run", "--detach", "--network", "none", "lab", "true"]);
    until("it has ended", || {
        site.engine.containers().iter().filter(|one| one["State"] == "exited").count() == 2
    })
    .await;
    let backend = site.settings().start().await;
    let ids = || {
        site.engine.containers().iter().map(|one| one["Id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    until("the ended one is removed", || !ids().contains(&over)).await;
    assert!(ids().contains(&alive) && ids().contains(&foreign), "{:?}", ids());
    // A session with the same name is another one.
    session(&backend, "x", json!({})).await;
    delete(&backend, "x").await;
    assert!(ids().contains(&alive));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sighup_leaves_sessions_to_the_next_backend_and_sigterm_ends_them() {
    let (site, backend) = Site::started().await;
    session(&backend, "s", json!({})).await;
    assert_eq!(run(&backend, &site.gateway, "s", "cd /etc; export KEPT=kept; echo").await, "");
    signal(backend.pid(), Signal::SIGHUP);
    let (code, log) = backend.ended().await;
    assert_eq!(code, 0, "{log}");

    let backend = site.settings().start().await;
    Typist::new(&site.gateway, "s").attach(&backend).await;
    assert_eq!(run(&backend, &site.gateway, "s", "echo $KEPT; pwd").await, "kept\n/etc");
    let (status, _) = create(&backend, "s", json!({})).await;
    assert_eq!(status, 409, "it exists");
    let shown = backend.get("/api/sessions/s").bearer_auth(ADMIN_TOKEN).send().await.unwrap();
    assert_eq!(shown.status(), 200);
    backend.terminate();
    let (code, log) = backend.ended().await;
    assert_eq!(code, 0, "{log}");
    site.empties().await;
}
