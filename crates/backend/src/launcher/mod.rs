//! Shells: how one is started, what it may know, and how nothing of it is left.

pub(crate) mod command;
mod environment;
mod process;
pub(crate) mod pty;
mod reap;

pub(crate) use environment::{ShellRequest, ShellSpec};
pub use process::keep_secrets;
pub(crate) use process::{Leader, end_all, living};
pub(crate) use reap::orphans;
