//! Price of an hour of lab work: played through the stack, and at a bare PTY to derive what the original design would
//! send.
//!
//! The hour is compressed: idle time costs only pings and connection minutes, which are computed for a whole hour. The
//! typist and the client's delays (acknowledgements within 200 ms) run on a clock that is [`SPEED`] times as fast, so
//! that frames combine as they would in reality. The stack is not accelerated: its round trip of about 2 ms counts as
//! 20 ms, which stands for the network and the start of an invocation. The other waits of a frame on AWS (`price.rs`) are
//! injected on the fast clock.

mod line;
mod month;
mod price;

use std::{fmt::Write as _, path::Path, time::Duration};

use anyhow::{Context as _, ensure};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::{Value, json};
use shellbridge_protocol::limits::{PING_EVERY, PING_EVERY_QUIET, PING_QUIET_AFTER};

use self::{
    line::Line,
    price::{Metering, Usage, formula},
};
use crate::{
    report::print_table,
    stack::{Programs, Stack, at_rest},
    target::Target,
};

/// Settings of `bench cost`.
#[derive(Debug, clap::Args)]
pub struct CostArgs {
    /// Seed of the keystroke intervals
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// The shell of the lab, with line editing.
const SHELL: &str = "/bin/bash";
const PROMPT: &str = "lab$ ";
/// Speed of the clock relative to a real typist.
const SPEED: u32 = 10;
/// The typing: lines and keys per line, 1,500 keys in all. The lines are comments, which are echoed and run nothing.
const LINES: u32 = 60;
const LINE_KEYS: usize = 25;
/// Mean and standard deviation of keystroke intervals: Dhakal et al., "Observations on Typing from 136 Million
/// Keystrokes", CHI 2018, table 2. The distribution is skewed; modelled as log-normal.
const KEY_MS: (f64, f64) = (238.7, 111.6);
/// Idle pauses are cut to this: every delay of client and backend has elapsed by then.
const PAUSE: Duration = Duration::from_secs(1);
/// Directory listings, and files in the directory.
const LISTINGS: u32 = 60;
const FILES: u32 = 40;
/// Bytes of the build log, written at once.
const LOG: usize = 10_000_000;
/// Refreshes of `top`, one every 3 s for 5 minutes. An 80×24 screen of procps' `top` is about 2,500 bytes in one write.
const REFRESHES: u32 = 100;
const REFRESH: usize = 2_500;
/// Pings in an idle hour: every [`PING_EVERY`], then every [`PING_EVERY_QUIET`].
const PINGS: u64 = PING_QUIET_AFTER.as_secs() / PING_EVERY.as_secs()
    + (3_600 - PING_QUIET_AFTER.as_secs()) / PING_EVERY_QUIET.as_secs();
/// Pings of the original client, which always sends one every 30 s.
const ORIGINAL_PINGS: u64 = 3_600 / PING_EVERY.as_secs();
/// One ping is measured for all. It follows an unmeasured one after more than a minute, so that the function's batch of
/// metrics is due (`FLUSH_EVERY` in its `metrics.rs`).
const PING_APART: Duration = Duration::from_secs(61);
const MINUTES: f64 = 60.0;

/// One kind of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Activity {
    Connect,
    Typing,
    Listing,
    BuildLog,
    Top,
    Idle,
}

impl Activity {
    const ALL: [Self; 6] =
        [Self::Connect, Self::Typing, Self::Listing, Self::BuildLog, Self::Top, Self::Idle];

