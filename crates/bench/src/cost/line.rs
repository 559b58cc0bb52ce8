//! Where the hour is typed: through the whole stack, or at a bare PTY, whose reads are what the original would have sent.

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

/// What is read of a PTY at once, as Node.js does; Linux gives 4 KiB at most.
const READ: usize = 64 * 1024;
/// Output that is looked through for a prompt.
const KEPT: usize = 4096;

/// A shell at the other end of either. Times are those of the person who types; `speed` times as much passes as here.
pub(super) enum Line {
    /// The whole stack, with the reference client, whose clock runs as fast as the person's.
    Through(Box<Through>),
    /// A PTY.
    Bare(Box<Bare>),
}

/// See [`Line::Through`].
pub(super) struct Through {
    client: Client,
    socket: Socket,
    clock: Clock,
    seen: Vec<u8>,
    received: u64,
}

/// See [`Line::Bare`].
pub(super) struct Bare {
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
    pub(super) async fn through(session: &Session) -> anyhow::Result<Self> {
        let socket = Socket::connect(&session.url, session.insecure).await?;
        let client = Client::new("cost-cost-cost-cost", 80, 24);
        let mut line = Through { client, socket, clock: Clock::start(), seen: Vec::new(), received: 0 };
        line.client.connected(line.clock.now());
        while !line.client.is_attached() {
            line.step(line.clock.now() + DEADLINE).await?;
        }
        Ok(Self::Through(Box::new(line)))
    }

    /// Starts a shell on a PTY.
    pub(super) fn bare(shell: &str, home: &Path) -> anyhow::Result<Self> {
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
        Ok(Self::Bare(Box::new(Bare { pty, _child: child, clock, seen: Vec::new(), chunks: 0, received: 0 })))
    }

    /// From now on a second here is `speed` seconds of the person's.
    pub(super) fn speed(&mut self, speed: u32) {
        let clock = match self {
            Self::Through(line) => &mut line.clock,
            Self::Bare(line) => &mut line.clock,
        };
        *clock = Clock { base: clock.now(), since: Instant::now(), speed };
    }

    /// Reads of the PTY so far; 0 through the stack, where frames are counted by the gateway.
    pub(super) fn chunks(&self) -> u64 {
        match self {
            Self::Through(_) => 0,
            Self::Bare(line) => line.chunks,
        }
    }

    /// Bytes so far: of frames through the stack, of output from a PTY.
    pub(super) fn received(&self) -> u64 {
        match self {
            Self::Through(line) => line.received,
            Self::Bare(line) => line.received,
        }
    }

    /// Types, as one frame.
    pub(super) async fn send(&mut self, keys: &str) -> anyhow::Result<()> {
        match self {
            Self::Through(line) => {
                line.seen.clear();
                line.client.write(keys.as_bytes());
                line.flush().await
            }
            Self::Bare(line) => {
                line.seen.clear();
                line.pty.write_all(keys.as_bytes()).await.context("typing")
            }
        }
    }

    /// Lets time pass.
    pub(super) async fn wait(&mut self, time: Duration) -> anyhow::Result<()> {
        match self {
            Self::Through(line) => {
                let until = line.clock.now() + time;
                while line.clock.now() < until {
                    // The socket takes a longer silence for a fault.
                    line.step(until.min(line.clock.now() + DEADLINE / 2)).await?;
                }
            }
            Self::Bare(line) => {
                let until = line.clock.now() + time;
                while line.clock.now() < until {
                    line.step(until).await?;
                }
            }
        }
        Ok(())
    }

    /// Takes output until this has come since the last key.
    pub(super) async fn until(&mut self, text: &str) -> anyhow::Result<()> {
        let started = Instant::now();
        loop {
            let seen = match self {
                Self::Through(line) => &mut line.seen,
                Self::Bare(line) => &mut line.seen,
            };
            if seen.windows(text.len()).any(|window| window == text.as_bytes()) {
                return Ok(());
            }
            let excess = seen.len().saturating_sub(KEPT);
            seen.drain(..excess);
            ensure!(
                started.elapsed() < DEADLINE,
                "no {text:?}; the shell said {:?}",
                String::from_utf8_lossy(seen)
            );
            match self {
                Self::Through(line) => line.step(line.clock.now() + DEADLINE).await?,
                Self::Bare(line) => line.step(line.clock.now() + DEADLINE).await?,
            }
        }
    }

    /// Waits, then asks for a pong, as clients do that have nothing else to say. A PTY knows nothing of it.
    pub(super) async fn ping(&mut self, number: u64, after: Duration) -> anyhow::Result<()> {
        if matches!(self, Self::Bare(_)) {
            return Ok(());
        }
        self.wait(after).await?;
        let Self::Through(line) = self else { return Ok(()) };
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

impl Through {
    async fn flush(&mut self) -> anyhow::Result<()> {
        while let Some(frame) = self.client.poll(self.clock.now()) {
            self.socket.send(serde_json::to_string(&frame)?).await?;
        }
        Ok(())
    }

    async fn step(&mut self, until: Duration) -> anyhow::Result<()> {
        self.receive(until).await.map(|_| ())
    }

    /// Sends what is due, then takes a frame or waits until something else is due. Returns frames not of the streams.
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
                bail!("the session did not stay as it was")
            }
            _ => Ok(None),
        }
    }
}

impl Bare {
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
