//! What several backends cost: their Redis, and the hop of a request that reaches another instance than its session's.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use crate::{
    idle,
    load::Plan,
    mode::{Mode, Subject},
    process,
    stack::{Programs, Role, Stack},
    target::Target,
    terminal::Terminal,
};

/// Sessions opened concurrently.
const CONCURRENCY: usize = 16;
/// Time for Redis to answer, and for instances to register all sessions again after it has lost them.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
const AGAIN_WITHIN: Duration = Duration::from_mins(1);
/// How often to look.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Before a measurement: at rest after the start.
const WARM_UP: Duration = Duration::from_secs(2);

/// The cost of a fleet.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Cost {
    /// Backends.
    pub instances: u8,
    /// Idle sessions, each with a terminal attached.
    pub sessions: usize,
    /// Redis, memory in use per session, bytes.
    pub redis_bytes: f64,
    /// Redis, CPU time for the renewals without sessions, as a share of one core per instance.
    pub redis_core_empty: f64,
    /// The same with the sessions.
    pub redis_core: f64,
    /// From the loss of everything in Redis until all sessions are registered again, s.
    pub again: f64,
    /// CPU time of Redis meanwhile, per session, µs.
    pub again_redis: f64,
    /// CPU time of all instances meanwhile, per session, µs.
    pub again_backends: f64,
    /// Memory of an instance without sessions, bytes.
    pub instance_bytes: f64,
    /// Memory growth of backends and hosts per session, bytes.
    pub session_bytes: f64,
    /// CPU time of an instance with idle sessions, as a share of one core.
    pub instance_core: f64,
    /// `ping` with the load balancer's cookie.
    pub sticky: Pings,
    /// `ping` with requests that reach all instances in turn.
    pub spread: Pings,
}

/// Pings of one connection.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Pings {
    /// Median, ms.
    pub p50: f64,
    /// Share of frames that took a hop.
    pub hops: f64,
}

/// Measures `instances` backends with `sessions` idle sessions.
pub async fn measure(
    programs: &Programs,
    instances: u8,
    sessions: usize,
    window: Duration,
) -> anyhow::Result<Cost> {
    ensure!(instances > 1 && sessions > 0, "a fleet has several instances, and sessions");
    let stack = programs.stack().flag("--instances", &instances.to_string()).start().await?;
    let redis = Redis::of(&stack)?;
    let target = Target::local(&stack)?;
    sleep(WARM_UP).await;
    #[expect(clippy::cast_precision_loss, reason = "bytes and counts are far below 2^53")]
    let per = |value: u64, count: usize| value as f64 / count as f64;
    let of = usize::from(instances);

    let (empty, before) = (redis.memory().await?, idle::resident(&stack, Role::Backend));
    let core_empty = core(&redis, &stack, window).await;
    let opening = stream::iter(0..sessions).map(|index| {
        let target = &target;
        async move { Terminal::attached(target.session("/bin/cat").await?, &format!("fleet-{index}")).await }
    });
    let terminals: Vec<_> = opening.buffer_unordered(CONCURRENCY).try_collect().await?;
    sleep(WARM_UP).await;
    let (full, after) = (redis.memory().await?, idle::resident(&stack, Role::Backend));
    let with_sessions = core(&redis, &stack, window).await;

    let keys = redis.keys().await?;
    let (began, cpu) = (Instant::now(), (redis.cpu(), backends(&stack)));
    stack.set_faults(&json!({ "redisFlush": true })).await?;
    // The flush comes after the answer. Its line is in the log once it has happened.
    let lost = until(|| async { Ok(stack.log()?.contains("Redis is empty")) });
    timeout(AGAIN_WITHIN, lost).await.context("Redis is not emptied")??;
    let registered = until(|| async { Ok(redis.keys().await? >= keys) });
    timeout(AGAIN_WITHIN, registered).await.context("the sessions are not registered again")??;
    let again = began.elapsed().as_secs_f64();
    let micros = |time: Duration| per(u64::try_from(time.as_micros()).unwrap_or(u64::MAX), sessions);
    let spent = (redis.cpu().saturating_sub(cpu.0), backends(&stack).saturating_sub(cpu.1));
    drop(terminals);

    let sticky = pings(&stack, &target, window).await?;
    stack.set_faults(&json!({ "spreadRequests": true })).await?;
    let spread = pings(&stack, &target, window).await?;
    Ok(Cost {
        instances,
        sessions,
        redis_bytes: per(full.saturating_sub(empty), sessions),
        redis_core_empty: core_empty.0 / f64::from(instances),
        redis_core: with_sessions.0 / f64::from(instances),
        again,
        again_redis: micros(spent.0),
        again_backends: micros(spent.1),
        instance_bytes: per(before, of),
        session_bytes: per(after.saturating_sub(before), sessions),
        instance_core: with_sessions.1 / f64::from(instances),
        sticky,
        spread,
    })
}

