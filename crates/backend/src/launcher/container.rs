//! Hosts in containers: one container per session, in which the host is the first process.
//!
//! A container belongs to the backend whose `RUN_DIR` it was made with (its label says which), and lives on without one.
//! The next backend with that `RUN_DIR` takes it over. A host without a backend ends by itself (`DETACHED_TTL`), so what
//! any backend may remove is what has ended.

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, ensure};
use bollard::models::{ContainerCreateBody, HealthConfig, HostConfig, HostConfigLogConfig, Mount, MountType};
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use shellbridge_protocol::ids::SessionId;
use tokio::{
    net::UnixStream,
    sync::Semaphore,
    time::{MissedTickBehavior, interval, sleep},
};

use super::{
    engine::{Engine, EngineError, FILLER, HOST_DIR, Image, State},
    images::Images,
    limits::Limits,
    space::{NotStarted, Space},
};

/// Program of the hosts, beside this program.
const PROGRAM: &str = "session-host-static";
/// Labels of a container: the backend it belongs to, and the session.
const INSTANCE: &str = "shellbridge.instance";
const SESSION: &str = "shellbridge.session";
/// User of a container whose image runs as root, as which no host runs.
const USER: &str = "1000:1000";
/// Where a session may write.
const HOME: &str = "/home/session";
const SCRATCH: [&str; 2] = ["/tmp", "/var/tmp"];
/// Containers that start at once: each takes the engine a tenth of a second of CPU time.
const STARTS: usize = 8;
/// How long a new backend waits for its engine.
const ENGINE_WITHIN: Duration = Duration::from_secs(10);
/// How often to check that the engine answers, and its deadline.
const CHECK_EVERY: Duration = Duration::from_secs(5);
/// Checks between removals of ended containers.
const SWEEP_EVERY: u32 = 12;
/// Age at which a container that was never started has been forgotten, seconds: its backend was killed in between.
const NEVER_STARTED: i64 = 600;
/// Pause before another attempt to reach the engine. It doubles.
const AGAIN: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Settings of this mode.
pub(crate) struct Settings<'a> {
    /// `DOCKER_HOST`.
    pub(crate) engine: &'a str,
    /// `SHELL_IMAGE`.
    pub(crate) image: &'a str,
    /// `SHELL_IMAGES`.
    pub(crate) images: Option<&'a str>,
    /// `SHELL_NETWORK`.
    pub(crate) network: &'a str,
}

/// Starts containers, and finds those of an earlier backend.
pub(crate) struct Containers {
    engine: Engine,
    images: Images,
    program: PathBuf,
    network: String,
    instance: String,
    /// Name of the volume that holds the host's program, once it does.
    volume: tokio::sync::OnceCell<String>,
    starts: Semaphore,
    /// Containers in use.
    kept: Mutex<HashSet<String>>,
    /// Containers that could not be removed.
    doomed: Mutex<HashSet<String>>,
    available: AtomicBool,
}

/// A session's container. It keeps running when this is dropped.
#[derive(Clone)]
pub(crate) struct Container {
    containers: Arc<Containers>,
    id: String,
}

impl std::fmt::Debug for Container {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Container").field(&self.id).finish()
    }
}

impl Containers {
    /// Checks the settings and that the engine answers. `secret` is that of `RUN_DIR`.
    pub(crate) async fn new(settings: Settings<'_>, secret: &[u8]) -> anyhow::Result<Self> {
        let Settings { engine: address, image, images, network } = settings;
        let program = std::env::current_exe()?.with_file_name(PROGRAM);
        ensure!(
            program.is_file(),
            "SHELL_SANDBOX=container: {} is missing (`make contained` builds it)",
            program.display()
        );
        let engine = Engine::new(address).with_context(|| format!("DOCKER_HOST={address}"))?;
        engine.ping(ENGINE_WITHIN).await.with_context(|| format!("DOCKER_HOST={address}"))?;
        let images = Images::new(engine.clone(), image, images);
        images.pull_missing().await;
        Ok(Self {
            images,
            engine,
            program,
            network: network.to_owned(),
            instance: name_of(secret),
            volume: tokio::sync::OnceCell::new(),
            starts: Semaphore::new(STARTS),
            kept: Mutex::default(),
            doomed: Mutex::default(),
            available: AtomicBool::new(true),
        })
    }

    /// Whether the engine answered last.
    pub(crate) fn available(&self) -> bool {
        self.available.load(Ordering::Relaxed)
    }

