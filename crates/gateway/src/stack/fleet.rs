//! The backends: one, or with `--instances` several that share a Redis, behind a balancer.

use std::{path::Path, sync::Arc};

use anyhow::Context as _;
use futures_util::future::{join_all, try_join_all};
use rustix::process::Pid;
use tokio::{net::TcpListener, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, info, warn};

use super::{
    backend::{Backend, Init},
    environment::Environment,
    pause::Paused,
    redis::{self, Redis},
};
use crate::{balancer::Balancer, counters::Counters, faults::Faults};

/// Running backends.
#[derive(Debug)]
pub(super) struct Fleet {
    /// Where requests for them go, without a trailing slash.
    pub(super) url: String,
    backends: Vec<Backend>,
    redis: Option<Redis>,
}

/// What the backends share with the gateway.
pub(super) struct Shared<'a> {
    pub(super) environment: &'a mut Environment,
    /// A directory for their sessions, and for Redis.
    pub(super) directory: &'a Path,
    pub(super) faults: &'a Arc<Faults>,
    pub(super) counters: &'a Arc<Counters>,
    pub(super) tasks: &'a TaskTracker,
    pub(super) stop: &'a CancellationToken,
}

impl Fleet {
    /// Starts one backend on a port (0: a free one).
    pub(super) async fn one(program: &Path, port: u16, shared: Shared<'_>) -> anyhow::Result<Self> {
        let Shared { environment, directory, .. } = shared;
        // One that the backend makes, for itself alone.
        environment.run_dir(&directory.join("sessions"));
        let variables = |port| {
            environment.backend_port(port);
            environment.backend()
        };
        let backend = Backend::start(program, 0, port, variables).await?;
        Ok(Self { url: backend.url.clone(), backends: vec![backend], redis: None })
    }

    /// Starts Redis, then `instances` backends on free ports and a balancer that serves `listener`.
    pub(super) async fn several(
        program: &Path,
        instances: usize,
        listener: TcpListener,
        shared: Shared<'_>,
    ) -> anyhow::Result<Self> {
        let Shared { environment, directory, faults, counters, tasks, stop } = shared;
        let balancer = listener.local_addr()?;
        environment.backend_port(balancer.port());
        let redis = Redis::start(directory).await?;
        let mut relays = Vec::with_capacity(instances);
        for instance in 0..instances {
            let relay = TcpListener::bind("127.0.0.1:0").await.context("a relay to Redis")?;
            relays.push(relay.local_addr()?);
            let serve = redis::relay(relay, redis.address, instance, Arc::clone(faults));
            let stop = stop.clone();
            tasks.spawn(async move { stop.run_until_cancelled(serve).await });
        }
        let environment = &*environment;
        let starts = relays.iter().enumerate().map(|(instance, relay)| {
            let run_dir = directory.join(format!("sessions-{instance}"));
            let variables = move |port| environment.instance(port, &run_dir, *relay);
            Backend::start(program, instance, 0, variables)
        });
        let backends = try_join_all(starts).await?;
        let targets = backends.iter().map(Backend::address).collect::<anyhow::Result<Vec<_>>>()?;
        let serve =
            Arc::new(Balancer::new(&targets, Arc::clone(counters), Arc::clone(faults))).serve(listener);
        let stop = stop.clone();
        tasks.spawn(async move { stop.run_until_cancelled(serve).await });
        Ok(Self { url: format!("http://{balancer}"), backends, redis: Some(redis) })
    }

    /// Keeps everything running and lets the faults happen, until `stop`.
    pub(super) async fn run(&mut self, faults: &Faults, counters: &Counters, stop: CancellationToken) {
        let inits: Vec<Init> = self.backends.iter().map(Backend::init).collect();
        let backends =
            join_all(self.backends.iter_mut().map(|backend| keep(backend, faults, counters, stop.clone())));
        let redis = async {
            if let Some(redis) = &mut self.redis {
                redis.run(faults, stop.clone()).await;
            }
        };
        let weather = async {
            let weather =
                async { tokio::join!(kill(&inits, faults, counters), pause(&inits, faults, counters)) };
            stop.run_until_cancelled(weather).await
        };
        tokio::join!(backends, redis, weather);
    }

    /// Stops all backends in order, then Redis.
    pub(super) async fn stop(self) {
        join_all(self.backends.into_iter().map(Backend::stop)).await;
        if let Some(redis) = self.redis {
            redis.stop().await;
        }
    }
}

/// Kills a backend if a fault says so, after which its init starts it again. Starts it again itself when the init has
/// exited. A stop meanwhile takes effect after that, so that the new backend ends the sessions.
async fn keep(backend: &mut Backend, faults: &Faults, counters: &Counters, stop: CancellationToken) {
    let mut killed = None;
    loop {
        let mut listening = backend.listening.clone();
        let since = *listening.borrow_and_update();
        tokio::select! {
            () = stop.cancelled() => return,
            () = faults.backend_kill(since), if killed != Some(since) => {
                killed = Some(since);
                if backend.init().kill() {
                    counters.backend_kills.increment();
                }
            }
            Ok(()) = listening.changed() => {}
            status = backend.wait() => {
                warn!(status, "the backend exited; starting it again");
                if let Err(error) = backend.again().await {
                    error!("{error:#}");
                    return;
                }
            }
        }
    }
}

/// Kills a random instance again and again, as the faults say.
async fn kill(inits: &[Init], faults: &Faults, counters: &Counters) {
    let mut last = Instant::now();
    loop {
        faults.due(last, |settings| settings.kill_instance_every_ms).await;
        last = Instant::now();
        let instance = faults.instance();
        if inits.get(instance).is_some_and(Init::kill) {
            info!(instance, "a fault killed an instance");
            counters.backend_kills.increment();
        }
    }
}

/// Pauses a random instance again and again, as the faults say.
async fn pause(inits: &[Init], faults: &Faults, counters: &Counters) {
    let mut last = Instant::now();
    loop {
        faults.due(last, |settings| settings.pause_instance_every_ms).await;
        last = Instant::now();
        let instance = faults.instance();
        let pid: Option<Pid> = inits.get(instance).and_then(Init::backend);
        let Some(_paused) = pid.and_then(Paused::new) else { continue };
        info!(instance, "a fault paused an instance");
        counters.pauses.increment();
        // Without pauses any more, this one ends too.
        let time = |settings: &crate::faults::FaultSettings| match settings.pause_instance_every_ms {
            0 => 1,
            _ => settings.pause_instance_ms.max(1),
        };
        faults.due(last, time).await;
    }
}
