//! Instructions per frame in function, backend and host, which a noisy machine hardly changes.
//!
//! The real stack runs with one program under `valgrind --tool=callgrind`. Counting starts and ends while the process is
//! running, which excludes its start. Noise only adds instructions: a result above its bound is measured again, and the
//! minimum is used.

mod profile;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use serde::{Deserialize, Serialize};
use shellbridge_protocol::{client::Event, frame::ServerFrame};
use tempfile::TempDir;
use tokio::{process::Command, time::timeout};

use self::profile::Profile;
use crate::{
    exchange::Typist,
    load::Exchange as _,
    report::print_table,
    stack::{Programs, Stack},
    target::Target,
    terminal::Terminal,
};

/// Settings of `bench counts`.
#[derive(Debug, clap::Args)]
pub struct CountsArgs {
    /// Store the results as the new bounds
    #[arg(long)]
    accept: bool,
    /// Also print the functions with the most instructions; requires programs with symbols
    #[arg(long)]
    profile: bool,
    /// File with the bounds
    #[arg(long, default_value = "crates/bench/counts.json")]
    bounds: PathBuf,
}

/// Warm-up frames, which fill connection pools, caches and buffers.
const WARM: u64 = 100;
/// Frames measured. Two runs differ by less than 1%.
const FRAMES: u64 = 300;
/// Zeros that a shell writes as base64, and the resulting output in MB.
const ZEROS: u64 = 3_000_000;
const SHOWN_MB: u64 = 4;
/// Measurements of a result above its bound.
const ATTEMPTS: u32 = 3;
/// Timeout of a monitor command, on a busy machine.
const VGDB_TIMEOUT: Duration = Duration::from_mins(2);

/// A case to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Case {
    /// A `ping` through the function, including the post of the answer.
    FunctionPing,
    /// A key through the function, which posts no answer.
    FunctionKey,
    /// A `ping` through the backend.
    BackendPing,
    /// A key through the backend to the shell, and the push of its echo.
    BackendKey,
    /// A MB of output through the backend.
    BackendOutput,
    /// The same frames in the session's host, behind the backend.
    HostPing,
    HostKey,
    HostOutput,
}

impl Case {
    const ALL: [Self; 8] = [
        Self::FunctionPing,
        Self::FunctionKey,
        Self::BackendPing,
        Self::BackendKey,
        Self::BackendOutput,
        Self::HostPing,
        Self::HostKey,
        Self::HostOutput,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::FunctionPing => "function: ping",
            Self::FunctionKey => "function: key",
            Self::BackendPing => "backend: ping",
            Self::BackendKey => "backend: key and echo",
            Self::BackendOutput => "backend: MB of output",
            Self::HostPing => "host: ping",
            Self::HostKey => "host: key and echo",
            Self::HostOutput => "host: MB of output",
        }
    }

    const fn program(self) -> &'static str {
        match self {
            Self::FunctionPing | Self::FunctionKey => "websocket-handler",
            Self::BackendPing | Self::BackendKey | Self::BackendOutput => "backend",
            Self::HostPing | Self::HostKey | Self::HostOutput => "session-host",
        }
    }

    /// Tolerance above the bound. Larger for bulk output, whose split into frames depends on timing, and for the host,
    /// where timing decides which of echo, acknowledgement and outcome of a push share a turn of its loop.
    const fn margin(self) -> f64 {
        if self.is_output() || matches!(self, Self::HostPing | Self::HostKey) { 0.10 } else { 0.05 }
    }

    const fn is_output(self) -> bool {
        matches!(self, Self::BackendOutput | Self::HostOutput)
    }

    /// Measures the case once.
    async fn count(self, programs: &Programs) -> anyhow::Result<Profile> {
        let profiled = ProfiledStack::start(programs, self.program()).await?;
        let target = Target::local(&profiled.stack)?;
        let shell = if self.is_output() { "/bin/sh" } else { "/bin/cat" };
        let mut terminal = Terminal::attached(target.session(shell).await?, "counts").await?;
        let each = match self {
            Self::FunctionPing | Self::BackendPing | Self::HostPing => {
                for number in 0..WARM {
                    ping(&mut terminal, number).await?;
                }
                profiled.monitor("zero").await?;
                for number in WARM..WARM + FRAMES {
                    ping(&mut terminal, number).await?;
                }
                FRAMES
            }
            Self::FunctionKey | Self::BackendKey | Self::HostKey => {
                let mut typist = Typist::new(terminal);
                for _ in 0..WARM {
                    typist.exchange().await?;
                    typist.between().await?;
                }
                profiled.monitor("zero").await?;
                for _ in 0..FRAMES {
                    typist.exchange().await?;
                    typist.between().await?;
                }
                FRAMES
            }
            Self::BackendOutput | Self::HostOutput => {
                let write = |zeros: u64| format!("head -c {zeros} /dev/zero | base64; printf 'DO''NE'");
                terminal.run("stty -echo; PS1=; printf 'DO''NE'", "DONE").await?;
                terminal.run(&write(ZEROS / 10), "DONE").await?;
                profiled.monitor("zero").await?;
                terminal.run(&write(ZEROS), "DONE").await?;
                SHOWN_MB
            }
        };
        profiled.monitor("dump").await?;
        Profile::read(&profiled.directory.path().join("out.1"), each)
    }
}

