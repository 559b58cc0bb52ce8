//! Which faults are in force, as flags and as the control port's JSON.

use clap::Args;
use serde::{Deserialize, Serialize};

/// Fault settings. JSON as in the wire contract, section 8; the flags have the same names in kebab case.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Args)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FaultSettings {
    /// Seed of all random choices
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Milliseconds each `$default` invocation is held back
    #[arg(long, default_value_t = 0)]
    pub delay_ms: u64,
    /// Share of `$default` invocations held back until a later one overtook them
    #[arg(long, default_value_t = 0.0, value_parser = share)]
    pub reorder: f64,
    /// Share of `$default` events delivered twice
    #[arg(long, default_value_t = 0.0, value_parser = share)]
    pub repeat: f64,
    /// Share of `$default` events never delivered; the client is not told
    #[arg(long, default_value_t = 0.0, value_parser = share)]
    pub drop: f64,
    /// Share of POSTs to `@connections` that fail
    #[arg(long, default_value_t = 0.0, value_parser = share)]
    pub push_fail: f64,
    /// Share of the failing POSTs that are delivered anyway
    #[arg(long, default_value_t = 0.0, value_parser = share)]
    pub push_fail_after_delivery: f64,
    /// Status of failing POSTs; 0: 429, 500, 410 in turn
    #[arg(long, default_value_t = 0)]
    pub push_fail_status: u16,
    /// Mean age in milliseconds at which connections are cut (each at 50 to 150 % of it); 0: never
    #[arg(long, default_value_t = 0)]
    pub cut_every_ms: u64,
    /// Messages, both ways together, after which a connection is cut; 0: never
    #[arg(long, default_value_t = 0)]
    pub cut_every_frames: u64,
    /// Cut by TCP reset instead of a close frame 1001
    #[arg(long)]
    pub cut_abruptly: bool,
    /// Share of `$disconnect` events never delivered
    #[arg(long, default_value_t = 0.0, value_parser = share)]
    pub drop_disconnect: f64,
    /// Milliseconds after which a function process is killed in mid-invocation, again and again; 0: never
    #[arg(long, default_value_t = 0)]
    pub kill_function_every_ms: u64,
    /// Milliseconds after each start at which the backend is killed; it starts again; 0: never
    #[arg(long, default_value_t = 0)]
    pub kill_backend_every_ms: u64,
    /// Milliseconds after which one of the instances, drawn at random, is killed; it starts again; 0: never
    #[arg(long, default_value_t = 0)]
    pub kill_instance_every_ms: u64,
    /// Milliseconds after which one of the instances, drawn at random, is paused; 0: never
    #[arg(long, default_value_t = 0)]
    pub pause_instance_every_ms: u64,
    /// Milliseconds that such a pause lasts
    #[arg(long, default_value_t = 15_000)]
    pub pause_instance_ms: u64,
    /// The load balancer ignores its cookies, so that requests for a session reach all instances
    #[arg(long)]
    pub spread_requests: bool,
    /// Instances (from 0) cut off from Redis
    #[arg(long, value_delimiter = ',')]
    pub partition: Vec<usize>,
    /// Pauses Redis for this many milliseconds once, when it is set
    #[arg(skip)]
    pub redis_pause_ms: u64,
    /// Empties Redis once, when it is set
    #[arg(skip)]
    pub redis_flush: bool,
}

impl Default for FaultSettings {
    fn default() -> Self {
        Self {
            seed: 1,
            delay_ms: 0,
            reorder: 0.0,
            repeat: 0.0,
            drop: 0.0,
            push_fail: 0.0,
            push_fail_after_delivery: 0.0,
            push_fail_status: 0,
            cut_every_ms: 0,
            cut_every_frames: 0,
            cut_abruptly: false,
            drop_disconnect: 0.0,
            kill_function_every_ms: 0,
            kill_backend_every_ms: 0,
            kill_instance_every_ms: 0,
            pause_instance_every_ms: 0,
            pause_instance_ms: 15_000,
            spread_requests: false,
            partition: Vec::new(),
            redis_pause_ms: 0,
            redis_flush: false,
        }
    }
}

impl FaultSettings {
    /// Checks that shares are from 0 to 1 and that the status is an error.
    pub fn validate(&self) -> Result<(), String> {
        let shares = [
            ("reorder", self.reorder),
            ("repeat", self.repeat),
            ("drop", self.drop),
            ("pushFail", self.push_fail),
            ("pushFailAfterDelivery", self.push_fail_after_delivery),
            ("dropDisconnect", self.drop_disconnect),
        ];
        for (name, value) in shares {
            if !(0.0..=1.0).contains(&value) {
                return Err(format!("{name} must be from 0 to 1"));
            }
        }
        if self.push_fail_status != 0 && !(400..=599).contains(&self.push_fail_status) {
            return Err("pushFailStatus must be 0 or from 400 to 599".to_owned());
        }
        Ok(())
    }
}

fn share(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|share| (0.0..=1.0).contains(share))
        .ok_or_else(|| format!("`{text}` is not a share from 0 to 1"))
}
