//! Hosts, one process a session: how one is started, found again and ended, and what it may know.

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
