//! Measures what the session uses.
//!
//! A shell controls the number of its processes and files, so both scans are bounded, and run on a thread of their own: a
//! file system may block it.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use rustix::{
    fd::OwnedFd,
    fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, fstat, openat, statat},
    param::{clock_ticks_per_second, page_size},
};
use shellbridge_session::link::{Measure, Measured};
use tokio::sync::oneshot;

use crate::process::children;

/// Processes counted.
const MAX_PROCESSES: usize = 4096;
/// Files counted, depth of directories, and how long counting may take. Beyond that, the number is unknown.
const MAX_FILES: usize = 10_000;
const MAX_DEPTH: usize = 64;
const WITHIN: Duration = Duration::from_millis(100);
/// `st_blocks` counts blocks of this size (inode(7)).
const BLOCK: u64 = 512;

/// Measures on another thread. `home` is the session's home.
///
/// # Errors
/// When no thread can be started.
pub(crate) fn measure(
    measure: &Measure,
    home: Option<String>,
) -> std::io::Result<oneshot::Receiver<Measured>> {
    let (sender, receiver) = oneshot::channel();
    let (request, home) = (measure.request, home.filter(|_| measure.disk));
    // Not tokio's pool, which a blocked thread would keep from shutting down.
    std::thread::Builder::new().name("usage".to_owned()).spawn(move || {
        let Processes { count, memory, cpu_ms } = processes();
        let disk = home.and_then(|home| disk(&home));
        let _ = sender.send(Measured { request, processes: count, memory, cpu_ms, disk });
    })?;
    Ok(receiver)
}

#[derive(Debug, Default)]
struct Processes {
    count: u32,
    memory: u64,
    cpu_ms: u64,
}

/// The host's living descendants.
fn processes() -> Processes {
    let me = std::process::id().cast_signed();
    // Its own time is not the session's; that of its ended children is.
    let mut ticks = Usage::read(me).map_or(0, |usage| usage.children);
    let (mut count, mut pages) = (0, 0);
    let mut seen = HashSet::from([me]);
    let mut next = vec![me];
    while let Some(parent) = next.pop() {
        for child in children(parent) {
            if seen.len() > MAX_PROCESSES || !seen.insert(child) {
                continue;
            }
            next.push(child);
            let Some(usage) = Usage::read(child) else { continue };
            ticks += usage.own + usage.children;
            if !usage.zombie {
                count += 1;
                pages += usage.pages;
            }
        }
    }
    Processes {
        count,
        memory: pages * page_size() as u64,
        cpu_ms: ticks * 1000 / clock_ticks_per_second().max(1),
    }
}

/// Fields of `/proc/PID/stat` (`proc_pid_stat(5)`).
struct Usage {
    zombie: bool,
    /// Processor time, clock ticks.
    own: u64,
    /// The same, of children that ended and were waited for.
    children: u64,
    /// Resident memory, pages.
    pages: u64,
}

impl Usage {
    fn read(pid: i32) -> Option<Self> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name, in parentheses, may contain anything. The first field after it is number 3.
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        Some(Self {
            zombie: fields.first() == Some(&"Z"),
            own: number(14)? + number(15)?,
            children: number(16)? + number(17)?,
            pages: number(24)?,
        })
    }
}

/// Bytes that the files below `home` occupy, without other file systems. `None` if they cannot be counted in time.
fn disk(home: &str) -> Option<u64> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let home = openat(CWD, home, flags, Mode::empty()).ok()?;
    let device = fstat(&home).ok()?.st_dev;
    let mut walk = Walk { device, files: 0, bytes: 0, end: Instant::now() + WITHIN };
    walk.directory(home, 0).map(|()| walk.bytes)
}

struct Walk {
    device: u64,
    files: usize,
    bytes: u64,
    end: Instant,
}

impl Walk {
    fn directory(&mut self, directory: OwnedFd, depth: usize) -> Option<()> {
        if depth > MAX_DEPTH {
            return None;
        }
        let mut entries = Dir::new(directory).ok()?;
        while let Some(entry) = entries.read() {
            let entry = entry.ok()?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            self.files += 1;
            if self.files > MAX_FILES || Instant::now() > self.end {
                return None;
            }
            let here = entries.fd().ok()?;
            // It may have been removed since.
            let Ok(stat) = statat(here, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            self.bytes += u64::try_from(stat.st_blocks).unwrap_or(0) * BLOCK;
            if FileType::from_raw_mode(stat.st_mode) != FileType::Directory || stat.st_dev != self.device {
                continue;
            }
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            if let Ok(below) = openat(here, name, flags, Mode::empty()) {
                self.directory(below, depth + 1)?;
            }
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn disk_counts_files_without_following_links() {
        let (home, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(other.path().join("large"), vec![1; 4 << 20]).unwrap();
        symlink(other.path(), home.path().join("link")).unwrap();
        symlink(home.path(), home.path().join("loop")).unwrap();
        fs::create_dir_all(home.path().join("a/b")).unwrap();
        fs::write(home.path().join("a/b/file"), vec![1; 1 << 20]).unwrap();
        // A slow machine may take longer than `WITHIN`.
        let used = std::iter::repeat_with(|| disk(home.path().to_str().unwrap())).find_map(|used| used);
        assert!(used.is_some_and(|used| ((1 << 20)..(2 << 20)).contains(&used)), "{used:?}");
        assert_eq!(disk("/no/such/home"), None);
    }

    #[test]
    fn too_many_files_are_not_counted() {
        let home = tempfile::tempdir().unwrap();
        let deep = home.path().join("d/".repeat(MAX_DEPTH + 1));
        fs::create_dir_all(deep).unwrap();
        assert_eq!(disk(home.path().to_str().unwrap()), None, "too deep");
    }

    #[test]
    fn processes_are_counted_with_their_memory() {
        let mut child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        let found = processes();
        assert!(found.count >= 1 && found.memory > 0, "{found:?}");
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
