//! A real container engine: podman, through Docker's API on a socket, with an image made of busybox.

use std::{
    collections::BTreeSet,
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::Value;

/// Name of the image.
pub(crate) const IMAGE: &str = "lab";
/// Prefix of the engines' directories.
const PREFIX: &str = "podman-";
/// How long the engine may take for anything.
const PATIENCE: Duration = Duration::from_mins(1);
const BUSYBOX: &str = "/bin/busybox";
const CONF: &str = r#"
[containers]
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "none"
"#;

/// An engine and its storage. Stops, with all containers, on drop.
pub(crate) struct Engine {
    directory: PathBuf,
    service: Option<Child>,
}

impl Engine {
    /// Starts an engine that has [`IMAGE`].
    pub(crate) fn start() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        clear_dead();
        let name = format!("{PREFIX}{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("containers.conf"), CONF).unwrap();
        let mut engine = Self { directory, service: None };
        engine.import(rootfs(), &[IMAGE]);
        engine.serve();
        engine
    }

    /// Imports an archive as an image.
    pub(crate) fn import(&self, archive: &Path, options: &[&str]) {
        let (name, changes) = options.split_last().unwrap();
        let imported =
            self.podman().arg("import").args(changes).arg(archive).arg(name).stdout(Stdio::null()).status();
        assert!(imported.unwrap().success(), "podman import");
    }

    /// The archive of the image.
    pub(crate) fn archive() -> &'static Path {
        rootfs()
    }

    /// Value of `DOCKER_HOST`.
    pub(crate) fn address(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// Starts the service.
    pub(crate) fn serve(&mut self) {
        let _ = fs::remove_file(self.socket());
        let log = fs::File::create(self.directory.join("log")).unwrap();
        let service = self
            .podman()
            .args(["system", "service", "--time", "0", &self.address()])
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn();
        self.service = Some(service.expect("podman is installed"));
        let end = Instant::now() + PATIENCE;
        while std::os::unix::net::UnixStream::connect(self.socket()).is_err() {
            assert!(Instant::now() < end, "podman does not start");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Kills the service. Containers live on.
    pub(crate) fn kill(&mut self) {
        if let Some(mut service) = self.service.take() {
            let _ = service.kill();
            let _ = service.wait();
        }
    }

    /// All containers, as podman lists them.
    pub(crate) fn containers(&self) -> Vec<Value> {
        let listed = self.podman().args(["ps", "--all", "--format", "json"]).output().unwrap();
        serde_json::from_slice(&listed.stdout).unwrap_or_default()
    }

    /// Runs podman, which must succeed; returns what it prints.
    pub(crate) fn run(&self, arguments: &[&str]) -> String {
        let done = self.podman().args(arguments).output().unwrap();
        assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap().trim().to_owned()
    }

    fn podman(&self) -> Command {
        let mut podman = Command::new("podman");
        // Its monitors leave files in their directory.
        podman.current_dir(&self.directory);
        podman
            .env("CONTAINERS_CONF", self.directory.join("containers.conf"))
            .arg("--root")
            .arg(self.directory.join("root"))
            .arg("--runroot")
            .arg(self.directory.join("run"))
            .args(["--storage-driver", "vfs"])
            .stdin(Stdio::null());
        podman
    }

    fn socket(&self) -> PathBuf {
        self.directory.join("podman.sock")
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.podman().args(["rm", "--all", "--force", "--time", "0"]).output();
        self.kill();
        clear(&self.directory);
    }
}

/// Programs of the attacks, beyond those of busybox, and the interpreter's library.
const TOOLS: [&str; 24] = [
    "/bin/dash",
    "/usr/bin/python3",
    "/usr/bin/ps",
    "/usr/bin/pgrep",
    "/usr/bin/prlimit",
    "/usr/bin/setpriv",
    "/usr/bin/ipcmk",
    "/usr/bin/ipcrm",
    "/usr/bin/ipcs",
    "/usr/bin/nsenter",
    "/usr/bin/unshare",
    "/usr/bin/renice",
    "/usr/bin/ionice",
    "/usr/bin/taskset",
    "/usr/bin/chrt",
    "/usr/bin/stty",
    "/usr/bin/mawk",
    "/usr/bin/su",
    "/usr/sbin/chroot",
    "/usr/bin/grep",
    "/usr/bin/find",
    "/usr/bin/timeout",
    "/usr/bin/truncate",
    "/usr/bin/mount",
];

/// The archive of an image with [`TOOLS`], from this machine.
pub(crate) fn tools() -> &'static Path {
    static ARCHIVE: OnceLock<PathBuf> = OnceLock::new();
    ARCHIVE.get_or_init(|| {
        let libraries: BTreeSet<String> = TOOLS
            .iter()
            .flat_map(|tool| {
                let listed = Command::new("ldd").arg(tool).output().unwrap().stdout;
                let listed = String::from_utf8(listed).unwrap();
                let paths = listed.split_ascii_whitespace().filter(|word| word.starts_with('/'));
                paths.map(str::to_owned).collect::<Vec<_>>()
            })
            .collect();
        let modules = Command::new("/usr/bin/python3")
            .args(["-c", "import os; print(os.path.dirname(os.__file__))"])
            .output()
            .unwrap();
        let modules = String::from_utf8(modules.stdout).unwrap().trim().to_owned();
        let archive = rootfs().with_file_name(format!("{PREFIX}{}-tools.tar", std::process::id()));
        fs::copy(rootfs(), &archive).unwrap();
        // Later entries of an archive replace earlier ones.
        let made = Command::new("tar")
            .args([
                "-C",
                "/",
                "--dereference",
                "--hard-dereference",
                "--exclude",
                "*/test*",
                "--exclude",
                "*/dist-packages*",
                "-rf",
            ])
            .arg(&archive)
            .args(TOOLS.iter().map(|path| path.trim_start_matches('/')))
            .args(libraries.iter().map(|path| path.trim_start_matches('/')))
            .args([modules.trim_start_matches('/'), "etc/shadow"])
            .output()
            .unwrap();
        assert!(made.status.success(), "tar: {}", String::from_utf8_lossy(&made.stderr));
        archive
    })
}

/// Removes the storage of engines whose tests were killed.
fn clear_dead() {
    static ONCE: OnceLock<()> = OnceLock::new();
    ONCE.get_or_init(|| {
        for entry in fs::read_dir(env!("CARGO_TARGET_TMPDIR")).into_iter().flatten().flatten() {
            let name = entry.file_name().into_string().unwrap_or_default();
            let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
            if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
                clear(&entry.path());
            }
        }
    });
}

/// Removes a directory, and mounts below it.
fn clear(directory: &Path) {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let mut below: Vec<_> = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .filter(|path| Path::new(path).starts_with(directory))
        .collect();
    below.reverse();
    for path in below {
        let _ = Command::new("umount").args(["-l", path]).output();
    }
    let _ = fs::remove_dir_all(directory);
    let _ = fs::remove_file(directory);
}

/// An archive of a root file system: busybox and two users.
fn rootfs() -> &'static Path {
    static ARCHIVE: OnceLock<PathBuf> = OnceLock::new();
    ARCHIVE.get_or_init(|| {
        assert!(Path::new(BUSYBOX).is_file(), "busybox-static is not installed");
        let tmp = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let root = tempfile::tempdir_in(tmp).unwrap();
        for name in ["bin", "etc/skel", "tmp", "var/tmp", "proc", "dev", "sys", "home", "run", "root"] {
            fs::create_dir_all(root.path().join(name)).unwrap();
        }
        for name in ["tmp", "var/tmp"] {
            fs::set_permissions(root.path().join(name), Permissions::from_mode(0o1777)).unwrap();
        }
        fs::set_permissions(root.path().join("root"), Permissions::from_mode(0o700)).unwrap();
        fs::copy(BUSYBOX, root.path().join("bin/busybox")).unwrap();
        let applets = Command::new(BUSYBOX).arg("--list").output().unwrap().stdout;
        for applet in String::from_utf8(applets).unwrap().lines().filter(|applet| *applet != "busybox") {
            symlink("busybox", root.path().join("bin").join(applet)).unwrap();
        }
        let write = |path: &str, text: &str| fs::write(root.path().join(path), text).unwrap();
        write("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nstudent:x:1000:1000::/home/student:/bin/sh\n");
        write("etc/group", "root:x:0:\nstudent:x:1000:\n");
        write("etc/skel/welcome", "read me\n");
        let archive = tmp.join(format!("{PREFIX}{}-lab.tar", std::process::id()));
        let made = Command::new("tar").arg("-C").arg(root.path()).arg("-cf").arg(&archive).arg(".").status();
        assert!(made.unwrap().success(), "tar");
        archive
    })
}
