//! Drives the state machine: sends its requests to Redis, and performs what it decides.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures_util::future::join_all;
use shellbridge_fleet::{Effect, Failed, Place, Reply, Request, RequestId};
use shellbridge_protocol::{
    ErrorCode,
    frame::{ErrorFrame, ServerFrame},
    ids::{ConnectionId, SessionId},
};
use tokio::{
    task::{Id, JoinSet},
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    Fleet, Shared,
    store::{Store, StoreError},
};
use crate::{
    metrics,
    sessions::{
        Standing,
        outlet::{self, FindRoute},
    },
};

/// Time between attempts to connect.
const RECONNECT: Duration = Duration::from_millis(250);
/// Longest farewell of one session.
const FAREWELL_WITHIN: Duration = Duration::from_secs(5);

pub(super) struct Driver {
    fleet: Fleet,
    routes: FindRoute,
    store: Option<Store>,
    /// An attempt to connect, while there is no connection.
    connecting: JoinSet<Result<Store, StoreError>>,
    requests: JoinSet<(RequestId, Result<Reply, StoreError>)>,
    in_flight: HashMap<Id, RequestId>,
    farewells: JoinSet<(Arc<str>, SessionId)>,
}

impl Driver {
    pub(super) fn new(fleet: Fleet, routes: FindRoute) -> Self {
        Self {
            fleet,
            routes,
            store: None,
            connecting: JoinSet::new(),
            requests: JoinSet::new(),
            in_flight: HashMap::new(),
            farewells: JoinSet::new(),
        }
    }

