//! What the backend starts this program for when each session has its own user id (`SHELL_SANDBOX=user`): a host as that
//! user, the end of all processes of that user, and the removal of all that they left.
//!
//! These run before the host, as root or with the capabilities `SETUID`, `SETGID` and `CHOWN`, in a process with one
//! thread.

mod assume;
mod clear;
mod home;
mod kill;
mod limits;

use std::{
    ffi::OsString,
    io::{self, ErrorKind},
    path::PathBuf,
};

use rustix::process::Uid;

use self::limits::Limits;

/// Lowest user id that a session may have. Below are the system's accounts.
const FIRST: u32 = 1000;

/// What to do as a session's user.
pub(crate) enum Role {
    /// Become that user, and serve a session.
    Serve { user: Uid, place: PathBuf, limits: Limits },
    /// Become that user, and nothing else: shows whether this is possible.
    Try { user: Uid },
    /// End all its processes. `helper` is a user that has none but such helpers.
    Kill { user: Uid, helper: Uid },
    /// Remove its files and System V IPC.
    Clear { user: Uid, place: PathBuf },
}

/// Outcome of a role.
pub(crate) enum Done {
    /// The process is that user now; the host may start.
    Serve,
    /// All is done.
    All,
    /// Some of it is left; it may succeed later.
    Some,
}

impl Role {
    /// Reads the command line. `None` without arguments: a host with the user of its parent.
    pub(crate) fn read(mut arguments: impl Iterator<Item = OsString>) -> io::Result<Option<Self>> {
        let Some(role) = arguments.next() else { return Ok(None) };
        let mut next = || arguments.next().ok_or_else(unusable);
        let role = match role.to_str() {
            Some("serve") => {
                let (user, place) = (uid(next()?)?, next()?.into());
                Self::Serve { user, place, limits: Limits::read(next)? }
            }
            Some("try") => Self::Try { user: uid(next()?)? },
            Some("kill") => Self::Kill { user: uid(next()?)?, helper: uid(next()?)? },
            Some("clear") => Self::Clear { user: uid(next()?)?, place: next()?.into() },
            _ => return Err(unusable()),
        };
        Ok(Some(role))
    }

    pub(crate) fn perform(self) -> io::Result<Done> {
        match self {
            Self::Serve { user, place, limits } => {
                limits.apply()?;
                assume::user(user)?;
                home::furnish(&place)?;
                Ok(Done::Serve)
            }
            Self::Try { user } => assume::user(user).map(|()| Done::All),
            Self::Kill { user, helper } => kill::all(user, helper),
            Self::Clear { user, place } => clear::all(user, &place),
        }
    }
}

fn uid(text: OsString) -> io::Result<Uid> {
    let raw = number(text)?;
    if (FIRST..u32::MAX).contains(&raw) { Ok(Uid::from_raw(raw)) } else { Err(unusable()) }
}

fn number<T: std::str::FromStr>(text: OsString) -> io::Result<T> {
    text.to_str().and_then(|text| text.parse().ok()).ok_or_else(unusable)
}

fn unusable() -> io::Error {
    io::Error::new(ErrorKind::InvalidInput, "unusable arguments: only the backend starts this program")
}
