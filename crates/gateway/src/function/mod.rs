//! The function: real processes of its executable, or an Invoke endpoint elsewhere.

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

/// Why an invocation has no answer. To the client all are 502 or `Internal server error`.
#[derive(Debug, Error)]
pub enum FunctionError {
    /// The function reported an error (its handler returned one or panicked).
    #[error("the function failed: {0}")]
    Unhandled(String),
    /// The process ended, or was killed, in mid-invocation. Nothing says how far it came.
    #[error("the function's process ended before it answered")]
    Exited,
    /// The function took longer than its own timeout; its process was killed.
    #[error("the function took longer than its timeout")]
    TimedOut,
    /// Too many invocations wait for a process. A retry may help.
    #[error("too many invocations wait for a free process")]
    Throttled,
    /// No process comes up: all of them ended before asking for an event.
    #[error("the function does not start")]
    NotStarted,
    /// The Invoke endpoint cannot be reached or did not answer as Lambda does.
    #[error("invoking the function: {0}")]
    Endpoint(String),
}

/// Where events are sent.
#[derive(Debug, Clone)]
pub enum Function {
    /// Processes started here.
    Processes(Arc<Pool>),
    /// Any Invoke endpoint, such as `cargo lambda watch`.
    Remote(Arc<Remote>),
}

impl Function {
    /// Hands an event to the function and waits for its answer, without a time limit but the function's own.
    pub async fn invoke(&self, event: Bytes) -> Result<Bytes, FunctionError> {
        match self {
            Self::Processes(pool) => pool.invoke(event).await,
            Self::Remote(remote) => remote.invoke(event).await,
        }
    }
}
