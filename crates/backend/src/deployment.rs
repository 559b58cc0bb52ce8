//! Deployments: keeps ECS from stopping this task while it has sessions, and ends sessions that outstay a newer release.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use serde::Deserialize;
use serde_json::json;
use shellbridge_protocol::times::UnixMs;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use crate::{clock::unix_ms, directory::Directory, metrics};

/// Base URL of the ECS agent in a task (Amazon ECS Developer Guide, "Task scale-in protection endpoint").
const AGENT: &str = "ECS_AGENT_URI";
/// Minutes of one protection. Renewed at half time.
const PROTECTED_FOR: u64 = 60;
/// Time between attempts after a refusal, which is normal during a deployment (`DEPLOYMENT_BLOCKED`).
const ASK_AGAIN: Duration = Duration::from_mins(1);
/// Timeout of a request to the agent.
const AGENT_WITHIN: Duration = Duration::from_secs(10);
/// How often to look for a newer release.
const LOOK: Duration = Duration::from_secs(1);

/// When sessions must end for a newer release. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Deployment {
    drain_max: Duration,
    latest: Arc<AtomicU64>,
}

impl Deployment {
    /// `drain_max`: `DRAIN_MAX`, seconds.
    pub(crate) fn new(drain_max: u64) -> Self {
        Self { drain_max: Duration::from_secs(drain_max), latest: Arc::new(AtomicU64::new(u64::MAX)) }
    }

    /// When all sessions of this instance end at the latest.
    pub(crate) fn latest(&self) -> UnixMs {
        UnixMs(self.latest.load(Ordering::Relaxed))
    }
}

/// Does the work, until dropped.
pub(crate) async fn run(directory: Directory, deployment: Deployment) {
    tokio::join!(drain(&directory, &deployment), protect(&directory));
}

/// While an instance of a newer release is present, ends sessions after `DRAIN_MAX`. Their hosts announce that 5 minutes
/// before.
async fn drain(directory: &Directory, deployment: &Deployment) {
    if !directory.is_shared() {
        return;
    }
    let mut ticks = interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if !directory.report().is_some_and(|report| report.draining) {
            deployment.latest.store(u64::MAX, Ordering::Relaxed);
            continue;
        }
        let end = unix_ms().saturating_add(deployment.drain_max);
        if deployment.latest.fetch_min(end.0, Ordering::Relaxed) == u64::MAX {
            tracing::info!(ends_at = end.0, "a newer release is present: sessions are created there");
        }
        let latest = deployment.latest();
        for session in directory.all() {
            if session.status().expires_at() > latest && session.shorten(latest).await.is_ok() {
                directory.extended(session.status());
            }
        }
    }
}

/// Protects the ECS task from the first session to the last.
async fn protect(directory: &Directory) {
    let Some(agent) = std::env::var(AGENT).ok().filter(|url| !url.is_empty()) else { return };
    let client = reqwest::Client::builder().no_proxy().timeout(AGENT_WITHIN).build();
    let Ok(client) = client.inspect_err(|error| tracing::error!(%error, "no ECS task protection")) else {
        return;
    };
    let mut living = directory.living();
    let mut protected = false;
    loop {
        let wanted = *living.borrow_and_update() > 0;
        let mut due = None;
        if wanted || protected {
            let granted = ask(&client, &agent, wanted).await;
            protected = if granted { wanted } else { protected };
            let after = match (granted, wanted) {
                (false, _) => Some(ASK_AGAIN),
                (true, true) => Some(Duration::from_secs(PROTECTED_FOR * 60 / 2)),
                (true, false) => None,
            };
            due = after.map(|after| Instant::now() + after);
        }
        // Until it is due, only a change between some sessions and none matters.
        loop {
            let waits = async {
                match due {
                    Some(due) => sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = waits => break,
                changed = living.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    if (*living.borrow_and_update() > 0) != wanted {
                        break;
                    }
                }
            }
        }
    }
}

/// The agent's answer.
#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    failure: Option<Reason>,
    #[serde(default)]
    error: Option<Reason>,
}

#[derive(Deserialize)]
struct Reason {
    #[serde(default, rename = "Reason", alias = "Code")]
    reason: String,
}

/// Asks the agent for protection, or to end it. Whether it agreed.
async fn ask(client: &reqwest::Client, agent: &str, protected: bool) -> bool {
    let body = if protected {
        json!({"ProtectionEnabled": true, "ExpiresInMinutes": PROTECTED_FOR})
    } else {
        json!({"ProtectionEnabled": false})
    };
    let url = format!("{}/task-protection/v1/state", agent.trim_end_matches('/'));
    let request = client.put(url).header("content-type", "application/json").body(body.to_string());
    let asked = async {
        let answer = request.send().await?.bytes().await?;
        serde_json::from_slice::<Answer>(&answer).map_err(anyhow::Error::from)
    };
    match asked.await {
        Ok(Answer { failure: None, error: None }) => {
            metrics::protection(if protected { "granted" } else { "released" });
            true
        }
        Ok(Answer { failure, error }) => {
            let reason = failure.or(error).map(|reason| reason.reason).unwrap_or_default();
            tracing::info!(reason, "ECS refuses to protect this task");
            metrics::protection("refused");
            false
        }
        Err(error) => {
            tracing::warn!(%error, "the ECS agent does not answer");
            metrics::protection("failed");
            false
        }
    }
}
