//! Counters, as the control port shows them and as AWS would meter them.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use parking_lot::Mutex;
use serde::Serialize;

/// API Gateway bills messages in units of this many bytes, rounded up.
const METERED_UNIT: usize = 32 * 1024;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    pub fn increment(&self) {
        self.add(1);
    }

    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    /// The number so far.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Counters by name. Names are routes, HTTP statuses, paths and `DynamoDB` operations.
#[derive(Debug, Default)]
pub struct CounterMap(Mutex<BTreeMap<String, u64>>);

/// Most names, so that a client that invents operations cannot fill memory.
const MAX_NAMES: usize = 512;

impl CounterMap {
    /// Adds one to a name.
    pub fn increment(&self, name: &str) {
        let mut map = self.0.lock();
        if let Some(count) = map.get_mut(name) {
            *count += 1;
        } else if map.len() < MAX_NAMES {
            map.insert(name.to_owned(), 1);
        }
    }

    fn snapshot(&self) -> BTreeMap<String, u64> {
        self.0.lock().clone()
    }
}

/// All counters of a gateway.
#[derive(Debug, Default)]
pub struct Counters {
    /// Invocations by route key, including injected repeats.
    pub invocations: CounterMap,
    /// Messages from clients.
    pub messages_in: Counter,
    /// Messages to clients: pushes, route responses and error frames.
    pub messages_out: Counter,
    /// Messages from clients in units of 32 KiB.
    pub metered_in: Counter,
    /// Messages to clients in units of 32 KiB.
    pub metered_out: Counter,
    /// Responses to POST at `@connections` by status.
    pub pushes: CounterMap,
    /// `DynamoDB` requests by operation.
    pub dynamodb: CounterMap,
    /// Requests to the backend by path, with `--count-backend-calls`.
    pub backend_calls: CounterMap,
    /// Requests that the balancer passed on, by instance.
    pub instances: CounterMap,
    /// Frames behind the balancer by the answer's `X-Shellbridge-Hop`: 1 if another instance handled it.
    pub hops: CounterMap,
    /// Connections cut by faults (`cutEveryMs`, `cutEveryFrames`).
    pub cuts: Counter,
    /// Duration of invocations as Lambda bills it: each rounded up to whole milliseconds.
    pub billed_ms: Counter,
    /// Function processes that asked for their first event.
    pub cold_starts: Counter,
    /// Function processes that exited by themselves.
    pub crashes: Counter,
    /// Function processes killed for their timeout, their memory, or a fault.
    pub kills: Counter,
    /// Times a backend was killed by a fault.
    pub backend_kills: Counter,
    /// Times a backend was paused by a fault.
    pub pauses: Counter,
}

impl Counters {
    /// Counts a message from a client.
    pub fn message_in(&self, bytes: usize) {
        self.messages_in.increment();
        self.metered_in.add(units(bytes));
    }

    /// Counts a message to a client.
    pub fn message_out(&self, bytes: usize) {
        self.messages_out.increment();
        self.metered_out.add(units(bytes));
    }

    /// Counts an invocation's duration: from when a process gets the event until it responds or exits.
    pub fn invocation(&self, took: Duration) {
        self.billed_ms.add(billed(took));
    }

    /// The counters as `GET /__state` shows them.
    pub fn snapshot(&self, connections: usize) -> Snapshot {
        let mut invocations = self.invocations.snapshot();
        for route in ["$connect", "$default", "$disconnect"] {
            invocations.entry(route.to_owned()).or_insert(0);
        }
        Snapshot {
            connections,
            invocations,
            messages_in: self.messages_in.get(),
            messages_out: self.messages_out.get(),
            metered_in: self.metered_in.get(),
            metered_out: self.metered_out.get(),
            pushes: self.pushes.snapshot(),
            dynamodb: self.dynamodb.snapshot(),
            backend_calls: self.backend_calls.snapshot(),
            instances: self.instances.snapshot(),
            hops: self.hops.snapshot(),
            billed_ms: self.billed_ms.get(),
            cuts: self.cuts.get(),
            backend_kills: self.backend_kills.get(),
            pauses: self.pauses.get(),
            function: FunctionSnapshot {
                cold_starts: self.cold_starts.get(),
                crashes: self.crashes.get(),
                kills: self.kills.get(),
            },
        }
    }
}

/// The body of `GET /__state`, without the faults.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    connections: usize,
    invocations: BTreeMap<String, u64>,
    messages_in: u64,
    messages_out: u64,
    metered_in: u64,
    metered_out: u64,
    pushes: BTreeMap<String, u64>,
    dynamodb: BTreeMap<String, u64>,
    /// Absent without a relay: not counted is not zero.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    backend_calls: BTreeMap<String, u64>,
    /// Absent without a balancer.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    instances: BTreeMap<String, u64>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    hops: BTreeMap<String, u64>,
    billed_ms: u64,
    cuts: u64,
    backend_kills: u64,
    pauses: u64,
    function: FunctionSnapshot,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct FunctionSnapshot {
    cold_starts: u64,
    crashes: u64,
    kills: u64,
}

fn units(bytes: usize) -> u64 {
    bytes.div_ceil(METERED_UNIT).max(1) as u64
}

/// Lambda bills in steps of 1 ms (Lambda pricing, "Duration").
fn billed(took: Duration) -> u64 {
    u64::try_from(took.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_are_bounded() {
        let named = super::CounterMap::default();
        for name in 0..2 * super::MAX_NAMES {
            named.increment(&name.to_string());
            named.increment("0");
        }
        let names = named.snapshot();
        assert_eq!(names.len(), super::MAX_NAMES);
        assert_eq!(names["0"], 1 + 2 * super::MAX_NAMES as u64);
    }

    #[test]
    fn invocations_are_billed_in_whole_milliseconds() {
        let billed =
            [0, 1, 1_000, 1_001, 29_000_000].map(|us| super::billed(super::Duration::from_micros(us)));
        assert_eq!(billed, [0, 1, 1, 2, 29_000]);
    }

    #[test]
    fn messages_are_metered_in_units_of_32_kib() {
        let units = [0, 1, 32_768, 32_769, 131_072].map(super::units);
        assert_eq!(units, [1, 1, 1, 2, 4]);
    }
}
