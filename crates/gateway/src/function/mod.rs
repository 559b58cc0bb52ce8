//! The function: processes of its executable, or an Invoke endpoint.

mod environment;
mod pool;
mod process;
mod remote;
mod runtime_api;

pub use pool::{Pool, PoolSettings};
pub use remote::Remote;

use std::sync::Arc;

use bytes::Bytes;
use thiserror::Error;

/// Why an invocation has no response. The client gets 502 or `Internal server error` for all of them.
#[derive(Debug, Error)]
pub enum FunctionError {
    /// The function reported an error (its handler returned one or panicked).
    #[error("the function failed: {0}")]
    Unhandled(String),
    /// The process exited or was killed during the invocation, which may or may not have had its effects.
    #[error("the function's process exited before it responded")]
    Exited,
    /// The function exceeded its own timeout; its process was killed.
    #[error("the function timed out")]
    TimedOut,
    /// Too many invocations are queued. A retry may help.
    #[error("too many invocations are queued")]
    Throttled,
    /// No process starts: all of them exited before they asked for an event.
    #[error("the function does not start")]
    NotStarted,
    /// The Invoke endpoint cannot be reached, or did not respond as Lambda does.
    #[error("cannot invoke the function: {0}")]
    Endpoint(String),
}

/// Where events go.
#[derive(Debug, Clone)]
pub enum Function {
    /// Processes that the gateway starts.
    Processes(Arc<Pool>),
    /// An Invoke endpoint, such as that of `cargo lambda watch`.
    Remote(Arc<Remote>),
}

impl Function {
    /// Invokes the function and waits for its response. The only time limit is the function's own.
    pub async fn invoke(&self, event: Bytes) -> Result<Bytes, FunctionError> {
        match self {
            Self::Processes(pool) => pool.invoke(event).await,
            Self::Remote(remote) => remote.invoke(event).await,
        }
    }
}
