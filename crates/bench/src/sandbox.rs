//! Start, end, keys and output of sessions, by sandbox.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde::Serialize;

use crate::{
    load::Plan,
    mode::{Mode, Subject},
    output,
    report::{median, print_table},
    stack::{Programs, Stack},
    target::Target,
};

/// Sessions started and ended, one after the other, per round.
const STARTS: usize = 20;
/// Rounds alternate between the sandboxes, so that noise affects all.
const ROUNDS: usize = 3;
/// Zeros that a shell writes as base64, per round.
const ZEROS: u64 = 20_000_000;
/// Keys are typed for this long per round.
const KEYS: Plan = Plan { warm: Duration::from_millis(500), measure: Duration::from_secs(2), rate: None };
/// Longest median start, ms, by sandbox.
const START: [(&str, f64); 3] = [("none", 15.0), ("user", 25.0), ("container", 400.0)];
/// The sandbox whose output passes through a container engine, and its least output, bytes per second. The engine adds to
/// each key, too.
const CONTAINER: (&str, f64) = ("container", 10e6);
/// Settings of the backend that are passed on.
const PASSED: [&str; 2] = ["SHELL_IMAGE", "DOCKER_HOST"];
/// Largest part of the first sandbox's speed that another may cost.
const COST: f64 = 0.10;

/// The medians of one sandbox.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Cost {
    /// The value of `SHELL_SANDBOX`.
    pub sandbox: String,
    /// From the request for a session to the answer, ms.
    pub start: f64,
    /// From `DELETE` to the answer, which comes when no process is left, ms.
    pub end: f64,
    /// From a key to its echo, ms.
    pub echo: f64,
    /// Bytes per second.
    pub output: f64,
}

/// Measurements of one stack.
struct Running {
    sandbox: String,
    stack: Stack,
    target: Target,
    start: Vec<f64>,
    end: Vec<f64>,
    echo: Vec<f64>,
    output: Vec<f64>,
}

impl Running {
    async fn round(&mut self) -> anyhow::Result<()> {
        for _ in 0..STARTS {
            let began = Instant::now();
            let session = self.target.session("/bin/cat").await?;
            self.start.push(ms(began));
            let began = Instant::now();
            self.target.end(&[session]).await?;
            self.end.push(ms(began));
        }
        let subject = Subject { target: &self.target, stack: Some(&self.stack) };
        self.echo.push(Mode::Echo.measure(subject, 1, KEYS).await?.p50());
        self.output.push(output::measure(subject, 1, ZEROS).await?.rate);
        Ok(())
    }

    fn cost(self) -> Cost {
        Cost {
            sandbox: self.sandbox,
            start: median(self.start),
            end: median(self.end),
            echo: median(self.echo),
            output: median(self.output),
        }
    }
}

/// Measures sessions in each of the sandboxes.
pub async fn measure(programs: &Programs, sandboxes: &[String]) -> anyhow::Result<Vec<Cost>> {
    ensure!(!sandboxes.is_empty(), "no sandbox");
    let mut all = Vec::with_capacity(sandboxes.len());
    for sandbox in sandboxes {
        let stack = programs.stack();
        // The default, under which the setting may be absent.
        let stack = if sandbox == "none" { stack } else { stack.env("SHELL_SANDBOX", sandbox) };
        let passed = PASSED.iter().filter_map(|name| Some((name, std::env::var(name).ok()?)));
        let stack = passed.fold(stack, |stack, (name, value)| stack.env(name, &value));
        let stack = stack.start().await.with_context(|| format!("SHELL_SANDBOX={sandbox}"))?;
        let target = Target::local(&stack)?;
        let [start, end, echo, output] = [const { Vec::new() }; 4];
        all.push(Running { sandbox: sandbox.clone(), stack, target, start, end, echo, output });
    }
    for _ in 0..ROUNDS {
        for running in &mut all {
            running.round().await?;
        }
    }
    Ok(all.into_iter().map(Running::cost).collect())
}

/// Prints the table, and returns whether all targets are met.
pub fn print(costs: &[Cost]) -> bool {
    let head = ["medians", "start, ms", "end, ms", "key to echo, ms", "output, MB/s", ""].map(str::to_owned);
    let [echo, output] = costs.first().map_or([f64::NAN; 2], |first| [first.echo, first.output]);
    let met = |cost: &Cost| {
        let starts = START.iter().all(|(name, most)| *name != cost.sandbox || cost.start <= *most);
        let (container, least) = CONTAINER;
        let streams = if cost.sandbox == container {
            cost.output >= least
        } else {
            cost.echo <= echo * (1.0 + COST) && cost.output >= output * (1.0 - COST)
        };
        starts && streams
    };
    let lines = costs.iter().map(|cost| {
        let mut line = vec![cost.sandbox.clone()];
        line.extend([cost.start, cost.end, cost.echo].map(|ms| format!("{ms:.2}")));
        line.push(format!("{:.1}", cost.output / 1e6));
        line.push(if met(cost) { "met" } else { "MISSED" }.to_owned());
        line
    });
    print_table(&head, &lines.collect::<Vec<_>>());
    let starts: Vec<_> = START.iter().map(|(name, most)| format!("{most} ms for {name}")).collect();
    println!(
        "Targets: a start of at most {}; keys and output within {:.0}% of the first sandbox's, for {} {:.0} MB/s of output.",
        starts.join(", "),
        100.0 * COST,
        CONTAINER.0,
        CONTAINER.1 / 1e6
    );
    costs.iter().all(met)
}

fn ms(began: Instant) -> f64 {
    began.elapsed().as_secs_f64() * 1e3
}
