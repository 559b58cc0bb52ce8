//! Hosts, one process per session: starts, finds and ends them, and isolates the backend's secrets from them.

mod container;
mod engine;
mod environment;
mod images;
mod init;
mod limits;
mod listener;
mod process;
mod reap;
mod reports;
mod run_dir;
mod secrets;
mod setup;
mod space;
mod uids;
mod user;

pub(crate) use self::{
    container::{Container, Settings as ContainerSettings},
    environment::{ShellRequest, move_in, shell_spec, shell_spec_elsewhere, shell_spec_inside},
    limits::Room,
    listener::inherited,
    process::{Host, Launcher, Process},
    reap::orphans,
    setup::{Setup, SetupRequest},
    space::{NotStarted, Space},
};
pub use self::{
    init::{init, is_init},
    limits::{BadLimits, Limits, Sandbox},
    reports::below_init,
    secrets::{give_up_capabilities, keep_secrets, protect},
    user::UsersLeft,
};
