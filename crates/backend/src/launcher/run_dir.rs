//! The directory of the hosts' sockets, and whose it is.

use std::{
    fs::{DirBuilder, File, TryLockError},
    io::ErrorKind,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail, ensure};
use nix::unistd::Uid;

/// What group and others may do.
const OTHERS: u32 = 0o077;
/// What sockets end with.
const SUFFIX: &str = "sock";
/// Backends of one user that may run at once without a `RUN_DIR` of their own.
const MAX_BACKENDS: usize = 64;
/// Longest path of a socket, bytes (`sun_path` in unix(7), with its NUL).
const MAX_PATH: usize = 107;

/// A directory that only this user can look into, and only this process uses.
pub(super) struct RunDir {
    path: PathBuf,
    /// Held for as long as the process lives: the kernel gives it back.
    _lock: File,
}

impl RunDir {
    /// Takes the directory, or one in the default place: there, each of a user's backends gets its own.
    pub(super) fn open(path: Option<&Path>) -> anyhow::Result<Self> {
        if let Some(path) = path {
            let taken = Self::take(path).with_context(|| format!("RUN_DIR: {}", path.display()))?;
            return taken.with_context(|| format!("RUN_DIR: another backend uses {}", path.display()));
        }
        let first = default_path();
        for n in 0..MAX_BACKENDS {
            let path = if n == 0 { first.clone() } else { first.join(n.to_string()) };
            if let Some(taken) =
                Self::take(&path).with_context(|| format!("{}; set RUN_DIR", path.display()))?
            {
                return Ok(taken);
            }
        }
        bail!("too many backends use {}; set RUN_DIR", first.display())
    }

    /// None if another process has it.
    fn take(path: &Path) -> anyhow::Result<Option<Self>> {
        let path = std::path::absolute(path)?;
        make_private(&path)?;
        let longest = path.join(socket_name());
        ensure!(longest.as_os_str().len() <= MAX_PATH, "the path is too long for a socket in it");
        let lock = File::create(path.join("lock"))?;
        match lock.try_lock() {
            Ok(()) => Ok(Some(Self { path, _lock: lock })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error.into()),
        }
    }

    /// A path for a new socket. A session's id may be too long for one.
    pub(super) fn new_socket(&self) -> PathBuf {
        self.path.join(socket_name())
    }

    /// The sockets that are there.
    pub(super) fn sockets(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(&self.path).into_iter().flatten().flatten().map(|entry| entry.path());
        entries.filter(|path| path.extension().is_some_and(|end| end == SUFFIX)).collect()
    }
}

fn socket_name() -> String {
    format!("{}.{SUFFIX}", uuid::Uuid::new_v4().simple())
}

/// Where a user's programs keep what lasts while they run: where the system has a place for that, there (XDG Base
/// Directory Specification), and else `/run` or, if that is root's alone, `/tmp`.
fn default_path() -> PathBuf {
    let xdg = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_dir());
    if let Some(xdg) = xdg {
        return xdg.join("shellbridge");
    }
    let name = format!("shellbridge-{}", Uid::effective());
    let run = Path::new("/run").join(&name);
    let made = make_private(&run);
    if made.is_ok() { run } else { Path::new("/tmp").join(name) }
}

/// Makes a directory that only this user can look into, or makes sure that it is one: whoever else could put a socket
/// there could pass for a session.
fn make_private(path: &Path) -> anyhow::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error.into()),
        _ => {}
    }
    let is = path.symlink_metadata()?;
    ensure!(is.is_dir(), "not a directory");
    ensure!(is.uid() == Uid::effective().as_raw(), "it is another user's");
    ensure!(is.mode() & OTHERS == 0, "other users may look into it: its mode must be 0700");
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{fs::Permissions, os::unix::fs::PermissionsExt as _};

    use super::*;

    fn error(path: &Path) -> String {
        RunDir::open(Some(path)).err().map(|error| format!("{error:#}")).unwrap_or_default()
    }

    #[test]
    fn a_directory_is_one_backend_s_at_a_time() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("run");
        let first = RunDir::open(Some(&path)).unwrap();
        assert!(error(&path).contains("another backend"), "{}", error(&path));
        std::fs::write(first.new_socket(), "").unwrap();
        assert_eq!(first.sockets().len(), 1, "and not its lock");
        drop(first);
        assert!(RunDir::open(Some(&path)).is_ok());
    }

    #[test]
    fn a_directory_that_others_could_write_to_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let (open, link, file) =
            (home.path().join("open"), home.path().join("link"), home.path().join("file"));
        std::fs::create_dir(&open).unwrap();
        std::fs::set_permissions(&open, Permissions::from_mode(0o755)).unwrap();
        assert!(error(&open).contains("0700"), "{}", error(&open));
        std::os::unix::fs::symlink(home.path(), &link).unwrap();
        std::fs::write(&file, "").unwrap();
        for path in [link, file] {
            assert!(error(&path).contains("not a directory"), "{}", error(&path));
        }
        let long = home.path().join("x".repeat(100));
        assert!(error(&long).contains("too long"), "{}", error(&long));
    }
}