    /// Starts a host in a new container, and connects to it.
    pub(crate) async fn start(
        self: &Arc<Self>,
        session: &str,
        space: &Space,
    ) -> Result<(UnixStream, Container), NotStarted> {
        let (name, image) = self.images.get(space.image.as_deref()).await?;
        let _turn = self.starts.acquire().await;
        let volume = self.volume.get_or_try_init(|| self.fill_volume(name)).await?;
        let body = self.describe(session, name, &image, volume, space.limits);
        let id = self.engine.create(body).await?;
        self.kept.lock().insert(id.clone());
        let container = Container { containers: self.clone(), id };
        let connected = async {
            self.engine.start(&container.id).await?;
            self.engine.relay(&container.id).await
        };
        match connected.await {
            Ok(stream) => Ok((stream, container)),
            Err(error) => {
                container.remove().await;
                Err(error.into())
            }
        }
    }

    async fn fill_volume(&self, image: &str) -> Result<String, EngineError> {
        let program = tokio::fs::read(&self.program).await;
        let program = program.map_err(|error| EngineError::Refused(error.to_string()))?;
        let volume = format!("shellbridge-host-{}", name_of(&program));
        self.engine.volume(&volume, image, &program).await?;
        Ok(volume)
    }

    /// The container of a session.
    ///
    /// - No capability, and no way to gain one. Its user is not root.
    /// - The root is read-only. What the session may write is in memory and of limited size.
    /// - Nothing of this process's environment.
    fn describe(
        &self,
        session: &str,
        image_name: &str,
        image: &Image,
        volume: &str,
        limits: Limits,
    ) -> ContainerCreateBody {
        let mount = Mount {
            target: Some(HOST_DIR.to_owned()),
            source: Some(volume.to_owned()),
            typ: Some(MountType::VOLUME),
            read_only: Some(true),
            ..Default::default()
        };
        let labels = [(INSTANCE, self.instance.as_str()), (SESSION, session)];
        let text = |text: &str| Some(text.to_owned());
        ContainerCreateBody {
            image: text(image_name),
            user: Some(user(&image.user)),
            entrypoint: Some(vec![format!("{HOST_DIR}/session-host")]),
            cmd: Some(vec!["contained".to_owned()]),
            working_dir: text("/"),
            // A check would run as another process of the session.
            healthcheck: Some(HealthConfig { test: Some(vec!["NONE".to_owned()]), ..Default::default() }),
            labels: Some(labels.map(|(name, value)| (name.to_owned(), value.to_owned())).into()),
            host_config: Some(HostConfig {
                mounts: Some(vec![mount]),
                tmpfs: Some(tmpfs(limits.disk_mb)),
                shm_size: Some(mib(limits.disk_mb.map_or(64, |mb| (mb / 8).clamp(1, 64)))),
                readonly_rootfs: Some(true),
                cap_drop: Some(vec!["ALL".to_owned()]),
                security_opt: Some(vec!["no-new-privileges".to_owned()]),
                network_mode: Some(self.network.clone()),
                ipc_mode: text("private"),
                // Files are in memory, so both limits add up. `memory_swap` is the sum of memory and swap: no swap.
                memory: limits.memory_mb.map(|mb| mib(mb) + mib(limits.disk_mb.unwrap_or(0))),
                memory_swap: limits.memory_mb.map(|mb| mib(mb) + mib(limits.disk_mb.unwrap_or(0))),
                nano_cpus: limits.cpus.map(nanos),
                pids_limit: limits.pids.map(i64::from),
                log_config: Some(HostConfigLogConfig { typ: text("none"), config: None }),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    /// The containers that an earlier backend left, by session.
    pub(crate) async fn left(self: &Arc<Self>) -> Result<Vec<(SessionId, Container)>, EngineError> {
        let listed = self.engine.list(&format!("{INSTANCE}={}", self.instance)).await?;
        let alive = listed.into_iter().filter(|one| one.state == State::Alive);
        let left = alive.filter_map(|one| {
            self.kept.lock().insert(one.id.clone());
            let session = one.labels.get(SESSION)?.as_str().into();
            Some((session, Container { containers: self.clone(), id: one.id }))
        });
        Ok(left.collect())
    }

    /// Checks the engine and removes ended containers, forever.
    pub(crate) async fn tend(&self) {
        let mut ticks = interval(CHECK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut checks = 0;
        loop {
            ticks.tick().await;
            let answers = self.engine.ping(CHECK_EVERY).await;
            if self.available.swap(answers.is_ok(), Ordering::Relaxed) != answers.is_ok() {
                match &answers {
                    Ok(()) => tracing::info!("the container engine is available again"),
                    Err(error) => tracing::error!(%error, "the container engine is unavailable"),
                }
            }
            if answers.is_ok() {
                if checks % SWEEP_EVERY == 0
                    && let Err(error) = self.sweep().await
                {
                    tracing::warn!(%error, "cannot remove ended containers");
                }
                checks += 1;
            }
        }
    }

    /// Removes what has ended, whichever backend it belongs to, and never what runs: a backend that cannot reach its
    /// containers for a while must find them again.
    async fn sweep(&self) -> Result<(), EngineError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs().cast_signed();
        for label in [SESSION, FILLER] {
            for one in self.engine.list(label).await? {
                let over = match one.state {
                    State::Over => true,
                    State::Created => now.saturating_sub(one.created) > NEVER_STARTED,
                    State::Alive => false,
                };
                let kept = self.kept.lock().contains(&one.id);
                if (over && !kept) || self.doomed.lock().contains(&one.id) {
                    tracing::info!(container = one.id, "removing a container that an earlier failure left");
                    self.remove(&one.id).await;
                }
            }
        }
        Ok(())
    }

    /// Removes a container, or remembers to.
    async fn remove(&self, id: &str) {
        let removed = self.engine.remove(id).await;
        if removed.is_ok() {
            self.doomed.lock().remove(id);
        } else {
            self.doomed.lock().insert(id.to_owned());
        }
        self.kept.lock().remove(id);
        if let Err(error) = removed {
            tracing::warn!(container = id, %error, "cannot remove a container; will retry");
        }
    }
}

impl Container {
    /// Connects to the host, as soon as the engine answers. `None` if the container has ended.
    pub(crate) async fn connect(&self) -> Option<UnixStream> {
        let mut pause = AGAIN;
        loop {
            let engine = &self.containers.engine;
            match engine.state(&self.id).await {
                Ok(State::Alive) => match engine.relay(&self.id).await {
                    Ok(stream) => return Some(stream),
                    Err(error) => tracing::warn!(container = self.id, %error, "cannot connect to a host"),
                },
                Ok(State::Created | State::Over) => return None,
                Err(error) => tracing::warn!(container = self.id, %error, "cannot find a container"),
            }
            sleep(pause).await;
            pause = LONGEST_PAUSE.min(pause * 2);
        }
    }

    /// Kills and removes the container, with every process in it.
    pub(crate) async fn remove(&self) {
        self.containers.remove(&self.id).await;
    }
}

/// A name that does not reveal what it is made of.
fn name_of(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    format!("{:016x}", u64::from_be_bytes(digest.first_chunk().copied().unwrap_or_default()))
}

/// The user of a container, given its image's.
fn user(image: &str) -> String {
    let name = image.split(':').next().unwrap_or_default();
    let root = name.is_empty() || name == "root" || name.parse::<u32>().is_ok_and(|uid| uid == 0);
    if root { USER.to_owned() } else { image.to_owned() }
}

/// The writable directories, which together hold `disk` MiB.
fn tmpfs(disk: Option<u32>) -> HashMap<String, String> {
    let options = |size: Option<i64>| {
        let size = size.map(|bytes| format!(",size={bytes}")).unwrap_or_default();
        // Anyone may write, because only the image knows the number of its user; there is no other one. Podman keeps the
        // permissions of a directory that the image has: the home is one that no image should have.
        format!("rw,nosuid,nodev,exec,mode=1777{size}")
    };
    let share = |eighths| disk.map(|mb| mib(mb) / 8 * eighths);
    let scratch = SCRATCH.map(|path| (path.to_owned(), options(share(1))));
    // /dev/shm has the last eighth.
    scratch.into_iter().chain([(HOME.to_owned(), options(share(5)))]).collect()
}

fn mib(mb: u32) -> i64 {
    i64::from(mb) << 20
}

/// Processors in billionths.
fn nanos(cpus: f32) -> i64 {
    #[expect(clippy::cast_possible_truncation, reason = "`Limits` bounds it")]
    let nanos = (f64::from(cpus) * 1e9) as i64;
    nanos
}