    const fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Typing => "typing, 1,500 keys",
            Self::Listing => "60 ls",
            Self::BuildLog => "10 MB build log",
            Self::Top => "5 min of top",
            Self::Idle => "idle: the hour's line",
        }
    }

    /// The largest share of the original's price (issue 8), without bytes out.
    const fn target(self) -> Option<f64> {
        match self {
            Self::Typing | Self::Idle => Some(0.8),
            Self::BuildLog => Some(0.25),
            _ => None,
        }
    }

    /// Invocations that post an answer, to `ping` and `attach`. `input` and `ack` have none.
    const fn answered(self) -> u64 {
        match self {
            Self::Connect | Self::Idle => 1,
            _ => 0,
        }
    }

    /// Minutes of the real hour with frames of this activity, such as one per listing. In each of them, the function
    /// writes at least one line of metrics and reads the connection's record at least once; its clock is not accelerated.
    const fn busy_minutes(self) -> u64 {
        match self {
            Self::Typing => 6,
            Self::Listing => LISTINGS as u64,
            Self::Top => 5,
            Self::Connect | Self::BuildLog | Self::Idle => 0,
        }
    }

    const fn minutes(self) -> f64 {
        if matches!(self, Self::Idle) { MINUTES } else { 0.0 }
    }

    /// Plays the activity. Returns the number of frames that a client without acknowledgements sends.
    async fn play(self, line: &mut Line, rhythm: &mut Rhythm) -> anyhow::Result<u64> {
        line.speed(SPEED);
        let mut frames = 0;
        match self {
            // The connection is open already.
            Self::Connect => frames = 1,
            Self::Typing => {
                for _ in 0..LINES {
                    frames += typed(line, rhythm, &format!("#{}", "k".repeat(LINE_KEYS - 2))).await?;
                }
            }
            Self::Listing => {
                for _ in 0..LISTINGS {
                    frames += typed(line, rhythm, "ls").await?;
                }
            }
            Self::BuildLog => {
                // The shell's output is not accelerated.
                line.speed(1);
                line.send("cat log\r").await?;
                line.until(PROMPT).await?;
                line.wait(PAUSE).await?;
                frames = 1;
            }
            Self::Top => {
                let pause = PAUSE.as_secs_f64() / f64::from(SPEED);
                line.send(&format!("for i in {{1..{REFRESHES}}}; do cat refresh; sleep {pause}; done\r"))
                    .await?;
                line.until(PROMPT).await?;
                line.wait(PAUSE).await?;
                frames = 1;
            }
            Self::Idle => {
                line.speed(1);
                line.ping(1, PING_APART).await?;
                frames = ORIGINAL_PINGS;
            }
        }
        Ok(frames)
    }
}

/// Types a line key by key, then Enter, and waits for the prompt.
async fn typed(line: &mut Line, rhythm: &mut Rhythm, text: &str) -> anyhow::Result<u64> {
    for key in text.chars() {
        line.send(key.encode_utf8(&mut [0; 4])).await?;
        line.wait(rhythm.next()).await?;
    }
    line.send("\r").await?;
    line.until(PROMPT).await?;
    line.wait(PAUSE).await?;
    Ok(text.len() as u64 + 1)
}

/// Keystroke intervals.
struct Rhythm(StdRng);

impl Rhythm {
    fn next(&mut self) -> Duration {
        let (mean, deviation) = KEY_MS;
        let variance = (1.0 + (deviation / mean).powi(2)).ln();
        // Box and Muller.
        let (u, v): (f64, f64) = (1.0 - self.0.random::<f64>(), self.0.random());
        let normal = (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos();
        let ms = (mean.ln() - variance / 2.0 + variance.sqrt() * normal).exp();
        Duration::from_secs_f64(ms.clamp(30.0, 2_000.0) / 1e3)
    }
}

/// Plays the hour on both lines and prints its price.
pub async fn run(args: &CostArgs, programs: &Programs) -> anyhow::Result<()> {
    // One process, as if frames never overlapped. Overlapping frames would start another, with its own read and log line.
    let stack = programs.stack().flag("--concurrency", "1").start().await?;
    let home = stack.directory();
    create_lab(home)?;
    let waits = Duration::from_secs_f64(price::FRAME_WAITS_MS / 1e3) / SPEED;
    stack.set_faults(&json!({ "delayMs": u64::try_from(waits.as_millis())? })).await?;
    let target = Target::local(&stack)?;
    let before = counters(&stack, 0).await?;
    let session = target.session(SHELL).await?;
    let mut through = Line::stack(&session).await?;
    let mut bare = Line::pty(SHELL, home)?;

    let mut costs = Vec::new();
    let mut last = before;
    for activity in Activity::ALL {
        match activity {
            Activity::Typing => {
                // The shell's start-up output belongs to no activity.
                set_prompt(&mut through).await?;
                set_prompt(&mut bare).await?;
                last = counters(&stack, through.received()).await?;
            }
            Activity::Idle => {
                // Flushes the function's batch of the last activity.
                through.speed(1);
                through.ping(0, PING_APART).await?;
                last = counters(&stack, through.received()).await?;
            }
            _ => {}
        }
        activity.play(&mut through, &mut Rhythm(StdRng::seed_from_u64(args.seed))).await?;
        let now = counters(&stack, through.received()).await?;
        let counted = now.since(&last, activity);
        last = now;
        let (chunks, output) = (bare.chunks(), bare.received());
        let frames = activity.play(&mut bare, &mut Rhythm(StdRng::seed_from_u64(args.seed))).await?;
        let (chunks, output) = (bare.chunks() - chunks, bare.received() - output);
        let measured = |times| Usage::measured(&counted.times(times), activity.minutes());
        let (measured, in_hour) = match activity {
            // While something happens every few minutes, clients ping as often as the original.
            Activity::Idle => (measured(PINGS), measured(ORIGINAL_PINGS)),
            _ => (measured(1), measured(1)),
        };
        let original = Usage::original(frames, chunks, output, in_hour.log, activity.minutes());
        costs.push(Cost { activity, measured, in_hour, original });
    }
    print(&costs);
    month::print();
    Ok(())
}

/// Sets a recognizable prompt in the lab directory.
async fn set_prompt(line: &mut Line) -> anyhow::Result<()> {
    line.send("cd; cd lab; unset PROMPT_COMMAND; PS1='lab''$ '\r").await?;
    line.until(PROMPT).await?;
    line.wait(PAUSE).await
}

/// Creates the files of the activities in `lab` under the shells' home.
fn create_lab(home: &Path) -> anyhow::Result<()> {
    let lab = home.join("lab");
    std::fs::create_dir(&lab).context("a directory for the lab")?;
    for number in 0..FILES - 2 {
        std::fs::write(lab.join(format!("exercise-{number:02}.txt")), "")?;
    }
    let mut log = String::new();
    for number in 0.. {
        if log.len() >= LOG {
            break;
        }
        writeln!(
            log,
            "[{number:6}] \u{1b}[32mCompiling\u{1b}[0m src/lab/module_{}.c with -O2 -Wall",
            number % 997
        )?;
    }
    log.truncate(LOG - 1);
    log.push('\n');
    std::fs::write(lab.join("log"), log)?;
    let process = "  123 root      20   0  123456  12345   1234 S   0.3   0.1   0:01.23 bash\x1b[K\r\n";
    let refresh: String = ["\x1b[H", &process.repeat(REFRESH / process.len()), "\x1b[J"].concat();
    std::fs::write(lab.join("refresh"), refresh)?;
    Ok(())
}

/// All counters at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counters {
    messages: u64,
    invocations: u64,
    billed_ms: u64,
    reads: u64,
    writes: u64,
    log: u64,
    log_lines: u64,
    out: u64,
}