/// A `ping` and its `pong`.
async fn ping(terminal: &mut Terminal, number: u64) -> anyhow::Result<()> {
    terminal.send(format!(r#"{{"type":"ping","timestamp":{number}}}"#)).await?;
    loop {
        match terminal.step().await? {
            Event::Other(ServerFrame::Pong { echo, .. }) if echo == Some(number.into()) => return Ok(()),
            Event::Other(ServerFrame::Error(error)) => bail!("{:?}: {}", error.code, error.message),
            _ => {}
        }
    }
}

/// A stack with one program under valgrind.
struct ProfiledStack {
    stack: Stack,
    directory: TempDir,
}

impl ProfiledStack {
    async fn start(programs: &Programs, profiled: &str) -> anyhow::Result<Self> {
        let directory = TempDir::new()?;
        let place = directory.path();
        let function = std::path::absolute(&programs.function)?;
        for (name, program) in [
            ("gateway", std::path::absolute(programs.directory.join("gateway"))?),
            ("backend", std::path::absolute(programs.directory.join("backend"))?),
            ("session-host", std::path::absolute(programs.directory.join("session-host"))?),
            ("websocket-handler", function),
        ] {
            if name == profiled { wrap(place, name, &program)? } else { symlink(&program, place.join(name))? }
        }
        let programs = Programs { directory: place.to_owned(), function: place.join("websocket-handler") };
        // One process receives all frames. The memory limit makes room for valgrind.
        let stack = programs.stack().flag("--concurrency", "1").flag("--function-memory", "4096");
        let host = place.join("session-host");
        let stack = stack.env("SESSION_HOST", &host.display().to_string());
        Ok(Self { stack: stack.start().await?, directory })
    }

    /// Sends a command to callgrind (Valgrind manual, "Callgrind monitor commands").
    async fn monitor(&self, what: &str) -> anyhow::Result<()> {
        let pid = fs::read_to_string(self.directory.path().join("pid")).context("valgrind did not start")?;
        let vgdb = Command::new("vgdb").arg(format!("--pid={}", pid.trim())).arg(what).output();
        let output =
            timeout(VGDB_TIMEOUT, vgdb).await.context("valgrind does not respond")?.context("vgdb")?;
        ensure!(output.status.success(), "vgdb: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }
}

/// Writes a script `name` that runs `program` under valgrind, and a backend without its init, which does little.
fn wrap(place: &Path, name: &str, program: &Path) -> anyhow::Result<()> {
    let (out, program) = (place.display(), program.display());
    // A host has no environment, but vgdb looks for valgrind's files in this process's temporary directory.
    let temporary = std::env::temp_dir();
    let temporary = temporary.display();
    let script = format!(
        "#!/bin/sh\n[ \"$1\" != --init ] || shift\necho $$ >'{out}/pid'\nexport TMPDIR='{temporary}'\nexec valgrind --quiet --tool=callgrind --callgrind-out-file='{out}/out' \
         '{program}' \"$@\"\n"
    );
    let path = place.join(name);
    fs::write(&path, script)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// Bounds by build (`debug` or `release`) and case.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Bounds(BTreeMap<String, BTreeMap<String, u64>>);

/// Measures every case and compares it with its bound.
///
/// # Errors
/// A case exceeds its bound.
pub async fn run(args: &CountsArgs, programs: &Programs) -> anyhow::Result<()> {
    let found = Command::new("valgrind").arg("--version").output().await;
    ensure!(found.is_ok_and(|found| found.status.success()), "valgrind is not installed");
    let build = programs.directory.file_name().map(|name| name.to_string_lossy().into_owned());
    let build = build.context("the directory of the programs has no name")?;
    let text = fs::read_to_string(&args.bounds).with_context(|| args.bounds.display().to_string())?;
    let mut bounds: Bounds =
        serde_json::from_str(&text).with_context(|| args.bounds.display().to_string())?;
    let known = bounds.0.entry(build.clone()).or_default();
    let mut lines = Vec::new();
    let mut above = false;
    for case in Case::ALL {
        let bound = known.get(case.name()).copied();
        let mut least = case.count(programs).await.with_context(|| case.name())?;
        for _ in 1..ATTEMPTS {
            if args.accept || !is_above(&least, bound, case) {
                break;
            }
            let again = case.count(programs).await.with_context(|| case.name())?;
            if again.each() < least.each() {
                least = again;
            }
        }
        if args.profile {
            least.print(case.name());
        }
        let verdict = match bound {
            _ if args.accept => "accepted",
            None => "no bound yet",
            Some(_) if is_above(&least, bound, case) => "TOO MANY",
            Some(_) => "ok",
        };
        above |= verdict == "TOO MANY";
        let change = bound.map(|bound| format!("{:+.1}%", 100.0 * (ratio(least.each(), bound) - 1.0)));
        lines.push(vec![
            case.name().to_owned(),
            least.each().to_string(),
            bound.map_or_else(String::new, |bound| bound.to_string()),
            change.unwrap_or_default(),
            format!("+{:.0}%", 100.0 * case.margin()),
            verdict.to_owned(),
        ]);
        if args.accept {
            known.insert(case.name().to_owned(), least.each());
        }
    }
    let head = [&format!("instructions, {build} build"), "counted", "bound", "change", "may be", ""];
    print_table(&head.map(str::to_owned), &lines);
    if args.accept {
        fs::write(&args.bounds, serde_json::to_string_pretty(&bounds)? + "\n")?;
    }
    ensure!(
        !above,
        "a frame takes more instructions than its bound in {} allows. `make counts PROFILE=1` shows where they go; if \
         they are justified, `make counts ACCEPT=1` stores new bounds, to be committed",
        args.bounds.display()
    );
    Ok(())
}

fn is_above(counted: &Profile, bound: Option<u64>, case: Case) -> bool {
    bound.is_some_and(|bound| ratio(counted.each(), bound) > 1.0 + case.margin())
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
fn ratio(counted: u64, bound: u64) -> f64 {
    counted as f64 / bound as f64
}
