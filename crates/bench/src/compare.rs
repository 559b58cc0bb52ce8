//! `bench compare`: alternatives, if installed, next to Shellbridge and the raw echo.

use std::{
    fs,
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::{
    exchange::{FrameClient, Kind},
    floor::{self, Floor},
    load::{self, Exchange, Latencies, Plan},
    mode::{FloorSampler, Mode, Subject},
    output,
    report::{Row, print_rows},
    socket::Socket,
    stack::Programs,
    target::Target,
};

/// Connections of the table.
const CONNECTIONS: [usize; 3] = [1, 16, 128];
const PLAN: Plan = Plan { warm: Duration::from_millis(500), measure: Duration::from_secs(2), rate: None };
/// Timeout of other programs' start and stop.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Measures everything installed and prints one table.
pub async fn run(programs: &Programs) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    let websocket = Floor::start(floor::Kind::Websocket, None).await?;
    let stack = programs.stack().start().await?;
    let target = Target::local(&stack)?;
    let subject = Subject { target: &target, stack: Some(&stack) };
    let pushpin = if installed("pushpin") && installed("zurl") {
        Some(Pushpin::start().await?)
    } else {
        println!("not measured: pushpin (apt-get install pushpin)");
        None
    };
    for connections in CONNECTIONS {
        let mut sampler = FloorSampler::new(&websocket, connections, PLAN);
        sampler.sample().await?;
        let ping = Mode::Ping.measure(subject, connections, PLAN).await?;
        let proxied = match &pushpin {
            Some(pushpin) => Some(pushpin.measure(connections).await?),
            None => None,
        };
        sampler.sample().await?;
        rows.push(sampler.row()?);
        rows.push(ping);
        rows.extend(proxied.map(|proxied| Row::new("pushpin: echo over HTTP", connections, &proxied, None)));
    }
    if let Some(pushpin) = pushpin {
        pushpin.stop().await;
    }
    if installed("ttyd") {
        rows.extend(ttyd(subject).await?);
    } else {
        println!("not measured: ttyd (not installed)");
    }
    print_rows(&rows);
    Ok(())
}

fn installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

/// Stops a child by SIGTERM, so that it can stop its own children.
async fn stop(mut child: Child) {
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
    if let Some(pid) = pid {
        let _gone = kill_process(pid, Signal::TERM);
    }
    // Dropping the child kills it if it is still running.
    let _late = tokio::time::timeout(TIMEOUT, child.wait()).await;
}

fn spawn_silently(program: &str, arguments: &[&str]) -> anyhow::Result<Child> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.kill_on_drop(true).spawn().with_context(|| program.to_owned())
}

fn free_port() -> anyhow::Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Connects as soon as the server listens.
async fn connect_with_retry(url: &str, subprotocol: Option<&str>) -> anyhow::Result<Socket> {
    let until = Instant::now() + TIMEOUT;
    loop {
        match Socket::offering(url, false, subprotocol).await {
            Err(_) if Instant::now() < until => tokio::time::sleep(Duration::from_millis(50)).await,
            tried => return tried.with_context(|| url.to_owned()),
        }
    }
}

/// pushpin in front of an axum echo: WebSocket-over-HTTP without token, lookup or function.
struct Pushpin {
    proxy: Child,
    zurl: Child,
    _backend: Floor,
    _directory: TempDir,
    url: String,
}

impl Pushpin {
    async fn start() -> anyhow::Result<Self> {
        let backend = Floor::start(floor::Kind::Http, None).await?;
        let directory = TempDir::new()?;
        let path = directory.path().to_str().context("the temporary directory's name")?;
        let (port, push_port) = (free_port()?, free_port()?);
        // zurl sends pushpin's HTTP requests. Debian's default configuration forbids loopback.
        let zurl = format!(
            "[General]\nin_spec=ipc://{path}/zurl-in\nin_stream_spec=ipc://{path}/zurl-in-stream\nout_spec=ipc://{path}/zurl-out\nin_req_spec=\ndefpolicy=allow\nallow=\ndeny=\nmax_open_requests=2000\nbuffer_size=200000\ntimeout=600\nin_hwm=1000\nout_hwm=1000\n"
        );
        let pushpin = format!(
            "[global]\ninclude={{libdir}}/internal.conf\nrundir={path}\nipc_prefix=pushpin-\nport_offset=0\nstats_connection_ttl=120\n\
             [runner]\nservices=condure,pushpin-proxy,pushpin-handler\nhttp_port={port}\nlogdir={path}\nlog_level=1\nclient_buffer_size=8192\nclient_maxconn=1000\ncondure_bin=condure\n\
             [proxy]\nroutesfile={path}/routes\nsig_key=bench\nupdates_check=off\nzurl_out_specs=ipc://{path}/zurl-in\nzurl_out_stream_specs=ipc://{path}/zurl-in-stream\nzurl_in_specs=ipc://{path}/zurl-out\n\
             [handler]\npush_in_spec=ipc://{path}/push-in\npush_in_sub_specs=ipc://{path}/push-in-sub\npush_in_http_addr=127.0.0.1\npush_in_http_port={push_port}\nstats_spec=ipc://{path}/stats\ncommand_spec=ipc://{path}/command\nmessage_rate=2500\nmessage_hwm=25000\nmessage_wait=5000\n"
        );
        let write = |name: &str, text: &str| -> anyhow::Result<PathBuf> {
            let file = directory.path().join(name);
            fs::write(&file, text)?;
            Ok(file)
        };
        write("routes", &format!("* {},over_http\n", backend.address))?;
        let zurl = write("zurl.conf", &zurl)?;
        let pushpin = write("pushpin.conf", &pushpin)?;
        let started = Self {
            zurl: spawn_silently("zurl", &[&format!("--config={}", zurl.display())])?,
            proxy: spawn_silently("pushpin", &[&format!("--config={}", pushpin.display())])?,
            _backend: backend,
            _directory: directory,
            url: format!("ws://127.0.0.1:{port}/"),
        };
        connect_with_retry(&started.url, None).await?.close().await;
        Ok(started)
    }