/// Prints the figures.
pub fn print(cost: &Cost) {
    let Cost { instances, sessions, sticky, spread, .. } = cost;
    println!("{instances} instances, {sessions} idle sessions");
    println!(
        "Redis: {:.0} bytes per session; renewals {:.3}% of a core per instance, {:.3}% with the sessions",
        cost.redis_bytes,
        100.0 * cost.redis_core_empty,
        100.0 * cost.redis_core
    );
    println!(
        "after its loss: all sessions registered again in {:.1} s, for {:.0} µs of Redis and {:.0} µs of the instances per session",
        cost.again, cost.again_redis, cost.again_backends
    );
    println!(
        "instance: {:.1} MB and {:.2}% of a core; session: {:.0} KB",
        cost.instance_bytes / 1e6,
        100.0 * cost.instance_core,
        cost.session_bytes / 1e3
    );
    println!(
        "ping p50: {:.3} ms with the cookie ({:.1}% of frames took a hop), {:.3} ms spread ({:.1}%): {:.2}x",
        sticky.p50,
        100.0 * sticky.hops,
        spread.p50,
        100.0 * spread.hops,
        spread.p50 / sticky.p50
    );
}

/// CPU time of Redis and of all backends as shares of one core.
async fn core(redis: &Redis, stack: &Stack, window: Duration) -> (f64, f64) {
    let (before, began) = ((redis.cpu(), backends(stack)), Instant::now());
    sleep(window).await;
    let took = began.elapsed().as_secs_f64();
    let share = |before: Duration, after: Duration| after.saturating_sub(before).as_secs_f64() / took;
    (share(before.0, redis.cpu()), share(before.1, backends(stack)))
}

/// CPU time of the backends, without their sessions' hosts.
fn backends(stack: &Stack) -> Duration {
    let all = stack.processes().into_iter().filter(|(role, _)| *role == Role::Backend);
    all.map(|(_, pid)| process::cpu(pid)).sum()
}

async fn pings(stack: &Stack, target: &Target, window: Duration) -> anyhow::Result<Pings> {
    let before = hops(&stack.state().await?);
    let plan = Plan { warm: WARM_UP, measure: window, rate: None };
    let row = Mode::Ping.measure(Subject { target, stack: Some(stack) }, 1, plan).await?;
    let after = hops(&stack.state().await?);
    let [stayed, hopped] = [after[0] - before[0], after[1] - before[1]];
    ensure!(stayed + hopped > 0.0, "the backends do not say where they handled a frame");
    Ok(Pings { p50: row.p50(), hops: hopped / (stayed + hopped) })
}

/// Frames without and with a hop.
fn hops(state: &Value) -> [f64; 2] {
    ["/hops/0", "/hops/1"].map(|hop| state.pointer(hop).and_then(Value::as_f64).unwrap_or_default())
}

/// The instances' Redis.
struct Redis {
    address: String,
    pid: u32,
}

impl Redis {
    /// Its address is in the gateway's log.
    fn of(stack: &Stack) -> anyhow::Result<Self> {
        let log = stack.log()?;
        let line = log.lines().rfind(|line| line.contains("Redis listens")).context("no Redis in the log")?;
        let (_, rest) = line.split_once("address=").context("no address of Redis in the log")?;
        let address = rest.split_whitespace().next().unwrap_or_default().to_owned();
        Ok(Self { address, pid: stack.redis().context("no Redis")? })
    }

    /// Memory in use, bytes.
    async fn memory(&self) -> anyhow::Result<u64> {
        let info = self.ask("INFO memory").await?;
        let line = info.lines().find_map(|line| line.strip_prefix("used_memory:"));
        line.context("no used_memory")?.trim().parse().context("used_memory")
    }

    /// Number of keys.
    async fn keys(&self) -> anyhow::Result<u64> {
        let answer = self.ask("DBSIZE").await?;
        answer.trim().trim_start_matches(':').parse().with_context(|| format!("DBSIZE: {answer}"))
    }

    fn cpu(&self) -> Duration {
        process::cpu(self.pid)
    }

    /// Sends an inline command and reads the answer, which it sends at once.
    async fn ask(&self, command: &str) -> anyhow::Result<String> {
        let exchange = async {
            let mut stream = TcpStream::connect(&self.address).await?;
            stream.write_all(format!("{command}\r\nQUIT\r\n").as_bytes()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            Ok(answer.trim_end().trim_end_matches("+OK").to_owned())
        };
        timeout(ANSWER_WITHIN, exchange).await.context("Redis does not answer")?
    }
}

/// Looks until it is so.
async fn until<F: Future<Output = anyhow::Result<bool>>>(look: impl Fn() -> F) -> anyhow::Result<()> {
    while !look().await? {
        sleep(LOOK_EVERY).await;
    }
    Ok(())
}
