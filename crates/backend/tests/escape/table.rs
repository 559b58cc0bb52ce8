//! Runs the table of attacks.

use std::collections::BTreeMap;

use crate::{
    attacks::{ATTACKS, Attack},
    room::{Building, Room, run, session, unlimited},
    support::{Backend, Gateway},
};

/// What the victim does: prints its variables, which the attacker may know.
pub(crate) const VICTIM: &str = r#"
    cd; echo secret >notes; echo secret >.sh_history; touch .profile
    mkdir -p ${TMPDIR:=$HOME/tmp}; echo secret >$TMPDIR/file
    echo secret >/tmp/v-$V_ID; echo secret >/dev/shm/v-$V_ID
    sleep 1000 >/dev/null 2>&1 &
    shell=$(ps -o pid=,tty= --ppid $PPID | awk '$2 != "?" { print $1; exit }')
    echo V_JOB=$! V_HOST=$PPID V_SHELL=$shell V_HOME=$HOME V_TMP=$TMPDIR V_TTY=$(readlink /proc/$shell/fd/0)
    echo V_SHM=$(ipcmk -M 100 -p 0600 | grep -o '[0-9]*$')
"#;

async fn open(room: Room, backend: &Backend, name: &str, env: &BTreeMap<String, String>) {
    if room == Room::None {
        unlimited(backend, name, env).await;
    } else {
        session(backend, name, env).await;
    }
}

/// Variables of the attacker's session.
async fn victim(backend: &Backend, gateway: &Gateway, building: &Building) -> BTreeMap<String, String> {
    let id = std::process::id().to_string() + &uuid::Uuid::new_v4().simple().to_string();
    let set = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let own = BTreeMap::from([set("V_ID", &id), set("SECRET", "secret")]);
    open(building.room(), backend, "victim", &own).await;
    let said = run(backend, gateway, "victim", VICTIM).await;
    let said = said.split_ascii_whitespace().map(|pair| pair.split_once('=').unwrap());
    let mut known: BTreeMap<_, _> = said.map(|(name, value)| set(name, value)).collect();
    assert!(known.len() == 7 && !known.values().any(String::is_empty), "{known:?}");
    known.extend([
        set("V_ID", &id),
        set("BACKEND", &backend.pid().to_string()),
        set("RUN_DIR", building.run_dir().to_str().unwrap()),
        set("PROGRAMS", building.programs().to_str().unwrap()),
    ]);
    known
}

/// Tries all attacks. Returns the names of those that succeed.
async fn tried(room: Room) -> Vec<&'static str> {
    let building = Building::new(room);
    let gateway = Gateway::start().await;
    let backend = building.start(&gateway).await;
    let known = victim(&backend, &gateway, &building).await;
    open(room, &backend, "attacker", &known).await;
    let mut escaped = Vec::new();
    for Attack { name, command, works } in ATTACKS {
        if room == Room::None && !works {
            continue;
        }
        let done = crate::room::done(&backend, &gateway, "attacker", command).await;
        let code = done["exitCode"].as_i64().unwrap_or_else(|| panic!("{name}: {done}"));
        if code == 0 {
            eprintln!("{room:?}: {name}: {done}");
            escaped.push(*name);
        } else if room == Room::None {
            eprintln!("{room:?}: does not work: {name}: {done}");
        }
    }
    // The victim goes on.
    let ids = run(&backend, &gateway, "victim", "kill -0 $(pgrep -u $(id -u) sleep) && cat ~/notes").await;
    assert!(ids.ends_with("secret"), "{ids}");
    for name in ["victim", "attacker"] {
        crate::room::delete(&backend, name).await;
    }
    if room == Room::None {
        for place in ["/tmp", "/dev/shm"] {
            std::fs::remove_file(format!("{place}/v-{}", known["V_ID"])).unwrap();
        }
    } else {
        building.empties().await;
        assert!(!std::path::Path::new(&format!("/tmp/v-{}", known["V_ID"])).exists());
        assert!(!std::path::Path::new(&format!("/dev/shm/v-{}", known["V_ID"])).exists());
        let segments = std::fs::read_to_string("/proc/sysvipc/shm").unwrap();
        let left = segments.lines().any(|line| line.split_ascii_whitespace().nth(1) == Some(&known["V_SHM"]));
        assert!(!left, "{segments}");
    }
    escaped
}

#[tokio::test]
async fn no_attack_leaves_a_session_of_a_user_whose_backend_is_root() {
    assert_eq!(tried(Room::UserAsRoot).await, Vec::<&str>::new());
}

#[tokio::test]
async fn no_attack_leaves_a_session_of_a_user_whose_backend_has_file_capabilities() {
    assert_eq!(tried(Room::User).await, Vec::<&str>::new());
}

/// Shows that the attacks work: an attack that fails everywhere holds nothing.
#[tokio::test]
async fn the_attacks_work_where_nothing_keeps_sessions_apart() {
    let escaped = tried(Room::None).await;
    let able = |attack: &&Attack| attack.works && !escaped.contains(&attack.name);
    let fail: Vec<_> = ATTACKS.iter().filter(able).map(|attack| attack.name).collect();
    assert!(ATTACKS.len() >= 100, "{}", ATTACKS.len());
    // A container denies its root a few.
    assert!(fail.len() <= 10, "{fail:?}");
}