    pub(super) async fn run(mut self) {
        self.connect(Duration::ZERO);
        let shared = self.fleet.0.clone();
        loop {
            let wake = self.drive(&shared);
            let due = async {
                match wake {
                    Some(wake) => sleep_until(wake).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = shared.wake.notified() => {}
                () = due => {}
                Some(connected) = self.connecting.join_next() => match connected {
                    Ok(Ok(store)) => self.connected(&shared, store),
                    Ok(Err(error)) => self.failed(&shared, &error, RECONNECT),
                    Err(_) => self.connect(RECONNECT),
                },
                Some(done) = self.requests.join_next_with_id() => {
                    // An error: the request was aborted, and counted as failed then.
                    if let Ok((task, (id, outcome))) = done {
                        self.in_flight.remove(&task);
                        self.answered(&shared, id, outcome);
                    }
                }
                Some(Ok((instance, session))) = self.farewells.join_next() => {
                    shared.state.lock().machine.handle_farewell_done(&instance, session);
                }
            }
        }
    }

    /// Performs what is due. Returns when more is.
    fn drive(&mut self, shared: &Arc<Shared>) -> Option<Instant> {
        let mut effects = Vec::new();
        let mut requests = Vec::new();
        let wake = {
            let mut state = shared.state.lock();
            let now = shared.started.elapsed();
            state.machine.handle_timeout(now);
            while let Some((id, request)) = state.machine.poll_request(now) {
                if self.store.is_some() {
                    requests.push((id, request));
                } else {
                    state.machine.handle_reply(id, Err(Failed), now);
                }
            }
            while let Some(effect) = state.machine.poll_effect() {
                effects.push(effect);
            }
            let leased = state.machine.leased(now);
            state.count_fenced(leased);
            // A millisecond later, because the machine compares finer times.
            state.machine.poll_timeout(now).map(|at| shared.started + at + Duration::from_millis(1))
        };
        for effect in effects {
            self.perform(shared, effect);
        }
        for (id, request) in requests {
            self.send(id, request);
        }
        wake
    }

    fn send(&mut self, id: RequestId, request: Request) {
        if let Some(store) = self.store.clone() {
            let task = self.requests.spawn(async move { (id, store.perform(request).await) });
            self.in_flight.insert(task.id(), id);
        }
    }

    fn connect(&mut self, after: Duration) {
        let shared = self.fleet.0.clone();
        self.connecting.spawn(async move {
            sleep(after).await;
            shared.redis.connect(shared.me.clone()).await
        });
    }

    fn connected(&mut self, shared: &Shared, store: Store) {
        tracing::info!("connected to Redis");
        self.store = Some(store);
        let mut state = shared.state.lock();
        state.error = None;
        state.machine.handle_reconnected(shared.started.elapsed());
    }

    fn answered(&mut self, shared: &Shared, id: RequestId, outcome: Result<Reply, StoreError>) {
        let failed = outcome.as_ref().err().map(ToString::to_string);
        let reply = outcome.map_err(|_| Failed);
        shared.state.lock().machine.handle_reply(id, reply, shared.started.elapsed());
        if failed.is_some() && self.store.take().is_some() {
            // Any failure may be a failover, after which another connection reaches another server. The other requests of
            // this one must not be applied later.
            self.requests.abort_all();
            let mut state = shared.state.lock();
            for (_, id) in self.in_flight.drain() {
                state.machine.handle_reply(id, Err(Failed), shared.started.elapsed());
            }
            drop(state);
            self.failed_with(shared, failed.unwrap_or_default(), Duration::ZERO);
        }
    }

    fn failed(&mut self, shared: &Shared, error: &StoreError, after: Duration) {
        self.failed_with(shared, error.to_string(), after);
    }

    fn failed_with(&mut self, shared: &Shared, error: String, after: Duration) {
        let mut state = shared.state.lock();
        if state.error.as_ref() != Some(&error) {
            tracing::error!(error, "no connection to Redis");
            state.error = Some(error);
        }
        drop(state);
        self.connect(after);
    }

    fn perform(&mut self, shared: &Shared, effect: Effect) {
        match effect {
            Effect::Leased { until } => {
                shared.lease.send_replace(Some(shared.started + until));
            }
            Effect::Confirmed(session) => stand(shared, &session, Standing::Confirmed),
            Effect::Unconfirmed(session) => stand(shared, &session, Standing::Waiting),
            Effect::Lost(session) => {
                stand(shared, &session, Standing::Lost);
            }
            Effect::Claimed(session, outcome) => {
                if let Some(waits) = shared.state.lock().claims.remove(&session) {
                    let _ = waits.send(outcome);
                }
            }
            Effect::Found(session, place) => {
                for waits in shared.state.lock().looks.remove(&session).unwrap_or_default() {
                    let _ = waits.send(place.clone());
                }
                if place == Place::Nowhere {
                    tracing::debug!(session_id = %session, "no such session in the fleet");
                }
            }
            Effect::Peer(url) => {
                for waits in std::mem::take(&mut shared.state.lock().peers) {
                    let _ = waits.send(url.clone());
                }
            }
            Effect::Farewell { instance, session, connections } => {
                tracing::warn!(
                    session_id = %session,
                    instance = &*instance,
                    connections = connections.len(),
                    "a session is gone with its instance"
                );
                let routes = self.routes.clone();
                self.farewells.spawn(async move {
                    let _ = timeout(FAREWELL_WITHIN, farewell(&routes, connections)).await;
                    (instance, session)
                });
            }
            Effect::Superseded => {
                tracing::error!("a later process has this instance's RUN_DIR; this one serves nothing");
                shared.lease.send_replace(None);
                shared.state.lock().error = Some("a later process has this instance's RUN_DIR".to_owned());
            }
        }
    }
}

fn stand(shared: &Shared, session: &SessionId, standing: Standing) {
    if let Some(latch) = shared.state.lock().latches.get(session) {
        latch.standing.send_replace(standing);
    }
}

/// Tells connections that their session is gone, and closes them.
async fn farewell(routes: &FindRoute, connections: Vec<(ConnectionId, Arc<str>)>) {
    let error = ErrorFrame::new(ErrorCode::SessionInvalid, "the session ended with its server");
    let last = ServerFrame::from(error).to_json();
    let told = connections.into_iter().filter_map(|(id, address)| {
        let outlet = routes(&address)?.outlet(id);
        metrics::farewell();
        let last = last.clone();
        Some(async move { outlet::close(&*outlet, Some(last), Some(ErrorCode::SessionInvalid)).await })
    });
    join_all(told).await;
}
