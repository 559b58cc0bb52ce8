//! Hosts, one process per session: starts, finds and ends them, and isolates the backend's secrets from them.

mod environment;
mod init;
mod limits;
mod listener;
mod process;
mod reap;
mod reports;
mod run_dir;
mod secrets;
mod setup;
mod uids;
mod user;

pub(crate) use self::{
    environment::{ShellRequest, move_in, shell_spec, shell_spec_elsewhere},
    limits::Room,
    listener::inherited,
    process::{Host, Launcher, NotStarted, Process, Space},
    reap::orphans,
    setup::{Setup, SetupRequest},
};
pub use self::{
    init::{init, is_init},
    limits::{BadLimits, Limits, Sandbox},
    reports::below_init,
    secrets::{keep_secrets, protect},
    user::UsersLeft,
};
