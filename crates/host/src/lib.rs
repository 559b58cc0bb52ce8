//! `session-host`: runs one session per process. It owns the terminal, the running command and the state machine
//! (`shellbridge_session`), and communicates with the backend over a Unix socket (`shellbridge_session::link`).
//!
//! A flood, a panic or a leak affects one session only, the kernel schedules sessions fairly, and shells survive a
//! restart or crash of the backend. The host is single-threaded: the only work that takes milliseconds, updating the
//! screen model, runs when nothing else is pending.
//!
//! The host holds no secret, and the backend does not trust it.

mod command;
mod drain;
mod driver;
mod files;
mod frame;
#[cfg(fuzzing)]
pub mod fuzzing;
mod link;
mod log;
mod prepare;
mod process;
mod pty;
mod usage;
mod user;

use self::user::{Done, Role};

/// Serves one session until it is over. The process's stdin must be a listening Unix socket.
///
/// With arguments, it first becomes another user, or does something else as that user (`user`); returns false if some of
/// that is left to do.
///
/// # Errors
/// When the process cannot be hardened, stdin is not such a socket, or it cannot become that user.
pub fn run() -> std::io::Result<bool> {
    if let Some(role) = Role::read(std::env::args_os().skip(1))? {
        match role.perform()? {
            Done::Serve => {}
            Done::All => return Ok(true),
            Done::Some => return Ok(false),
        }
    }
    let (listener, backend) = prepare::prepare()?;
    // Log only the location: the panic message may contain what a user typed.
    std::panic::set_hook(Box::new(|panic| {
        if let Some(place) = panic.location() {
            log::warn(format_args!("panicked at {place}"));
        }
    }));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        prepare::reset_signals()?;
        let listener = link::Listener::new(listener, backend)?;
        driver::serve(&listener).await;
        listener.remove();
        Ok(true)
    })
}
