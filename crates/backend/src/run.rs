//! Runs the backend: listeners, background tasks, graceful shutdown.

use std::{io::Write as _, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context;
use futures_util::future::join_all;
use shellbridge_protocol::ids::SessionId;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    task::JoinSet,
};

use crate::{
    clock::unix_ms,
    config::Config,
    deployment,
    directory::Directory,
    emf,
    http::{self, App, serve},
    keep_awake,
    launcher::{self, Container, Host, Process},
    sessions::{self, Handle, NotOpened, Status},
};

/// Time for clients to receive the `DRAINING` notice before their sessions end.
const DRAIN: Duration = Duration::from_secs(2);
/// Longest shutdown. Platforms kill after 30 s (the default of ECS's `stopTimeout`).
const SHUTDOWN: Duration = Duration::from_secs(24);

/// Concurrent connections at `METRICS_BIND`.
const MAX_SCRAPERS: usize = 16;

/// How long the sessions of an earlier backend may keep this one from listening.
const TAKE_OVER: Duration = Duration::from_secs(5);

/// How often to look whether a host of another version has ended.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// Period of clean-up. Rate limits are per second.
const TIDY_EVERY: Duration = Duration::from_secs(1);

/// Takes over the sessions of an earlier backend and serves, until SIGTERM or Ctrl-C, which end all sessions, or SIGHUP,
/// which leaves them to the next.
///
/// Prints `listening http://ADDRESS` on stdout once it accepts connections.
///
/// # Errors
/// When the settings are invalid or an address cannot be bound.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let address = config.address();
    let metrics_address = config.metrics_address()?;
    config.check()?;
    // In the order of `Config::addresses`, in which an init binds them.
    let listener = bind(0, address).await?;
    // Known only now, if `PORT` is 0.
    let port = listener.local_addr()?.port();
    let app = Arc::new(App::new(config, port).await?);
    // Before announcing the address: until the handlers are installed, a signal kills the process.
    let stop = stop_signal()?;
    let metrics = match metrics_address {
        Some(address) => Some(bind(1, address).await?),
        None => None,
    };
    let mut background = JoinSet::new();
    background.spawn(async {
        if let Err(error) = launcher::orphans().await {
            tracing::error!(%error, "cannot reap orphaned processes");
        }
    });
    background.spawn(app.directory.clone().run(app.bridge.clone().find_route()));
    background.spawn(deployment::run(app.directory.clone(), app.deployment.clone()));
    // Before anybody can ask for a session that an earlier backend had.
    take_over(&app).await?;
    if let Some(containers) = app.launcher.containers().cloned() {
        background.spawn(async move { containers.tend().await });
    }
    // An error is not fatal: after a restart by init, stdout may have no reader.
    let _ = writeln!(std::io::stdout(), "listening http://{}", listener.local_addr()?);
    if let Some(listener) = metrics {
        tracing::info!(address = %listener.local_addr()?, "metrics");
        let router = http::metrics_router(app.clone());
        background.spawn(serve::serve(listener, router, MAX_SCRAPERS, std::future::pending()));
    }
    background.spawn(tidy(app.clone()));
    if let Some(namespace) = app.config.metrics_namespace.clone() {
        background.spawn(emf::report(namespace, app.directory.clone()));
    }
    if let Some(awake) = app.keep_awake.clone() {
        background.spawn(keep_awake::run(awake, app.directory.living()));
    }
    let directory = app.directory.clone();
    let ended = async move {
        let stop = stop.await;
        tracing::info!(?stop, "stopping");
        tokio::spawn(end_anyway());
        match stop {
            Stop::End => {
                drain(&directory).await;
                directory.leave().await;
            }
            // Their hosts live on, and wait for the next backend.
            Stop::Leave => drop(directory.close()),
        }
    };
    serve::serve(listener, http::router(&app), serve::most_connections(), ended).await;
    background.shutdown().await;
    Ok(())
}

/// Listens on the `n`th socket of the init above this process, or on an address.
async fn bind(n: usize, address: SocketAddr) -> anyhow::Result<TcpListener> {
    let listener = match launcher::inherited(n) {
        Ok(Some(listener)) => TcpListener::from_std(listener),
        Ok(None) => TcpListener::bind(address).await,
        Err(error) => Err(error),
    };
    listener.with_context(|| format!("cannot listen on {address}"))
}

/// Bounds the memory of rate limits and histograms, and ends sessions whose hosts do not.
async fn tidy(app: Arc<App>) {
    let mut ticks = tokio::time::interval(TIDY_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        app.ingress.tidy();
        for session in app.directory.all() {
            session.end_if_overdue();
        }
        // Histograms keep every sample until this runs.
        app.metrics.run_upkeep();
    }
}

/// Exits when graceful shutdown takes too long: requests in flight delay it, but only up to [`SHUTDOWN`].
async fn end_anyway() {
    tokio::time::sleep(SHUTDOWN).await;
    tracing::warn!("shutdown timed out: requests in flight were cut off");
    std::process::exit(0);
}

