//! Client of the container engine: Docker, or podman through the same API. Every call has a deadline.

use std::{collections::HashMap, time::Duration};

use bollard::{
    API_DEFAULT_VERSION, Docker,
    container::LogOutput,
    exec::{CreateExecOptions, StartExecOptions, StartExecResults},
    models::{
        ContainerCreateBody, ContainerSummaryStateEnum, HostConfig, Mount, MountType, VolumeCreateRequest,
    },
    query_parameters::{
        ContainerArchiveInfoOptionsBuilder, CreateImageOptionsBuilder, InspectContainerOptions,
        ListContainersOptionsBuilder, RemoveContainerOptionsBuilder, StartContainerOptions,
        UploadToContainerOptionsBuilder,
    },
};
use futures_util::{Stream, StreamExt as _};
use tokio::{
    io::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::UnixStream,
    time::timeout,
};

/// Deadline of a call. An engine on a busy machine may take seconds.
const WITHIN: Duration = Duration::from_secs(25);
/// Deadline of a removal, which kills first.
const REMOVED_WITHIN: Duration = Duration::from_secs(20);
/// How long a pull may make no progress.
const PULL_STALLS: Duration = Duration::from_mins(5);
/// Directory of the host's program in a container, and its name.
pub(super) const HOST_DIR: &str = "/.shellbridge";
const HOST_FILE: &str = "session-host";
/// Label of a container through which a volume is filled.
pub(super) const FILLER: &str = "shellbridge.filler";
/// Permissions of the host's program. Its user may execute and not read it, so the kernel protects the host's memory from
/// its shell from the first instruction on (`would_dump` in fs/exec.c).
const HOST_MODE: u32 = 0o711;
/// Bytes per copy between a link and the engine.
const COPIED: usize = 32 * 1024;

/// Why the engine did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EngineError {
    /// It cannot be reached, or does not answer. A retry may help.
    #[error("the container engine is unavailable: {0}")]
    Unavailable(String),
    /// There is no such container, image or network.
    #[error("{0}")]
    Missing(String),
    /// It refused.
    #[error("the container engine refused: {0}")]
    Refused(String),
}

impl From<bollard::errors::Error> for EngineError {
    fn from(error: bollard::errors::Error) -> Self {
        match error {
            bollard::errors::Error::DockerResponseServerError { status_code: 404, message } => {
                Self::Missing(message)
            }
            bollard::errors::Error::DockerResponseServerError { message, .. } => Self::Refused(message),
            bollard::errors::Error::DockerStreamError { error } => Self::Refused(error),
            other => Self::Unavailable(other.to_string()),
        }
    }
}

/// The engine. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Engine(Docker);

/// What a session's container needs to know of its image.
#[derive(Debug, Clone, Default)]
pub(super) struct Image {
    /// Its `USER`.
    pub(super) user: String,
    /// It declares volumes.
    pub(super) volumes: bool,
}

/// A container, as listed.
#[derive(Debug, Clone)]
pub(super) struct Listed {
    pub(super) id: String,
    pub(super) labels: HashMap<String, String>,
    /// Creation time, Unix seconds.
    pub(super) created: i64,
    pub(super) state: State,
}

/// State of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Not started yet.
    Created,
    /// It runs, or the engine is not sure.
    Alive,
    /// It will not run again.
    Over,
}

impl Engine {
    /// `address` is `DOCKER_HOST`.
    pub(super) fn new(address: &str) -> Result<Self, EngineError> {
        let docker = match address.strip_prefix("unix://") {
            Some(path) => Docker::connect_with_unix(path, WITHIN.as_secs(), API_DEFAULT_VERSION),
            None => Docker::connect_with_http(address, WITHIN.as_secs(), API_DEFAULT_VERSION),
        };
        Ok(Self(docker?))
    }

    /// Whether the engine answers.
    pub(super) async fn ping(&self, within: Duration) -> Result<(), EngineError> {
        match timeout(within, self.0.ping()).await {
            Ok(pong) => Ok(pong.map(drop)?),
            Err(_) => Err(silent()),
        }
    }

    /// The image of this name, if the engine has it.
    pub(super) async fn image(&self, name: &str) -> Result<Image, EngineError> {
        let config = call(self.0.inspect_image(name)).await?.config.unwrap_or_default();
        let volumes = config.volumes.is_some_and(|volumes| !volumes.is_empty());
        Ok(Image { user: config.user.unwrap_or_default(), volumes })
    }

