//! Session hosts: the sessions and processes that remain when a host or the backend is killed.

use std::{collections::HashMap, path::Path, time::Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::timeout;

use crate::support::{ADMIN_TOKEN, Backend, Call, Gateway, PATIENCE, Settings, lives, signal, started};

const CLIENT: &str = "client-of-hosts-tests";

/// Runs a command of a session and returns its result, answered or pushed.
pub(crate) async fn run(
    backend: &Backend,
    gateway: &Gateway,
    session: &str,
    id: &str,
    command: &str,
) -> String {
    let frame = json!({"type": "command", "id": id, "command": command});
    let answer = backend.frame(session, "alice", session, frame).await;
    let result = if answer.status() == 200 {
        answer.json().await.unwrap()
    } else {
        let late = |call: &Call| call.connection == session && call.frame["id"] == id;
        gateway.until("late result", late).await.frame
    };
    result["result"].as_str().unwrap_or_else(|| panic!("{result}")).trim().to_owned()
}

pub(crate) async fn pid(backend: &Backend, gateway: &Gateway, session: &str, command: &str) -> u32 {
    run(backend, gateway, session, command, command).await.parse().unwrap()
}

/// Creates a session with a connection of the same name, and returns the PID of its host.
pub(crate) async fn session(backend: &Backend, gateway: &Gateway, name: &str) -> u32 {
    backend.session("alice", name).await;
    backend.connect(name, "alice", name).await;
    pid(backend, gateway, name, "echo $PPID").await
}

pub(crate) async fn until_dead(pids: &[u32]) {
    let dead = async {
        while pids.iter().any(|pid| lives(*pid)) {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, dead).await.unwrap_or_else(|_| panic!("one of {pids:?} is still running"));
}

/// Waits until a failed session's connection is notified and deleted, and checks that this took under 1 s.
async fn fails(gateway: &Gateway, session: &str, since: Instant) {
    let told = |call: &Call| call.connection == session && call.frame["code"] == "SESSION_INVALID";
    gateway.until("SESSION_INVALID", told).await;
    gateway.until("DELETE", |call| call.connection == session && call.method == "DELETE").await;
    assert!(since.elapsed().as_secs_f32() < 1.0, "after {:?}", since.elapsed());
}

#[tokio::test]
async fn a_killed_host_ends_its_session_and_processes_and_nothing_else() {
    let (gateway, backend) = started().await;
    let (victim, other) =
        (session(&backend, &gateway, "victim").await, session(&backend, &gateway, "other").await);
    assert_eq!(backend.shells().len(), 2);
    // Its POSIX session, process group and parent do not identify the session it belongs to.
    let daemon = "setsid -f setsid -f sleep 1004; until pgrep -n -x -f 'sleep 1004'; do sleep 0.1; done";
    let orphan = pid(&backend, &gateway, "victim", daemon).await;
    assert!(lives(orphan));
    let killed = Instant::now();
    signal(victim, Signal::SIGKILL);
    fails(&gateway, "victim", killed).await;
    until_dead(&[victim, orphan]).await;
    let status = backend.get("/api/sessions/victim").bearer_auth(ADMIN_TOKEN).send().await.unwrap().status();
    assert_eq!(status, 404);
    assert_eq!(pid(&backend, &gateway, "other", "echo $PPID; true").await, other, "others are unaffected");
    backend.counts("shellbridge_session_faults_total 1").await;
    backend.session("alice", "victim").await;
}

/// Any shell can stop its own host.
#[tokio::test]
async fn a_stopped_host_delays_no_other_session_and_is_killed_on_deletion() {
    let (gateway, backend) = started().await;
    let (stopped, other) =
        (session(&backend, &gateway, "stopped").await, session(&backend, &gateway, "other").await);
    let shell = pid(&backend, &gateway, "stopped", "sleep 1000 >/dev/null & echo $!").await;
    signal(stopped, Signal::SIGSTOP);
    let asked = Instant::now();
    let answer = backend.frame("stopped", "alice", "stopped", json!({"type": "ping"})).await;
    assert!(asked.elapsed().as_secs() < 5, "{} after {:?}", answer.status(), asked.elapsed());
    let request = backend.delete("/api/sessions/stopped").bearer_auth(ADMIN_TOKEN).send();
    let deleted = async {
        let deleting = Instant::now();
        assert!(request.await.unwrap().status().is_success());
        assert!(deleting.elapsed().as_secs() < 15, "{:?}", deleting.elapsed());
    };
    let others = async {
        assert_eq!(pid(&backend, &gateway, "other", "echo $PPID; true").await, other);
    };
    tokio::join!(deleted, others);
    until_dead(&[stopped, shell]).await;
}

#[tokio::test]
async fn a_panic_in_a_host_ends_only_its_session() {
    let (gateway, backend) = started().await;
    session(&backend, &gateway, "other").await;
    let body = json!({"userId": "alice", "sessionId": "s", "shell": "/bin/sh", "env": {"SESSION_HOST_PANICS": "panic"}});
    backend.post("/api/sessions").bearer_auth(ADMIN_TOKEN).json(&body).send().await.unwrap();
    backend.connect("s", "alice", "s").await;
    let asked = Instant::now();
    let panics =
        backend.frame("s", "alice", "s", json!({"type": "command", "id": "1", "command": "panic"})).await;
    assert_eq!(
        (panics.status().as_u16(), panics.json::<Value>().await.unwrap()["code"].clone()),
        (404, "SESSION_INVALID".into())
    );
    fails(&gateway, "s", asked).await;
    assert_eq!(run(&backend, &gateway, "other", "1", "echo on").await, "on");
    backend.terminate();
    let (code, log) = backend.ended().await;
    assert_eq!(code, 0);
    assert!(log.contains("driver.rs"), "the log has the location: {log}");
}

/// State of a shell before its backend was killed.
pub(crate) struct Before {
    shell: String,
    attached: Value,
    /// Bytes typed so far, and attachments.
    typed: u64,
    attachments: u64,
}

const LINE: &str = "echo fir''st $$ po''int\n";

/// Attaches a client and returns the `attached` frame.
pub(crate) async fn attach(backend: &Backend, gateway: &Gateway, offset: u64, seq: u64) -> Value {
    let frame = json!({"type": "attach", "clientId": CLIENT, "cols": 80, "rows": 24, "outputOffset": offset, "seq": seq});
    let answer = backend.frame("s", "alice", "s", frame).await;
    let attached: Value = answer.json().await.unwrap();
    assert_eq!(attached["type"], "attached", "{attached}");
    let _ = gateway;
    attached
}

async fn types(backend: &Backend, offset: u64, data: &str) {
    let frame = json!({"type": "input", "clientId": CLIENT, "offset": offset, "data": data});
    assert!(backend.frame("s", "alice", "s", frame).await.status().is_success());
}

/// The output pushed to `s`, assembled by offset, and its epoch.
fn output(gateway: &Gateway) -> (Vec<u8>, Value) {
    let mut bytes = HashMap::new();
    let mut epoch = Value::Null;
    for call in
        gateway.calls().into_iter().filter(|call| call.connection == "s" && call.frame["type"] == "output")
    {
        epoch = call.frame["epoch"].clone();
        let offset = call.frame["offset"].as_u64().unwrap();
        let data = call.frame["data"].as_str().unwrap_or_default().as_bytes().to_vec();
        for (n, byte) in (offset..).zip(data) {
            assert_eq!(*bytes.entry(n).or_insert(byte), byte, "a byte changed");
        }
    }
    let mut all: Vec<_> = bytes.into_iter().collect();
    all.sort_unstable();
    (all.into_iter().map(|(_, byte)| byte).collect(), epoch)
}

/// Waits until the output contains `from` and then `to`, and returns the text between them.
pub(crate) async fn says(gateway: &Gateway, from: &str, to: &str) -> String {
    let found = async {
        loop {
            let text = String::from_utf8(output(gateway).0).unwrap();
            if let Some((_, rest)) = text.split_once(from)
                && let Some((between, _)) = rest.split_once(to)
            {
                return between.to_owned();
            }
            tokio::task::yield_now().await;
        }
    };
    let said = timeout(PATIENCE, found).await;
    said.unwrap_or_else(|_| panic!("no {from}…{to} in {:?}", String::from_utf8_lossy(&output(gateway).0)))
}

pub(crate) async fn before(backend: &Backend, gateway: &Gateway) -> Before {
    let attached = attach(backend, gateway, 0, 1).await;
    types(backend, 0, LINE).await;
    let shell = says(gateway, "first ", " point").await;
    Before { shell, attached, typed: LINE.len() as u64, attachments: 1 }
}

/// Checks that the next backend has the same shell and streams.
pub(crate) async fn goes_on(backend: &Backend, gateway: &Gateway, before: &mut Before) {
    let (had, epoch) = output(gateway);
    before.attachments += 1;
    let attached = attach(backend, gateway, 0, before.attachments).await;
    assert_eq!(attached["epoch"], before.attached["epoch"]);
    assert_eq!(attached["inputOffset"], before.typed, "the input offset survived");
    let round = format!("round {} ", before.attachments);
    let line = format!("echo ro''{} $$ po''int\n", round.trim_start_matches("ro").trim_end());
    types(backend, before.typed, &line).await;
    before.typed += line.len() as u64;
    assert_eq!(says(gateway, &round, " point").await, before.shell, "the same shell");
    let (has, after) = output(gateway);
    assert_eq!(after, epoch, "the same streams");
    assert!(has.starts_with(&had) && has.len() > had.len(), "offsets continue");
}

#[tokio::test]
async fn shells_tokens_and_offsets_outlive_a_killed_backend() {
    let run_dir = TempDir::new().unwrap();
    let run_dir = run_dir.path().join("run");
    let gateway = Gateway::start().await;
    let settings = || Settings::new().pushing_to(&gateway).set("RUN_DIR", run_dir.to_str().unwrap());
    let backend = settings().start().await;
    let owner = backend.session("alice", "s").await["token"].as_str().unwrap().to_owned();
    backend.connect("s", "alice", "s").await;
    let share =
        |backend: &Backend| backend.post("/api/sessions/s/share").bearer_auth(&owner).json(&json!({}));
    let shares: Vec<Value> = {
        let (kept, revoked) = (share(&backend).send().await.unwrap(), share(&backend).send().await.unwrap());
        vec![kept.json().await.unwrap(), revoked.json().await.unwrap()]
    };
    let revoke = format!("/api/sessions/s/shares/{}", shares[1]["id"].as_str().unwrap());
    assert_eq!(backend.delete(&revoke).bearer_auth(&owner).send().await.unwrap().status(), 204);
    let host = pid(&backend, &gateway, "s", "cd /usr; export KEPT=kept; echo $PPID").await;
    let mut before = before(&backend, &gateway).await;
    backend.crash().await;
    assert!(lives(host));

    let backend = settings().start().await;
    goes_on(&backend, &gateway, &mut before).await;
    assert_eq!(
        run(&backend, &gateway, "s", "after", "echo $KEPT $PWD $PPID").await,
        format!("kept /usr {host}")
    );
    let opens = async |token: &Value| {
        let token = token.as_str().unwrap();
        backend.get("/api/sessions/s").bearer_auth(token).send().await.unwrap().status().as_u16()
    };
    assert_eq!(opens(&owner.as_str().into()).await, 200);
    assert_eq!((opens(&shares[0]["token"]).await, opens(&shares[1]["token"]).await), (200, 401));
    assert_eq!(backend.delete("/api/sessions/s").bearer_auth(&owner).send().await.unwrap().status(), 204);
    // This backend is not the host's parent, so it only sees the link close, a moment before the process exits.
    until_dead(&[host]).await;
}

#[tokio::test]
async fn sighup_leaves_sessions_to_the_next_backend_and_sigterm_ends_them() {
    let run_dir = TempDir::new().unwrap();
    let run_dir = run_dir.path().join("run");
    let gateway = Gateway::start().await;
    let settings = || Settings::new().pushing_to(&gateway).set("RUN_DIR", run_dir.to_str().unwrap());
    let backend = settings().start().await;
    let host = session(&backend, &gateway, "s").await;
    let mut before = before(&backend, &gateway).await;
    signal(backend.pid(), Signal::SIGHUP);
    let (code, log) = backend.ended().await;
    assert_eq!(code, 0, "{log}");
    assert!(lives(host));

    let backend = settings().start().await;
    let (code, said) = settings().fails().await;
    assert_eq!(code, 1);
    assert!(said.contains("another backend"), "{said}");
    goes_on(&backend, &gateway, &mut before).await;
    backend.terminate();
    let (code, log) = backend.ended().await;
    assert_eq!(code, 0, "{log}");
    until_dead(&[host]).await;
    let left: Vec<_> = std::fs::read_dir(&run_dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["lock"]);
}

/// Open descriptors of a process.
fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

#[tokio::test]
async fn two_hundred_sessions_leave_nothing_even_if_the_backend_is_killed() {
    let run_dir = TempDir::new().unwrap();
    let run_dir = run_dir.path().join("run");
    let gateway = Gateway::start().await;
    let settings = || {
        let settings = Settings::new().pushing_to(&gateway).set("RUN_DIR", run_dir.to_str().unwrap());
        settings.set("MAX_SESSIONS_PER_USER", "200")
    };
    let mut hosts = Vec::new();
    let backend = settings().start().await;
    for n in 0..100 {
        hosts.push(abused(&backend, &gateway, n).await);
    }
    backend.crash().await;
    // Some hosts die while there is no backend.
    for host in hosts.iter().take(10) {
        signal(*host, Signal::SIGKILL);
    }
    until_dead(&hosts[..10]).await;

    let backend = settings().start().await;
    let ready = backend.get("/ready").bearer_auth(ADMIN_TOKEN).send().await.unwrap();
    assert_eq!(ready.json::<Value>().await.unwrap()["sessions"], 90);
    for n in 100..200 {
        hosts.push(abused(&backend, &gateway, n).await);
    }
    for n in 10..200 {
        let url = format!("/api/sessions/s-{n}");
        assert_eq!(backend.delete(&url).bearer_auth(ADMIN_TOKEN).send().await.unwrap().status(), 204);
    }
    until_dead(&hosts).await;
    assert_eq!(backend.shells(), Vec::<u32>::new());
    assert_eq!(std::fs::read_dir(&run_dir).unwrap().count(), 1, "only the lock is left");
    let fresh = Settings::new().pushing_to(&gateway).start().await;
    // Idle connections to the gateway stay open for a while.
    assert!(descriptors(backend.pid()) <= descriptors(fresh.pid()) + 20);
}

/// Creates a session; in every tenth, leaves background processes.
async fn abused(backend: &Backend, gateway: &Gateway, n: u32) -> u32 {
    let name = format!("s-{n}");
    let host = session(backend, gateway, &name).await;
    if n.is_multiple_of(10) {
        run(backend, gateway, &name, "leave", "setsid -f sleep 1000; sleep 1000 & echo left").await;
    }
    host
}

#[tokio::test]
async fn a_host_inherits_nothing_from_the_backend() {
    let (gateway, backend) = started().await;
    let host = session(&backend, &gateway, "s").await;
    let of = |file: &str| std::fs::read(format!("/proc/{host}/{file}")).unwrap();
    assert_eq!(of("environ"), b"");
    assert_eq!(of("cmdline").split(|byte| *byte == 0).filter(|word| !word.is_empty()).count(), 1);
    let fds = std::fs::read_dir(format!("/proc/{host}/fd")).unwrap();
    let open: Vec<_> = fds.map(|fd| std::fs::read_link(fd.unwrap().path()).unwrap()).collect();
    let inherited = |path: &Path| {
        !path.to_str().unwrap().starts_with(['a', 's', 'p'])
            && path != Path::new("/dev/null")
            && path != Path::new("/dev/ptmx")
    };
    assert!(!open.iter().any(|path| inherited(path)), "{open:?}");
    let stat = String::from_utf8(of("stat")).unwrap();
    let nice: i32 =
        stat.rsplit_once(')').unwrap().1.split_ascii_whitespace().nth(16).unwrap().parse().unwrap();
    assert!(nice > 0, "the backend has priority");
    // A shell cannot access the host: root owns its `/proc` files, even if both run as the same user.
    assert_eq!(run(&backend, &gateway, "s", "own", "stat -c %u /proc/$PPID/environ").await, "0");
}
