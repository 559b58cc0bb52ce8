//! Bytes per second of a shell's output, every byte verified.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use tokio::task::JoinSet;

use crate::{
    mode::{Subject, spent, times},
    report::Row,
    stack::Stack,
    terminal::Terminal,
};

/// A line of `base64` output as a terminal shows it: 76 characters (`base64(1)`), then CR LF.
const LINE: usize = 78;
/// Bytes compared at once.
const PATTERN: usize = LINE * 1_000;
/// Timeout of a run.
const WITHIN: Duration = Duration::from_mins(5);

/// Measures sessions that concurrently write `zeros` bytes each as base64; total bytes per second.
pub async fn measure(subject: Subject<'_>, sessions: usize, zeros: u64) -> anyhow::Result<Row> {
    let made = subject.target.sessions("/bin/sh", sessions).await?;
    let mut terminals = Vec::with_capacity(sessions);
    for (session, index) in made.iter().cloned().zip(0..) {
        let mut terminal = Terminal::attached(session, &format!("output-{index}")).await?;
        terminal.run("stty -echo; PS1=; printf 'RE''ADY\\n'", "READY\r\n").await?;
        terminals.push(terminal);
    }
    let processes = subject.stack.map(Stack::processes);
    let look = || processes.as_deref().map(times);
    let (before, started) = (look(), Instant::now());
    let mut tasks = JoinSet::new();
    for terminal in terminals {
        tasks.spawn(tokio::time::timeout(WITHIN, one(terminal, zeros)));
    }
    let mut total = 0;
    while let Some(finished) = tasks.join_next().await {
        total += finished?.context("the output did not end")??;
    }
    let seconds = started.elapsed().as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
    let bytes = total as f64;
    let cpu = before.zip(look()).map(|(before, after)| spent(&before, &after, 1e6 / (bytes / 1e6)));
    subject.target.end(&made).await?;
    Ok(Row { name: "output".to_owned(), connections: sessions, rate: bytes / seconds, latency: None, cpu })
}

/// Runs one session and verifies every byte. Returns the number of bytes.
async fn one(mut terminal: Terminal, zeros: u64) -> anyhow::Result<u64> {
    let mut expected = Expected::new(zeros)?;
    terminal.write(format!("head -c {zeros} /dev/zero | base64\n").as_bytes());
    while expected.left > 0 {
        terminal.step().await?;
        expected.take(&terminal.take_output())?;
    }
    let counts = terminal.counts();
    ensure!(counts.snapshots == 0, "output was lost: {counts:?}");
    terminal.close().await;
    Ok(expected.at as u64)
}

/// The expected output of `base64`.
struct Expected {
    pattern: Vec<u8>,
    /// Bytes seen.
    at: usize,
    /// Bytes not yet seen.
    left: usize,
    /// Padding and line end of the last line.
    tail: Vec<u8>,
}

impl Expected {
    fn new(zeros: u64) -> anyhow::Result<Self> {
        ensure!(zeros > 0, "nothing to write");
        let zeros = usize::try_from(zeros)?;
        let characters = zeros.div_ceil(3) * 4;
        let lines = characters.div_ceil(LINE - 2);
        let pattern = [b"A".repeat(LINE - 2), b"\r\n".to_vec()].concat().repeat(2 * PATTERN / LINE);
        let padding = (3 - zeros % 3) % 3;
        let tail = [b"=".repeat(padding), b"\r\n".to_vec()].concat();
        Ok(Self { pattern, at: 0, left: characters + 2 * lines, tail })
    }

    fn take(&mut self, mut bytes: &[u8]) -> anyhow::Result<()> {
        ensure!(bytes.len() <= self.left, "{} bytes too many", bytes.len() - self.left);
        while !bytes.is_empty() {
            let body = self.left.saturating_sub(self.tail.len());
            let (is, wanted) = if body > 0 {
                let count = bytes.len().min(body).min(PATTERN);
                let from = self.at % LINE;
                (bytes.split_at(count), self.pattern.get(from..from + count))
            } else {
                let count = bytes.len().min(self.left);
                let from = self.tail.len() - self.left;
                (bytes.split_at(count), self.tail.get(from..from + count))
            };
            if Some(is.0) != wanted {
                bail!("other bytes than written, within {} from offset {}", is.0.len(), self.at);
            }
            self.at += is.0.len();
            self.left -= is.0.len();
            bytes = is.1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The output of `base64 | sed 's/$/\r/'`.
    fn written(zeros: usize) -> Vec<u8> {
        let padding = (3 - zeros % 3) % 3;
        let mut text = "A".repeat(zeros.div_ceil(3) * 4 - padding) + &"=".repeat(padding);
        let mut out = String::new();
        while !text.is_empty() {
            let rest = text.split_off(text.len().min(76));
            out += &text;
            out += "\r\n";
            text = rest;
        }
        out.into_bytes()
    }

    #[test]
    fn every_byte_is_predicted() {
        for zeros in [1, 2, 3, 56, 57, 58, 114, 200_000] {
            let bytes = written(zeros);
            for chunk in [1, 7, 78, 100_000, 1_000_000] {
                let mut expected = Expected::new(zeros as u64).unwrap();
                bytes.chunks(chunk).for_each(|part| expected.take(part).unwrap());
                assert_eq!((expected.left, expected.at), (0, bytes.len()));
            }
        }
    }

    #[test]
    fn a_lost_doubled_or_changed_byte_is_detected() {
        let bytes = written(1_000);
        for at in [0, 76, 100, bytes.len() - 3] {
            let (mut lost, mut doubled, mut changed) = (bytes.clone(), bytes.clone(), bytes.clone());
            lost.remove(at);
            doubled.insert(at, b'\n');
            changed[at] ^= 1;
            for wrong in [doubled, changed] {
                assert!(Expected::new(1_000).unwrap().take(&wrong).is_err());
            }
            let mut expected = Expected::new(1_000).unwrap();
            assert!(expected.take(&lost).is_err() || expected.left > 0);
        }
    }
}
