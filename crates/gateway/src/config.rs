//! Command-line flags, their defaults, and the sources of the defaults.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{ArgGroup, Args, Parser};

use crate::faults::FaultSettings;

/// Command line of `gateway`. Durations are seconds and may have a fraction.
#[derive(Debug, Clone, Parser)]
#[command(
    name = "gateway",
    version,
    about = "Stand-in for API Gateway WebSockets, Lambda and DynamoDB, for local runs and tests"
)]
#[command(group(ArgGroup::new("function_source").args(["function", "lambda_url"]).required(true)))]
pub struct Config {
    /// Address of the WebSocket API and of `@connections`
    #[arg(long, default_value = "127.0.0.1:3002")]
    pub listen: SocketAddr,
    /// Address of the control port; loopback only
    #[arg(long, default_value = "127.0.0.1:3003")]
    pub control: SocketAddr,
    /// Address of the embedded `DynamoDB`
    #[arg(long, default_value = "127.0.0.1:0")]
    pub dynamodb: SocketAddr,
    /// Address of the Lambda Runtime API; process N listens N ports above, unless the port is 0
    #[arg(long, default_value = "127.0.0.1:0")]
    pub runtime_api: SocketAddr,
    /// Serve wss with a self-signed certificate; `@connections` is served over plain HTTP too
    #[arg(long)]
    pub tls: bool,

    /// Stage: the first segment of every path
    #[arg(long, default_value = "prod")]
    pub stage: String,
    /// Region in events, host names and the function's environment
    #[arg(long, env = "AWS_REGION", default_value = "us-east-1")]
    pub region: String,
    /// Id of the API in events and in virtual hosts `{api}.execute-api.{region}.localhost`
    #[arg(long, default_value = "shellbridge")]
    pub api_id: String,
    /// Expression that selects a message's route
    #[arg(long, default_value = "$request.body.action")]
    pub route_selection_expression: String,
    /// Routes that have an integration
    #[arg(long, value_delimiter = ',', default_value = "$connect,$disconnect,$default")]
    pub routes: Vec<String>,
    /// Routes with a `$default` route response: the client gets the function's body
    #[arg(long, value_delimiter = ',', default_value = "$connect")]
    pub route_responses: Vec<String>,

    /// The function's executable or script (`bootstrap`); started `--concurrency` times, speaks the Lambda Runtime API
    #[arg(long)]
    pub function: Option<PathBuf>,
    /// Invoke URL of a function that runs elsewhere (`…/2015-03-31/functions/NAME/invocations`)
    #[arg(long)]
    pub lambda_url: Option<String>,
    /// Limits of the function
    #[command(flatten)]
    pub lambda: LambdaLimits,

    /// The backend's executable; started before the function, with `--init`
    #[arg(long)]
    pub backend: Option<PathBuf>,
    /// Port of the started backend; 0 picks a free one
    #[arg(long, env = "PORT", default_value_t = 3001)]
    pub backend_port: u16,
    /// Backends; several share a Redis (`redis-server` must be installed), behind a load balancer on the backend's port
    #[arg(long, default_value_t = 1, requires = "backend", value_parser = clap::value_parser!(u8).range(1..=16))]
    pub instances: u8,
    /// Count the function's requests to the backend with a relay; `GET /__state` shows the counts
    #[arg(long, requires = "backend")]
    pub count_backend_calls: bool,
    /// Write the function's environment to this file (mode 0600), for `cargo lambda watch --env-file`
    #[arg(long)]
    pub print_env: Option<PathBuf>,

    /// Stop when the parent process exits; for tests, which may be killed
    #[arg(long)]
    pub stop_with_parent: bool,

    /// Limits of the API
    #[command(flatten)]
    pub limits: Limits,
    /// Faults at start
    #[command(flatten)]
    pub faults: FaultSettings,
}

/// Limits of the Lambda service on one function.
#[derive(Debug, Clone, Args)]
pub struct LambdaLimits {
    /// Processes of the function: events handled at once (reserved concurrency on AWS)
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub concurrency: u16,
    /// Timeout of an invocation; its process is then killed. Lambda's default is 3 s, this one is template.yaml's
    #[arg(long, default_value = "29", value_parser = seconds)]
    pub function_timeout: Duration,
    /// Resident memory in MiB above which a process is killed. 128 is Lambda's minimum and default
    #[arg(long, default_value_t = 128)]
    pub function_memory: u64,
}

/// Quotas of a WebSocket API. Defaults: Developer Guide, "Quotas for WebSocket APIs".
#[derive(Debug, Clone, Args)]
pub struct Limits {
    /// Largest frame from a client, bytes of payload; larger ones close with 1009
    #[arg(long, default_value_t = 32 * 1024)]
    pub max_frame: usize,
    /// Largest message in either direction, bytes; larger ones get 1009, or 413 at `@connections`
    #[arg(long, default_value_t = 128 * 1024)]
    pub max_message: usize,
    /// Time without a message in either direction until 1001
    #[arg(long, default_value = "600", value_parser = seconds)]
    pub idle_timeout: Duration,
    /// Age of a connection until 1001
    #[arg(long, default_value = "7200", value_parser = seconds)]
    pub max_duration: Duration,
    /// Time for the function to respond; then 504 at the handshake, an error frame afterwards
    #[arg(long, default_value = "29", value_parser = seconds)]
    pub integration_timeout: Duration,
    /// New connections per second, beyond it 429; 0: unlimited
    #[arg(long, default_value_t = 500)]
    pub connect_rate: u32,
    /// Messages and `@connections` calls per second, beyond it an error frame or 429; 0: unlimited
    #[arg(long, default_value_t = 10_000)]
    pub request_rate: u32,
    /// Burst of messages and `@connections` calls
    #[arg(long, default_value_t = 5_000)]
    pub request_burst: u32,
    /// Bytes queued for a slow reader, besides the kernel's buffers; beyond it 429. AWS publishes no value
    #[arg(long, default_value_t = 512 * 1024)]
    pub send_buffer: usize,
    /// Time for a client to send the head of its request. AWS publishes no value
    #[arg(long, default_value = "10", value_parser = seconds)]
    pub head_timeout: Duration,
}

/// Parses seconds, such as `600` or `0.5`.
fn seconds(text: &str) -> Result<Duration, String> {
    let value: f64 = text.parse().map_err(|_| format!("`{text}` is not a number of seconds"))?;
    Duration::try_from_secs_f64(value)
        .ok()
        .filter(|duration| !duration.is_zero())
        .ok_or_else(|| format!("`{text}` is not a positive number of seconds"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_those_of_api_gateway() {
        let config = Config::parse_from(["gateway", "--function", "/bin/true"]);
        let limits = config.limits;
        assert_eq!((limits.max_frame, limits.max_message), (32_768, 131_072));
        assert_eq!((limits.idle_timeout.as_secs(), limits.max_duration.as_secs()), (600, 7200));
        assert_eq!(limits.integration_timeout.as_secs(), 29);
        assert_eq!((limits.connect_rate, limits.request_rate, limits.request_burst), (500, 10_000, 5_000));
    }

    #[test]
    fn exactly_one_function_is_required() {
        assert!(Config::try_parse_from(["gateway"]).is_err());
        assert!(Config::try_parse_from(["gateway", "--function", "a", "--lambda-url", "http://b"]).is_err());
        assert!(Config::try_parse_from(["gateway", "--function", "a", "--idle-timeout", "-1"]).is_err());
    }
}
