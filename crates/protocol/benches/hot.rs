//! Micro-benchmarks of code that runs for each frame or piece of output, with times and allocations: `make microbench`.
//! `make counts` measures whole frames.

#![expect(clippy::unwrap_used, reason = "a benchmark")]

use std::{hint::black_box, time::Duration};

use divan::{AllocProfiler, Bencher, counter::BytesCount};
use shellbridge_protocol::{
    bridge::{BridgeContext, BridgeKeys, Envelope, MESSAGE_PATH, ReplayCache},
    frame::{ClientFrame, ServerFrame},
    limits::{MAX_FRAME, OUTPUT_BUFFER, OUTPUT_WINDOW},
    payload::Payload,
    stream::{OutputLog, Reassembler, SendWindow},
    times::{Epoch, UnixMs, UnixSecs},
};

#[global_allocator]
static ALLOCATOR: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

/// Largest read of a PTY.
const CHUNK: usize = 4096;
const NOW: Duration = Duration::from_secs(1);

/// Three kinds of output, each about as long as one frame.
#[derive(Debug, Clone, Copy)]
enum Output {
    /// A build log: a line end every 80 bytes or so.
    Text,
    /// Coloured output: an escape, six bytes as JSON, every 20 bytes or so.
    Colours,
    /// Not UTF-8: sent as base64.
    Binary,
}

const KINDS: [Output; 3] = [Output::Text, Output::Colours, Output::Binary];

impl Output {
    fn bytes(self, count: usize) -> Vec<u8> {
        let part: &[u8] = match self {
            Self::Text => {
                b"   Compiling shellbridge-protocol v0.1.0 (/home/ann/shellbridge/crates/protocol)\r\n"
            }
            Self::Colours => b"\x1b[1;34mcrates\x1b[0m  \x1b[32mmain.rs\x1b[0m\r\n",
            Self::Binary => b"\x7fELF\x02\x01\x01\0\xff\xfe\x80 text",
        };
        part.iter().copied().cycle().take(count).collect()
    }
}

/// The two most frequent frames.
#[derive(Debug, Clone, Copy)]
enum Frame {
    Key,
    Ping,
}

const FRAMES: [Frame; 2] = [Frame::Key, Frame::Ping];

impl Frame {
    const fn json(self) -> &'static str {
        match self {
            Self::Key => {
                r#"{"type":"input","clientId":"0123456789abcdef0123","offset":1499,"data":"l","epoch":1760000000000,"outputOffset":123456}"#
            }
            Self::Ping => r#"{"type":"ping","timestamp":1760000000000,"outputOffset":123456}"#,
        }
    }
}

fn envelope() -> Envelope {
    Envelope {
        connection_id: "L0SM9cOFvHcCIhw=".into(),
        session_id: "3f2b8c1e-6f0a-4d7e-9a53-2f1d0c9b8a76".into(),
        user_id: "ann".into(),
        timestamp: UnixMs(1_760_000_000_000),
        bridge: BridgeContext {
            message_id: "L0SNBcw5vHcCIhw=".into(),
            connected_at: UnixMs(1_760_000_000_000),
            callback_url: "https://abcdef1234.execute-api.us-east-1.amazonaws.com/prod".into(),
            token_expires_at: UnixSecs(1_760_003_600),
            username: Some("Ann".into()),
            read_only: false,
            token_id: None,
            client_timestamp: None,
        },
    }
}

#[divan::bench(args = FRAMES)]
fn parse_frame(frame: Frame) -> ClientFrame {
    ClientFrame::parse(black_box(frame.json().as_bytes())).unwrap()
}

/// As in the session: how much fits, the payload, the JSON.
#[divan::bench(args = KINDS)]
fn encode_output(bencher: Bencher<'_, '_>, kind: Output) {
    let bytes = kind.bytes(MAX_FRAME - 256);
    bencher.counter(BytesCount::new(bytes.len())).bench(|| {
        let cut = Payload::fit(black_box(&bytes), MAX_FRAME - 256);
        let payload = Payload::new(bytes.get(..cut).unwrap());
        let frame = ServerFrame::Output { epoch: Epoch(1), offset: 1, payload, input_offset: None };
        serde_json::to_vec(&frame).unwrap()
    });
}

/// The echo of a key.
#[divan::bench]
fn encode_echo() -> Vec<u8> {
    let payload = Payload::new(black_box(b"l"));
    let frame = ServerFrame::Output { epoch: Epoch(1), offset: 123_456, payload, input_offset: Some(1_500) };
    serde_json::to_vec(&frame).unwrap()
}

