//! The exchanges to measure: a frame and its answer, a key and its echo, a connection.

use anyhow::{Context as _, bail, ensure};
use serde_json::json;
use shellbridge_protocol::frame::{ClientFrame, ServerFrame};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_tungstenite::tungstenite::Utf8Bytes;

use crate::{load::Exchange, socket::Socket, target::Session, terminal::Terminal};

/// All frame numbers have the same number of digits, so that none is a substring of another.
const FIRST_NUMBER: u64 = 1_000_000_000_000;

/// Sends numbered frames and waits for the frame that echoes the number. Serves the stack and the floor alike.
pub struct FrameClient {
    socket: Socket,
    kind: Kind,
    number: u64,
}

/// The frame to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `ping`, answered by `pong`; a raw echo returns the `ping`.
    Ping,
    /// `command` `true`, answered by its result.
    Command,
}

impl FrameClient {
    /// Uses a newly opened socket.
    pub const fn new(socket: Socket, kind: Kind) -> Self {
        Self { socket, kind, number: FIRST_NUMBER }
    }

    /// Connects to a session.
    pub async fn connect(session: &Session, kind: Kind) -> anyhow::Result<Self> {
        Ok(Self::new(Socket::connect(&session.url, session.insecure).await?, kind))
    }

    /// Runs a command and returns its output.
    pub async fn command(&mut self, command: &str) -> anyhow::Result<String> {
        self.number += 1;
        let frame = ClientFrame::Command {
            command: command.to_owned(),
            id: Some(self.number.to_string()),
            timeout_ms: None,
        };
        self.socket.send(serde_json::to_string(&frame)?).await?;
        let answer: ServerFrame = serde_json::from_str(&self.answer(&self.number.to_string()).await?)?;
        match answer {
            ServerFrame::CommandResult { result, .. } => Ok(result),
            other => bail!("{other:?}"),
        }
    }

    /// Sends an `echo` with values that transports tend to alter, and verifies the answer.
    pub async fn echo(&mut self) -> anyhow::Result<()> {
        self.number += 1;
        let number = self.number.to_string();
        let sent = json!({ "type": "echo", "number": number, "text": "ü € 𝄞 \u{1b}[0m \"\\", "nested": [0, null, { "": false }] });
        self.socket.send(sent.to_string()).await?;
        match serde_json::from_str(&self.answer(&number).await?)? {
            ServerFrame::Echo { received, .. } => {
                let received: serde_json::Value = serde_json::from_str(received.get())?;
                ensure!(received == sent, "{sent} came back as {received}");
            }
            other => bail!("{other:?}"),
        }
        Ok(())
    }

    /// The next frame that contains `text`.
    async fn answer(&mut self, text: &str) -> anyhow::Result<Utf8Bytes> {
        loop {
            let answer = self.socket.text().await?;
            if answer.starts_with(r#"{"type":"error""#) {
                bail!("{answer}");
            }
            if answer.contains(text) {
                return Ok(answer);
            }
        }
    }
}

impl Exchange for FrameClient {
    async fn exchange(&mut self) -> anyhow::Result<()> {
        self.number += 1;
        let number = self.number.to_string();
        let frame = match self.kind {
            Kind::Ping => format!(r#"{{"type":"ping","timestamp":{number}}}"#),
            Kind::Command => format!(r#"{{"type":"command","command":"true","id":"{number}"}}"#),
        };
        self.socket.send(frame).await?;
        self.answer(&number).await?;
        Ok(())
    }
}

/// Types a key into `cat` and waits for its echo.
pub struct Typist {
    terminal: Terminal,
    /// The offset at which the next echo ends.
    expected: u64,
    /// Keys since the last newline.
    keys: u64,
}

/// Keys per line. In canonical mode, a terminal accepts at most 4,095 (`termios(3)`).
const LINE: u64 = 60;

impl Typist {
    /// Types at a terminal attached to a `cat` without output yet.
    pub const fn new(terminal: Terminal) -> Self {
        Self { terminal, expected: 0, keys: 0 }
    }

    async fn press(&mut self, key: u8, echo: &[u8]) -> anyhow::Result<()> {
        self.terminal.write(&[key]);
        self.expected += echo.len() as u64;
        while self.terminal.output_offset() < self.expected {
            self.terminal.step().await?;
        }
        let shown = self.terminal.take_output();
        ensure!(shown == echo, "typed {key}, expected {echo:?}, got {shown:?}");
        Ok(())
    }
}

impl Exchange for Typist {
    async fn exchange(&mut self) -> anyhow::Result<()> {
        self.keys += 1;
        self.press(b'x', b"x").await
    }

    async fn between(&mut self) -> anyhow::Result<()> {
        if self.keys < LINE {
            return Ok(());
        }
        // The terminal echoes the newline and `cat` repeats the line.
        let line = "x".repeat(usize::try_from(self.keys)?);
        self.keys = 0;
        self.press(b'\n', format!("\r\n{line}\r\n").as_bytes()).await
    }
}

/// Opens a connection, attaches and closes it.
pub struct ConnectClient {
    session: Session,
    name: String,
    last: Option<Terminal>,
}

impl ConnectClient {
    /// Connects to `session` with a client id made of `name`.
    pub const fn new(session: Session, name: String) -> Self {
        Self { session, name, last: None }
    }
}

impl Exchange for ConnectClient {
    async fn exchange(&mut self) -> anyhow::Result<()> {
        self.last = Some(Terminal::attached(self.session.clone(), &self.name).await?);
        Ok(())
    }

    async fn between(&mut self) -> anyhow::Result<()> {
        if let Some(terminal) = self.last.take() {
            terminal.close().await;
        }
        Ok(())
    }
}

/// Posts a small body over one connection and reads the answer, with minimal HTTP.
pub struct HttpClient {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// A body as long as a ping.
const BODY: &str = r#"{"type":"ping","timestamp":1000000000000}"#;

impl HttpClient {
    /// Connects to `HOST:PORT`.
    pub async fn connect(address: &str) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await.with_context(|| address.to_owned())?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::with_capacity(1024) })
    }
}

impl Exchange for HttpClient {
    async fn exchange(&mut self) -> anyhow::Result<()> {
        let length = BODY.len();
        let request = format!("POST / HTTP/1.1\r\nHost: floor\r\nContent-Length: {length}\r\n\r\n{BODY}");
        self.stream.write_all(request.as_bytes()).await?;
        self.buffer.clear();
        while !self.buffer.ends_with(BODY.as_bytes()) {
            ensure!(self.stream.read_buf(&mut self.buffer).await? > 0, "the HTTP floor hung up");
        }
        Ok(())
    }
}
