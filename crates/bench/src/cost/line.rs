//! Where the hour is typed: through the whole stack, or at a bare PTY, whose reads are the frames of the original design.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use pty_process::Pty;
use shellbridge_protocol::{
    client::{Client, Event},
    frame::{ClientFrame, ServerFrame},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::Child,
    time::timeout,
};

use crate::{
    socket::{DEADLINE, Socket},
    target::Session,
};

/// Buffer of a PTY read, as in Node.js; Linux returns at most 4 KiB.
const READ: usize = 64 * 1024;
/// Output searched for a prompt.
const KEPT: usize = 4096;

/// A line to a shell. Times are on the typist's clock, which runs `speed` times as fast as the real one.
pub(super) enum Line {
    /// The whole stack, with the reference client on the typist's clock.
    Stack(Box<StackLine>),
    /// A PTY.
    Pty(Box<PtyLine>),
}

/// See [`Line::Stack`].
pub(super) struct StackLine {
    client: Client,
    socket: Socket,
    clock: Clock,
    seen: Vec<u8>,
    received: u64,
}

/// See [`Line::Pty`].
pub(super) struct PtyLine {
    pty: Pty,
    _child: Child,
    clock: Clock,
    seen: Vec<u8>,
    chunks: u64,
    received: u64,
}

#[derive(Debug, Clone, Copy)]
struct Clock {
    base: Duration,
    since: Instant,
    speed: u32,
}

impl Clock {
    fn start() -> Self {
        Self { base: Duration::ZERO, since: Instant::now(), speed: 1 }
    }

    fn now(&self) -> Duration {
        self.base + self.since.elapsed() * self.speed
    }
}

impl Line {
    /// Connects and attaches.
    pub(super) async fn stack(session: &Session) -> anyhow::Result<Self> {
        let socket = Socket::connect(&session.url, session.insecure).await?;
        let client = Client::new("cost-cost-cost-cost", 80, 24);
        let mut line = StackLine { client, socket, clock: Clock::start(), seen: Vec::new(), received: 0 };
        line.client.connected(line.clock.now());
        while !line.client.is_attached() {
            line.step(line.clock.now() + DEADLINE).await?;
        }
        Ok(Self::Stack(Box::new(line)))
    }

    /// Starts a shell on a PTY.
    pub(super) fn pty(shell: &str, home: &Path) -> anyhow::Result<Self> {
        let (pty, pts) = pty_process::open()?;
        pty.resize(pty_process::Size::new(24, 80))?;
        let child = pty_process::Command::new(shell)
            .env_clear()
            .env("TERM", "xterm-256color")
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", home)
            .kill_on_drop(true)
            .spawn(pts)?;
        let clock = Clock::start();
        Ok(Self::Pty(Box::new(PtyLine {
            pty,
            _child: child,
            clock,
            seen: Vec::new(),
            chunks: 0,
            received: 0,
        })))
    }

    /// Sets the speed of the typist's clock.
    pub(super) fn speed(&mut self, speed: u32) {
        let clock = match self {
            Self::Stack(line) => &mut line.clock,
            Self::Pty(line) => &mut line.clock,
        };
        *clock = Clock { base: clock.now(), since: Instant::now(), speed };
    }

    /// Reads of the PTY so far; 0 through the stack, where the gateway counts frames.
    pub(super) fn chunks(&self) -> u64 {
        match self {
            Self::Stack(_) => 0,
            Self::Pty(line) => line.chunks,
        }
    }

    /// Bytes received so far: of frames through the stack, of output from a PTY.
    pub(super) fn received(&self) -> u64 {
        match self {
            Self::Stack(line) => line.received,
            Self::Pty(line) => line.received,
        }
    }

    /// Sends keys as one frame.
    pub(super) async fn send(&mut self, keys: &str) -> anyhow::Result<()> {
        match self {
            Self::Stack(line) => {
                line.seen.clear();
                line.client.write(keys.as_bytes());
                line.flush().await
            }
            Self::Pty(line) => {
                line.seen.clear();
                line.pty.write_all(keys.as_bytes()).await.context("typing")
            }
        }
    }

