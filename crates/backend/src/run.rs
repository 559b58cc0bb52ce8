//! The running backend: listeners, background work, and the orderly end.

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

/// How long clients have to read that the backend is stopping, before their sessions end.
const DRAIN: Duration = Duration::from_secs(2);
/// How long the end may take in all; platforms kill after 30 s (ECS `stopTimeout`, its default).
const SHUTDOWN: Duration = Duration::from_secs(24);

/// Connections at `METRICS_BIND` at a time.
const MAX_SCRAPERS: usize = 16;

/// How often what has been counted is put in order. Rates are counted by the second.
const TIDY_EVERY: Duration = Duration::from_secs(1);

/// Serves until SIGTERM or Ctrl-C, then ends all sessions.
///
/// Prints `listening http://ADDRESS` on stdout once requests are taken.
///
/// # Errors
/// When the settings do not go together or the address cannot be had.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let address = config.address();
    let metrics_address = config.metrics_address()?;
    let app = Arc::new(App::new(config).await?);
    // Before anybody is told that we listen: a signal that nobody waits for kills.
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
            tracing::error!(%error, "orphans cannot be reaped");
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

/// Keeps what is counted small.
async fn tidy(app: Arc<App>) {
    let mut ticks = tokio::time::interval(TIDY_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        app.ingress.tidy();
        // Histograms keep every value until then.
        app.metrics.run_upkeep();
    }
}

/// Ends the process when its orderly end takes too long: requests in flight may hold the server, but not for ever.
async fn end_anyway() {
    tokio::time::sleep(SHUTDOWN).await;
    tracing::warn!("requests in flight were cut off");
    std::process::exit(0);
}

/// Tells all clients, then ends all sessions. Takes no new ones from the start.
async fn drain(directory: &Directory) {
    let sessions = directory.close();
    let told: JoinSet<_> =
        sessions.iter().cloned().map(|session| async move { session.drain().await }).collect();
    told.join_all().await;
    if sessions.iter().any(|session| session.status().connections() > 0) {
        tokio::time::sleep(DRAIN).await;
    }
    let ends: JoinSet<_> = sessions.into_iter().map(|session| async move { session.end().await }).collect();
    if tokio::time::timeout(DRAIN * 3, ends.join_all()).await.is_err() {
        tracing::warn!("some sessions did not end in time");
    }
}

/// SIGTERM or Ctrl-C, from now on.
fn stop_signal() -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be waited for")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be waited for")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
