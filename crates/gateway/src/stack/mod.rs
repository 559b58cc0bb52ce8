//! Starts and stops everything in order: listeners, backends, function, gateway.
//!
//! All listeners are bound before any process starts, so that a port in use gives a single error line.

mod backend;
mod environment;
mod fleet;
mod pause;
mod port;
mod redis;

use std::{io::Write as _, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpSocket};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, info};

use crate::{
    backend_calls,
    config::Config,
    control,
    counters::Counters,
    descriptors, dynamodb,
    faults::Faults,
    function::{Function, Pool, PoolSettings, Remote},
    gateway::Gateway,
    tls,
    ws::{self, End},
};
use environment::Environment;
use fleet::{Fleet, Shared};

/// Backlog of each listener.
const BACKLOG: u32 = 4096;
/// Time for clients to receive their close frames when the gateway stops.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);

/// A running gateway and everything that it started.
#[derive(Debug)]
pub struct Stack {
    gateway: Arc<Gateway>,
    fleet: Option<Fleet>,
    tasks: TaskTracker,
    stop: CancellationToken,
    /// Removed when everything has stopped.
    _run_dir: TempDir,
}

struct Listeners {
    api: TcpListener,
    control: TcpListener,
    dynamodb: TcpListener,
    balancer: Option<TcpListener>,
    backend_calls: Option<TcpListener>,
    runtime: Vec<TcpListener>,
}

impl Stack {
    /// Starts everything and prints the addresses on stdout, one per line, then `ready`.
    pub async fn start(config: &Config) -> anyhow::Result<Self> {
        descriptors::raise_limit();
        let faults = Faults::new(config.faults.clone(), config.instances.into());
        faults.check(&config.faults).map_err(anyhow::Error::msg)?;
        let listeners = bind_all(config)?;
        let (api, dynamodb) = (listeners.api.local_addr()?, listeners.dynamodb.local_addr()?);
        let control = listeners.control.local_addr()?;
        let tls = if config.tls { Some(tls::acceptor(&config.api_id, &config.region)?) } else { None };
        let (counters, tasks, stop) =
            (Arc::<Counters>::default(), TaskTracker::new(), CancellationToken::new());
        let faults = Arc::new(faults);

        let serve_dynamodb = dynamodb::serve(listeners.dynamodb, Arc::clone(&counters));
        let until = stop.clone();
        tasks.spawn(async move {
            if let Some(Err(error)) = until.run_until_cancelled(serve_dynamodb).await {
                error!("DynamoDB: {error:#}");
            }
        });

        let mut environment = Environment::new(config, api, dynamodb);
        let run_dir = TempDir::with_prefix("gateway-").context("a directory for the backends")?;
        let pool = match &config.lambda_url {
            Some(_) => None,
            None => {
                Some(listeners.runtime.iter().map(TcpListener::local_addr).collect::<Result<Vec<_>, _>>()?)
            }
        };
        let fleet = match &config.backend {
            Some(program) => {
                let shared = Shared {
                    environment: &mut environment,
                    directory: run_dir.path(),
                    faults: &faults,
                    counters: &counters,
                    tasks: &tasks,
                    stop: &stop,
                };
                let fleet = match listeners.balancer {
                    Some(listener) => {
                        Fleet::several(program, config.instances.into(), listener, shared).await?
                    }
                    None => Fleet::one(program, config.backend_port, shared).await?,
                };
                match listeners.backend_calls {
                    Some(listener) => {
                        environment.backend_url(&format!("http://{}", listener.local_addr()?));
                        let authority = fleet.url.trim_start_matches("http://").parse();
                        let authority = authority.context("the backend's address")?;
                        let relay = backend_calls::serve(listener, authority, Arc::clone(&counters));
                        let stop = stop.clone();
                        tasks.spawn(async move { stop.run_until_cancelled(relay).await });
                    }
                    None => environment.backend_url(&fleet.url),
                }
                Some(fleet)
            }
            None => None,
        };
        if let Some(path) = &config.print_env {
            environment.write(path).with_context(|| format!("writing {}", path.display()))?;
        }
        let function = match (&config.lambda_url, pool) {
            (Some(url), _) => Function::Remote(Arc::new(Remote::new(url).map_err(anyhow::Error::msg)?)),
            (None, Some(apis)) => {
                let pool = Arc::new(Pool::new(
                    pool_settings(config, &environment)?,
                    &apis,
                    Arc::clone(&counters),
                    Arc::clone(&faults),
                ));
                pool.start(listeners.runtime, &tasks, &stop);
                Function::Processes(pool)
            }
            (None, None) => bail!("no function"),
        };
        let gateway = Gateway::new(config, function, counters, faults).map_err(anyhow::Error::msg)?;
        let gateway = Arc::new(gateway);
        let serve = ws::serve(listeners.api, Arc::clone(&gateway), tls);
        let serve_control = control::serve(listeners.control, Arc::clone(&gateway), environment.origins());
        for service in
            [Box::pin(serve) as std::pin::Pin<Box<dyn Future<Output = ()> + Send>>, Box::pin(serve_control)]
        {
            let stop = stop.clone();
            tasks.spawn(async move { stop.run_until_cancelled(service).await });
        }

        let page = fleet.as_ref().map(|fleet| format!("page       {}/\n", fleet.url)).unwrap_or_default();
        let lines = format!(
            "{page}websocket  {}\ncontrol    http://{control}/\ndynamodb   http://{dynamodb}\nmanagement http://{api}/{}\nready\n",
            environment::websocket_url(config, api),
            config.stage,
        );
        let mut stdout = std::io::stdout();
        stdout.write_all(lines.as_bytes()).and_then(|()| stdout.flush()).context("writing to stdout")?;
        Ok(Self { gateway, fleet, tasks, stop, _run_dir: run_dir })
    }

