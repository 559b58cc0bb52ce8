//! The directory of the hosts' sockets, locked by one backend.

use std::{
    fs::{DirBuilder, File, TryLockError},
    io::{self, ErrorKind, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail, ensure};
use nix::unistd::Uid;

/// Permission bits of group and others.
const OTHERS: u32 = 0o077;
/// File extension of the sockets.
const SUFFIX: &str = "sock";
/// Maximum backends of one user that run at once without `RUN_DIR`.
const MAX_BACKENDS: usize = 64;
/// Bytes of the directory's secret.
const SECRET: usize = 32;
/// Longest socket path, bytes (`sun_path` in unix(7), less its NUL).
const MAX_PATH: usize = 107;

/// A directory that only this user can access and only this process uses.
pub(super) struct RunDir {
    path: PathBuf,
    /// Held for the life of the process; the kernel releases it.
    _lock: File,
    secret: [u8; SECRET],
}

impl RunDir {
    /// Locks the directory, or one at the default path, where each of a user's backends gets its own.
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

    /// Locks a directory; `None` if another process has locked it.
    fn take(path: &Path) -> anyhow::Result<Option<Self>> {
        let path = std::path::absolute(path)?;
        make_private(&path)?;
        let longest = path.join(socket_name(Some(u32::MAX)));
        ensure!(longest.as_os_str().len() <= MAX_PATH, "the path is too long for a socket");
        let mut lock =
            File::options().read(true).write(true).create(true).truncate(false).open(path.join("lock"))?;
        match lock.try_lock() {
            Ok(()) => {
                let secret = secret(&mut lock).context("lock")?;
                Ok(Some(Self { path, _lock: lock, secret }))
            }
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error.into()),
        }
    }

    /// The directory's secret. Unlike the backend's other secrets, it stays the same as long as its hosts do.
    pub(super) const fn secret(&self) -> &[u8] {
        &self.secret
    }

    /// Identity of the instance that uses this directory: a uuid, and a generation that is higher at each call.
    pub(super) fn next_generation(&self) -> io::Result<(String, u64)> {
        let path = self.path.join("instance");
        let known = std::fs::read_to_string(&path).unwrap_or_default();
        let known = known.trim().split_once(' ').and_then(|(uuid, generation)| {
            Some((uuid::Uuid::parse_str(uuid).ok()?, generation.parse::<u64>().ok()?))
        });
        let (uuid, generation) = known.unwrap_or_else(|| (uuid::Uuid::new_v4(), 0));
        let generation = generation.saturating_add(1);
        // Whole or not at all, even if the process is killed meanwhile.
        let fresh = self.path.join("instance.new");
        std::fs::write(&fresh, format!("{uuid} {generation}\n"))?;
        std::fs::rename(fresh, path)?;
        Ok((uuid.to_string(), generation))
    }

    /// A random path for a new socket. A session's id may be too long for one. Names the session's own user, if it has one.
    pub(super) fn new_socket(&self, uid: Option<u32>) -> PathBuf {
        self.path.join(socket_name(uid))
    }

    /// Paths of the existing sockets, with their sessions' users.
    pub(super) fn sockets(&self) -> Vec<(PathBuf, Option<u32>)> {
        let entries = std::fs::read_dir(&self.path).into_iter().flatten().flatten().map(|entry| entry.path());
        let sockets = entries.filter(|path| path.extension().is_some_and(|end| end == SUFFIX));
        sockets
            .map(|path| {
                let uid = path.file_stem().and_then(|name| name.to_str()?.split_once('-')?.1.parse().ok());
                (path, uid)
            })
            .collect()
    }
}

/// Reads the secret from the lock, or makes it.
fn secret(lock: &mut File) -> io::Result<[u8; SECRET]> {
    let mut secret: [u8; SECRET] = rand::random();
    if lock.metadata()?.len() == SECRET as u64 {
        lock.read_exact(&mut secret)?;
    } else {
        lock.set_len(0)?;
        lock.write_all(&secret)?;
    }
    Ok(secret)
}

fn socket_name(uid: Option<u32>) -> String {
    let user = uid.map(|uid| format!("-{uid}")).unwrap_or_default();
    format!("{}{user}.{SUFFIX}", uuid::Uuid::new_v4().simple())
}

/// Default directory: below `XDG_RUNTIME_DIR` if the system has one (XDG Base Directory Specification), otherwise below
/// `/run` or, if only root can write there, `/tmp`.
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

/// Creates a directory that only this user can access, or checks that an existing one is. Another user with write access
/// could impersonate a session's host.
fn make_private(path: &Path) -> anyhow::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error.into()),
        _ => {}
    }
    let is = path.symlink_metadata()?;
    ensure!(is.is_dir(), "not a directory");
    ensure!(is.uid() == Uid::effective().as_raw(), "owned by another user");
    ensure!(is.mode() & OTHERS == 0, "accessible to other users: the mode must be 0700");
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
    fn a_directory_is_locked_by_one_backend_at_a_time() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("run");
        let first = RunDir::open(Some(&path)).unwrap();
        assert!(error(&path).contains("another backend"), "{}", error(&path));
        for uid in [None, Some(20_001)] {
            std::fs::write(first.new_socket(uid), "").unwrap();
        }
        let mut users: Vec<_> = first.sockets().into_iter().map(|(_, uid)| uid).collect();
        users.sort_unstable();
        assert_eq!(users, [None, Some(20_001)], "the lock is not listed");
        let secret = first.secret;
        drop(first);
        assert_eq!(RunDir::open(Some(&path)).unwrap().secret, secret, "as long as its hosts may live");
    }

    #[test]
    fn an_instance_keeps_its_uuid_and_raises_its_generation() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("run");
        let next = || RunDir::open(Some(&path)).unwrap().next_generation().unwrap();
        let (uuid, generation) = next();
        assert_eq!(next(), (uuid.clone(), generation + 1));
        std::fs::write(path.join("instance"), "nonsense").unwrap();
        assert_ne!(next().0, uuid, "an unreadable identity is replaced");
    }

    #[test]
    fn a_directory_that_others_can_access_is_refused() {
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
