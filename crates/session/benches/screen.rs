//! The screen model, which processes every byte of output: `make microbench`.

#![expect(dead_code, reason = "the benchmark uses a part of the module")]

use std::hint::black_box;

use divan::{AllocProfiler, Bencher, counter::BytesCount};

// The crate does not export these modules, so the benchmark includes them.
#[path = "../src/screen/mod.rs"]
mod screen;

use screen::Screen;
use shellbridge_protocol::size::Size;

#[global_allocator]
static ALLOCATOR: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

/// Output of `base64`, a build, a coloured program, and refreshes of `top`.
const KINDS: [&str; 4] = ["base64", "build", "colours", "top"];
/// Bytes fed at once: a read of a PTY.
const CHUNK: usize = 4096;
const SIZE: Size = Size { cols: 80, rows: 24 };

fn output(kind: &str) -> Vec<u8> {
    let refresh = format!("\x1b[H\x1b[7m  PID USER   %CPU COMMAND\x1b[0m\x1b[K\r\n{}\x1b[J", {
        "  123 root    12.5 cargo build --release\x1b[K\r\n".repeat(20)
    });
    let part = match kind {
        "base64" => format!("{}\r\n", "AAAA".repeat(19)),
        "build" => {
            "   Compiling shellbridge-protocol v0.1.0 (/home/ann/shellbridge/crates/protocol)\r\n".into()
        }
        "colours" => {
            "\x1b[1;34mcrates\x1b[0m  \x1b[32mmain.rs\x1b[0m  \x1b[38;5;208mr\u{e9}sum\u{e9}\x1b[0m\r\n"
                .into()
        }
        _ => refresh,
    };
    part.bytes().cycle().take(16 * CHUNK).collect()
}

#[divan::bench(args = KINDS)]
fn feed(bencher: Bencher<'_, '_>, kind: &str) {
    let bytes = output(kind);
    let mut screen = Screen::new(SIZE);
    bencher.counter(BytesCount::new(bytes.len())).bench_local(|| {
        for chunk in bytes.chunks(CHUNK) {
            screen.feed(black_box(chunk), &mut { i64::MAX });
        }
    });
}

/// With a full scrollback.
#[divan::bench(args = KINDS)]
fn snapshot(bencher: Bencher<'_, '_>, kind: &str) {
    let mut screen = Screen::new(SIZE);
    for _ in 0..8 {
        screen.feed(&output(kind), &mut { i64::MAX });
    }
    bencher.bench_local(|| screen.snapshot());
}
