//! Identity of this instance: its uuid and generation, its URL, its release.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use serde::Deserialize;
use shellbridge_fleet::Member;

use crate::{config::Config, launcher::Launcher};

/// Base URL of the container's metadata (Amazon ECS Developer Guide, "Task metadata endpoint version 4").
const METADATA: &str = "ECS_CONTAINER_METADATA_URI_V4";
/// Timeout of reading the metadata.
const METADATA_WITHIN: Duration = Duration::from_secs(5);

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Container {
    #[serde(default)]
    networks: Vec<Network>,
}

#[derive(Deserialize)]
struct Network {
    #[serde(rename = "IPv4Addresses", default)]
    addresses: Vec<std::net::Ipv4Addr>,
}

/// This instance's identity in the fleet. `port`: where it listens.
///
/// # Errors
/// When its URL is unknown, or `RUN_DIR` cannot be written.
pub(crate) async fn member(config: &Config, port: u16, launcher: &Launcher) -> anyhow::Result<Member> {
    let url = match &config.instance_url {
        Some(url) => at_port(url, port).context("INSTANCE_URL must be http://HOST:PORT")?,
        None => url_from_ecs(port).await?,
    };
    let (uuid, generation) = launcher.next_generation().context("RUN_DIR")?;
    let release = config.release.as_deref().unwrap_or(env!("CARGO_PKG_VERSION"));
    Ok(Member { uuid: uuid.into(), generation, url: url.into(), release: Arc::from(release) })
}

/// The URL without a final slash. Port 0 stands for `port`, as in `PORT`.
fn at_port(url: &str, port: u16) -> Option<String> {
    let mut url = url::Url::parse(url).ok()?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return None;
    }
    if url.port() == Some(0) {
        url.set_port(Some(port)).ok()?;
    }
    Some(url.as_str().trim_end_matches('/').to_owned())
}

async fn url_from_ecs(port: u16) -> anyhow::Result<String> {
    let Some(metadata) = std::env::var(METADATA).ok().filter(|url| !url.is_empty()) else {
        bail!(
            "with REDIS_URL, INSTANCE_URL must say how other instances reach this one (on ECS, it is found)"
        );
    };
    let client = reqwest::Client::builder().no_proxy().timeout(METADATA_WITHIN).build()?;
    let asked = async {
        let response = client.get(metadata).send().await?.error_for_status()?;
        serde_json::from_slice::<Container>(&response.bytes().await?).map_err(anyhow::Error::from)
    };
    let container = asked.await.context("cannot read the ECS task metadata; set INSTANCE_URL")?;
    let address = container.networks.into_iter().flat_map(|network| network.addresses).next();
    let address = address.context("the ECS task metadata has no IPv4 address; set INSTANCE_URL")?;
    Ok(format!("http://{address}:{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_0_of_instance_url_is_the_port_that_was_picked() {
        assert_eq!(at_port("http://127.0.0.1:0", 8_080).as_deref(), Some("http://127.0.0.1:8080"));
        assert_eq!(at_port("http://b.internal:3001/", 8_080).as_deref(), Some("http://b.internal:3001"));
        assert_eq!(at_port("https://b.internal", 8_080).as_deref(), Some("https://b.internal"));
        for bad in ["b.internal:3001", "redis://b", "http://", ""] {
            assert_eq!(at_port(bad, 8_080), None, "{bad}");
        }
    }
}
