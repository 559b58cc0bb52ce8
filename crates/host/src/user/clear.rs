//! Removes what a session's user left: its home, its files in places that all users share, and its System V IPC.
//!
//! The user controls the names, the depth, the number and the modes of its files, but has no process any more. Another
//! session's user may have been given access, and may still change directories meanwhile.

use std::{
    ffi::{CStr, CString},
    fs,
    io::{self, ErrorKind},
    os::fd::{AsFd, OwnedFd},
    path::Path,
    process::{Command, Stdio},
    time::{SystemTime, UNIX_EPOCH},
};

use rustix::{
    fs::{
        AtFlags, CWD, Dir, FileType, Mode, OFlags, RawMode, chmodat, chownat, fchmod, fstat, openat,
        renameat, statat, unlinkat,
    },
    io::Errno,
    process::{Gid, Uid},
    thread::CapabilitySet,
};

use super::{Done, assume};

/// Directories in which every user may create files.
const SHARED: [&str; 5] = ["/tmp", "/var/tmp", "/dev/shm", "/run/lock", "/dev/mqueue"];
/// Levels of directories in them that others may write to, and entries in all, that are searched.
const DEPTH: u32 = 8;
const ENTRIES: u32 = 100_000;
/// Permissions of a directory that others may write to, and those that its owner needs to empty it.
const OTHERS_WRITE: RawMode = 0o002;
const OWNER: RawMode = 0o700;
/// System V IPC: the kernel's lists, and the options of ipcrm(1).
const IPC: [(&str, &str); 3] =
    [("/proc/sysvipc/shm", "-m"), ("/proc/sysvipc/sem", "-s"), ("/proc/sysvipc/msg", "-q")];
/// Ids per call of ipcrm.
const AT_ONCE: usize = 1000;
const IPCRM: [&str; 2] = ["/usr/bin/ipcrm", "/bin/ipcrm"];

