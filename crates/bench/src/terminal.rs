//! A terminal: the reference client on a socket, driven by its caller.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use serde::Deserialize;
use shellbridge_protocol::{
    client::{Client, Event},
    frame::ServerFrame,
    payload::Payload,
    times::Epoch,
};
use tokio::time::timeout;

use crate::{
    socket::{DEADLINE, Socket},
    target::Session,
};

/// Bytes of unexpected output that an error shows.
const SHOWN: usize = 2_000;

/// A client of one session, over any number of connections.
pub struct Terminal {
    session: Session,
    client: Client,
    socket: Option<Socket>,
    /// Epoch of the client's clock.
    started: Instant,
}

impl Terminal {
    /// A terminal without a connection. `name` becomes part of the client id.
    pub fn new(session: Session, name: &str) -> Self {
        Self::of(session, name, 80, 24)
    }

    fn of(session: Session, name: &str, cols: u16, rows: u16) -> Self {
        let client = Client::new(format!("{name:->16}"), cols, rows);
        Self { session, client, socket: None, started: Instant::now() }
    }

    /// Connects and attaches.
    pub async fn attached(session: Session, name: &str) -> anyhow::Result<Self> {
        let mut terminal = Self::new(session, name);
        terminal.connect().await?;
        Ok(terminal)
    }

    /// Connects and attaches with the given size.
    pub async fn sized(session: Session, name: &str, cols: u16, rows: u16) -> anyhow::Result<Self> {
        let mut terminal = Self::of(session, name, cols, rows);
        terminal.connect().await?;
        Ok(terminal)
    }

    /// Opens a new connection and waits until it is attached.
    pub async fn connect(&mut self) -> anyhow::Result<()> {
        self.client.disconnected();
        self.socket = Some(Socket::connect(&self.session.url, self.session.insecure).await?);
        self.client.connected(self.started.elapsed());
        let until = Instant::now() + DEADLINE;
        while !self.client.is_attached() {
            ensure!(Instant::now() < until, "`attach` was not answered within {DEADLINE:?}");
            self.step().await?;
        }
        Ok(())
    }

    /// Drops the connection without a close frame.
    pub fn break_off(&mut self) {
        self.socket = None;
        self.client.disconnected();
    }

    /// Closes the connection.
    pub async fn close(mut self) {
        if let Some(socket) = self.socket.take() {
            socket.close().await;
        }
    }

    /// Queues input for the next [`Terminal::step`].
    pub fn write(&mut self, bytes: &[u8]) {
        self.client.write(bytes);
    }

    /// Unacknowledged input, bytes.
    pub fn unacknowledged(&self) -> usize {
        self.client.unacknowledged()
    }

    /// Offset of the next output byte.
    pub fn output_offset(&self) -> u64 {
        self.client.output_offset()
    }

    /// Takes the output received since the last call, in order and without repeats.
    pub fn take_output(&mut self) -> Vec<u8> {
        self.client.take_output()
    }

    /// The client's counters.
    pub const fn counts(&self) -> shellbridge_protocol::client::Counts {
        self.client.counts
    }

    /// Sends a frame outside the streams.
    pub async fn send(&mut self, text: String) -> anyhow::Result<()> {
        self.socket.as_mut().context("not connected")?.send(text).await
    }

    /// Sends due frames, then receives one frame or waits for the client's next deadline.
    pub async fn step(&mut self) -> anyhow::Result<Event> {
        let socket = self.socket.as_mut().context("not connected")?;
        while let Some(frame) = self.client.poll(self.started.elapsed()) {
            socket.send(serde_json::to_string(&frame)?).await?;
        }
        let due = self.client.deadline().map(|due| due.saturating_sub(self.started.elapsed()));
        let Ok(text) = timeout(due.unwrap_or(DEADLINE), socket.text()).await else {
            ensure!(due.is_some(), "no frame within {DEADLINE:?}");
            return Ok(Event::Nothing);
        };
        let event = self.client.receive(read(&text?)?, self.started.elapsed());
        match &event {
            Event::Snapshot { gap, .. } => {
                bail!("{gap} bytes of output were lost: a snapshot replaced them")
            }
            Event::Replaced => bail!("another connection took over the client id"),
            Event::Forgotten => bail!("the backend has forgotten the client"),
            Event::Restarted => bail!("the shell has restarted"),
            Event::Other(ServerFrame::Error(error)) if !error.retryable => {
                bail!("{:?}: {}", error.code, error.message)
            }
            _ => Ok(event),
        }
    }

    /// Receives frames until `done` returns true (returns `true`) or `within` elapses (returns `false`).
    pub async fn until(
        &mut self,
        within: Duration,
        mut done: impl FnMut(&mut Self) -> bool,
    ) -> anyhow::Result<bool> {
        let end = Instant::now() + within;
        while !done(self) {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            // Cancelling `step` loses no frame: it waits only before receiving one.
            if let Ok(stepped) = timeout(left, self.step()).await {
                stepped?;
            }
        }
        Ok(true)
    }

    /// Types a line and waits until its output contains `expected`. Returns the output.
    pub async fn run(&mut self, line: &str, expected: &str) -> anyhow::Result<String> {
        self.write(line.as_bytes());
        self.write(b"\n");
        let mut output = Vec::new();
        let mut searched = 0;
        let found = self
            .until(DEADLINE, |terminal| {
                output.extend(terminal.take_output());
                let rest = output.get(searched..).unwrap_or_default();
                let found = rest.windows(expected.len()).any(|window| window == expected.as_bytes());
                searched = (output.len() + 1).saturating_sub(expected.len());
                found
            })
            .await?;
        let end = output.get(output.len().saturating_sub(SHOWN)..).unwrap_or_default();
        let end = String::from_utf8_lossy(end);
        ensure!(found, "no {expected:?} within {DEADLINE:?}; the output ended with {end:?}");
        Ok(String::from_utf8_lossy(&output).into_owned())
    }
}

/// An `output` frame. Faster to parse than a tagged enum with flattened fields: the client shares two cores with the
/// stack.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Output {
    epoch: Epoch,
    offset: u64,
    #[serde(default)]
    data: Option<String>,
    #[serde(default)]
    b64: Option<String>,
    #[serde(default)]
    input_offset: Option<u64>,
}

fn read(text: &str) -> serde_json::Result<ServerFrame> {
    if !text.starts_with(r#"{"type":"output""#) {
        return serde_json::from_str(text);
    }
    let Output { epoch, offset, data, b64, input_offset } = serde_json::from_str(text)?;
    Ok(ServerFrame::Output { epoch, offset, payload: Payload { data, b64 }, input_offset })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_parses_as_in_the_protocol() {
        for text in [
            r#"{"type":"output","epoch":5,"offset":3,"data":"h\u001b[0m\r\n","inputOffset":9}"#,
            r#"{"type":"output","epoch":5,"offset":3,"b64":"4oI=","later":[1]}"#,
            r#"{"type":"exit","epoch":1,"offset":2,"exitCode":0}"#,
        ] {
            assert_eq!(read(text).unwrap(), serde_json::from_str(text).unwrap());
        }
    }
}
