//! Reports the number of sessions to `CloudWatch`, for autoscaling: once a minute a log line in the embedded metric format.
//!
//! Format: <https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html>

use std::{io::Write as _, time::Duration};

use serde_json::{Value, json};
use shellbridge_protocol::times::UnixMs;
use tokio::time::{MissedTickBehavior, interval};

use crate::{clock::unix_ms, directory::Directory};

/// Period of the lines; the resolution of `CloudWatch`'s standard metrics.
const EVERY: Duration = Duration::from_mins(1);

/// Writes a line to stdout every minute, forever.
pub(crate) async fn report(namespace: String, directory: Directory) {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let line = line(&namespace, directory.len(), unix_ms());
        // An error is not fatal: after a restart by init, stdout may have no reader.
        let _ = writeln!(std::io::stdout(), "{line}");
    }
}

/// Without dimensions: the average over the instances of a namespace is the number of sessions per instance.
fn line(namespace: &str, sessions: usize, at: UnixMs) -> Value {
    json!({
        "_aws": {
            "Timestamp": at,
            "CloudWatchMetrics": [{
                "Namespace": namespace,
                "Dimensions": [[]],
                "Metrics": [{ "Name": "Sessions", "Unit": "Count" }],
            }],
        },
        "Sessions": sessions,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_its_metric_as_cloudwatch_expects() {
        let line = line("Shellbridge/dev", 3, UnixMs(1_795_997_580_982));
        assert_eq!(line["_aws"]["Timestamp"], 1_795_997_580_982_u64);
        let metrics = &line["_aws"]["CloudWatchMetrics"][0];
        assert_eq!((&metrics["Namespace"], &line["Sessions"]), (&json!("Shellbridge/dev"), &json!(3)));
        assert_eq!(metrics["Metrics"][0]["Name"], "Sessions");
    }
}
