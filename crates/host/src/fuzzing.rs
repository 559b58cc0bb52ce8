//! Any backend, for `fuzz/`: the fuzzer writes what it says. The driver, its terminal and its commands are real; the shell
//! is `cat`, and commands are replaced (`command.rs`).

use std::{collections::BTreeMap, os::unix::net::UnixListener, path::Path, time::Duration};

use bytes::{Bytes, BytesMut};
use shellbridge_protocol::times::UnixMs;
use shellbridge_session::{
    Limits, Sent, Settings,
    link::{self, Connect, Frame, Hello, Peer, Preface, Pushed, ShellSpec, Start, ToHost},
};
use tokio::{net::UnixStream, runtime::Builder, task::yield_now, time::sleep};

use crate::{driver::Driver, link::Listener};

/// Turns of the driver after each step.
const TURNS: usize = 8;
const LONG: Duration = Duration::from_hours(1);

/// Serves a session to a backend that follows these steps.
///
/// # Panics
/// When the driver does.
#[expect(clippy::unwrap_used, reason = "what cannot be made cannot be fuzzed")]
pub fn serve<'a>(steps: impl Iterator<Item = (u8, &'a [u8])>) {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let path = std::env::temp_dir().join(format!("shellbridge-fuzz-{}.sock", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).unwrap();
        let listener = Listener::new(listener, rustix::process::getuid()).unwrap();
        let about = ("s".into(), "alice".into());
        let mut driver = Driver::start(start()).unwrap();
        let script = async {
            let mut stream = None;
            for (what, bytes) in steps {
                step(&path, &mut stream, what, bytes).await;
                for _ in 0..TURNS {
                    yield_now().await;
                }
            }
        };
        let why = tokio::select! {
            why = driver.run(&listener, &about) => why,
            () = script => "the script has ended".to_owned(),
        };
        driver.end(&why).await;
        listener.remove();
    });
}

async fn step(path: &Path, stream: &mut Option<UnixStream>, what: u8, bytes: &[u8]) {
    let first = bytes.first().copied().unwrap_or_default();
    let mut out = BytesMut::new();
    match what % 8 {
        0 => out.extend_from_slice(bytes),
        1 => {
            if let Some((kind, body)) = bytes.split_first() {
                let length = u32::try_from(body.len() + 2).unwrap_or_default();
                out.extend_from_slice(&length.to_le_bytes());
                out.extend_from_slice(&[kind % 15, 0]);
                out.extend_from_slice(body);
            }
        }
        2 => {
            *stream = UnixStream::connect(path).await.ok();
            Preface::new("".into()).encode(&mut out);
            say(Hello { start: None }, &mut out);
        }
        3 => *stream = None,
        4 => {
            let frame = Frame {
                request: first.into(),
                peer: peer(what / 8),
                body: Bytes::copy_from_slice(bytes),
                bytes: u32::try_from(bytes.len()).unwrap_or_default(),
                timestamp: None,
                message_id: "m".to_owned(),
            };
            say(frame, &mut out);
        }
        5 => say(Connect { request: first.into(), peer: peer(what / 8) }, &mut out),
        6 => {
            let mut buffer = vec![0; 64 * 1024];
            let _ = stream.as_ref().map(|stream| stream.try_read(&mut buffer));
            for push in bytes {
                say(Pushed { push: (*push).into(), sent: Sent::Delivered }, &mut out);
            }
        }
        // For output and exits.
        _ => sleep(Duration::from_millis(u64::from(first % 4))).await,
    }
    if let Some(stream) = stream {
        // What does not fit is lost: the driver has to bear half a message, too.
        let _ = stream.try_write(&out);
    }
}

fn say(message: impl Into<ToHost>, out: &mut BytesMut) {
    let _ = link::encode(&message.into(), out);
}

/// One of four connections.
fn peer(number: u8) -> Peer {
    Peer {
        id: ["0", "1", "2", "3"][usize::from(number % 4)].into(),
        read_only: number % 4 == 3,
        user: "alice".into(),
        token_id: None,
        connected_at: UnixMs(1),
        token_lasts: 3_600_000,
        max_frame: 32_768,
        in_flight: 4,
        address: "https://api".to_owned(),
    }
}

fn start() -> Start {
    let limits = Limits { output_buffer: 65_536, output_window: 32_768, resume_grace: LONG };
    Start {
        id: "s".into(),
        owner: "alice".into(),
        created_at: UnixMs(1_000),
        expires_at: UnixMs(1_000_000_000),
        settings: Settings { limits, detached_ttl: LONG, shell_restart: true },
        shell: ShellSpec { shell: "/bin/cat".to_owned(), cwd: "/".to_owned(), env: BTreeMap::new() },
        notes: Bytes::new(),
        files: Vec::new(),
        init: None,
    }
}
