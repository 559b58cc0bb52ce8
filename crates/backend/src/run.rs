//! Runs the backend: listeners, background tasks, graceful shutdown.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    task::JoinSet,
};

use crate::{
    config::Config,
    directory::Directory,
    http::{self, App, serve},
    keep_awake, launcher,
};

/// Time for clients to receive the `DRAINING` notice before their sessions end.
const DRAIN: Duration = Duration::from_secs(2);
/// Longest shutdown. Platforms kill after 30 s (the default of ECS's `stopTimeout`).
const SHUTDOWN: Duration = Duration::from_secs(24);

/// Concurrent connections at `METRICS_BIND`.
const MAX_SCRAPERS: usize = 16;

/// Period of clean-up. Rate limits are per second.
const TIDY_EVERY: Duration = Duration::from_secs(1);

/// Serves until SIGTERM or Ctrl-C, then ends all sessions.
///
/// Prints `listening http://ADDRESS` on stdout once it accepts connections.
///
/// # Errors
/// When the settings are invalid or an address cannot be bound.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let address = config.address();
    let metrics_address = config.metrics_address()?;
    let app = Arc::new(App::new(config).await?);
    // Before announcing the address: until the handlers are installed, a signal kills the process.
    let stop = stop_signal()?;
    let listener = bind(address).await?;
    let mut background = JoinSet::new();
    let metrics = match metrics_address {
        Some(address) => Some(bind(address).await?),
        None => None,
    };
    println!("listening http://{}", listener.local_addr()?);
    if let Some(listener) = metrics {
        tracing::info!(address = %listener.local_addr()?, "metrics");
        let router = http::metrics_router(app.clone());
        background.spawn(serve::serve(listener, router, MAX_SCRAPERS, std::future::pending()));
    }
    background.spawn(tidy(app.clone()));
    if let Some(awake) = app.keep_awake.clone() {
        background.spawn(keep_awake::run(awake, app.directory.living()));
    }
    background.spawn(async {
        if let Err(error) = launcher::orphans().await {
            tracing::error!(%error, "cannot reap orphaned processes");
        }
    });
    let directory = app.directory.clone();
    let ended = async move {
        stop.await;
        tracing::info!("stopping");
        tokio::spawn(end_anyway());
        drain(&directory).await;
    };
    serve::serve(listener, http::router(&app), serve::most_connections(), ended).await;
    background.shutdown().await;
    Ok(())
}

async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))
}

/// Bounds the memory of rate limits and histograms.
async fn tidy(app: Arc<App>) {
    let mut ticks = tokio::time::interval(TIDY_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        app.ingress.tidy();
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

/// Installs the signal handlers and returns a future that waits for SIGTERM or Ctrl-C.
fn stop_signal() -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot handle SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot handle SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