/// Stops accepting sessions, notifies all clients, then ends all sessions.
async fn drain(directory: &Directory) {
    let sessions = directory.close();
    let notified: JoinSet<_> =
        sessions.iter().cloned().map(|session| async move { session.drain().await }).collect();
    notified.join_all().await;
    if sessions.iter().any(|session| session.status().connections() > 0) {
        tokio::time::sleep(DRAIN).await;
    }
    let ends: JoinSet<_> = sessions.into_iter().map(|session| async move { session.end().await }).collect();
    if tokio::time::timeout(DRAIN * 3, ends.join_all()).await.is_err() {
        tracing::warn!("some sessions did not end in time");
    }
}

/// Takes over the sessions that an earlier backend left.
///
/// # Errors
/// When a container engine does not list them: a backend that does not know its sessions would deny them.
async fn take_over(app: &Arc<App>) -> anyhow::Result<()> {
    let hosts = app.launcher.left().await.into_iter();
    let hosts = hosts.map(|host| tokio::spawn(adopt(app.clone(), host)));
    let containers = match app.launcher.containers() {
        Some(containers) => containers.left().await.context("containers of an earlier backend")?,
        None => Vec::new(),
    };
    let containers = containers
        .into_iter()
        .map(|(session, container)| tokio::spawn(adopt_container(app.clone(), session, container)));
    let adopted: Vec<_> = hosts.chain(containers).collect();
    let directory = app.directory.clone();
    let all = tokio::spawn(async move {
        join_all(adopted).await;
        directory.all_taken_over();
    });
    if tokio::time::timeout(TAKE_OVER, all).await.is_err() {
        tracing::warn!("some sessions of an earlier backend are not taken over yet");
    }
    Ok(())
}

/// Takes over the session of a host.
async fn take_over_from(app: &App, host: Host) -> Result<Handle, NotOpened> {
    let routes = app.bridge.clone().find_route();
    let directory = app.directory.clone();
    let ended = move |status: &Status| directory.ended(status);
    let claim = |status: &Status| {
        app.directory.taken_over(status.id.clone(), status.owner.clone(), status.expires_at())
    };
    sessions::take_over(host, app.seal.clone(), &routes, claim, ended).await
}

/// Takes over the session in a container, however long its engine hesitates. Meanwhile the session is unreachable, and not
/// unknown.
async fn adopt_container(app: Arc<App>, session: SessionId, container: Container) {
    let Ok(reservation) = app.directory.reserve(&session) else {
        tracing::warn!(session_id = %session, "two containers claim a session");
        return container.remove().await;
    };
    reservation.mark_unusable();
    while let Some(host) = Process::Container(container.clone()).connect().await {
        match take_over_from(&app, host).await {
            Ok(taken) if taken.status().id == session => {
                // The backend is stopping already, and leaves what it has not.
                let _ = reservation.fill(taken);
                return;
            }
            Ok(taken) => return taken.end().await,
            Err(NotOpened::Nonsense) => return container.remove().await,
            Err(error) => tracing::warn!(%error, session_id = %session, "cannot take a session over yet"),
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

async fn adopt(app: Arc<App>, host: Host) {
    match take_over_from(&app, host).await {
        Ok(session) => match app.directory.reserve(&session.status().id) {
            Ok(reservation) => {
                // The backend is stopping already, and leaves what it has not.
                let _ = reservation.fill(session);
            }
            Err(error) => {
                tracing::warn!(%error, session_id = %session.status().id, "cannot take a session over; it ends");
                session.end().await;
            }
        },
        Err(NotOpened::Foreign { session, process }) => {
            tracing::warn!(session_id = %session, "a session has a host of another version, and is left alone");
            let Ok(reservation) = app.directory.reserve(&session) else { return };
            reservation.mark_unusable();
            // Other instances must not take its id.
            let ends = unix_ms().saturating_add(Duration::from_secs(app.config.max_session_ttl));
            let claim = app.directory.taken_over(session, "".into(), ends);
            tokio::spawn(async move {
                let mut process = *process;
                while let Some(host) = process.connect().await {
                    process = host.process;
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
                drop((reservation, claim));
            });
        }
        Err(error) => tracing::warn!(%error, "cannot take a session over"),
    }
}

/// How to stop.
#[derive(Debug, Clone, Copy)]
enum Stop {
    /// With all sessions.
    End,
    /// Sessions live on, for the next backend.
    Leave,
}

/// Installs the signal handlers and returns a future that waits for SIGTERM or Ctrl-C, which end all sessions, or
/// SIGHUP, which leaves them.
fn stop_signal() -> anyhow::Result<impl Future<Output = Stop>> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot handle SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot handle SIGINT")?;
    let mut hangup = signal(SignalKind::hangup()).context("cannot handle SIGHUP")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => Stop::End,
            _ = interrupt.recv() => Stop::End,
            _ = hangup.recv() => Stop::Leave,
        }
    })
}
