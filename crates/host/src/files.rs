//! Lays a session's files into its home before the shell starts.
//!
//! Other shells may control the home: no link below it is followed, and no file is opened that exists.

use std::{fs::File, io::Write as _};

use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::{AtFlags, CWD, Mode, OFlags, fchmod, mkdirat, openat, renameat, unlinkat},
    io::Errno,
};
use shellbridge_session::link::{self, FILES_FAILED};

/// Permission bits that a file may have.
const BITS: u32 = 0o777;

/// A file that cannot be laid. Earlier ones have been.
#[derive(Debug)]
pub(crate) struct NotLaid {
    path: String,
    error: std::io::Error,
}

impl std::fmt::Display for NotLaid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{FILES_FAILED}{}: {}", self.path, self.error)
    }
}

impl std::error::Error for NotLaid {}

/// Lays the files below `home`. Replaces files and links of these names; does not replace a directory.
///
/// # Errors
/// The first file that cannot be laid.
pub(crate) fn lay(home: &str, files: &[link::File]) -> Result<(), NotLaid> {
    if files.is_empty() {
        return Ok(());
    }
    let failed = |path: &str, errno: Errno| NotLaid { path: path.to_owned(), error: errno.into() };
    let home = openat(CWD, home, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| failed("the home", errno))?;
    files.iter().try_for_each(|file| lay_one(home.as_fd(), file).map_err(|errno| failed(&file.path, errno)))
}

fn lay_one(home: BorrowedFd<'_>, file: &link::File) -> Result<(), Errno> {
    let (parents, name) = file.path.rsplit_once('/').unwrap_or(("", &file.path));
    // The backend has checked the path. This keeps the walk below the home in any case.
    let plain = |name: &str| !name.is_empty() && name != "." && name != "..";
    if !file.path.split('/').all(plain) {
        return Err(Errno::INVAL);
    }
    let mut below: Option<OwnedFd> = None;
    for parent in parents.split('/').filter(|parent| !parent.is_empty()) {
        let above = below.as_ref().map_or(home, AsFd::as_fd);
        below = Some(enter(above, parent)?);
    }
    let dir = below.as_ref().map_or(home, AsFd::as_fd);
    // Unique per process, and a session lays its files once.
    let draft = format!(".shellbridge-{}", std::process::id());
    let laid = write(dir, &draft, file).and_then(|()| renameat(dir, &draft, dir, name));
    if laid.is_err() {
        let _ = unlinkat(dir, &draft, AtFlags::empty());
    }
    laid
}

/// Opens a directory, which it creates if there is none.
fn enter(above: BorrowedFd<'_>, name: &str) -> Result<OwnedFd, Errno> {
    match mkdirat(above, name, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno),
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(above, name, flags, Mode::empty())
}

fn write(dir: BorrowedFd<'_>, name: &str, file: &link::File) -> Result<(), Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut draft = File::from(openat(dir, name, flags, Mode::from_raw_mode(0o600))?);
    draft.write_all(&file.content).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    // Not subject to the umask.
    fchmod(&draft, Mode::from_raw_mode(file.mode & BITS))
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{PermissionsExt as _, symlink},
    };

    use super::*;

    fn file(path: &str, content: &str) -> link::File {
        link::File { path: path.to_owned(), content: content.as_bytes().to_vec().into(), mode: 0o640 }
    }

    #[test]
    fn files_are_created_and_replaced_with_their_mode() {
        let home = tempfile::tempdir().unwrap();
        let at = home.path().to_str().unwrap();
        let script = link::File { mode: 0o4755, ..file("bin/ü \n'x", "b") };
        lay(at, &[file("a", "1"), script, file("bin/y", "c"), file("a", "2")]).unwrap();
        let read = |path: &str| fs::read_to_string(home.path().join(path)).unwrap();
        let mode = |path: &str| fs::metadata(home.path().join(path)).unwrap().permissions().mode() & 0o7777;
        assert_eq!((read("a"), read("bin/ü \n'x"), read("bin/y")), ("2".into(), "b".into(), "c".into()));
        assert_eq!((mode("a"), mode("bin/ü \n'x")), (0o640, 0o755), "never setuid");
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 2, "no draft is left");
    }

    #[test]
    fn links_are_not_followed_out_of_the_home() {
        let (home, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let at = home.path().to_str().unwrap();
        let victim = other.path().join("victim");
        fs::write(&victim, "untouched").unwrap();
        symlink(other.path(), home.path().join("dir")).unwrap();
        symlink(&victim, home.path().join("link")).unwrap();
        symlink(other.path().join("new"), home.path().join("dangling")).unwrap();
        assert!(lay(at, &[file("dir/victim", "x")]).is_err());
        lay(at, &[file("link", "x"), file("dangling", "y")]).unwrap();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "untouched");
        assert_eq!(fs::read_dir(other.path()).unwrap().count(), 1);
        assert_eq!(fs::read_to_string(home.path().join("link")).unwrap(), "x", "the link is replaced");
        for outside in ["../x", "/x", "a/../../x", "", "a/", "a//b", "."] {
            assert!(lay(at, &[file(outside, "x")]).is_err(), "{outside}");
        }
    }

    #[test]
    fn directories_and_fifos_in_the_way_are_errors_and_block_nothing() {
        let home = tempfile::tempdir().unwrap();
        let at = home.path().to_str().unwrap();
        fs::create_dir(home.path().join("dir")).unwrap();
        let made = std::process::Command::new("mkfifo").arg(home.path().join("fifo")).status().unwrap();
        assert!(made.success());
        for (path, says) in [("dir", "files: dir: "), ("fifo/x", "files: fifo/x: ")] {
            let failed = lay(at, &[file(path, "x")]).unwrap_err().to_string();
            assert!(failed.starts_with(says), "{failed}");
        }
        lay(at, &[file("fifo", "x")]).unwrap();
        assert!(lay("/no/such/home", &[file("x", "x")]).is_err());
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 2, "no draft is left");
    }
}
