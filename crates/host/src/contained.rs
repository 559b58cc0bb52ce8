//! The host as the first process of a session's container.
//!
//! It runs as the container's unprivileged user, and so does the shell. Backends connect through [`relay`], which the
//! engine executes as the container's root, without capabilities. The kernel names the user of each peer: a shell cannot
//! become root, since its container has neither capabilities nor new privileges, so it cannot pass for a backend.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixListener, UnixStream},
    },
    path::Path,
    time::{Duration, Instant},
};

use nix::unistd::User;
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, Uid, getrlimit, getuid, set_dumpable_behavior, setrlimit,
};
use shellbridge_session::link::ShellSpec;

use crate::user;

/// Arguments of the host, and of the process that connects a backend to it.
pub(crate) const HOST: &str = "contained";
pub(crate) const RELAY: &str = "relay";
/// The user whose processes may connect: the container's root.
pub(crate) const BACKEND: Uid = Uid::ROOT;
/// Abstract name of the socket. It belongs to the container's network namespace, and the host binds it before any shell
/// exists.
const NAME: &str = "shellbridge-session-host";
/// The home: a file system of limited size.
const HOME: &str = "/home/session";
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Open files of a process.
const FILES: u64 = 4096;
/// How long the host may take to listen, and how often to look.
const STARTED_WITHIN: Duration = Duration::from_secs(10);
const AGAIN: Duration = Duration::from_millis(2);
/// Bytes per copy of the relay.
const COPIED: usize = 64 * 1024;

/// Binds the socket, and limits this process and its shells.
pub(crate) fn listen() -> io::Result<UnixListener> {
    // A shell of root could connect as a backend.
    if getuid().is_root() {
        return Err(io::Error::other("a host in a container must not run as root"));
    }
    // Here, because an engine may not be permitted to.
    let at_most = |resource, most: u64| {
        let most = getrlimit(resource).maximum.map_or(most, |has| has.min(most));
        setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })
    };
    at_most(Resource::Core, 0)?;
    at_most(Resource::Nofile, FILES)?;
    UnixListener::bind_addr(&SocketAddr::from_abstract_name(NAME)?)
}

/// Copies stdin to the host, and the host's answers to stdout, until either side closes.
pub(crate) fn relay() -> io::Result<()> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    let host = connect()?;
    let mut to_host = host.try_clone()?;
    std::thread::spawn(move || {
        let _ = copy(&mut io::stdin(), &mut to_host);
        // The backend is gone: so is this process, even while the host has nothing to say.
        let _ = to_host.shutdown(std::net::Shutdown::Both);
    });
    copy(&mut &host, &mut io::stdout())
}

/// The container may have started just now.
fn connect() -> io::Result<UnixStream> {
    let address = SocketAddr::from_abstract_name(NAME)?;
    let end = Instant::now() + STARTED_WITHIN;
    loop {
        match UnixStream::connect_addr(&address) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused && Instant::now() < end => {
                std::thread::sleep(AGAIN);
            }
            connected => return connected,
        }
    }
}

fn copy(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut buffer = vec![0; COPIED];
    loop {
        let count = from.read(&mut buffer)?;
        let Some(bytes) = buffer.get(..count).filter(|bytes| !bytes.is_empty()) else { return Ok(()) };
        to.write_all(bytes)?;
        to.flush()?;
    }
}

/// Fills in what only the container knows: the user, its shell and home, and the image's variables.
///
/// # Errors
/// What is wrong with the requested shell, as a text for the platform.
pub(crate) fn complete(spec: ShellSpec) -> Result<ShellSpec, String> {
    let user = User::from_uid(getuid().as_raw().into()).ok().flatten();
    let name = user.as_ref().map_or("user", |user| user.name.as_str());
    let home = if Path::new(HOME).is_dir() { HOME } else { "/" };
    user::furnish_home(Path::new(home));
    let shell = match spec.shell {
        shell if shell.is_empty() => {
            let login = user.as_ref().map(|user| user.shell.to_string_lossy().into_owned());
            let choices = login.into_iter().chain(["/bin/bash".to_owned(), "/bin/sh".to_owned()]);
            choices
                .filter(|shell| usable(shell))
                .find(|shell| is_file(shell))
                .ok_or("shell: the image has no /bin/sh")?
        }
        shell if is_file(&shell) => shell,
        _ => return Err("shell: not the absolute path of a file in the image".to_owned()),
    };
    let cwd = match spec.cwd {
        cwd if cwd.is_empty() => home.to_owned(),
        cwd if Path::new(&cwd).is_absolute() && Path::new(&cwd).is_dir() => cwd,
        _ => return Err("cwd: not the absolute path of a directory in the image".to_owned()),
    };
    let ours = [("TERM", "xterm-256color"), ("HOME", home), ("USER", name), ("SHELL", &shell)];
    // The engine sets these, for the image and for itself.
    let image = std::env::vars().filter(|(name, _)| !["HOSTNAME", "container"].contains(&name.as_str()));
    let mut env: BTreeMap<String, String> =
        [("PATH", PATH), ("LANG", "C.UTF-8")].map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    env.extend(image);
    env.extend(ours.map(|(name, value)| (name.to_owned(), value.to_owned())));
    env.extend(spec.env);
    Ok(ShellSpec { shell, cwd, env })
}

/// Whether this login shell permits a login; `nologin` and `false` do not.
fn usable(shell: &str) -> bool {
    !shell.ends_with("/nologin") && !shell.ends_with("/false")
}

fn is_file(path: &str) -> bool {
    Path::new(path).is_absolute() && Path::new(path).is_file()
}
