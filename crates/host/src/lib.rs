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

/// Serves one session until it is over. The process's stdin must be a listening Unix socket.
///
/// # Errors
/// When the process cannot be hardened, or stdin is not such a socket.
pub fn run() -> std::io::Result<()> {
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
        Ok(())
    })
}
