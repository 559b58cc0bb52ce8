//! What a shell does so that something of it survives its session, its host or the backend.

use std::{collections::BTreeMap, fs, os::unix::fs::MetadataExt as _};

use nix::sys::signal::Signal;
use serde_json::json;
use tokio::time::timeout;

use crate::{
    room::{Building, Room, delete, done, run, session},
    support::{ADMIN_TOKEN, Backend, Gateway, PATIENCE, lives, signal},
};

const ROOMS: [Room; 2] = [Room::User, Room::UserAsRoot];

/// Commands that leave a process. Each prints nothing, and ends at once.
const LEAVE: [(&str, &str); 9] = [
    ("in the background", "sleep 1001 >/dev/null 2>&1 &"),
    ("without a terminal", "nohup sleep 1002 >/dev/null 2>&1 &"),
    ("in a POSIX session", "setsid -f sleep 1003 >/dev/null 2>&1"),
    ("orphaned twice", "setsid -f setsid -f setsid -f sleep 1004 >/dev/null 2>&1"),
    ("ignoring signals", "setsid -f sh -c 'trap \"\" HUP INT TERM QUIT USR1 USR2 TSTP CONT; while :; do sleep 1; done' >/dev/null 2>&1"),
    ("stopped", "setsid -f sh -c 'kill -STOP $$; sleep 1005' >/dev/null 2>&1"),
    ("coming back", "setsid -f sh -c 'while :; do setsid -f sleep 0.2; sleep 0.1; done' >/dev/null 2>&1"),
    ("as a thread whose process looks dead", "setsid -f python3 -c 'import ctypes, threading, time
threading.Thread(target=time.sleep, args=(1000,)).start()
ctypes.CDLL(None).pthread_exit(None)' >/dev/null 2>&1"),
    ("killing what would kill it", "setsid -f python3 -c 'import os, signal, time
me = os.getuid()
while True:
    for pid in os.listdir(\"/proc\"):
        try:
            if pid.isdigit() and int(pid) != os.getpid() and \"session-host\" in open(f\"/proc/{pid}/comm\").read() and f\"\\t{me}\\t\" in open(f\"/proc/{pid}/status\").read() and b\"kill\" in open(f\"/proc/{pid}/cmdline\", \"rb\").read():
                os.kill(int(pid), signal.SIGKILL)
        except OSError: pass' >/dev/null 2>&1"),
];

/// Files in all places that outlive processes.
const LITTER: &str = r#"
    for place in /tmp /var/tmp /dev/shm; do
        echo left >$place/left-$V_ID
        mkdir -p $place/left-$V_ID.d/a/b && touch $place/left-$V_ID.d/a/b/c && chmod 0 $place/left-$V_ID.d/a
    done
    mkfifo ~/fifo; ln -s /etc ~/link; ln -s /dev/zero ~/zero; touch ~/-rf ~/'a
b'
    python3 -c 'import os
os.chdir(os.environ["HOME"])
for n in range(3000): os.mkdir("d"); os.chdir("d")
open("file", "w")'
    mkdir -p ~/none/inner && touch ~/none/inner/file && chmod 0 ~/none/inner ~/none
    ipcmk -M 100 -S 2 -Q >/dev/null
    chmod 500 ~
"#;

async fn opened(backend: &Backend, name: &str) {
    let env = BTreeMap::from([("V_ID".to_owned(), uuid::Uuid::new_v4().to_string())]);
    session(backend, name, &env).await;
}

/// Leaves everything that a shell can leave.
async fn leaves(backend: &Backend, gateway: &Gateway, name: &str) {
    opened(backend, name).await;
    assert_eq!(run(backend, gateway, name, LITTER).await, "");
    for (how, command) in LEAVE {
        let left = done(backend, gateway, name, command).await;
        assert_eq!((&left["exitCode"], &left["result"]), (&json!(0), &json!("")), "{how}: {left}");
    }
}

/// Asserts that nothing of the building's users is left anywhere.
fn clean(building: &Building) {
    for place in ["/tmp", "/var/tmp", "/dev/shm"] {
        for entry in fs::read_dir(place).unwrap().flatten() {
            let owner = entry.metadata().map_or(0, |is| is.uid());
            assert!(!building.has(owner), "{}", entry.path().display());
        }
    }
    for list in ["shm", "sem", "msg"] {
        let list = fs::read_to_string(format!("/proc/sysvipc/{list}")).unwrap();
        let owned = list
            .split_ascii_whitespace()
            .any(|word| word.parse().is_ok_and(|uid| uid > 1_000_000 && building.has(uid)));
        assert!(!owned, "{list}");
    }
}

#[tokio::test]
async fn nothing_survives_its_session() {
    for room in ROOMS {
        let building = Building::new(room);
        let gateway = Gateway::start().await;
        let backend = building.start(&gateway).await;
        leaves(&backend, &gateway, "s").await;
        assert!(building.processes().len() >= LEAVE.len(), "{:?}", building.processes());
        delete(&backend, "s").await;
        building.empties().await;
        clean(&building);
    }
}

#[tokio::test]
async fn nothing_survives_a_killed_host() {
    for room in ROOMS {
        let building = Building::new(room);
        let gateway = Gateway::start().await;
        let backend = building.start(&gateway).await;
        leaves(&backend, &gateway, "s").await;
        // The last thing that its shell does.
        let kill = json!({"type": "command", "id": "k", "command": "kill -9 $PPID"});
        let _ = backend.frame("s", "s", "s", kill).await;
        building.empties().await;
        clean(&building);
        let status = backend.get("/api/sessions/s").bearer_auth(ADMIN_TOKEN).send().await.unwrap().status();
        assert_eq!(status, 404);
    }
}

/// A shell that stopped its host kept its session past its end, and from every later backend.
#[tokio::test]
async fn regression_a_stopped_host_keeps_no_session_alive() {
    let building = Building::new(Room::User);
    let gateway = Gateway::start().await;
    let backend = building.start(&gateway).await;
    let body = json!({"userId": "s", "sessionId": "s", "ttlSeconds": 5});
    let made = backend.post("/api/sessions").bearer_auth(ADMIN_TOKEN).json(&body).send().await.unwrap();
    assert_eq!(made.status(), 201);
    backend.connect("s", "s", "s").await;
    let stop = "setsid -f sleep 1000 >/dev/null 2>&1; kill -STOP $PPID";
    let stop = json!({"type": "command", "id": "k", "command": stop});
    let _ = backend.frame("s", "s", "s", stop.clone()).await;
    building.empties().await;
    opened(&backend, "t").await;
    let _ = backend.frame("t", "t", "t", stop).await;
    backend.crash().await;
    let _next = building.start(&gateway).await;
    // The next backend waits for the host for half a minute.
    let empty = async {
        while !building.is_empty() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE * 4, empty).await.unwrap_or_else(|_| panic!("{:?}", building.processes()));
    clean(&building);
}

#[tokio::test]
async fn sessions_survive_a_killed_backend_and_what_dead_hosts_left_does_not() {
    for room in ROOMS {
        let building = Building::new(room);
        let gateway = Gateway::start().await;
        let backend = building.start(&gateway).await;
        leaves(&backend, &gateway, "dead").await;
        opened(&backend, "living").await;
        let job = run(&backend, &gateway, "living", "sleep 1000 >/dev/null 2>&1 & echo $!").await;
        let host: u32 = run(&backend, &gateway, "dead", "echo $PPID").await.parse().unwrap();
        backend.crash().await;
        signal(host, Signal::SIGKILL);
        let before = building.processes().len();
        assert!(before > LEAVE.len(), "{before}");
        let backend = building.start(&gateway).await;
        backend.connect("living", "living", "living").await;
        run(&backend, &gateway, "living", &format!("kill -0 {job}")).await;
        // Only the living session's: its host, its shell and its job.
        let few = async {
            while building.processes().len() > 3 {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE * 2, few).await.unwrap_or_else(|_| panic!("{:?}", building.processes()));
        delete(&backend, "living").await;
        building.empties().await;
        clean(&building);
    }
}

/// Forks in all its processes as fast as it can, to the limit of its user.
const BOMB: &str = "setsid -f python3 -c 'import os
while True:
    try: os.fork()
    except OSError: pass' >/dev/null 2>&1";

#[tokio::test]
async fn a_fork_bomb_delays_others_little_and_ends_with_its_session() {
    let building = Building::new(Room::User);
    let gateway = Gateway::start().await;
    let backend = building.start(&gateway).await;
    opened(&backend, "other").await;
    let quiet = slowest(&backend, &gateway).await;
    opened(&backend, "bomb").await;
    done(&backend, &gateway, "bomb", BOMB).await;
    let full = async {
        while building.processes().len() < 40 {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, full).await.expect("it forks to its limit");
    let loud = slowest(&backend, &gateway).await;
    println!("a command beside a fork bomb takes {loud:?}, without {quiet:?}");
    assert!(loud < PATIENCE, "{loud:?}");
    delete(&backend, "bomb").await;
    let others = building.processes();
    assert!(others.len() <= 4, "{others:?}");
    delete(&backend, "other").await;
    building.empties().await;
}

/// Longest of some commands.
async fn slowest(backend: &Backend, gateway: &Gateway) -> std::time::Duration {
    let mut slowest = std::time::Duration::ZERO;
    for _ in 0..20 {
        let asked = std::time::Instant::now();
        run(backend, gateway, "other", "true").await;
        slowest = slowest.max(asked.elapsed());
    }
    slowest
}

/// Another session's user makes directories in those that this one opens to it.
#[tokio::test]
async fn what_two_users_made_together_ends_with_either() {
    let building = Building::new(Room::User);
    let gateway = Gateway::start().await;
    let backend = building.start(&gateway).await;
    for name in ["a", "b"] {
        opened(&backend, name).await;
    }
    let shared = format!("/tmp/shared-{}", std::process::id());
    run(&backend, &gateway, "a", &format!("mkdir {shared} && chmod 777 {shared}")).await;
    run(
        &backend,
        &gateway,
        "b",
        &format!("mkdir -p {shared}/x/y && touch {shared}/x/y/z {shared}/f && chmod 0 {shared}/x"),
    )
    .await;
    delete(&backend, "a").await;
    assert!(!fs::exists(&shared).unwrap(), "it ends with its owner");
    run(&backend, &gateway, "b", &format!("mkdir {shared} && chmod 777 {shared}")).await;
    opened(&backend, "c").await;
    run(&backend, &gateway, "c", &format!("mkdir {shared}/x && touch {shared}/x/y {shared}/z")).await;
    delete(&backend, "c").await;
    assert!(!fs::exists(format!("{shared}/x")).unwrap() && !fs::exists(format!("{shared}/z")).unwrap());
    delete(&backend, "b").await;
    building.empties().await;
    clean(&building);
}

#[tokio::test]
async fn an_init_that_stops_without_its_backend_ends_all() {
    let building = Building::new(Room::User);
    let gateway = Gateway::start().await;
    let (program, arguments) = building.starter(&["--init"]);
    let backend = building.settings(&gateway).start_by((program, &arguments)).await;
    leaves(&backend, &gateway, "s").await;
    let [below] = backend.shells()[..] else { panic!("{:?}", backend.shells()) };
    // So that the next one does not start.
    signal(below, Signal::SIGSTOP);
    backend.terminate();
    signal(below, Signal::SIGKILL);
    let (code, log) = backend.ended().await;
    assert_eq!(code, 0, "{log}");
    assert!(!lives(below));
    assert_eq!(building.processes(), Vec::<u32>::new());
    // The next backend removes what is left of them.
    let _backend = building.start(&gateway).await;
    building.empties().await;
    clean(&building);
}