    async fn measure(&self, connections: usize) -> anyhow::Result<Latencies> {
        let mut clients = Vec::with_capacity(connections);
        for _ in 0..connections {
            clients.push(FrameClient::new(Socket::connect(&self.url, false).await?, Kind::Ping));
        }
        Ok(load::run(clients, PLAN, || ()).await?.0)
    }

    async fn stop(self) {
        stop(self.proxy).await;
        stop(self.zurl).await;
    }
}

/// Keys through `cat` and output, of ttyd and of Shellbridge.
async fn ttyd(subject: Subject<'_>) -> anyhow::Result<Vec<Row>> {
    const ZEROS: u64 = 20_000_000;
    let mut rows = vec![Mode::Echo.measure(subject, 1, PLAN).await?];
    let port = free_port()?.to_string();
    let child = spawn_silently("ttyd", &["-W", "-i", "127.0.0.1", "-p", &port, "cat"])?;
    let typist = Ttyd::connect(&port).await?;
    let (keys, typists) = load::run(vec![typist], PLAN, || ()).await?;
    drop(typists);
    stop(child).await;
    rows.push(Row::new("ttyd: echo", 1, &keys, None));

    rows.push(output::measure(subject, 1, ZEROS).await?);
    let port = free_port()?.to_string();
    let script = format!("head -c {ZEROS} /dev/zero | base64");
    let child = spawn_silently("ttyd", &["-i", "127.0.0.1", "-p", &port, "sh", "-c", &script])?;
    let mut reader = Ttyd::connect(&port).await?;
    let (begun, mut bytes) = (Instant::now(), 0);
    // ttyd hangs up when the script has ended.
    while let Ok(more) = reader.output().await {
        bytes += more.len();
    }
    #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
    let rate = bytes as f64 / begun.elapsed().as_secs_f64();
    stop(child).await;
    rows.push(Row::bytes("ttyd: output", 1, rate));
    rows.push(Row::bytes("floor: bare PTY read", 1, floor::pty_rate(ZEROS).await?));
    Ok(rows)
}

/// ttyd's client (its `src/protocol.c`). A message's first byte is its type; `0` is input and output.
struct Ttyd {
    socket: Socket,
    /// Whether to erase the last key: an unfinished line would fill the terminal's buffer.
    erase: bool,
}

impl Ttyd {
    async fn connect(port: &str) -> anyhow::Result<Self> {
        let mut socket = connect_with_retry(&format!("ws://127.0.0.1:{port}/ws"), Some("tty")).await?;
        socket.send_binary(br#"{"AuthToken":"","columns":80,"rows":24}"#.to_vec()).await?;
        Ok(Self { socket, erase: false })
    }

    async fn output(&mut self) -> anyhow::Result<Vec<u8>> {
        loop {
            let message = self.socket.next().await?.into_data();
            if let Some((b'0', bytes)) = message.split_first() {
                return Ok(bytes.to_vec());
            }
        }
    }
}

impl Exchange for Ttyd {
    async fn exchange(&mut self) -> anyhow::Result<()> {
        // DEL echoes as backspace, space, backspace (`termios(3)`, ECHOE).
        let (key, echo) = if self.erase { (0x7f, "\x08 \x08") } else { (b'x', "x") };
        self.erase = !self.erase;
        self.socket.send_binary(vec![b'0', key]).await?;
        let shown = self.output().await?;
        ensure!(shown == echo.as_bytes(), "expected {echo:?}, got {shown:?}");
        Ok(())
    }
}
