//! The instances' Redis: Debian's `redis-server`, without persistence, and a relay to it per instance that can be cut.

use std::{
    net::SocketAddr,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail};
use rustix::process::Pid;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{pause::Paused, port};
use crate::{
    faults::{Faults, RedisFault},
    http1,
};

const PROGRAM: &str = "redis-server";
/// Time for it to answer after its start.
const START_WITHIN: Duration = Duration::from_mins(1);
/// Time for one answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Pause between two looks at whether it answers, and before it is started again.
const PAUSE: Duration = Duration::from_millis(50);
/// Bytes that a relay reads at once.
const CHUNK: usize = 16 * 1024;

/// A running Redis.
#[derive(Debug)]
pub(super) struct Redis {
    pub(super) address: SocketAddr,
    directory: PathBuf,
    process: Child,
}

impl Redis {
    /// Starts it on a free port and waits until it answers.
    pub(super) async fn start(directory: &Path) -> anyhow::Result<Self> {
        let address = SocketAddr::from(([127, 0, 0, 1], port::free()?));
        let process = launch(address, directory).await?;
        Ok(Self { address, directory: directory.to_owned(), process })
    }

    /// Starts it again, empty, whenever it exits, and lets the faults happen, until `stop`.
    pub(super) async fn run(&mut self, faults: &Faults, stop: CancellationToken) {
        let mut of_redis = faults.of_redis();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                fault = of_redis.recv() => match fault {
                    Ok(RedisFault::Pause(time)) => self.pause(time, &stop).await,
                    Ok(RedisFault::Flush) => match ask(self.address, "FLUSHALL").await {
                        Ok(()) => info!("Redis is empty"),
                        Err(error) => warn!("cannot empty Redis: {error:#}"),
                    },
                    Err(error) => warn!(%error, "a fault of Redis was lost"),
                },
                status = self.process.wait() => {
                    warn!(?status, "Redis exited; starting it again, empty");
                    sleep(PAUSE).await;
                    match launch(self.address, &self.directory).await {
                        Ok(process) => self.process = process,
                        Err(error) => error!("{error:#}"),
                    }
                }
            }
        }
    }

    async fn pause(&self, time: Duration, stop: &CancellationToken) {
        let pid = self.process.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
        let Some(_paused) = pid.and_then(Paused::new) else { return };
        info!(?time, "Redis stands still");
        let _stopping = stop.run_until_cancelled(sleep(time)).await;
    }

    /// Kills it: it has nothing to save.
    pub(super) async fn stop(mut self) {
        if let Err(error) = self.process.kill().await {
            warn!(%error, "cannot kill Redis");
        }
    }
}

async fn launch(address: SocketAddr, directory: &Path) -> anyhow::Result<Child> {
    let log = std::io::stderr().as_fd().try_clone_to_owned()?;
    let process = Command::new(PROGRAM)
        .args(["--port", &address.port().to_string(), "--bind", &address.ip().to_string()])
        .args(["--save", "", "--appendonly", "no", "--loglevel", "warning", "--dir"])
        .arg(directory)
        .stdin(Stdio::null())
        .stdout(Stdio::from(log))
        // In its own process group, Ctrl-C does not reach it: backends need it until they have stopped.
        .process_group(0)
        .kill_on_drop(true)
        .spawn();
    let mut process = match process {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => bail!(
            "--instances needs {PROGRAM}, which is not installed (Debian, Ubuntu: apt-get install {PROGRAM}); one \
             instance needs none"
        ),
        process => process.with_context(|| format!("cannot start {PROGRAM}"))?,
    };
    let until = Instant::now() + START_WITHIN;
    while let Err(error) = ask(address, "PING").await {
        if let Some(status) = process.try_wait()? {
            bail!("{PROGRAM} exited: {status}; its messages are above");
        }
        if Instant::now() > until {
            return Err(error.context(format!("{PROGRAM} does not answer")));
        }
        sleep(PAUSE).await;
    }
    info!(pid = process.id(), %address, "Redis listens");
    Ok(process)
}

/// Sends a command without arguments (RESP's inline form) and expects a simple string.
async fn ask(address: SocketAddr, command: &str) -> anyhow::Result<()> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(format!("{command}\r\n").as_bytes()).await?;
        let mut answer = [0];
        stream.read_exact(&mut answer).await?;
        anyhow::ensure!(answer == *b"+", "{command} was refused");
        Ok(())
    };
    timeout(ANSWER_WITHIN, exchange).await.context("no answer in time")?
}

/// Relays an instance's connections to Redis, until dropped. While `partition` names the instance nothing passes, and
/// what is on the way arrives when the cut ends, as with a network that loses packets.
pub(super) async fn relay(listener: TcpListener, redis: SocketAddr, instance: usize, faults: Arc<Faults>) {
    loop {
        let (client, _) = http1::accept(&listener).await;
        let faults = Arc::clone(&faults);
        tokio::spawn(async move {
            open(&faults, instance).await;
            let Ok(server) = TcpStream::connect(redis).await else { return };
            // Commands are small and latency matters.
            let _slower = server.set_nodelay(true);
            let ((asks, hears), (answers, is_asked)) = (client.into_split(), server.into_split());
            // The end of one direction ends both: Redis knows no half-closed connections.
            tokio::select! {
                () = pump(asks, is_asked, instance, &faults) => {}
                () = pump(answers, hears, instance, &faults) => {}
            }
        });
    }
}

/// Copies until either side closes.
async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, instance: usize, faults: &Faults) {
    let mut bytes = vec![0; CHUNK];
    while let Ok(count @ 1..) = from.read(&mut bytes).await {
        open(faults, instance).await;
        let Some(read) = bytes.get(..count) else { return };
        if to.write_all(read).await.is_err() {
            return;
        }
    }
}

/// Waits until the instance is not cut off.
async fn open(faults: &Faults, instance: usize) {
    let mut changes = faults.changes();
    // An error means that the stack is stopping.
    let _stopping = changes.wait_for(|settings| !settings.partition.contains(&instance)).await;
}
