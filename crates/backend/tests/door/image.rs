//! The backend as its image starts it: process 1 of a container, as the image's user or as root.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown},
    path::Path,
};

use serde_json::{Value, json};
use shellbridge_protocol::bridge::MESSAGE_PATH;
use tempfile::TempDir;
use tokio::time::timeout;

use crate::support::{
    ADMIN_TOKEN, BACKEND, BRIDGE_SECRET, Backend, Gateway, JWT_SECRET, PATIENCE, Settings, message_body,
};

/// A secret that the platform sets.
const AWS_SECRET: &str = "an-aws-secret-access-key-of-the-task";
/// A variable of the session, visible to its shells: proves that the search for secrets works.
const OWN: &str = "what-the-platform-gives-to-the-session";
/// The image's user (`infra/Containerfile`).
const USER: &str = "10001";

fn containerfile() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../infra/Containerfile");
    fs::read_to_string(path).unwrap()
}

/// Entry point of the backend's image, the last stage of the file.
fn entrypoint() -> Vec<String> {
    let file = containerfile();
    let stage = file.rsplit_once("\nFROM ").unwrap().1;
    let line = stage.lines().find_map(|line| line.strip_prefix("ENTRYPOINT ")).unwrap();
    serde_json::from_str(line).unwrap()
}

/// The permissions that the image gives to `backend`.
fn mode() -> u32 {
    let file = containerfile();
    let line =
        file.lines().find(|line| line.contains("install ") && line.contains(" /out/backend ")).unwrap();
    let mode = line.split_once(" -m ").unwrap().1.split(' ').next().unwrap();
    u32::from_str_radix(mode, 8).unwrap()
}

/// Gives a program the image's capabilities, as `setcap` writes them (`struct vfs_cap_data` in linux/capability.h).
fn set_capabilities(program: &Path) {
    let by_name = [("cap_chown", 0), ("cap_kill", 5), ("cap_setgid", 6), ("cap_setuid", 7)];
    let file = containerfile();
    let given = file.split_once("setcap ").unwrap().1.split_once("=p ").unwrap().0;
    let bits = given.split(',').map(|name| 1 << by_name.iter().find(|(known, _)| *known == name).unwrap().1);
    // Version 2; permitted and inheritable ones, then the higher halves of both.
    let words: [u32; 5] = [0x0200_0000, bits.sum(), 0, 0, 0];
    let data: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    rustix::fs::setxattr(program, "security.capability", &data, rustix::fs::XattrFlags::empty()).unwrap();
}

fn root() -> bool {
    fs::metadata("/proc/self").unwrap().uid() == 0
}

