//! State that all parts of a running gateway share.

use std::sync::{Arc, atomic::AtomicUsize};

use tokio_util::task::TaskTracker;

use crate::{
    config::{Config, Limits},
    counters::Counters,
    event::Api,
    faults::Faults,
    function::Function,
    limits::Rates,
    route::Routes,
    ws::Registry,
};

/// A WebSocket API with its connections.
#[derive(Debug)]
pub struct Gateway {
    /// Id and stage.
    pub api: Api,
    /// Region in host names.
    pub region: String,
    /// Whether WebSocket clients must use TLS.
    pub tls: bool,
    /// Limits on sizes and times.
    pub limits: Limits,
    /// Rate limits.
    pub rates: Rates,
    /// Routes and route responses.
    pub routes: Routes,
    /// Handles the events.
    pub function: Function,
    /// Counters.
    pub counters: Arc<Counters>,
    /// Injected faults.
    pub faults: Arc<Faults>,
    /// Open connections.
    pub connections: Registry,
    /// Tasks that outlive their connection.
    pub tasks: TaskTracker,
    /// Bytes of unanswered events.
    pub(crate) pending: Arc<AtomicUsize>,
}

impl Gateway {
    /// A gateway as configured. Fails if the route selection expression is invalid.
    pub fn new(
        config: &Config,
        function: Function,
        counters: Arc<Counters>,
        faults: Arc<Faults>,
    ) -> Result<Self, String> {
        Ok(Self {
            api: Api { id: config.api_id.clone(), stage: config.stage.clone() },
            region: config.region.clone(),
            tls: config.tls,
            limits: config.limits.clone(),
            rates: Rates::new(&config.limits),
            routes: Routes::new(&config.route_selection_expression, &config.routes, &config.route_responses)?,
            function,
            counters,
            faults,
            connections: Registry::default(),
            tasks: TaskTracker::new(),
            pending: Arc::default(),
        })
    }

    /// Whether a request with this `Host` is for this API: `{api}.execute-api.{region}.localhost` must name it, and any
    /// other host is accepted.
    pub fn serves_host(&self, host: &str) -> bool {
        let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
        match name.split_once(".execute-api.") {
            Some((api, rest)) => api == self.api.id && rest.strip_suffix(".localhost") == Some(&self.region),
            None => true,
        }
    }
}
