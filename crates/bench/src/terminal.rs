//! A terminal: the reference client on a socket, driven by whoever measures.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use serde::Deserialize;
use shellbridge_protocol::{
    client::{Client, Event},
    frame::ServerFrame,
    payload::Payload,
};
use tokio::time::timeout;

use crate::{
    socket::{DEADLINE, Socket},
    target::Session,
};

/// A client of one session, over any number of connections.
pub struct Terminal {
    session: Session,
    client: Client,
    socket: Option<Socket>,
    /// The client's clock starts here.
    started: Instant,
}

impl Terminal {
    /// Not connected yet. `name` makes its client id.
    pub fn new(session: Session, name: &str) -> Self {
        Self::of(session, name, 80, 24)
    }

    fn of(session: Session, name: &str, cols: u16, rows: u16) -> Self {
        let client = Client::new(format!("{name:->16}"), cols, rows);
        Self { session, client, socket: None, started: Instant::now() }
    }

    /// Connected and attached.
    pub async fn attached(session: Session, name: &str) -> anyhow::Result<Self> {
        let mut terminal = Self::new(session, name);
        terminal.connect().await?;
        Ok(terminal)
    }

    /// Connected and attached, of another size.
    pub async fn sized(session: Session, name: &str, cols: u16, rows: u16) -> anyhow::Result<Self> {
        let mut terminal = Self::of(session, name, cols, rows);
        terminal.connect().await?;
        Ok(terminal)
    }

    /// Connects anew and waits until the streams are joined.
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

    /// Breaks the connection without a word.
    pub fn break_off(&mut self) {
        self.socket = None;
        self.client.disconnected();
    }

    /// Says goodbye.
    pub async fn close(mut self) {
        if let Some(socket) = self.socket.take() {
            socket.close().await;
        }
    }

    /// Types, with the next [`Terminal::step`].
    pub fn write(&mut self, bytes: &[u8]) {
        self.client.write(bytes);
    }

    /// Bytes typed that are not acknowledged.
    pub fn unacknowledged(&self) -> usize {
        self.client.unacknowledged()
    }

    /// The first output byte that has not arrived.
    pub fn output_offset(&self) -> u64 {
        self.client.output_offset()
    }

    /// Output in order, each byte once, from where it was last taken.
    pub fn take_output(&mut self) -> Vec<u8> {
        self.client.take_output()
    }

    /// Times that something went less than smoothly.
    pub const fn counts(&self) -> shellbridge_protocol::client::Counts {
        self.client.counts
    }

    /// Sends a frame that is not about the streams.
    pub async fn send(&mut self, text: String) -> anyhow::Result<()> {
        self.socket.as_mut().context("not connected")?.send(text).await
    }

    /// Sends what is due, then takes one frame or waits until something else is due.
    pub async fn step(&mut self) -> anyhow::Result<Event> {
        let socket = self.socket.as_mut().context("not connected")?;
        while let Some(frame) = self.client.poll(self.started.elapsed()) {
            socket.send(serde_json::to_string(&frame)?).await?;
        }
        let due = self.client.deadline().map(|due| due.saturating_sub(self.started.elapsed()));
        let Ok(text) = timeout(due.unwrap_or(DEADLINE), socket.text()).await else {
            ensure!(due.is_some(), "nothing came within {DEADLINE:?}");
            return Ok(Event::Nothing);
        };
        let event = self.client.receive(read(&text?)?, self.started.elapsed());
        match &event {
            Event::Snapshot { gap, .. } => {
                bail!("{gap} bytes of output are gone: a snapshot came in their place")
            }
            Event::Replaced => bail!("another connection took the client's name over"),
            Event::Forgotten => bail!("the backend has forgotten the client"),
            Event::Restarted => bail!("the shell was started anew"),
            Event::Other(ServerFrame::Error(error)) if !error.retryable => {
                bail!("{:?}: {}", error.code, error.message)
            }
            _ => Ok(event),
        }
    }

    /// Takes frames for as long as `wanted` takes, at most, and says whether it came true.
    pub async fn until(
        &mut self,
        within: Duration,
        mut wanted: impl FnMut(&mut Self) -> bool,
    ) -> anyhow::Result<bool> {
        let end = Instant::now() + within;
        while !wanted(self) {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            // A frame is taken whole or not at all: `step` only waits before it.
            if let Ok(stepped) = timeout(left, self.step()).await {
                stepped?;
            }
        }
        Ok(true)
    }

    /// Types a line and takes output until `said` is in it; returns all of that output.
    pub async fn run(&mut self, line: &str, said: &str) -> anyhow::Result<String> {
        self.write(line.as_bytes());
        self.write(b"\n");
        let mut output = Vec::new();
        let found = self
            .until(DEADLINE, |terminal| {
                output.extend(terminal.take_output());
                String::from_utf8_lossy(&output).contains(said)
            })
            .await?;
        let output = String::from_utf8_lossy(&output).into_owned();
        ensure!(found, "no {said:?} within {DEADLINE:?}; the shell said {output:?}");
        Ok(output)
    }
}

/// An `output` frame, read without the detour that a tagged enum with flattened fields takes: the client shares two
/// cores with what it measures.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Output {
    epoch: u64,
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
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn output_is_read_as_the_protocol_reads_it() {
        for text in [
            r#"{"type":"output","epoch":5,"offset":3,"data":"h\u001b[0m\r\n","inputOffset":9}"#,
            r#"{"type":"output","epoch":5,"offset":3,"b64":"4oI=","later":[1]}"#,
            r#"{"type":"exit","epoch":1,"offset":2,"exitCode":0}"#,
        ] {
            assert_eq!(read(text).unwrap(), serde_json::from_str(text).unwrap());
        }
    }
}
