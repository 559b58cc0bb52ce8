//! `session-host`: one session in a process of its own. It owns the terminal, the running command and the state machine
//! (`shellbridge_session`), and speaks to the backend over a Unix socket (`shellbridge_session::link`).
//!
//! A flood, a panic or a leak is its session's alone, the kernel shares the processors out among sessions, and shells
//! live on while the backend is killed and started again. One thread does everything: what takes milliseconds, which is
//! following the screen, waits until nothing else is to be done.
//!
//! The host holds no secret. It is *outside* for the backend, which believes nothing it says.

mod command;
mod drain;
mod driver;
mod end;
mod frame;
mod link;
mod log;
mod prepare;
mod process;
mod pty;

/// Serves one session, on the listening socket that is this process's stdin, until the session is over.
///
/// # Errors
/// When the process cannot be made safe, or has no such socket.
pub fn run() -> std::io::Result<()> {
    let (listener, backend) = prepare::prepare()?;
    // Where it was, and no more: the message may hold what somebody typed.
    std::panic::set_hook(Box::new(|panic| {
        if let Some(place) = panic.location() {
            log::warn(format_args!("panicked at {place}"));
        }
    }));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = link::Listener::new(listener, backend)?;
        driver::serve(&listener).await;
        listener.remove();
        Ok(())
    })
}
