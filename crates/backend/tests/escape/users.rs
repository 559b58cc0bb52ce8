//! The users of sessions: which ids they get, and what they find.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::MetadataExt as _,
    path::Path,
};

use serde_json::{Value, json};

use crate::{
    room::{Building, IMAGE, Room, delete, run, session},
    support::{ADMIN_TOKEN, Gateway},
};

#[tokio::test]
async fn a_session_has_a_user_a_home_and_a_terminal() {
    for room in [Room::User, Room::UserAsRoot] {
        let building = Building::new(room);
        let gateway = Gateway::start().await;
        let backend = building.start(&gateway).await;
        session(&backend, "s", &BTreeMap::new()).await;
        let ask = async |command: &str| run(&backend, &gateway, "s", command).await;
        let uid: u32 = ask("id -u").await.parse().unwrap();
        assert!(building.has(uid), "{uid}");
        assert_eq!(ask("id -G").await, uid.to_string());
        let place = building.homes().join(uid.to_string());
        assert_eq!(ask("pwd; echo $HOME $TMPDIR $USER $LOGNAME").await, {
            let place = place.display();
            format!("{place}/home\n{place}/home {place}/tmp user-{uid} user-{uid}")
        });
        let home = place.join("home").metadata().unwrap();
        assert_eq!((home.uid(), home.gid(), home.mode() & 0o7777), (uid, uid, 0o700));
        let owner = place.metadata().unwrap();
        let backend_user = if room == Room::User { IMAGE } else { 0 };
        assert_eq!((owner.uid(), owner.gid(), owner.mode() & 0o7777), (backend_user, uid, 0o710));
        let skeleton = fs::read_dir("/etc/skel").unwrap().count();
        assert_eq!(ask("ls -A ~ | wc -l").await, skeleton.to_string());
        let tty = "stat -c '%u %a' $(readlink /proc/$(ps -o pid=,tty= --ppid $PPID | awk '$2 != \"?\" { print $1; exit }')/fd/0)";
        let tty = ask(tty).await;
        assert!([format!("{uid} 620"), format!("{uid} 600")].contains(&tty), "{tty}");
        assert_eq!(ask("umask; cat /proc/$PPID/oom_score_adj").await, "0077\n500");
        delete(&backend, "s").await;
        building.empties().await;
    }
}

#[tokio::test]
async fn a_full_range_is_an_error_and_an_id_is_given_again_with_nothing_left() {
    let building = Building::new(Room::User);
    let gateway = Gateway::start().await;
    let first =
        fs::metadata("/proc/self").unwrap().uid() + 900_000 + std::process::id() % 50_000 * 3 + 2_000_000_000;
    let (program, arguments) = building.starter(&[]);
    let settings = building.settings(&gateway).set("SHELL_UIDS", &format!("{first}-{}", first + 2));
    let backend = settings.start_by((program, &arguments)).await;
    let mut uids = BTreeSet::new();
    for name in ["a", "b"] {
        session(&backend, name, &BTreeMap::new()).await;
        uids.insert(
            run(&backend, &gateway, name, "echo secret >~/left; echo secret >/tmp/left-$(id -u); id -u")
                .await,
        );
    }
    assert_eq!(uids.len(), 2);
    let body = json!({"userId": "c", "shell": "/bin/sh"});
    let full = backend.post("/api/sessions").bearer_auth(ADMIN_TOKEN).json(&body).send().await.unwrap();
    assert_eq!(full.status(), 503);
    let full: Value = full.json().await.unwrap();
    assert!(full["message"].as_str().unwrap().contains("no user id is free"), "{full}");
    delete(&backend, "a").await;
    session(&backend, "c", &BTreeMap::new()).await;
    let uid = run(&backend, &gateway, "c", "id -u").await;
    assert!(uids.contains(&uid), "{uid}");
    let left =
        run(&backend, &gateway, "c", "ls ~; ls -d /tmp/left-$(id -u) 2>&1 | grep -c '^/tmp' || true").await;
    assert_eq!(left, "0");
    for name in ["b", "c"] {
        delete(&backend, name).await;
    }
}

#[tokio::test]
async fn two_hundred_sessions_leave_nothing() {
    let building = Building::new(Room::User);
    let gateway = Gateway::start().await;
    let backend = building.start(&gateway).await;
    let descriptors = || fs::read_dir(format!("/proc/{}/fd", backend.pid())).unwrap().count();
    session(&backend, "warm", &BTreeMap::new()).await;
    delete(&backend, "warm").await;
    let before = descriptors();
    for round in 0..4 {
        let names: Vec<_> = (0..50).map(|n| format!("s-{round}-{n}")).collect();
        for (n, name) in names.iter().enumerate() {
            session(&backend, name, &BTreeMap::new()).await;
            if n % 10 == 0 {
                let abuse =
                    "setsid -f sleep 1000 >/dev/null 2>&1; mkdir -p ~/a/b; touch ~/a/b/c /tmp/left-$(id -u)";
                run(&backend, &gateway, name, abuse).await;
            }
        }
        for name in &names {
            delete(&backend, name).await;
        }
    }
    building.empties().await;
    // Idle connections to the gateway stay open for a while.
    assert!(descriptors() <= before + 20, "{} > {before}", descriptors());
    let left = fs::read_dir("/tmp")
        .unwrap()
        .flatten()
        .filter(|entry| entry.metadata().is_ok_and(|is| building.has(is.uid())));
    assert_eq!(left.count(), 0);
}

