//! The home of a session's user.

use std::{fs, io, path::Path};

/// What a new home contains (useradd(8)).
const SKELETON: &str = "/etc/skel";
/// Levels of directories that are copied.
const DEPTH: u32 = 8;

/// Copies the skeleton to the home in this place, as its user.
///
/// # Errors
/// When the home cannot be entered, such as where another user may not pass.
pub(super) fn furnish(place: &Path) -> io::Result<()> {
    let home = place.join("home");
    std::env::set_current_dir(&home)?;
    // A home without these files is whole.
    let _ = copy(Path::new(SKELETON), &home, DEPTH);
    std::env::set_current_dir("/")
}

fn copy(from: &Path, to: &Path, depth: u32) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (kind, target) = (entry.file_type()?, to.join(entry.file_name()));
        if kind.is_file() {
            fs::copy(entry.path(), target)?;
        } else if kind.is_dir() && depth > 0 {
            fs::create_dir(&target)?;
            copy(&entry.path(), &target, depth - 1)?;
        }
    }
    Ok(())
}