    /// Pulls an image, and reports its progress in percent.
    pub(super) async fn pull(&self, name: &str, progress: impl Fn(u8)) -> Result<(), EngineError> {
        // Without a tag, an engine would pull all of them.
        let last = name.rsplit('/').next().unwrap_or(name);
        let name = if last.contains([':', '@']) { name.to_owned() } else { format!("{name}:latest") };
        let options = CreateImageOptionsBuilder::default().from_image(&name).build();
        // An engine may answer only once it has begun.
        let patient = self.0.clone().with_timeout(PULL_STALLS);
        let mut news = std::pin::pin!(patient.create_image(Some(options), None, None));
        // Bytes of each layer that have arrived, and all.
        let mut layers: HashMap<String, (i64, i64)> = HashMap::new();
        while let Some(info) = timeout(PULL_STALLS, news.next()).await.map_err(|_| silent())? {
            let info = info?;
            if let (Some(id), Some(detail)) = (info.id, info.progress_detail)
                && let (Some(current), Some(total)) = (detail.current, detail.total)
            {
                layers.insert(id, (current, total));
                let (have, all) = layers.values().fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
                progress(u8::try_from(have.saturating_mul(100) / all.max(1)).unwrap_or(100).min(99));
            }
        }
        Ok(())
    }

    /// Makes a volume that holds the host's program, unless it exists and is complete.
    ///
    /// A volume, and not a copy per container, because Docker copies nothing into a container with a read-only root. The
    /// volume's name says what it holds, so all backends share it.
    pub(super) async fn volume(&self, name: &str, image: &str, program: &[u8]) -> Result<(), EngineError> {
        let labels = HashMap::from([("shellbridge.host".to_owned(), String::new())]);
        let volume =
            VolumeCreateRequest { name: Some(name.to_owned()), labels: Some(labels), ..Default::default() };
        call(self.0.create_volume(volume)).await?;
        // Never started.
        let mount = Mount {
            target: Some(HOST_DIR.to_owned()),
            source: Some(name.to_owned()),
            typ: Some(MountType::VOLUME),
            ..Default::default()
        };
        let filler = ContainerCreateBody {
            image: Some(image.to_owned()),
            user: Some("0:0".to_owned()),
            entrypoint: Some(vec![format!("{HOST_DIR}/{HOST_FILE}")]),
            labels: Some(HashMap::from([(FILLER.to_owned(), String::new())])),
            host_config: Some(HostConfig {
                mounts: Some(vec![mount]),
                network_mode: Some("none".to_owned()),
                ..Default::default()
            }),
            ..Default::default()
        };
        let id = self.create(filler).await?;
        let filled = self.fill(&id, program).await;
        let _ = self.remove(&id).await;
        filled
    }

    async fn fill(&self, id: &str, program: &[u8]) -> Result<(), EngineError> {
        let path = format!("{HOST_DIR}/{HOST_FILE}");
        let look = ContainerArchiveInfoOptionsBuilder::default().path(&path).build();
        let has = call(self.0.get_container_archive_info(id, Some(look))).await;
        if has.is_ok_and(|has| usize::try_from(has.size) == Ok(program.len())) {
            return Ok(());
        }
        let mut header = tar::Header::new_ustar();
        header.set_size(program.len() as u64);
        header.set_mode(HOST_MODE);
        header.set_uid(0);
        header.set_gid(0);
        let mut archive = tar::Builder::new(Vec::new());
        let archived =
            archive.append_data(&mut header, HOST_FILE, program).and_then(|()| archive.into_inner());
        let archive = archived.map_err(|error| EngineError::Refused(error.to_string()))?;
        let into = UploadToContainerOptionsBuilder::default().path(HOST_DIR).build();
        call(self.0.upload_to_container(id, Some(into), bollard::body_full(archive.into()))).await
    }

    /// Creates a container and returns its id.
    pub(super) async fn create(&self, container: ContainerCreateBody) -> Result<String, EngineError> {
        Ok(call(self.0.create_container(None, container)).await?.id)
    }

    /// Starts a container.
    pub(super) async fn start(&self, id: &str) -> Result<(), EngineError> {
        call(self.0.start_container(id, None::<StartContainerOptions>)).await
    }