    /// Runs until `signal`, and keeps the backends running.
    pub async fn run(&mut self, signal: impl Future<Output = ()>) {
        let Some(fleet) = &mut self.fleet else { return signal.await };
        let stop = CancellationToken::new();
        let run = fleet.run(&self.gateway.faults, &self.gateway.counters, stop.clone());
        let stopping = async {
            signal.await;
            stop.cancel();
        };
        tokio::join!(run, stopping);
    }

    /// Stops everything in order: the backends first, while their clients are still connected.
    pub async fn stop(mut self) {
        if let Some(fleet) = self.fleet.take() {
            fleet.stop().await;
        }
        self.gateway.connections.end_all(End::Close(1001, "Going away"));
        self.gateway.tasks.close();
        let _late = tokio::time::timeout(CLOSE_TIMEOUT, self.gateway.tasks.wait()).await;
        self.stop.cancel();
        self.tasks.close();
        // Waits until the function's processes have exited.
        self.tasks.wait().await;
        info!("stopped");
    }
}

fn bind_all(config: &Config) -> anyhow::Result<Listeners> {
    if !config.control.ip().is_loopback() {
        bail!("{} (--control): the control port must be on a loopback address", config.control);
    }
    let runtime = if config.lambda_url.is_some() { 0 } else { config.lambda.concurrency };
    let runtime = (0..runtime)
        .map(|index| {
            let mut address = config.runtime_api;
            if address.port() != 0 {
                address.set_port(
                    address.port().checked_add(index).context("--runtime-api: too few ports above")?,
                );
            }
            bind(address, "--runtime-api")
        })
        .collect::<anyhow::Result<_>>()?;
    let several = config.instances > 1;
    if several && std::env::var_os("METRICS_BIND").is_some() {
        bail!("METRICS_BIND: several instances (--instances) cannot share one address");
    }
    let backend = SocketAddr::from(([127, 0, 0, 1], config.backend_port));
    if config.backend.is_some() && config.backend_port != 0 && !several {
        // Checked here, before the backend is started in vain.
        drop(bind(backend, "--backend-port")?);
    }
    Ok(Listeners {
        api: bind(config.listen, "--listen")?,
        control: bind(config.control, "--control")?,
        dynamodb: bind(config.dynamodb, "--dynamodb")?,
        balancer: several.then(|| bind(backend, "--backend-port")).transpose()?,
        backend_calls: config
            .count_backend_calls
            .then(|| bind(SocketAddr::from(([127, 0, 0, 1], 0)), "--count-backend-calls"))
            .transpose()?,
        runtime,
    })
}

fn bind(address: SocketAddr, flag: &str) -> anyhow::Result<TcpListener> {
    let bound = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    bound().with_context(|| format!("cannot listen on {address} ({flag})"))
}

fn pool_settings(config: &Config, environment: &Environment) -> anyhow::Result<PoolSettings> {
    let program = config.function.clone().context("no --function")?;
    if !program.is_file() {
        bail!("{}: no such file (--function)", program.display());
    }
    let name = program.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    Ok(PoolSettings {
        program: absolute(&program),
        name,
        region: config.region.clone(),
        environment: environment.function(),
        timeout: config.lambda.function_timeout,
        memory: config.lambda.function_memory * 1024 * 1024,
    })
}

fn absolute(path: &Path) -> std::path::PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
