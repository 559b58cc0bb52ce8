//! The cost of flooding sessions to the others: key latency with and without the floods.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use futures_util::future::try_join_all;
use serde::Serialize;
use shellbridge_protocol::limits::{MAX_COLS, MAX_ROWS};
use tokio::{sync::Notify, task::JoinHandle};

use crate::{
    exchange::Typist,
    load::{self, Latencies, Plan},
    report::{Row, print_table},
    stack::Stack,
    target::Target,
    terminal::Terminal,
};

/// The floods: the two most expensive for the screen model by length, in short and in long lines, and the most expensive
/// for everything else.
const FLOODS: [(&str, &str); 3] = [
    ("clear and scroll", r"yes $'\e[41m\e[2J\e[500S'"),
    ("24 KB of scrolling", r#"yes "$(printf '\e[500S%.0s' {1..4000})""#),
    ("yes", "yes"),
];
/// Terminal sizes, of all sessions.
const SIZES: [(u16, u16); 2] = [(80, 24), (MAX_COLS, MAX_ROWS)];
/// Numbers of flooding sessions.
const FLOODERS: [usize; 2] = [1, 8];
/// Typists and their total keys per second: enough for a 99th percentile in a few seconds.
const TYPISTS: usize = 4;
const KEYS: f64 = 200.0;
/// Rounds with and without the flood alternate, so that noise affects both.
const ROUNDS: usize = 3;
/// Interval of `/health` requests, and their limit in ms during a flood; a load balancer's timeout is 5 s.
const HEALTH_EVERY: Duration = Duration::from_millis(50);
const HEALTH_WITHIN: f64 = 100.0;
/// Largest ratio of the 99th percentiles with and without a flood.
const RATIO: f64 = 3.0;

/// The cost of one flood at one size.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Cost {
    /// Key latency without the flood.
    pub quiet: Row,
    /// Key latency during the flood.
    pub flooded: Row,
    /// Ratio of the 99th percentiles.
    pub ratio: f64,
    /// Slowest `/health` response during the flood, ms.
    pub health: f64,
}

impl Cost {
    /// Whether ratio and `/health` are within their bounds.
    pub fn is_met(&self) -> bool {
        self.ratio <= RATIO && self.health <= HEALTH_WITHIN
    }
}

/// Measures every flood at every size; `round` is the duration of a round.
pub async fn measure(stack: &Stack, round: Duration) -> anyhow::Result<Vec<Cost>> {
    let target = Target::local(stack)?;
    let mut costs = Vec::new();
    for size in SIZES {
        for flood in FLOODS {
            for flooders in FLOODERS {
                costs.push(one(&target, &stack.page, size, flood, flooders, round).await?);
            }
        }
    }
    Ok(costs)
}

/// Prints the table of costs.
pub fn print(costs: &[Cost]) {
    let head = [
        "keys to their echo, ms",
        "p50 quiet",
        "p50 flooded",
        "p99 quiet",
        "p99 flooded",
        "ratio",
        "/health, worst",
        "",
    ];
    let lines = costs.iter().map(|cost| {
        let of = |row: &Row| row.latency.map_or((f64::NAN, f64::NAN), |latency| (latency.p50, latency.p99));
        let ((p50, p99), (p50_flooded, p99_flooded)) = (of(&cost.quiet), of(&cost.flooded));
        let mut line = vec![cost.flooded.name.clone()];
        line.extend([p50, p50_flooded, p99, p99_flooded].map(|ms| format!("{ms:.2}")));
        line.push(format!("{:.1}", cost.ratio));
        line.push(format!("{:.1}", cost.health));
        line.push(if cost.is_met() { "met" } else { "MISSED" }.to_owned());
        line
    });
    print_table(&head.map(str::to_owned), &lines.collect::<Vec<_>>());
    println!("Targets: a ratio of at most {RATIO}, and at most {HEALTH_WITHIN} ms.");
}

