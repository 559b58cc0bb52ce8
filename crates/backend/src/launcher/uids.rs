//! User ids of sessions: no two sessions have the same at once, and one is given again only when its last user left
//! nothing.
//!
//! `SHELL_HOMES` records which are in use: it has a directory per user id until everything of that user is gone.

use std::{
    collections::VecDeque,
    fs::{self, DirBuilder, File, Permissions, TryLockError},
    io::{self, ErrorKind},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, chown},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, ensure};
use nix::unistd::Uid;
use parking_lot::Mutex;

/// Lowest and highest user id of sessions: below are the system's accounts, and the highest values mean no user.
const LOWEST: u32 = 1000;
const HIGHEST: u32 = u32::MAX - 2;
/// Conventional id of an account that owns nothing.
const NOBODY: u32 = 65_534;
/// Most user ids in a range: what the processes of one backend can use.
const MOST: u32 = 100_000;
/// Mode of the directory of all homes: any user may pass, none may list.
const HOMES: u32 = 0o711;
/// Mode of a user's place, which belongs to the backend: only the user's group may pass.
const PLACE: u32 = 0o710;
/// Mode of the home and the directory for temporary files in it, which belong to the user.
const PRIVATE: u32 = 0o700;
const PARTS: [&str; 2] = ["home", "tmp"];

/// All user ids of a range.
pub(super) struct Uids {
    homes: PathBuf,
    /// Has no session: helpers hide behind it.
    helper: u32,
    /// Longest unused first.
    free: Mutex<VecDeque<u32>>,
    /// Held for the life of the process; the kernel releases it.
    _lock: File,
}

impl Uids {
    /// Locks the directory of homes, and checks that nothing else uses the range.
    pub(super) fn open(range: &str, homes: &Path) -> anyhow::Result<Self> {
        let (first, last) = parse(range)?;
        let homes = std::path::absolute(homes)?;
        let lock = lock(&homes).with_context(|| format!("SHELL_HOMES: {}", homes.display()))?;
        let uids = Self { homes, helper: first, free: Mutex::default(), _lock: lock };
        let mut free: VecDeque<u32> = (first + 1..=last).collect();
        // Not always the same user ids after a restart.
        let turn = rand::random_range(0..free.len());
        free.rotate_left(turn);
        let taken = uids.taken();
        free.retain(|uid| !taken.contains(uid));
        for uid in users_of_processes() {
            ensure!(
                !(first..=last).contains(&uid) || taken.contains(&uid),
                "SHELL_UIDS: another program runs as user {uid}: name a range that only this backend uses"
            );
        }
        if let Some(account) = account(first..=last) {
            anyhow::bail!(
                "SHELL_UIDS: the account {account} has one of them: name a range that only this backend uses"
            );
        }
        *uids.free.lock() = free;
        Ok(uids)
    }

    /// A user that has no session.
    pub(super) const fn helper(&self) -> u32 {
        self.helper
    }

    /// Takes a user id, and makes its place. `None` if all are in use.
    pub(super) fn take(&self) -> io::Result<Option<u32>> {
        let Some(uid) = self.free.lock().pop_front() else { return Ok(None) };
        let made = self.make(uid);
        if made.is_err() && self.remove(uid).is_ok() {
            self.free.lock().push_back(uid);
        }
        made.map(|()| Some(uid))
    }

    /// User ids in use when the process started.
    pub(super) fn taken(&self) -> Vec<u32> {
        taken(&self.homes)
    }

    /// The directory that contains the user's home.
    pub(super) fn place(&self, uid: u32) -> PathBuf {
        self.homes.join(uid.to_string())
    }

    /// Removes the user's place, whose parts are empty, and lets its id be given again.
    pub(super) fn give_back(&self, uid: u32) -> io::Result<()> {
        self.remove(uid)?;
        self.free.lock().push_back(uid);
        Ok(())
    }

    fn make(&self, uid: u32) -> io::Result<()> {
        let place = self.place(uid);
        DirBuilder::new().mode(PLACE).create(&place)?;
        // Whatever the umask is.
        fs::set_permissions(&place, Permissions::from_mode(PLACE))?;
        for part in PARTS.map(|part| place.join(part)) {
            DirBuilder::new().mode(PRIVATE).create(&part)?;
            chown(&part, Some(uid), Some(uid))?;
        }
        // Last, so that nothing can be in it before.
        chown(&place, None, Some(uid))
    }