    /// Connects to the host in a container: a process inside, with the container's root as user, copies between the
    /// stream and the host. It ends with either side.
    ///
    /// Not `attach`, because podman closes the input of a container for good when the first client leaves.
    pub(super) async fn relay(&self, id: &str) -> Result<UnixStream, EngineError> {
        let options = CreateExecOptions {
            attach_stdin: Some(true),
            attach_stdout: Some(true),
            cmd: Some(vec![format!("{HOST_DIR}/{HOST_FILE}"), "relay".to_owned()]),
            user: Some("0:0".to_owned()),
            working_dir: Some("/".to_owned()),
            ..Default::default()
        };
        let exec = call(self.0.create_exec(id, options)).await?.id;
        let options = StartExecOptions { output_capacity: Some(COPIED), ..StartExecOptions::default() };
        let StartExecResults::Attached { output, input } =
            call(self.0.start_exec(&exec, Some(options))).await?
        else {
            return Err(EngineError::Refused("not attached".to_owned()));
        };
        let (near, far) = UnixStream::pair().map_err(|error| EngineError::Unavailable(error.to_string()))?;
        tokio::spawn(copy(far, output, input));
        Ok(near)
    }

    /// State of a container.
    pub(super) async fn state(&self, id: &str) -> Result<State, EngineError> {
        let found = call(self.0.inspect_container(id, None::<InspectContainerOptions>)).await;
        match found {
            Ok(found) => {
                let status = found.state.and_then(|state| state.status).map(|status| status.to_string());
                Ok(match status.as_deref() {
                    Some("created") => State::Created,
                    Some("exited" | "dead" | "removing") => State::Over,
                    _ => State::Alive,
                })
            }
            Err(EngineError::Missing(_)) => Ok(State::Over),
            Err(error) => Err(error),
        }
    }

    /// Kills and removes a container, and its volumes. Succeeds if there is none.
    pub(super) async fn remove(&self, id: &str) -> Result<(), EngineError> {
        let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
        match timeout(REMOVED_WITHIN, self.0.remove_container(id, Some(options))).await {
            Err(_) => Err(silent()),
            Ok(removed) => match removed.map_err(EngineError::from) {
                Ok(()) | Err(EngineError::Missing(_)) => Ok(()),
                Err(error) => Err(error),
            },
        }
    }

    /// All containers with this label, running or not.
    pub(super) async fn list(&self, label: &str) -> Result<Vec<Listed>, EngineError> {
        let filters = HashMap::from([("label", vec![label])]);
        let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
        let found = call(self.0.list_containers(Some(options))).await?;
        let listed = found.into_iter().filter_map(|found| {
            let state = match found.state? {
                ContainerSummaryStateEnum::CREATED => State::Created,
                ContainerSummaryStateEnum::EXITED | ContainerSummaryStateEnum::DEAD => State::Over,
                _ => State::Alive,
            };
            let labels = found.labels.unwrap_or_default();
            Some(Listed { id: found.id?, labels, created: found.created.unwrap_or(i64::MAX), state })
        });
        Ok(listed.collect())
    }
}

/// Awaits the answer of the engine until its deadline.
async fn call<T>(answer: impl Future<Output = Result<T, bollard::errors::Error>>) -> Result<T, EngineError> {
    match timeout(WITHIN, answer).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(silent()),
    }
}

fn silent() -> EngineError {
    EngineError::Unavailable("it does not answer".to_owned())
}

/// Copies between a link and the streams of a relay, until either side closes. Holds one buffer for each direction.
async fn copy(
    link: UnixStream,
    mut output: impl Stream<Item = Result<LogOutput, bollard::errors::Error>> + Unpin,
    mut input: impl AsyncWrite + Unpin,
) {
    let (mut from_backend, mut to_backend) = link.into_split();
    let down = async {
        while let Some(Ok(said)) = output.next().await {
            if let LogOutput::StdOut { message } = said
                && to_backend.write_all(&message).await.is_err()
            {
                break;
            }
        }
    };
    let up = async {
        let mut buffer = vec![0; COPIED];
        while let Ok(count @ 1..) = from_backend.read(&mut buffer).await {
            let bytes = buffer.get(..count).unwrap_or_default();
            if input.write_all(bytes).await.is_err() || input.flush().await.is_err() {
                // What the host said last is still to be read.
                return std::future::pending().await;
            }
        }
    };
    tokio::select! {
        () = down => {}
        () = up => {}
    }
    let _ = input.shutdown().await;
}
