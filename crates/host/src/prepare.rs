//! What a host does before anything else, so that its shells reach nothing of it, and nothing of theirs is lost.

use std::{
    fs::File,
    io,
    os::{fd::AsFd as _, unix::net::UnixListener},
};

use rustix::process::{
    DumpableBehavior, Uid, getpid, getuid, set_child_subreaper, set_dumpable_behavior, setpriority_process,
    setsid,
};

/// How far behind the backend a host comes, in steps of `nice`: half way to its shell (`pty`).
const NICE: i32 = 2;

/// Makes the process safe; gives back the socket, and the user whose backends may connect.
///
/// - Not dumpable: its `/proc` files are root's, and a shell of the same user cannot attach (proc(5), ptrace(2)).
/// - A subreaper: what shells orphan becomes its child, and is ended with the session (prctl(2)).
/// - In a POSIX session of its own: no signal of the backend's terminal reaches it, and the kernel weighs it as one
///   (sched(7), "The autogroup feature").
/// - No descriptor but the socket is inherited by shells, nor is that.
pub(crate) fn prepare() -> io::Result<(UnixListener, Uid)> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    set_child_subreaper(Some(getpid()))?;
    // It may lead its process group already, if somebody started it by hand.
    let _ = setsid();
    let _ = setpriority_process(None, NICE);
    // Not every kernel has it.
    let _ = std::fs::write("/proc/self/autogroup", NICE.to_string());
    close_fds::set_fds_cloexec(3, &[]);
    let listener = UnixListener::from(io::stdin().as_fd().try_clone_to_owned()?);
    // Fails for what is no such socket.
    listener.local_addr()?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(null.as_fd())?;
    rustix::stdio::dup2_stdout(null.as_fd())?;
    rustix::stdio::dup2_stderr(null.as_fd())?;
    Ok((listener, getuid()))
}