    fn remove(&self, uid: u32) -> io::Result<()> {
        let place = self.place(uid);
        for path in PARTS.map(|part| place.join(part)).iter().chain([&place]) {
            match fs::remove_dir(path) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

/// Reads `SHELL_UIDS`.
pub(super) fn parse(range: &str) -> anyhow::Result<(u32, u32)> {
    let read = || {
        let (first, last) = range.split_once('-')?;
        let (first, last): (u32, u32) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        let fits = first >= LOWEST && last <= HIGHEST && first < last && last - first < MOST;
        (fits && !(first..=last).contains(&NOBODY)).then_some((first, last))
    };
    read().context("SHELL_UIDS: FIRST-LAST, 2 to 100000 ids from 1000 to 4294967293 without 65534")
}

/// User ids in use below a directory of homes.
pub(super) fn taken(homes: &Path) -> Vec<u32> {
    let entries = fs::read_dir(homes).into_iter().flatten().flatten();
    let uids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    uids.filter(|uid| (LOWEST..=HIGHEST).contains(uid)).collect()
}

/// Creates the directory, or checks it, and locks it. Another user who may write to it could replace homes.
fn lock(homes: &Path) -> anyhow::Result<File> {
    match DirBuilder::new().recursive(true).mode(HOMES).create(homes) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error.into()),
        _ => {}
    }
    let is = homes.symlink_metadata()?;
    ensure!(is.is_dir(), "not a directory");
    let me = Uid::effective().as_raw();
    ensure!(is.uid() == me, "owned by another user than this process, {me}");
    fs::set_permissions(homes, Permissions::from_mode(HOMES))?;
    let file =
        File::options().write(true).create(true).truncate(false).mode(0o600).open(homes.join("lock"))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => anyhow::bail!("another backend uses it"),
        Err(TryLockError::Error(error)) => Err(error.into()),
    }
}

/// Real user ids of all processes that can be seen.
fn users_of_processes() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        entry.file_name().to_str()?.parse::<u32>().ok()?;
        let status = fs::read_to_string(entry.path().join("status")).ok()?;
        let ids = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
        ids.split_ascii_whitespace().next()?.parse().ok()
    })
}

/// The name of a local account in the range. A directory of accounts such as LDAP is not asked, which may take long.
fn account(range: std::ops::RangeInclusive<u32>) -> Option<String> {
    let accounts = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let found = accounts.lines().find(|line| {
        line.split(':').nth(2).and_then(|uid| uid.parse().ok()).is_some_and(|uid| range.contains(&uid))
    });
    found.and_then(|line| line.split(':').next()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_has_two_ids_at_least_and_none_of_the_system() {
        assert_eq!(parse("20000-29999").unwrap(), (20_000, 29_999));
        for bad in [
            "",
            "20000",
            "20000-20000",
            "29999-20000",
            "0-2000",
            "999-2000",
            "60000-70000",
            "1000-200000",
            "-1-5",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_directory_of_homes_has_one_backend_and_only_its_own_user_may_write_to_it() {
        let parent = tempfile::tempdir().unwrap();
        let homes = parent.path().join("homes");
        let range = "1234567-1234569";
        let uids = Uids::open(range, &homes).unwrap();
        assert_eq!(homes.metadata().unwrap().mode() & 0o7777, HOMES);
        let again = Uids::open(range, &homes).err().map(|error| format!("{error:#}")).unwrap_or_default();
        assert!(again.contains("another backend"), "{again}");
        assert_eq!(uids.helper(), 1_234_567);
        assert_eq!(uids.free.lock().len(), 2);
    }

    /// Changing an owner takes root.
    #[test]
    fn ids_are_given_again_last_and_only_when_their_place_is_empty() {
        if !Uid::effective().is_root() {
            return;
        }
        let parent = tempfile::tempdir().unwrap();
        let uids = Uids::open("1234567-1234570", &parent.path().join("homes")).unwrap();
        let take = || uids.take().unwrap();
        let all = [take(), take(), take()].map(Option::unwrap);
        assert_eq!(take(), None);
        let [first, second, _] = all;
        let home = uids.place(first).join("home");
        assert_eq!(
            (home.metadata().unwrap().uid(), home.metadata().unwrap().mode() & 0o7777),
            (first, PRIVATE)
        );
        fs::write(home.join("file"), "").unwrap();
        assert!(uids.give_back(first).is_err());
        uids.give_back(second).unwrap();
        fs::remove_file(home.join("file")).unwrap();
        uids.give_back(first).unwrap();
        assert_eq!((take(), take(), take()), (Some(second), Some(first), None));
    }
}