impl Counters {
    fn since(&self, before: &Self, activity: Activity) -> Metering {
        let (log, played) = (self.log - before.log, self.log_lines - before.log_lines);
        let log_lines = played.max(activity.busy_minutes());
        Metering {
            messages: self.messages - before.messages,
            invocations: self.invocations - before.invocations,
            answered: activity.answered(),
            billed_ms: self.billed_ms - before.billed_ms,
            reads: (self.reads - before.reads).max(activity.busy_minutes()),
            writes: self.writes - before.writes,
            log: log * log_lines / played.max(1),
            log_lines,
            out: self.out - before.out,
        }
    }
}

/// Reads the counters once the stack is quiet. `out` is the number of bytes that the client has received.
async fn counters(stack: &Stack, out: u64) -> anyhow::Result<Counters> {
    at_rest(async || read_counters(stack, out).await).await
}

async fn read_counters(stack: &Stack, out: u64) -> anyhow::Result<Counters> {
    let state = stack.state().await?;
    let at = |path: &str| state.pointer(path).and_then(Value::as_u64).unwrap_or_default();
    let sum = |path: &str| {
        let map = state.pointer(path).and_then(Value::as_object);
        map.into_iter().flat_map(serde_json::Map::values).filter_map(Value::as_u64).sum()
    };
    ensure!(state.get("billedMs").is_some(), "this gateway does not count billed time: rebuild it");
    let log = stack.log()?;
    let lines = || log.lines().filter(|line| is_function_log(line));
    Ok(Counters {
        messages: at("/meteredIn") + at("/meteredOut"),
        invocations: sum("/invocations"),
        billed_ms: at("/billedMs"),
        reads: at("/dynamodb/GetItem"),
        writes: at("/dynamodb/PutItem") + at("/dynamodb/DeleteItem"),
        log: lines().map(|line| line.len() as u64 + 1).sum(),
        log_lines: lines().count() as u64,
        out,
    })
}

/// Whether the function wrote this line.
fn is_function_log(line: &str) -> bool {
    line.starts_with('{')
        && serde_json::from_str::<Value>(line).is_ok_and(|line| {
            let target = line.get("target").and_then(Value::as_str).unwrap_or_default();
            line.get("Route").is_some()
                || target.starts_with("shellbridge_lambda")
                || target == "websocket_handler"
        })
}

