//! Prepares the process before anything else: shells cannot access it, and no process of theirs escapes it.

use std::{
    fs::File,
    io,
    os::{fd::AsFd as _, unix::net::UnixListener},
};

use rustix::{
    net::sockopt::socket_peercred,
    process::{
        DumpableBehavior, Uid, getpid, set_child_subreaper, set_dumpable_behavior, setpriority_process,
        setsid,
    },
};
use tokio::signal::unix::{SignalKind, signal};

/// The host's `nice` value, between the backend's and that of its shells (`pty`).
const NICE: i32 = 2;

/// Hardens the process. Returns the socket, and the user whose backends may connect.
///
/// - Not dumpable: root owns its `/proc` files, and a shell of the same user cannot attach (proc(5), ptrace(2)).
/// - A subreaper: processes that shells orphan become its children, and end with the session (prctl(2)).
/// - In a new POSIX session: signals of the backend's terminal do not reach it, and the kernel schedules the session as
///   a group (sched(7), "The autogroup feature").
/// - Shells inherit none of its descriptors, not even the socket.
pub(crate) fn prepare() -> io::Result<(UnixListener, Uid)> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    set_child_subreaper(Some(getpid()))?;
    // Fails if the process already leads a process group, as when started by hand.
    let _ = setsid();
    let _ = setpriority_process(None, NICE);
    // Not every kernel has autogroups.
    let _ = std::fs::write("/proc/self/autogroup", NICE.to_string());
    close_fds::set_fds_cloexec(3, &[]);
    let listener = UnixListener::from(io::stdin().as_fd().try_clone_to_owned()?);
    // Fails if stdin is not a Unix socket.
    listener.local_addr()?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(null.as_fd())?;
    rustix::stdio::dup2_stdout(null.as_fd())?;
    rustix::stdio::dup2_stderr(null.as_fd())?;
    // Who made it listen. Not the user of this process, which may be another one.
    let backend = socket_peercred(&listener)?.uid;
    Ok((listener, backend))
}

/// Handles signals that a parent may have set to be ignored, as `nohup` and a script's `&` do. Shells would inherit that, and
/// Ctrl-C would not work in them; `exec` resets a handled signal to its default (signal(7)). Requires a runtime.
pub(crate) fn reset_signals() -> io::Result<()> {
    for kind in [SignalKind::hangup(), SignalKind::interrupt(), SignalKind::quit()] {
        // The handler stays when this is dropped.
        drop(signal(kind)?);
    }
    Ok(())
}
