//! The pipe through which a backend tells the init above it (`init`) which processes are hosts.
//!
//! Only the backend knows: a shell of the same user can fake everything that init can read about a process that is not
//! dumpable, and could write to a file.

use std::{
    collections::HashSet,
    fs::File,
    io::{self, Write as _, stdin},
    os::fd::AsFd as _,
    process::Stdio,
    sync::OnceLock,
};

use rustix::{
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
    process::{Signal, set_parent_process_death_signal},
};
use tokio::{io::AsyncReadExt as _, net::unix::pipe};

use super::listener;

/// The backend's end.
static TO_INIT: OnceLock<File> = OnceLock::new();

/// Begins to report to the init that started this process, through stdin, and finds the sockets that it has passed. Makes this process die with the init: otherwise
/// it would hold address and directory, and nothing would stop it.
///
/// # Errors
/// When stdin cannot be used.
pub fn below_init() -> io::Result<()> {
    listener::inherit();
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let pipe = stdin().as_fd().try_clone_to_owned()?;
    fcntl_setfl(&pipe, fcntl_getfl(&pipe)? | OFlags::NONBLOCK)?;
    let _ = TO_INIT.set(pipe.into());
    Ok(())
}

/// Reports that a host was started or, with its PID negated, reaped. Never waits: the pipe has room for 16,384 reports.
pub(super) fn report(pid: i32) {
    if let Some(mut pipe) = TO_INIT.get() {
        // If this process crashes, init ends a host that it has not been told of.
        let _ = pipe.write_all(&pid.to_ne_bytes());
    }
}

/// The init's end.
pub(super) struct Reports(pipe::Receiver);

impl Reports {
    /// Creates a pipe. Returns the backend's stdin too, because passing any other descriptor takes `unsafe`.
    pub(super) fn new() -> io::Result<(Self, Stdio)> {
        let (reader, writer) = io::pipe()?;
        Ok((Self(pipe::Receiver::from_owned_fd(reader.into())?), writer.into()))
    }

    /// Waits for reports and applies them; false if the backend is gone. Cancel safe.
    pub(super) async fn read(&mut self, hosts: &mut HashSet<i32>) -> bool {
        // Whole reports, because they are written atomically (pipe(7)).
        let mut buffer = [0; 4096];
        let count = self.0.read(&mut buffer).await.unwrap_or(0);
        for &pid in buffer.get(..count).unwrap_or_default().as_chunks().0 {
            match i32::from_ne_bytes(pid) {
                pid if pid < 0 => hosts.remove(&-pid),
                pid => hosts.insert(pid),
            };
        }
        count > 0
    }
}