async fn one(
    target: &Target,
    page: &str,
    (cols, rows): (u16, u16),
    (name, flood): (&str, &str),
    flooders: usize,
    round: Duration,
) -> anyhow::Result<Cost> {
    let plan = Plan { warm: round / 4, measure: round, rate: Some(KEYS) };
    let mut sessions = target.sessions("/bin/cat", TYPISTS).await?;
    let mut typists = Vec::with_capacity(TYPISTS);
    for (session, index) in sessions.iter().cloned().zip(0..) {
        let terminal = Terminal::sized(session, &format!("person-{index}"), cols, rows).await?;
        typists.push(Typist::new(terminal));
    }
    let mut ready = Vec::with_capacity(flooders);
    for index in 0..flooders {
        let session = target.session("/bin/bash").await?;
        sessions.push(session.clone());
        let mut terminal = Terminal::sized(session, &format!("flood-{index}"), cols, rows).await?;
        terminal.run("PS1=; stty -echo; echo re''ady", "ready").await?;
        ready.push(terminal);
    }
    let (mut quiet, mut flooded): (Option<Latencies>, Option<Latencies>) = (None, None);
    let mut health = Duration::ZERO;
    let add = |all: &mut Option<Latencies>, more: Latencies| {
        if let Some(all) = all {
            return all.add(&more);
        }
        *all = Some(more);
        Ok(())
    };
    for _ in 0..ROUNDS {
        let (latencies, idle) = load::run(typists, plan, || ()).await?;
        add(&mut quiet, latencies)?;
        let floods: Vec<_> = ready.into_iter().map(|terminal| Flood::start(terminal, flood)).collect();
        let poller = HealthPoller::start(page);
        let (latencies, idle) = load::run(idle, plan, || ()).await?;
        add(&mut flooded, latencies)?;
        health = health.max(poller.stop().await?);
        // All at once: each stops only after the output that is under way.
        ready = try_join_all(floods.into_iter().map(Flood::stop)).await.context(name.to_owned())?;
        typists = idle;
    }
    drop(typists);
    target.end(&sessions).await?;
    let row = |what: &str, latencies: Option<Latencies>| -> anyhow::Result<Row> {
        let latencies = latencies.context("no rounds")?;
        ensure!(latencies.count() > 0, "no key was echoed");
        Ok(Row::new(&format!("{what} at {cols}x{rows}"), TYPISTS, &latencies, None))
    };
    let (quiet, flooded) = (row("quiet", quiet)?, row(&format!("{flooders} × {name}"), flooded)?);
    let p99 = |row: &Row| row.latency.map_or(f64::NAN, |latency| latency.p99);
    let ratio = p99(&flooded) / p99(&quiet);
    Ok(Cost { quiet, flooded, ratio, health: health.as_secs_f64() * 1e3 })
}

/// A flooding session and a client that reads its output.
struct Flood {
    stop: Arc<Notify>,
    task: JoinHandle<anyhow::Result<Terminal>>,
}

impl Flood {
    fn start(mut terminal: Terminal, flood: &str) -> Self {
        terminal.write(flood.as_bytes());
        terminal.write(b"\n");
        let stop = Arc::new(Notify::new());
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            loop {
                // Cancelling a step loses no frame.
                tokio::select! {
                    () = stopped.notified() => break,
                    stepped = terminal.step() => { stepped?; }
                }
                terminal.take_output();
            }
            terminal.write(b"\x03");
            terminal.run("echo sto''pped", "stopped").await?;
            Ok(terminal)
        });
        Self { stop, task }
    }

    async fn stop(self) -> anyhow::Result<Terminal> {
        self.stop.notify_one();
        self.task.await?
    }
}

/// Polls `/health` on a new connection each time, as a load balancer does.
struct HealthPoller {
    stop: Arc<Notify>,
    task: JoinHandle<anyhow::Result<Duration>>,
}

impl HealthPoller {
    fn start(page: &str) -> Self {
        let url = format!("{page}health");
        let stop = Arc::new(Notify::new());
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            let http = reqwest::Client::builder().pool_max_idle_per_host(0).build()?;
            let mut worst = Duration::ZERO;
            loop {
                let began = Instant::now();
                http.get(&url).send().await.context("/health")?.error_for_status()?;
                worst = worst.max(began.elapsed());
                tokio::select! {
                    () = stopped.notified() => return Ok(worst),
                    () = tokio::time::sleep(HEALTH_EVERY) => {}
                }
            }
        });
        Self { stop, task }
    }

    async fn stop(self) -> anyhow::Result<Duration> {
        self.stop.notify_one();
        self.task.await?
    }
}
