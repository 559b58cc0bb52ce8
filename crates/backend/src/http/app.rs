//! State shared by all requests.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use metrics_exporter_prometheus::PrometheusHandle;
use shellbridge_protocol::origin::AllowedOrigins;
use shellbridge_session::{Limits, Settings};

use crate::{
    access::Access,
    admin::Admin,
    config::Config,
    deployment::Deployment,
    directory::{Directory, Fleet, Redis, member},
    hop::Hops,
    ingress::Ingress,
    keep_awake::KeepAwake,
    launcher::{ContainerSettings, Launcher, Sandbox},
    metrics,
    rate::RateLimits,
    sessions::Seal,
    transport::bridge::Bridge,
};

/// State shared by all requests.
pub(crate) struct App {
    pub(crate) config: Config,
    pub(crate) access: Access,
    pub(crate) admin: Admin,
    pub(crate) bridge: Arc<Bridge>,
    pub(crate) origins: Option<AllowedOrigins>,
    pub(crate) directory: Directory,
    pub(crate) ingress: Arc<Ingress>,
    pub(crate) launcher: Launcher,
    pub(crate) seal: Seal,
    pub(crate) settings: Settings,
    pub(crate) metrics: PrometheusHandle,
    pub(crate) keep_awake: Option<Arc<KeepAwake>>,
    pub(crate) deployment: Deployment,
    pub(crate) hops: Hops,
}

impl App {
    /// Builds the shared state from checked settings. `port`: where this process listens.
    pub(crate) async fn new(config: Config, port: u16) -> anyhow::Result<Self> {
        let origins = config.allowed_origins.as_deref().or(config.frontend_url.as_deref());
        let origins = origins.map(AllowedOrigins::parse).transpose().context("ALLOWED_ORIGINS")?;
        let settings = Settings {
            limits: Limits {
                output_buffer: config.output_buffer,
                output_window: config.output_window as u64,
                resume_grace: Duration::from_secs(config.resume_grace),
            },
            detached_ttl: Duration::from_secs(config.detached_ttl),
            shell_restart: config.shell_restart,
        };
        let users = (config.shell_sandbox == Sandbox::User)
            .then_some((config.shell_uids.as_str(), config.shell_homes.as_deref()));
        let launcher = Launcher::new(config.run_dir.as_deref(), config.session_host.as_deref(), users)?;
        let launcher = match (config.shell_sandbox, &config.shell_image) {
            (Sandbox::Container, Some(image)) => {
                let settings = ContainerSettings {
                    engine: &config.docker_host,
                    image,
                    images: config.shell_images.as_deref(),
                    network: &config.shell_network,
                };
                launcher.with_containers(settings).await?
            }
            _ => launcher,
        };
        tracing::info!(sandbox = config.shell_sandbox.name(), "how sessions are kept apart");
        let fleet = match &config.redis_url {
            Some(url) => Some(Fleet::new(Redis::parse(url)?, member(&config, port, &launcher).await?)),
            None => None,
        };
        let directory = Directory::new(fleet);
        let rates = RateLimits::new(config.rate_limit_connection, config.rate_limit_user);
        let ingress = Arc::new(Ingress::new(directory.clone(), rates));
        let keep_awake = config.keep_awake_url.as_deref().map(KeepAwake::new).transpose()?;
        Ok(Self {
            access: Access::new(&config)?,
            admin: Admin::new(config.admin_token.as_deref()).context("ADMIN_TOKEN")?,
            bridge: Bridge::new(&config, ingress.clone()).await?.into(),
            origins,
            directory,
            ingress,
            seal: Seal::new(launcher.secret()),
            launcher,
            settings,
            metrics: metrics::start()?,
            keep_awake: keep_awake.map(Arc::new),
            deployment: Deployment::new(config.drain_max),
            hops: Hops::new(),
            config,
        })
    }
}