    /// Lets time pass.
    pub(super) async fn wait(&mut self, time: Duration) -> anyhow::Result<()> {
        match self {
            Self::Stack(line) => {
                let until = line.clock.now() + time;
                while line.clock.now() < until {
                    // The socket fails after a longer silence.
                    line.step(until.min(line.clock.now() + DEADLINE / 2)).await?;
                }
            }
            Self::Pty(line) => {
                let until = line.clock.now() + time;
                while line.clock.now() < until {
                    line.step(until).await?;
                }
            }
        }
        Ok(())
    }

    /// Reads output until `text` has appeared since the last key.
    pub(super) async fn until(&mut self, text: &str) -> anyhow::Result<()> {
        let started = Instant::now();
        loop {
            let seen = match self {
                Self::Stack(line) => &mut line.seen,
                Self::Pty(line) => &mut line.seen,
            };
            if seen.windows(text.len()).any(|window| window == text.as_bytes()) {
                return Ok(());
            }
            let excess = seen.len().saturating_sub(KEPT);
            seen.drain(..excess);
            ensure!(
                started.elapsed() < DEADLINE,
                "no {text:?}; the output was {:?}",
                String::from_utf8_lossy(seen)
            );
            match self {
                Self::Stack(line) => line.step(line.clock.now() + DEADLINE).await?,
                Self::Pty(line) => line.step(line.clock.now() + DEADLINE).await?,
            }
        }
    }

    /// Waits, then sends a ping and waits for its pong, as an idle client does. No-op on a PTY.
    pub(super) async fn ping(&mut self, number: u64, after: Duration) -> anyhow::Result<()> {
        if matches!(self, Self::Pty(_)) {
            return Ok(());
        }
        self.wait(after).await?;
        let Self::Stack(line) = self else { return Ok(()) };
        let output_offset = Some(line.client.output_offset());
        let frame = ClientFrame::Ping { timestamp: Some(number.into()), output_offset };
        line.socket.send(serde_json::to_string(&frame)?).await?;
        loop {
            let frame = line.receive(line.clock.now() + DEADLINE).await?;
            if let Some(ServerFrame::Pong { echo, .. }) = frame
                && echo == Some(number.into())
            {
                return Ok(());
            }
        }
    }
}

impl StackLine {
    async fn flush(&mut self) -> anyhow::Result<()> {
        while let Some(frame) = self.client.poll(self.clock.now()) {
            self.socket.send(serde_json::to_string(&frame)?).await?;
        }
        Ok(())
    }

    async fn step(&mut self, until: Duration) -> anyhow::Result<()> {
        self.receive(until).await.map(|_| ())
    }

    /// Sends due frames, then receives one or waits for the next deadline. Returns frames outside the streams.
    async fn receive(&mut self, until: Duration) -> anyhow::Result<Option<ServerFrame>> {
        self.flush().await?;
        let due = self.client.deadline().map_or(until, |due| due.min(until));
        let real = due.saturating_sub(self.clock.now()) / self.clock.speed;
        let Ok(text) = timeout(real, self.socket.text()).await else { return Ok(None) };
        let text = text?;
        self.received += text.len() as u64;
        let event = self.client.receive(serde_json::from_str(&text)?, self.clock.now());
        self.seen.extend(self.client.take_output());
        match event {
            Event::Other(ServerFrame::Error(error)) => bail!("{:?}: {}", error.code, error.message),
            Event::Other(frame) => Ok(Some(frame)),
            Event::Snapshot { .. } | Event::Replaced | Event::Forgotten | Event::Restarted => {
                bail!("the session was interrupted")
            }
            _ => Ok(None),
        }
    }
}

impl PtyLine {
    async fn step(&mut self, until: Duration) -> anyhow::Result<()> {
        let real = until.saturating_sub(self.clock.now()) / self.clock.speed;
        let mut buffer = vec![0; READ];
        let Ok(read) = timeout(real, self.pty.read(&mut buffer)).await else { return Ok(()) };
        let read = read.context("the shell ended")?;
        self.chunks += 1;
        self.received += read as u64;
        self.seen.extend(buffer.get(..read).unwrap_or_default());
        Ok(())
    }
}