#[tokio::test]
async fn a_backend_that_cannot_change_its_user_names_the_ways_out() {
    let building = Building::new(Room::UserAsRoot);
    let gateway = Gateway::start().await;
    let program = building.programs().join("backend").to_str().unwrap().to_owned();
    let open = building.programs().with_file_name("open");
    let user = IMAGE.to_string();
    std::os::unix::fs::chown(open, Some(IMAGE), Some(IMAGE)).unwrap();
    let plain = ["--reuid", &user, "--regid", &user, "--clear-groups"];
    let root = ["--bounding-set", "-setuid"];
    for (n, setpriv) in [&plain[..], &root].into_iter().enumerate() {
        let run = building.run_dir().with_file_name(format!("run-{n}"));
        let settings = building.settings(&gateway).set("RUN_DIR", run.to_str().unwrap());
        let mut arguments: Vec<_> = setpriv.iter().map(|word| (*word).to_owned()).collect();
        arguments.push(program.clone());
        let (code, said) = settings.fails_by(("setpriv", &arguments)).await;
        assert_eq!(code, 1, "{said}");
        for way in ["as root", "setcap cap_setuid,cap_setgid,cap_kill,cap_chown=ep", "SHELL_SANDBOX=none"] {
            assert!(said.contains(way), "{said}");
        }
    }
}

#[tokio::test]
async fn a_range_or_homes_in_use_are_an_error() {
    let building = Building::new(Room::UserAsRoot);
    let gateway = Gateway::start().await;
    let fails = async |settings: crate::support::Settings| {
        let (program, arguments) = building.starter(&[]);
        settings.fails_by((program, &arguments)).await.1
    };
    let first = 1_900_000_000 + std::process::id();
    let range = format!("{first}-{}", first + 9);
    let mut other = std::process::Command::new("setpriv");
    let mut other =
        other.args(["--reuid", &(first + 5).to_string(), "--clear-groups", "sleep", "100"]).spawn().unwrap();
    let status = format!("/proc/{}/status", other.id());
    while !fs::read_to_string(&status).unwrap().contains(&format!("Uid:\t{}", first + 5)) {
        tokio::task::yield_now().await;
    }
    let said = fails(building.settings(&gateway).set("SHELL_UIDS", &range)).await;
    other.kill().unwrap();
    other.wait().unwrap();
    assert!(said.contains(&format!("another program runs as user {}", first + 5)), "{said}");
    let said = fails(building.settings(&gateway).set("SHELL_UIDS", "60000-69999")).await;
    assert!(said.contains("without 65534"), "{said}");
    let _backend = building.start(&gateway).await;
    let run = building.run_dir().with_file_name("other");
    let said = fails(building.settings(&gateway).set("RUN_DIR", run.to_str().unwrap())).await;
    assert!(said.contains("another backend uses it"), "{said}");
    assert!(Path::new(&building.homes()).exists());
}

/// Prints, once each, the secrets that it finds in what it can read of all processes.
const LOOK: &str = r"for process in /proc/[0-9]*; do
    for file in environ cmdline; do cat $process/$file; echo; done
    for file in $process/fd/*; do [ -f $file ] && head -c 1000000 $file; done
    while read -r range may rest; do
        case $may in r*) ;; *) continue;; esac
        from=$((0x${range%-*} / 4096)) to=$((0x${range#*-} / 4096))
        dd if=$process/mem bs=4096 skip=$from count=$((to - from))
    done <$process/maps
done 2>/dev/null | grep -a -o -e 'a bridge [s]ecret' -e 'a [s]ecret of users' -e '[t]he-platform-s-own' -e '[w]hat-the-session-has' | sort -u";

/// As the image starts it: its user, process 1, with an init.
#[tokio::test]
async fn a_session_finds_no_secret_of_the_image_s_processes() {
    let building = Building::new(Room::User);
    let gateway = Gateway::start().await;
    let (program, arguments) = building.starter(&["--init"]);
    let namespace = ["--pid", "--fork", "--kill-child", "--mount-proc", "--", program].map(str::to_owned);
    let arguments: Vec<_> = namespace.into_iter().chain(arguments).collect();
    let backend = building.settings(&gateway).start_by(("unshare", &arguments)).await;
    let env = BTreeMap::from([("OWN".to_owned(), "what-the-session-has".to_owned())]);
    session(&backend, "s", &env).await;
    // The search works: it finds what belongs to the session.
    assert_eq!(run(&backend, &gateway, "s", LOOK).await, "what-the-session-has");
    assert_eq!(run(&backend, &gateway, "s", "cat /proc/1/comm").await, "backend");
    delete(&backend, "s").await;
    building.empties().await;
}
