//! Free loopback ports, for programs that bind by themselves.

use std::net::TcpListener;

use anyhow::Context as _;

/// A port that is free now; another process may take it first.
pub(super) fn free() -> anyhow::Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").context("cannot find a free port")?;
    Ok(listener.local_addr()?.port())
}