#[divan::bench(args = FRAMES)]
fn wrap_envelope(bencher: Bencher<'_, '_>, frame: Frame) {
    bencher.with_inputs(envelope).bench_values(|envelope| envelope.wrap(black_box(frame.json())).unwrap());
}

/// Both passes of the backend over a body.
#[divan::bench(args = FRAMES)]
fn read_envelope(bencher: Bencher<'_, '_>, frame: Frame) {
    let body = envelope().wrap(frame.json()).unwrap();
    bencher.bench(|| {
        let envelope: Envelope = serde_json::from_slice(black_box(&body)).unwrap();
        (envelope, ClientFrame::parse(&body).unwrap())
    });
}

#[divan::bench]
fn sign_request(bencher: Bencher<'_, '_>) {
    let (keys, body) = (keys(), envelope().wrap(Frame::Key.json()).unwrap());
    bencher.bench(|| sign_with(&keys, black_box(&body)));
}

#[divan::bench]
fn verify_request(bencher: Bencher<'_, '_>) {
    let (keys, body) = (keys(), envelope().wrap(Frame::Key.json()).unwrap());
    let token = sign_with(&keys, &body);
    bencher
        .bench(|| keys.verify(black_box(&token), MESSAGE_PATH, &"c".into(), &body, UnixSecs(1_000)).unwrap());
}

/// With the entries of a busy minute.
#[divan::bench]
fn remember_request(bencher: Bencher<'_, '_>) {
    let ann = "ann".into();
    let mut cache = ReplayCache::new(ReplayCache::CAPACITY);
    for id in 0..60_000 {
        cache.check(&id.to_string(), &ann, UnixSecs(60), UnixSecs(0));
    }
    let mut next = 60_000_u64;
    bencher.bench_local(|| {
        next += 1;
        cache.check(&next.to_string(), &ann, UnixSecs(60), UnixSecs(0))
    });
}

fn keys() -> BridgeKeys {
    BridgeKeys::parse("0123456789abcdef0123456789abcdef").unwrap()
}

fn sign_with(keys: &BridgeKeys, body: &[u8]) -> String {
    keys.sign(MESSAGE_PATH, &"c".into(), body, UnixSecs(1_000), "0123456789abcdef".into()).unwrap()
}

/// Typing: one byte, in order, consumed at once.
#[divan::bench]
fn reassemble_keys(bencher: Bencher<'_, '_>) {
    let mut stream = Reassembler::new(64 * 1024);
    let mut offset = 0;
    bencher.bench_local(|| {
        let arrival = stream.push(offset, black_box(b"x"));
        stream.consume(1);
        offset += 1;
        arrival
    });
}

/// A window of frames in which every second one overtook its predecessor.
#[divan::bench]
fn reassemble_overtaken(bencher: Bencher<'_, '_>) {
    let frame = Output::Text.bytes(CHUNK);
    let bytes = 16 * CHUNK;
    bencher.counter(BytesCount::new(bytes)).bench(|| {
        let mut stream = Reassembler::new(bytes);
        for pair in 0..8 {
            for at in [2 * pair + 1, 2 * pair] {
                stream.push(at * CHUNK as u64, black_box(&frame));
            }
        }
        stream.consume(bytes);
        stream
    });
}

/// Bulk output through a full log: eight reads of a PTY, then one frame.
#[divan::bench]
fn log_append_and_read(bencher: Bencher<'_, '_>) {
    let chunk = Output::Text.bytes(CHUNK);
    let mut log = OutputLog::new(OUTPUT_BUFFER);
    log.append(&vec![b'x'; OUTPUT_BUFFER]);
    bencher.counter(BytesCount::new(8 * CHUNK)).bench_local(|| {
        for _ in 0..8 {
            log.append(black_box(&chunk));
        }
        log.read(log.end() - 8 * CHUNK as u64, 8 * CHUNK)
    });
}

/// One frame sent and acknowledged.
#[divan::bench]
fn send_window(bencher: Bencher<'_, '_>) {
    let mut window = SendWindow::new(0, OUTPUT_WINDOW as u64);
    let mut end = 0;
    bencher.bench_local(|| {
        end += 32_000;
        let sendable = window.sendable(black_box(end));
        window.advance(window.sent() + sendable, NOW);
        window.probe_at(true, NOW);
        window.ack(end, NOW)
    });
}
