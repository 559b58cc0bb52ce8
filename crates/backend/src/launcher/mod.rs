//! Hosts, one process per session: starts, finds and ends them, and isolates the backend's secrets from them.

mod environment;
mod process;
mod reap;
mod run_dir;
mod secrets;

pub use self::secrets::keep_secrets;
pub(crate) use self::{
    environment::{ShellRequest, shell_spec},
    process::{Host, Launcher, Process},
    reap::orphans,
};