/// Removes everything in the user's place and elsewhere. The place itself belongs to the backend.
pub(super) fn all(user: Uid, place: &Path) -> io::Result<Done> {
    // For directories that other sessions' users made in those of this one, and left.
    assume::user_with(user, CapabilitySet::CHOWN)?;
    let mut clearing = Clearing { user, moved: 0, whole: true };
    // The user may pass, but not list it.
    let place = openat(CWD, place, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    for part in [c"home", c"tmp"] {
        match clearing.own(&place, part) {
            Ok(directory) => clearing.empty(&directory),
            Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let mut left = ENTRIES;
    for shared in SHARED {
        if let Ok(directory) = open(CWD, Path::new(shared)) {
            clearing.search(&directory, DEPTH, &mut left);
        }
    }
    clearing.whole &= remove_ipc(user)?;
    Ok(if clearing.whole { Done::All } else { Done::Some })
}

struct Clearing {
    user: Uid,
    /// Directories moved so far; makes their new names unique.
    moved: u64,
    /// Whether all could be removed.
    whole: bool,
}

impl Clearing {
    /// Removes all entries of a directory. Depth costs neither memory nor descriptors: what a subdirectory contains is
    /// moved up here before it is removed.
    fn empty(&mut self, top: &OwnedFd) {
        // Entries may be moved here after their place in the listing has passed.
        loop {
            let (mut found, mut removed) = (false, false);
            for (name, _) in entries(top) {
                found = true;
                removed |= self.remove(top, &name).is_ok();
            }
            if !found || !removed {
                self.whole &= !found;
                return;
            }
        }
    }

    /// Removes an entry of `top`.
    fn remove(&mut self, top: &OwnedFd, name: &CStr) -> rustix::io::Result<()> {
        match unlink(top, name) {
            Err(Errno::NOTEMPTY | Errno::EXIST) => {}
            done => return done,
        }
        let below = self.own(top, name)?;
        for (child, _) in entries(&below) {
            if matches!(unlink(&below, &child), Err(Errno::NOTEMPTY | Errno::EXIST)) {
                // Moving a directory changes its `..`, so takes permission to write to it.
                self.own(&below, &child)?;
                self.moved += 1;
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                renameat(&below, &child, top, format!("{:x}-{}", since.as_nanos(), self.moved))?;
            }
        }
        unlinkat(top, name, AtFlags::REMOVEDIR)
    }

    /// Opens a directory after making it this user's, with all permissions.
    fn own(&self, parent: &OwnedFd, name: &CStr) -> rustix::io::Result<OwnedFd> {
        // Does not need permission to read. Never a link, and a directory has no other name.
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let found = openat(parent, name, flags, Mode::empty())?;
        let owner = fstat(&found)?.st_uid;
        if owner != self.user.as_raw() {
            // Only a session's user can have made it here.
            if owner < super::FIRST {
                return Err(Errno::PERM);
            }
            let group = Gid::from_raw(self.user.as_raw());
            chownat(&found, c"", Some(self.user), Some(group), AtFlags::EMPTY_PATH)?;
        }
        let directory = match open(parent, name) {
            // By name: a link in its place, which only a living session could have put there, leads to files of this user
            // at most.
            Err(Errno::ACCESS) => {
                chmodat(parent, name, Mode::from_raw_mode(OWNER), AtFlags::empty())?;
                open(parent, name)?
            }
            opened => opened?,
        };
        if fstat(&directory)?.st_mode & OWNER != OWNER {
            fchmod(&directory, Mode::from_raw_mode(OWNER))?;
        }
        Ok(directory)
    }

    /// Removes this user's entries in a directory that all users share.
    fn search(&mut self, shared: &OwnedFd, depth: u32, left: &mut u32) {
        for (name, _) in entries(shared) {
            let Some(rest) = left.checked_sub(1) else { return };
            *left = rest;
            let Ok(is) = statat(shared, &name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            let directory = FileType::from_raw_mode(is.st_mode) == FileType::Directory;
            if is.st_uid == self.user.as_raw() {
                if unlink(shared, &name).is_err() && directory {
                    if let Ok(own) = self.own(shared, &name) {
                        self.empty(&own);
                    }
                    self.whole &= unlinkat(shared, &name, AtFlags::REMOVEDIR).is_ok();
                }
            } else if directory
                && depth > 0
                && is.st_mode & OTHERS_WRITE != 0
                && let Ok(below) = open(shared, &name)
            {
                self.search(&below, depth - 1, left);
            }
        }
    }
}

/// Opens a directory, and nothing else.
fn open(parent: impl AsFd, name: impl rustix::path::Arg) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(parent, name, flags, Mode::empty())
}

/// Removes a file or an empty directory. One that is gone counts as removed.
fn unlink(parent: &OwnedFd, name: &CStr) -> rustix::io::Result<()> {
    let removed = match unlinkat(parent, name, AtFlags::empty()) {
        Err(Errno::ISDIR | Errno::PERM) => unlinkat(parent, name, AtFlags::REMOVEDIR),
        done => done,
    };
    if removed == Err(Errno::NOENT) { Ok(()) } else { removed }
}

/// Names and types of the entries, read as they are used.
fn entries(directory: &OwnedFd) -> impl Iterator<Item = (CString, FileType)> + use<> {
    let listing = Dir::read_from(directory).into_iter().flatten();
    listing.map_while(Result::ok).filter_map(|entry| {
        let name = entry.file_name();
        (name != c"." && name != c"..").then(|| (name.to_owned(), entry.file_type()))
    })
}

/// Removes System V IPC that this user owns; false if some is left.
fn remove_ipc(user: Uid) -> io::Result<bool> {
    let mut whole = true;
    for (list, option) in IPC {
        let ids = match fs::read_to_string(list) {
            Ok(list) => ids(&list, user),
            // A kernel without it.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        for ids in ids.chunks(AT_ONCE) {
            let arguments = ids.iter().flat_map(|id| [option, id.as_str()]);
            let Some(ipcrm) = IPCRM.iter().find(|path| Path::new(path).is_file()) else { return Ok(false) };
            let ended = Command::new(ipcrm).args(arguments).env_clear().stderr(Stdio::null()).status()?;
            whole &= ended.success();
        }
    }
    Ok(whole)
}

/// Ids of what this user owns or has made, in one of the kernel's lists (`proc_sysvipc(5)`).
fn ids(list: &str, user: Uid) -> Vec<String> {
    let mut lines = list.lines().map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
    let Some(header) = lines.next() else { return Vec::new() };
    let column = |name: &str| header.iter().position(|found| *found == name);
    let id = header.iter().position(|name| matches!(*name, "shmid" | "semid" | "msqid"));
    let owners = [column("uid"), column("cuid")];
    let user = user.as_raw().to_string();
    lines
        .filter(|line| owners.iter().flatten().any(|owner| line.get(*owner) == Some(&user.as_str())))
        .filter_map(|line| line.get(id?).map(|id| (*id).to_owned()))
        .collect()
}
