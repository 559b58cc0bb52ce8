//! Backends of each sandbox, with a session of a victim and one of an attacker.

use std::{
    collections::BTreeMap,
    fs::{self, Permissions},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown},
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::timeout;

use crate::support::{ADMIN_TOKEN, BACKEND, Backend, Call, Gateway, PATIENCE, Settings};

/// The image's user.
pub(crate) const IMAGE: u32 = 10_001;
/// Capabilities of the image's program.
pub(crate) const FILE_CAPABILITIES: &str = "cap_setuid,cap_setgid,cap_kill,cap_chown=ep";
/// User ids per backend.
const UIDS: u32 = 250;

/// How sessions are kept apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Room {
    /// Not at all, as root.
    None,
    /// By users; the backend is root.
    UserAsRoot,
    /// By users; the backend is the image's user, and has file capabilities.
    User,
}

impl Room {
    fn of_users(self) -> bool {
        self != Self::None
    }
}

/// The programs and directories of one or more backends, one after the other.
pub(crate) struct Building {
    room: Room,
    directory: TempDir,
    uids: (u32, u32),
}

impl Building {
    pub(crate) fn new(room: Room) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        assert_eq!(fs::metadata("/proc/self").unwrap().uid(), 0, "these tests need root");
        let directory = tempfile::Builder::new().prefix("escape-").tempdir().unwrap();
        fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
        let programs = directory.path().join("bin");
        fs::create_dir(&programs).unwrap();
        for program in ["backend", "session-host"] {
            let copy = programs.join(program);
            fs::copy(Path::new(BACKEND).with_file_name(program), &copy).unwrap();
            fs::set_permissions(
                &copy,
                Permissions::from_mode(if program == "backend" { 0o711 } else { 0o755 }),
            )
            .unwrap();
        }
        let open = directory.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, Permissions::from_mode(0o711)).unwrap();
        if room == Room::User {
            chown(&open, Some(IMAGE), Some(IMAGE)).unwrap();
            let set = Command::new("setcap").arg(FILE_CAPABILITIES).arg(programs.join("backend")).status();
            assert!(set.unwrap().success());
        }
        // Not those of a test that runs at the same time, in this process or another.
        let first = 1_000_000
            + std::process::id() % 10_000 * 10_000
            + NEXT.fetch_add(1, Ordering::Relaxed) * (UIDS + 1);
        Self { room, directory, uids: (first, first + UIDS) }
    }

    pub(crate) const fn room(&self) -> Room {
        self.room
    }

    pub(crate) fn programs(&self) -> PathBuf {
        self.directory.path().join("bin")
    }

    pub(crate) fn homes(&self) -> PathBuf {
        self.directory.path().join("open/homes")
    }

    pub(crate) fn run_dir(&self) -> PathBuf {
        self.directory.path().join("open/run")
    }

    /// Whether this user id is one of its sessions'.
    pub(crate) fn has(&self, uid: u32) -> bool {
        (self.uids.0..=self.uids.1).contains(&uid)
    }

    pub(crate) fn settings(&self, gateway: &Gateway) -> Settings {
        let text = |path: PathBuf| path.to_str().unwrap().to_owned();
        let settings = Settings::new().pushing_to(gateway).set("RUN_DIR", &text(self.run_dir()));
        if !self.room.of_users() {
            return settings.set("SHELL_SANDBOX", "none");
        }
        settings
            .set("SHELL_SANDBOX", "user")
            .set("SHELL_UIDS", &format!("{}-{}", self.uids.0, self.uids.1))
            .set("SHELL_HOMES", &text(self.homes()))
    }

    /// The program that starts a backend with these arguments, and its arguments.
    pub(crate) fn starter(&self, arguments: &[&str]) -> (&'static str, Vec<String>) {
        let program = self.programs().join("backend").to_str().unwrap().to_owned();
        let user = IMAGE.to_string();
        let as_user = ["--reuid", &user, "--regid", &user, "--clear-groups"];
        let before: &[&str] = if self.room == Room::User { &as_user } else { &[] };
        let all = before.iter().copied().chain([program.as_str()]).chain(arguments.iter().copied());
        ("setpriv", all.map(str::to_owned).collect())
    }

    pub(crate) async fn start(&self, gateway: &Gateway) -> Backend {
        let (program, arguments) = self.starter(&[]);
        self.settings(gateway).start_by((program, &arguments)).await
    }

    /// Living processes of its sessions' users.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let entries = fs::read_dir("/proc").unwrap().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        pids.filter(|pid| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let field =
                |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            let uids = field("Uid:").split_ascii_whitespace().filter_map(|uid| uid.parse().ok());
            uids.into_iter().any(|uid| self.has(uid)) && !field("State:").contains('Z')
        })
        .collect()
    }

    /// Whether nothing of any session is left.
    pub(crate) fn is_empty(&self) -> bool {
        let places = fs::read_dir(self.homes()).unwrap().flatten();
        places.filter(|place| place.file_name() != "lock").count() == 0 && self.processes().is_empty()
    }

    /// Waits until nothing of any session is left.
    pub(crate) async fn empties(&self) {
        let empty = async {
            while !self.is_empty() {
                tokio::task::yield_now().await;
            }
        };
        let waited = timeout(PATIENCE * 2, empty).await;
        assert!(
            waited.is_ok(),
            "left: {:?}, {:?}",
            fs::read_dir(self.homes()).unwrap().collect::<Vec<_>>(),
            self.processes()
        );
    }
}

/// Creates a session, with limits, and a connection of the same name.
pub(crate) async fn session(backend: &Backend, name: &str, env: &BTreeMap<String, String>) {
    create(backend, name, env, json!({"memoryMb": 100, "pids": 40, "diskMb": 10})).await;
}

/// The same where no limit is enforced.
pub(crate) async fn unlimited(backend: &Backend, name: &str, env: &BTreeMap<String, String>) {
    create(backend, name, env, json!({})).await;
}

async fn create(backend: &Backend, name: &str, env: &BTreeMap<String, String>, limits: Value) {
    let body = json!({"userId": name, "sessionId": name, "shell": "/bin/sh", "env": env, "limits": limits});
    let made = backend.post("/api/sessions").bearer_auth(ADMIN_TOKEN).json(&body).send().await.unwrap();
    assert_eq!(made.status(), 201, "{}", made.text().await.unwrap());
    backend.connect(name, name, name).await;
}

/// Ends a session.
pub(crate) async fn delete(backend: &Backend, name: &str) {
    let deleted =
        backend.delete(&format!("/api/sessions/{name}")).bearer_auth(ADMIN_TOKEN).send().await.unwrap();
    assert_eq!(deleted.status(), 204, "{}", deleted.text().await.unwrap());
}

/// Runs a command in a session and returns its result, from the reply or a push.
pub(crate) async fn done(backend: &Backend, gateway: &Gateway, session: &str, command: &str) -> Value {
    let id = uuid::Uuid::new_v4().to_string();
    let frame = json!({"type": "command", "id": id, "command": command, "timeoutMs": 60_000});
    let answer = backend.frame(session, session, session, frame).await;
    if answer.status() == 200 {
        return answer.json().await.unwrap();
    }
    let late = |call: &Call| call.connection == session && call.frame["id"] == id.as_str();
    gateway.until("late result", late).await.frame
}

/// The output of a command, which must succeed.
pub(crate) async fn run(backend: &Backend, gateway: &Gateway, session: &str, command: &str) -> String {
    let done = done(backend, gateway, session, command).await;
    assert_eq!(done["exitCode"], 0, "{command}: {done}");
    done["result"].as_str().unwrap().trim().to_owned()
}