/// Copies of the image's programs for users who cannot read the target directory.
fn programs() -> TempDir {
    let directory = TempDir::new().unwrap();
    fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
    let open = directory.path().join("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(open, Permissions::from_mode(0o777)).unwrap();
    for program in ["backend", "session-host"] {
        fs::copy(Path::new(BACKEND).with_file_name(program), directory.path().join(program)).unwrap();
    }
    let backend = directory.path().join("backend");
    fs::set_permissions(&backend, Permissions::from_mode(mode())).unwrap();
    if root() {
        // Which capabilities of a file do not survive.
        chown(&backend, Some(0), Some(USER.parse().unwrap())).unwrap();
        set_capabilities(&backend);
    }
    directory
}

/// The image's entry point as process 1, started through `setpriv` with these arguments.
fn container(setpriv: &[&str]) -> Vec<String> {
    let mut command = vec!["--pid", "--fork", "--kill-child", "--mount-proc"];
    if !root() {
        // Without root, the most there is: root in a new user namespace.
        command.extend(["--user", "--map-root-user"]);
    }
    // `--kill-child` sets the same signal, which a change of the user clears (prctl(2)).
    command.extend(["--", "setpriv", "--pdeathsig", "KILL"]);
    command.extend(setpriv);
    command.into_iter().map(str::to_owned).chain(entrypoint()).collect()
}

fn settings(programs: &TempDir) -> Settings {
    Settings::new()
        .set("PATH", &format!("{}:/usr/bin:/bin:/usr/sbin:/sbin", programs.path().display()))
        .set("AWS_SECRET_ACCESS_KEY", AWS_SECRET)
        // Its user makes it, and cannot do so in the test's own directory.
        .set("RUN_DIR", &format!("{}/open/{}", programs.path().display(), uuid::Uuid::new_v4().simple()))
}

/// Runs a command in a session and returns its result, from the reply or a push.
async fn run(backend: &Backend, gateway: &Gateway, session: &str, id: &str, command: &str) -> Value {
    let frame = json!({"type": "command", "id": id, "command": command, "timeoutMs": 60_000});
    let answer = backend.frame(session, "alice", session, frame).await;
    if answer.status() == 200 {
        return answer.json().await.unwrap();
    }
    let late = |call: &crate::support::Call| call.connection == session && call.frame["id"] == id;
    gateway.until("late result", late).await.frame
}

/// Creates a session with a connection of the same name.
async fn session(backend: &Backend, name: &str) {
    let body = json!({"userId": "alice", "sessionId": name, "shell": "/bin/sh", "cwd": "/", "env": {"OWN": OWN, "HOME": "/"}});
    let made = backend.post("/api/sessions").bearer_auth(ADMIN_TOKEN).json(&body).send().await.unwrap();
    assert_eq!(made.status(), 201, "{}", made.text().await.unwrap());
    backend.connect(name, "alice", name).await;
}

/// A script that prints, once each, the prefixes of these texts that it finds in the readable state of any process. It
/// contains none of them itself.
fn look_for(texts: &[&str]) -> String {
    let pattern = |text: &&str| format!(" -e '[{}]{}'", &text[..1], &text[1..16]);
    let patterns = texts.iter().map(pattern).collect::<Vec<_>>().concat();
    let script = r"for process in /proc/[0-9]*; do
    for file in environ cmdline maps; do cat $process/$file; echo; done
    ls -l $process/fd $process/task
    for file in $process/fd/*; do [ -f $file ] && head -c 1000000 $file; done
    while read -r range may rest; do
        case $may in r*) ;; *) continue;; esac
        from=$((0x${range%-*} / 4096)) to=$((0x${range#*-} / 4096))
        dd if=$process/mem bs=4096 skip=$from count=$((to - from))
    done <$process/maps
done 2>/dev/null | grep -a -o PATTERNS | sort -u";
    script.replace(" PATTERNS", &patterns)
}

#[tokio::test]
async fn regression_a_shell_finds_no_secret_of_the_image_s_processes() {
    assert!(
        !containerfile().contains("\nHEALTHCHECK"),
        "a health check runs as the backend's user with its environment, which any shell can read"
    );
    let programs = programs();
    let user = ["--reuid", USER, "--regid", USER, "--clear-groups"];
    // A platform may grant the user capabilities of root.
    let able = [&user[..], &["--inh-caps", "+sys_ptrace", "--ambient-caps", "+sys_ptrace"]].concat();
    for setpriv in if root() { vec![&user[..], &able, &[]] } else { vec![&[][..]] } {
        let gateway = Gateway::start().await;
        let backend =
            settings(&programs).pushing_to(&gateway).start_by(("unshare", &container(setpriv))).await;
        session(&backend, "s").await;
        let id = run(&backend, &gateway, "s", "1", "id -u").await;
        let expected = if setpriv.is_empty() { "0" } else { USER };
        assert_eq!(id["result"], format!("{expected}\n"));
        let look = look_for(&[BRIDGE_SECRET, JWT_SECRET, ADMIN_TOKEN, AWS_SECRET, OWN]);
        let found = run(&backend, &gateway, "s", "2", &look).await;
        assert_eq!(found["result"], format!("{}\n", &OWN[..16]), "as {expected}: {found}");
        let first = run(&backend, &gateway, "s", "3", "cat /proc/1/comm").await;
        assert_eq!(first["result"], "backend\n", "as {expected}");
    }
}

/// A shell may kill the backend, and look into the next one before its first instruction.
#[tokio::test]
async fn regression_a_shell_finds_no_secret_in_a_backend_that_starts_again() {
    // Stops each new process again and again while it starts.
    let spy = r#"perl -e '
        sub of { open(my $file, "<", "/proc/$_[0]/$_[1]") or return ""; local $/; <$file> // "" }
        sub pids { opendir(my $proc, "/proc"); grep { /^\d+$/ } readdir $proc }
        for (1..4) {
            my %known = map { $_ => 1 } pids();
            kill 9, grep { of($_, "cmdline") =~ /[b]elow-init/ } keys %known;
            my ($new, $end, $found) = ("", time + 20, "");
            until ($new or time > $end) { ($new) = grep { !$known{$_} and of($_, "stat") =~ /\) \S 1 / } pids() }
            for (1..1000) {
                kill "STOP", $new;
                $found = "found " if of($new, "environ") =~ /[a] bridge secret/;
                kill "CONT", $new;
            }
            select undef, undef, undef, 0.1;
            print $found, of($new, "cmdline") =~ /[b]elow-init/ ? "started\n" : "nothing\n";
        }' >"#;
    let programs = programs();
    let user = ["--reuid", USER, "--regid", USER, "--clear-groups"];
    // Another user than root needs root's help to become one that may not read the program.
    if root() {
        let gateway = Gateway::start().await;
        let backend = settings(&programs).pushing_to(&gateway).start_by(("unshare", &container(&user))).await;
        session(&backend, "s").await;
        let report = programs.path().join("open/report");
        let command = format!("{spy}{}", report.display());
        let id = json!({"type": "command", "id": "spy", "command": command, "timeoutMs": 60_000});
        let asked = backend.signed(MESSAGE_PATH, "s", &message_body("s", "alice", "s", id)).send().await;
        assert!(asked.is_err(), "it is killed before it answers: {asked:?}");
        // The client of a killed backend may have to ask again for the result of a command, but not for a file.
        let seen = || fs::read_to_string(&report).unwrap_or_default();
        let finished = async {
            while seen().lines().count() < 4 {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, finished).await.unwrap_or_else(|_| panic!("{:?}", seen()));
        assert_eq!(seen(), "started\n".repeat(4));
    }
}

/// Otherwise it could start a backend of its own, with the users of its choice.
#[tokio::test]
async fn a_shell_of_the_backend_s_user_gains_no_capability_from_its_program() {
    let programs = programs();
    let user = ["--reuid", USER, "--regid", USER, "--clear-groups"];
    // Only root can give a file capabilities.
    if root() {
        let gateway = Gateway::start().await;
        let backend = settings(&programs).pushing_to(&gateway).start_by(("unshare", &container(&user))).await;
        session(&backend, "s").await;
        let of_backend =
            run(&backend, &gateway, "s", "1", "grep -sh CapPrm /proc/[0-9]*/status | sort -u").await;
        // Process 1 keeps them, and starts the backend again with them.
        assert_eq!(of_backend["result"], "CapPrm:\t0000000000000000\nCapPrm:\t00000000000000e1\n");
        let shell = run(&backend, &gateway, "s", "2", "grep -E 'CapPrm|NoNewPrivs' /proc/self/status").await;
        assert_eq!(shell["result"], "CapPrm:\t0000000000000000\nNoNewPrivs:\t1\n");
    }
}

