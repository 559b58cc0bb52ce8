//! What a session's host gets, and why it may not start.

use std::io;

use super::{engine::EngineError, limits::Limits};

/// What a session's host may use.
#[derive(Debug, Clone)]
pub(crate) struct Space {
    /// Its limits, within the server's maxima.
    pub(crate) limits: Limits,
    /// Image of its container. `None`: `SHELL_IMAGE`.
    pub(crate) image: Option<String>,
}

/// Why no host was started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotStarted {
    /// All user ids are in use.
    #[error("too many sessions: no user id is free")]
    Full,
    /// The image is not allowed, or unfit.
    #[error("{0}")]
    Image(String),
    /// The image is being pulled. The percentage is of what is known so far.
    #[error("pulling image ({0} %)")]
    Pulling(u8),
    /// The image cannot be pulled.
    #[error("cannot pull the image: {0}")]
    NotPulled(String),
    /// See [`EngineError`].
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The system is out of processes, descriptors or memory.
    #[error(transparent)]
    Failed(#[from] io::Error),
}
