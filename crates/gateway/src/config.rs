//! Settings: every flag, its default and where the default comes from.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{ArgGroup, Args, Parser, ValueEnum};

use crate::faults::FaultSettings;

/// How the frames of one connection reach the function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Dispatch {
    /// Each frame on its own at once, as on AWS: frames overtake each other.
    Concurrent,
    /// A frame is invoked after the one before it was answered. AWS promises nothing like it.
    Serial,
    /// Frames that arrive within a few milliseconds are invoked in a random order.
    Shuffle,
}

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
    /// Speak TLS (wss) with a certificate made at start; `@connections` stays reachable without
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
    /// Where the route of a message is read from
    #[arg(long, default_value = "$request.body.action")]
    pub route_selection_expression: String,
    /// Routes that have an integration
    #[arg(long, value_delimiter = ',', default_value = "$connect,$disconnect,$default")]
    pub routes: Vec<String>,
    /// Routes with a `$default` route response: the function's body goes back to the client
    #[arg(long, value_delimiter = ',', default_value = "$connect")]
    pub route_responses: Vec<String>,
    /// How the frames of one connection reach the function
    #[arg(long, value_enum, default_value = "concurrent")]
    pub dispatch: Dispatch,

    /// The function's executable; started `--concurrency` times, speaks the Lambda Runtime API
    #[arg(long)]
    pub function: Option<PathBuf>,
    /// Invoke URL of a function that runs elsewhere (`…/2015-03-31/functions/NAME/invocations`)
    #[arg(long)]
    pub lambda_url: Option<String>,
    /// Limits of the function
    #[command(flatten)]
    pub lambda: LambdaLimits,

    /// The backend's executable; started before the function
    #[arg(long)]
    pub backend: Option<PathBuf>,
    /// Port of the backend that is started; 0 picks a free one
    #[arg(long, env = "PORT", default_value_t = 3001)]
    pub backend_port: u16,
    /// Start the backend again when it ends by itself
    #[arg(long, requires = "backend")]
    pub backend_restart: bool,
    /// Count what the function asks of the backend, by a relay between them; `GET /__state` shows it
    #[arg(long, requires = "backend")]
    pub count_backend_calls: bool,
    /// Write the environment a function needs to this file (mode 0600, for `cargo lambda watch --env-file`)
    #[arg(long)]
    pub print_env: Option<PathBuf>,

    /// Stop when the process that started this one is gone; for tests, which may be killed themselves
    #[arg(long)]
    pub stop_with_parent: bool,

    /// Limits of the API
    #[command(flatten)]
    pub limits: Limits,
    /// Faults in force at start
    #[command(flatten)]
    pub faults: FaultSettings,
}

/// Limits of the Lambda service on one function.
#[derive(Debug, Clone, Args)]
pub struct LambdaLimits {
    /// Processes of the function: events handled at once (reserved concurrency on AWS)
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub concurrency: u16,
    /// Time an invocation may take before its process is killed. Lambda's default is 3 s; ours is template.yaml's
    #[arg(long, default_value = "29", value_parser = seconds)]
    pub function_timeout: Duration,
    /// Resident memory in MiB above which a process is killed. Lambda's smallest and default is 128
    #[arg(long, default_value_t = 128)]
    pub function_memory: u64,
}

/// Quotas of a WebSocket API. Defaults: Developer Guide, "Quotas for WebSocket APIs".
#[derive(Debug, Clone, Args)]
pub struct Limits {
    /// Largest frame from a client, bytes of payload; beyond it 1009
    #[arg(long, default_value_t = 32 * 1024)]
    pub max_frame: usize,
    /// Largest message either way, bytes; beyond it 1009, or 413 at `@connections`
    #[arg(long, default_value_t = 128 * 1024)]
    pub max_message: usize,
    /// Time without a message either way until 1001
    #[arg(long, default_value = "600", value_parser = seconds)]
    pub idle_timeout: Duration,
    /// Age of a connection until 1001
    #[arg(long, default_value = "7200", value_parser = seconds)]
    pub max_duration: Duration,
    /// Time the function has to answer: then 504 at the handshake, an error frame later
    #[arg(long, default_value = "29", value_parser = seconds)]
    pub integration_timeout: Duration,
    /// New connections a second, else 429; 0: unlimited
    #[arg(long, default_value_t = 500)]
    pub connect_rate: u32,
    /// Messages and `@connections` calls a second, else 429 or an error frame; 0: unlimited
    #[arg(long, default_value_t = 10_000)]
    pub request_rate: u32,
    /// Requests that may come at once
    #[arg(long, default_value_t = 5_000)]
    pub request_burst: u32,
    /// Bytes waiting for a client that reads slowly, beyond what the kernel buffers; more gets 429. Unpublished by AWS
    #[arg(long, default_value_t = 512 * 1024)]
    pub send_buffer: usize,
    /// Time a client has to send the head of its request. Unpublished by AWS
    #[arg(long, default_value = "10", value_parser = seconds)]
    pub head_timeout: Duration,
}

/// Reads seconds, as `600` or `0.5`.
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
        assert_eq!(config.dispatch, Dispatch::Concurrent);
    }

    #[test]
    fn a_function_must_be_named_once() {
        assert!(Config::try_parse_from(["gateway"]).is_err());
        assert!(Config::try_parse_from(["gateway", "--function", "a", "--lambda-url", "http://b"]).is_err());
        assert!(Config::try_parse_from(["gateway", "--function", "a", "--idle-timeout", "-1"]).is_err());
    }
}
