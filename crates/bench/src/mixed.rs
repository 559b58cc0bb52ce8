//! Typing while builds run in other sessions.

use std::time::Duration;

use tokio::task::JoinSet;

use crate::{
    exchange::Typist,
    load::Plan,
    mode::{Subject, exchanges},
    report::Row,
    terminal::Terminal,
};

/// Keys per second of a fast typist.
const KEYS: f64 = 5.0;
/// Typists per build.
const TYPISTS_PER_BUILD: usize = 4;
/// A verbose build: 27 KB every 100 ms, about 270 KB/s.
const BUILD: &str = "stty -echo; while :; do head -c 20000 /dev/zero | base64; sleep 0.1; done";

/// Key latency of `typists`, in an open loop.
pub async fn measure(subject: Subject<'_>, typists: usize, mut plan: Plan) -> anyhow::Result<Row> {
    let builds = typists.div_ceil(TYPISTS_PER_BUILD);
    // Dropping the set stops the builds.
    let mut building = JoinSet::new();
    let mut sessions = subject.target.sessions("/bin/sh", builds).await?;
    for (session, index) in sessions.iter().cloned().zip(0..) {
        let mut terminal = Terminal::attached(session, &format!("build-{index}")).await?;
        terminal.write(BUILD.as_bytes());
        terminal.write(b"\n");
        building.spawn(async move {
            loop {
                terminal.step().await?;
                terminal.take_output();
            }
        });
    }
    let mut people = Vec::with_capacity(typists);
    let cats = subject.target.sessions("/bin/cat", typists).await?;
    for (session, index) in cats.iter().cloned().zip(0..) {
        people.push(Typist::new(Terminal::attached(session, &format!("person-{index}")).await?));
    }
    #[expect(clippy::cast_precision_loss, reason = "few people")]
    let rate = KEYS * typists as f64;
    plan.rate = Some(rate);
    let name = if builds == 1 { "mixed, 1 build".to_owned() } else { format!("mixed, {builds} builds") };
    let mut row = tokio::select! {
        row = exchanges(&name, subject.stack, people, plan) => row?,
        Some(ended) = building.join_next() => {
            let ended: anyhow::Result<std::convert::Infallible> = ended?;
            match ended {
                Err(error) => return Err(error.context("a build")),
                Ok(never) => match never {},
            }
        }
    };
    building.shutdown().await;
    sessions.extend(cats);
    subject.target.end(&sessions).await?;
    // CPU time of the keys cannot be separated from that of the builds.
    row.cpu = None;
    Ok(row)
}

/// Measured time, long enough for a sufficient number of keys.
pub const MEASURE: Duration = Duration::from_secs(6);
