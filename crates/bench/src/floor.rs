//! Floors: the minimum cost of each part, measured in separate processes like the real parts.

use std::{
    io::Read as _,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use axum::{
    Router,
    body::Bytes,
    http::{HeaderMap, HeaderValue, header::CONTENT_TYPE},
    routing::post,
};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader},
    net::TcpListener,
    process::{Child, Command},
};
use tokio_tungstenite::tungstenite::Message;

use crate::process;

/// Buffer of a PTY read, as in the backend.
const READ: usize = 16 * 1024;

/// The kind of a floor.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub enum Kind {
    /// A WebSocket server that echoes every message.
    Websocket,
    /// An axum server that echoes every body.
    Http,
    /// Reads a PTY to its end and prints bytes and seconds.
    Pty,
}

/// A running floor; dropping it stops the process.
pub struct Floor {
    _child: Child,
    /// `HOST:PORT`
    pub address: String,
}

impl Floor {
    /// Starts this program as a listening floor, pinned to `core` if given.
    pub async fn start(kind: Kind, core: Option<usize>) -> anyhow::Result<Self> {
        let name = clap::ValueEnum::to_possible_value(&kind).context("no name")?;
        let mut child = Command::new(std::env::current_exe()?)
            .args(["floor", name.get_name()])
            .args(core.map(|core| format!("--core={core}")))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let stdout = child.stdout.take().context("the floor's stdout")?;
        let line = BufReader::new(stdout).lines().next_line().await?.context("the floor ended")?;
        Ok(Self { _child: child, address: line })
    }
}

/// Bytes per second of a PTY read in a separate process.
pub async fn pty_rate(bytes: u64) -> anyhow::Result<f64> {
    let output = Command::new(std::env::current_exe()?)
        .args(["floor", "pty", "--bytes", &bytes.to_string()])
        .stderr(Stdio::inherit())
        .output()
        .await?;
    ensure!(output.status.success(), "the PTY floor failed");
    let text = String::from_utf8(output.stdout)?;
    let (read, seconds) = text.trim().split_once(' ').context("the PTY floor's answer")?;
    Ok(read.parse::<f64>()? / seconds.parse::<f64>()?)
}

/// Runs a floor until stdin ends.
pub async fn serve(kind: Kind, bytes: u64, core: Option<usize>) -> anyhow::Result<()> {
    if core.is_some() {
        process::pin_to_core(core);
    }
    if let Kind::Pty = kind {
        let (read, took) = read_pty(bytes).await?;
        println!("{read} {}", took.as_secs_f64());
        return Ok(());
    }
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    std::thread::spawn(|| {
        let _ended = std::io::stdin().read(&mut [0; 1]);
        std::process::exit(0);
    });
    if let Kind::Http = kind { serve_http(listener).await } else { serve_websocket(listener).await }
}

async fn serve_websocket(listener: TcpListener) -> anyhow::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(async move {
            let Ok(mut socket) = tokio_tungstenite::accept_async(stream).await else { return };
            while let Some(Ok(message)) = socket.next().await {
                if let Message::Text(_) = message
                    && socket.send(message).await.is_err()
                {
                    return;
                }
            }
        });
    }
}

async fn serve_http(listener: TcpListener) -> anyhow::Result<()> {
    use axum::serve::ListenerExt as _;
    // Echoes the content type too, so that WebSocket-over-HTTP events echo as WebSocket messages.
    let echo = async |headers: HeaderMap, body: Bytes| {
        let kind = headers.get(CONTENT_TYPE).cloned();
        ([(CONTENT_TYPE, kind.unwrap_or(HeaderValue::from_static("application/json")))], body)
    };
    let app = Router::new().route("/", post(echo));
    let listener = listener.tap_io(|stream| {
        let _slower = stream.set_nodelay(true);
    });
    axum::serve(listener, app).await?;
    Ok(())
}

/// Reads the output of `head | base64` from a PTY, as the backend does, and discards it.
async fn read_pty(bytes: u64) -> anyhow::Result<(u64, Duration)> {
    let (mut pty, pts) = pty_process::open()?;
    let mut child = pty_process::Command::new("/bin/sh")
        .args(["-c", &format!("head -c {bytes} /dev/zero | base64")])
        .spawn(pts)?;
    let started = Instant::now();
    let (mut buffer, mut total) = (vec![0; READ], 0);
    // Linux returns EIO once the last process with the terminal open has exited.
    while let Ok(read @ 1..) = pty.read(&mut buffer).await {
        total += read as u64;
    }
    let took = started.elapsed();
    child.wait().await?;
    Ok((total, took))
}
