//! The images of sessions' containers: which are allowed, and pulls of those that the engine lacks.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::{sync::watch, time::timeout};

use super::{
    engine::{Engine, EngineError, Image},
    space::NotStarted,
};

/// How long a new session waits for a pull: less than the page does (15 s), which shows the progress.
const WAIT: Duration = Duration::from_secs(10);
/// How long a failed pull is not repeated.
const PAUSE: Duration = Duration::from_secs(10);

/// The allowed images.
pub(super) struct Images {
    engine: Engine,
    /// The first one is the default.
    names: Vec<String>,
    pulls: Arc<Mutex<HashMap<String, watch::Receiver<Pull>>>>,
}

/// State of a pull.
#[derive(Debug, Clone)]
enum Pull {
    /// Percent of the bytes known so far.
    Running(u8),
    Done,
    Failed(String, Instant),
}

impl Images {
    /// `default` is `SHELL_IMAGE`, `others` is `SHELL_IMAGES`.
    pub(super) fn new(engine: Engine, default: &str, others: Option<&str>) -> Self {
        let others = others.unwrap_or_default().split(',').map(str::trim);
        let names = std::iter::once(default.trim()).chain(others).filter(|name| !name.is_empty());
        Self { engine, names: names.map(str::to_owned).collect(), pulls: Arc::default() }
    }

    /// Pulls, in the background, the images that the engine lacks.
    pub(super) async fn pull_missing(&self) {
        for name in &self.names {
            if let Err(EngineError::Missing(_)) = self.engine.image(name).await {
                drop(self.pull(name));
            }
        }
    }

    /// The image for a session that asks for `wanted`, once the engine has it.
    pub(super) async fn get(&self, wanted: Option<&str>) -> Result<(&str, Image), NotStarted> {
        let default = self.names.first().map(String::as_str).unwrap_or_default();
        let wanted = wanted.unwrap_or(default);
        let Some(name) = self.names.iter().find(|name| *name == wanted) else {
            return Err(NotStarted::Image("image: not one of SHELL_IMAGE and SHELL_IMAGES".to_owned()));
        };
        let image = match self.engine.image(name).await {
            Err(EngineError::Missing(_)) => {
                self.pulled(name).await?;
                self.engine.image(name).await?
            }
            found => found?,
        };
        if image.volumes {
            let why = "image: it declares a VOLUME, whose size cannot be limited";
            return Err(NotStarted::Image(why.to_owned()));
        }
        Ok((name, image))
    }

    /// Waits for the pull of an image.
    async fn pulled(&self, name: &str) -> Result<(), NotStarted> {
        let mut pull = self.pull(name);
        // At the deadline, it is still running.
        let _ = timeout(WAIT, pull.wait_for(|pull| !matches!(pull, Pull::Running(_)))).await;
        let state = pull.borrow().clone();
        match state {
            Pull::Done => Ok(()),
            Pull::Running(percent) => Err(NotStarted::Pulling(percent)),
            Pull::Failed(why, _) => Err(NotStarted::NotPulled(why)),
        }
    }

    /// The running pull of an image, or a new one.
    fn pull(&self, name: &str) -> watch::Receiver<Pull> {
        let mut pulls = self.pulls.lock();
        if let Some(pull) = pulls.get(name) {
            let current = match &*pull.borrow() {
                Pull::Running(_) => true,
                Pull::Failed(_, at) => at.elapsed() < PAUSE,
                // It was removed since.
                Pull::Done => false,
            };
            if current {
                return pull.clone();
            }
        }
        let (news, pull) = watch::channel(Pull::Running(0));
        pulls.insert(name.to_owned(), pull.clone());
        let (engine, name) = (self.engine.clone(), name.to_owned());
        tokio::spawn(async move {
            tracing::info!(image = name, "pulling an image");
            let report = |percent: u8| {
                // At most a hundred lines.
                let changed = news.send_if_modified(|pull| {
                    let changed = !matches!(pull, Pull::Running(before) if *before >= percent);
                    if changed {
                        *pull = Pull::Running(percent);
                    }
                    changed
                });
                if changed && percent.is_multiple_of(10) {
                    tracing::info!(image = name, percent, "pulling an image");
                }
            };
            let done = match engine.pull(&name, report).await {
                Ok(()) => {
                    tracing::info!(image = name, "pulled an image");
                    Pull::Done
                }
                Err(error) => {
                    tracing::error!(image = name, %error, "cannot pull an image");
                    Pull::Failed(error.to_string(), Instant::now())
                }
            };
            news.send_replace(done);
        });
        pull
    }
}