/// The price of an activity.
struct Cost {
    activity: Activity,
    measured: Usage,
    /// The same as part of the hour.
    in_hour: Usage,
    original: Usage,
}

fn print(costs: &[Cost]) {
    let mut hour = (Usage::default(), Usage::default());
    let mut used = Vec::new();
    let mut paid = Vec::new();
    let mut add = |name: &str, target: Option<f64>, measured: &Usage, original: &Usage| {
        used.push(
            std::iter::once(name.to_owned())
                .chain([measured, original].into_iter().flat_map(metered))
                .collect(),
        );
        let but_out = measured.dollars_but_out() / original.dollars_but_out();
        let verdict = target.map_or(String::new(), |target| {
            format!("≤ {target:.2} {}", if but_out <= target { "met" } else { "NOT MET" })
        });
        let ratios =
            [format!("{:.2}", measured.dollars() / original.dollars()), format!("{but_out:.2}"), verdict];
        let dollars = [measured, original].into_iter().flat_map(micro_dollars);
        paid.push(std::iter::once(name.to_owned()).chain(dollars).chain(ratios).collect());
    };
    for Cost { activity, measured, in_hour, original } in costs {
        add(activity.name(), activity.target(), measured, original);
        hour.0 += *in_hour;
        hour.1 += *original;
    }
    add("session-hour", None, &hour.0, &hour.1);

    println!("Metered usage: here | in the original design\n");
    let head = ["", "messages", "calls", "reads", "log kB", "out kB"];
    let other = ["| messages", "calls", "reads", "log kB", "out kB"];
    print_table(&owned(&[&head, &other]), &used);

    println!("\nMillionths of a dollar by service: here | in the original design\n");
    let head = ["", "API Gateway", "Lambda", "DynamoDB", "logs", "balancer", "out", "all"];
    let other = ["| API Gateway", "Lambda", "DynamoDB", "logs", "balancer", "out", "all"];
    let ratios = ["ratio", "but out", "target"];
    print_table(&owned(&[&head, &other, &ratios]), &paid);

    println!("\n{}", formula());
    println!(
        "a session-hour ${:.6} (original ${:.6}); 1,000 sessions of an hour ${:.2} (original ${:.2})",
        hour.0.dollars(),
        hour.1.dollars(),
        hour.0.dollars() * 1e3,
        hour.1.dollars() * 1e3,
    );
    println!(
        "the idle line has {PINGS} pings here (one every 30 s, after five quiet minutes one every 60 s) and {ORIGINAL_PINGS} \
         in the original design; the session-hour, which is active every minute, has {ORIGINAL_PINGS} in both"
    );
    println!(
        "the original has the same architecture and log lines of the function; targets exclude bytes out, which are mostly \
         the shell's output"
    );
}

fn owned(heads: &[&[&str]]) -> Vec<String> {
    heads.concat().into_iter().map(str::to_owned).collect()
}

fn metered(usage: &Usage) -> [String; 5] {
    [usage.messages, usage.requests, usage.reads, usage.log / 1e3, usage.out / 1e3]
        .map(|count| format!("{count:.0}"))
}

fn micro_dollars(usage: &Usage) -> impl Iterator<Item = String> {
    usage.by_service().into_iter().chain([usage.dollars()]).map(|dollars| format!("{:.1}", dollars * 1e6))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keystroke_intervals_have_the_published_mean_and_deviation() {
        let mut rhythm = Rhythm(StdRng::seed_from_u64(7));
        let times: Vec<f64> = (0..20_000).map(|_| rhythm.next().as_secs_f64() * 1e3).collect();
        let mean = times.iter().sum::<f64>() / 20_000.0;
        let deviation = (times.iter().map(|t| (t - mean).powi(2)).sum::<f64>() / 20_000.0).sqrt();
        assert!((mean - KEY_MS.0).abs() < 5.0, "{mean}");
        assert!((deviation - KEY_MS.1).abs() < 8.0, "{deviation}");
    }

    #[test]
    fn log_lines_of_the_function_are_recognized() {
        assert!(is_function_log(r#"{"Route":"$default","request_id":"r"}"#));
        assert!(is_function_log(r#"{"target":"shellbridge_lambda::connect","level":"WARN"}"#));
        assert!(!is_function_log(r#"{"target":"shellbridge_backend::push","level":"INFO"}"#));
        assert!(!is_function_log("2026-11-20T11:01:42Z  INFO shellbridge_gateway::stack: stopped"));
    }
}
