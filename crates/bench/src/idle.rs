//! Memory and CPU time of idle sessions and of sessions with a full output log.

use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde::Serialize;
use shellbridge_protocol::limits::PING_EVERY;
use tokio::{task::JoinSet, time::Instant};

use crate::{
    process,
    stack::{Role, Stack},
    target::Target,
    terminal::Terminal,
};

/// Connections opened concurrently.
const CONCURRENCY: usize = 16;
/// Pause between attaching and measuring, for start-up and acknowledgements.
const WARM_UP: Duration = Duration::from_secs(2);
/// Zeros that fill the output log: 1.36 MB as base64, of which it keeps 1 MiB.
const FILL: u64 = 1_000_000;

/// Resources of idle sessions.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Idle {
    /// Number of sessions.
    pub sessions: usize,
    /// Memory growth of backend and hosts, bytes per session.
    pub backend_bytes: f64,
    /// Growth of the gateway's resident memory, bytes per session.
    pub gateway_bytes: f64,
    /// CPU time of backend and hosts as a share of one core, with pings every 30 s.
    pub backend_core: f64,
}

/// Resident memory of a role's processes, bytes. The backend's includes the proportional memory of its init and its hosts,
/// which share the pages of their programs.
pub fn resident(stack: &Stack, role: Role) -> u64 {
    let memory = |(other, pid)| match other {
        _ if other == role => process::resident(pid),
        Role::Init | Role::Host if role == Role::Backend => process::proportional(pid),
        _ => 0,
    };
    stack.processes().into_iter().map(memory).sum()
}

/// CPU time of the backend, its init and its hosts.
fn cpu(stack: &Stack) -> Duration {
    let roles = [Role::Backend, Role::Init, Role::Host];
    let all = stack.processes().into_iter().filter(|(role, _)| roles.contains(role));
    all.map(|(_, pid)| process::cpu(pid)).sum()
}

/// Measures `count` attached sessions of `cat` that idle for `window`.
pub async fn sleeping(stack: &Stack, count: usize, window: Duration) -> anyhow::Result<Idle> {
    let target = Target::local(stack)?;
    // The first session allocates what all share.
    Terminal::attached(target.session("/bin/cat").await?, "idle-first").await?.close().await;
    let before = [Role::Backend, Role::Gateway].map(|role| resident(stack, role));
    let target = &target;
    let opening = stream::iter(0..count).map(|index| async move {
        Terminal::attached(target.session("/bin/cat").await?, &format!("idle-{index}")).await
    });
    let terminals: Vec<_> = opening.buffer_unordered(CONCURRENCY).try_collect().await?;
    let begin = Instant::now() + WARM_UP;
    let end = begin + window;
    let mut tasks = JoinSet::new();
    for (terminal, index) in terminals.into_iter().zip(0_u32..) {
        // Spreads the pings evenly, as for users who arrived one by one.
        let ping = Instant::now() + PING_EVERY * index / u32::try_from(count)?;
        tasks.spawn(sleep(terminal, ping, end));
    }
    tokio::time::sleep_until(begin).await;
    let before_cpu = cpu(stack);
    tokio::time::sleep_until(end - Duration::from_millis(100)).await;
    let took = begin.elapsed().as_secs_f64();
    let cpu = cpu(stack).saturating_sub(before_cpu);
    let [backend_bytes, gateway_bytes] =
        [(Role::Backend, before[0]), (Role::Gateway, before[1])].map(|(role, before)| {
            #[expect(clippy::cast_precision_loss, reason = "bytes of memory are far below 2^53")]
            let grown = resident(stack, role).saturating_sub(before) as f64 / count as f64;
            grown
        });
    while let Some(finished) = tasks.join_next().await {
        finished??;
    }
    Ok(Idle { sessions: count, backend_bytes, gateway_bytes, backend_core: cpu.as_secs_f64() / took })
}

async fn sleep(mut terminal: Terminal, ping: Instant, end: Instant) -> anyhow::Result<()> {
    let mut next = ping;
    while Instant::now() < end {
        let until = next.min(end);
        terminal.until(until.saturating_duration_since(Instant::now()), |_| false).await?;
        if next <= Instant::now() {
            terminal.send(r#"{"type":"ping"}"#.to_owned()).await?;
            next += PING_EVERY;
        }
    }
    Ok(())
}

/// Memory growth of backend and hosts, bytes per session with a full output log.
pub async fn full(stack: &Stack, count: usize) -> anyhow::Result<f64> {
    let target = Target::local(stack)?;
    Terminal::attached(target.session("/bin/sh").await?, "full-first").await?.close().await;
    let before = resident(stack, Role::Backend);
    let mut terminals = Vec::with_capacity(count);
    for (session, index) in target.sessions("/bin/sh", count).await?.into_iter().zip(0..) {
        let mut terminal = Terminal::attached(session, &format!("full-{index}")).await?;
        terminal.run(&format!("head -c {FILL} /dev/zero | base64; printf 'FU''LL\\n'"), "FULL\r\n").await?;
        terminals.push(terminal);
    }
    #[expect(clippy::cast_precision_loss, reason = "bytes of memory are far below 2^53")]
    let grown = resident(stack, Role::Backend).saturating_sub(before) as f64 / count as f64;
    Ok(grown)
}