/// Without `CAP_SETPCAP`, a backend running as root could not drop the capabilities of its shells.
#[tokio::test]
async fn root_that_cannot_protect_its_secrets_does_not_start() {
    let programs = programs();
    let (code, output) =
        settings(&programs).fails_by(("unshare", &container(&["--bounding-set", "-setpcap"]))).await;
    assert_eq!(code, 1, "{output}");
    assert!(output.contains("CAP_SETPCAP"), "{output}");
}

#[tokio::test]
async fn process_1_reaps_orphans_and_no_status_of_its_children() {
    let programs = programs();
    let gateway = Gateway::start().await;
    let backend = settings(&programs).pushing_to(&gateway).start_by(("unshare", &container(&[]))).await;
    let orphans = |code: u32| {
        format!("for n in 1 2 3 4; do setsid -f sh -c 'exit 9'; (sh -c 'exit 8' &); done; exit {code}")
    };
    let names = ["a", "b", "c", "d"];
    for name in names {
        session(&backend, name).await;
    }
    let work = |name: &'static str| {
        let (backend, gateway) = (&backend, &gateway);
        async move {
            for code in 0..25 {
                let done = run(backend, gateway, name, &code.to_string(), &orphans(code)).await;
                assert_eq!(done["exitCode"], code, "{done}");
            }
        }
    };
    tokio::join!(work("a"), work("b"), work("c"), work("d"));
    let zombies = "cat /proc/[0-9]*/stat 2>/dev/null | grep -c ') Z '";
    let reaped = async {
        for round in 0.. {
            let left = run(&backend, &gateway, "a", &format!("left-{round}"), zombies).await;
            if left["result"] == "0\n" {
                break;
            }
        }
    };
    timeout(PATIENCE, reaped).await.expect("zombies are reaped");

    // The status of a shell, too.
    for (name, code) in names.into_iter().zip(3..) {
        let client = format!("client-of-{name}-----------");
        let attach = json!({"type": "attach", "clientId": client, "cols": 80, "rows": 24});
        backend.frame(name, "alice", name, attach).await;
        let data = format!("setsid -f true; exit {code}\n");
        let input = json!({"type": "input", "clientId": client, "offset": 0, "data": data});
        backend.frame(name, "alice", name, input).await;
        let exit =
            gateway.until("exit", |call| call.connection == name && call.frame["type"] == "exit").await;
        assert_eq!(exit.frame["exitCode"], code);
    }
}

/// A wrapper may leave a descriptor of a secret or socket open.
#[tokio::test]
async fn regression_no_inherited_descriptor_reaches_a_shell() {
    let gateway = Gateway::start().await;
    let wrapper = ["-c".to_owned(), "exec 9</etc/passwd; exec \"$0\"".to_owned(), BACKEND.to_owned()];
    let backend = Settings::new().pushing_to(&gateway).start_by(("/bin/sh", &wrapper)).await;
    session(&backend, "s").await;
    let seen = run(&backend, &gateway, "s", "1", "readlink /proc/self/fd/9 || echo closed").await;
    assert_eq!(seen["result"], "closed\n", "{seen}");
}
