//! The screen model, the source of snapshots.

mod cost;
mod history;
mod modes;
#[cfg(test)]
mod tests;

use std::cell::Cell;

use avt::{Parser, Terminal, parser::State};
use shellbridge_protocol::{limits::SNAPSHOT_SCROLLBACK, size::Size};

use self::{
    cost::Meter,
    history::History,
    modes::{MAX_SEQUENCE, Modes},
};

/// A model of the terminal, fed with the shell's output.
///
/// `avt` models both screens, cursor, colours, margins, tabs and charsets. This type adds the scrollback, as compact text,
/// and the modes that concern only the user's terminal (mouse, paste, keypad). Combining characters are lost, because `avt`
/// has one character per cell.
pub(crate) struct Screen {
    terminal: Terminal,
    /// A parser in front of the terminal's own, which would execute functions before their cost can be bounded.
    parser: Parser,
    /// An unfinished escape sequence.
    sequence: String,
    history: History,
    modes: Modes,
    /// The first bytes of an unfinished character.
    partial: Vec<u8>,
    /// Number of bytes that were not skipped.
    #[cfg(test)]
    followed: usize,
}

/// Bytes of plain text that are always processed: enough to end any sequence, which proves that the rest is printed.
const PROOF: usize = 2 * MAX_SEQUENCE;
/// Bytes kept of an unfinished sequence. Only strings are longer, and clients need no more of those.
const MAX_UNFINISHED: usize = 4096;
/// Bytes processed before the next search for plain text.
const PIECE: usize = 64 * 1024;
/// Bytes of plain text that are searched in the time of one cell.
const LOOKED_AT: usize = 8;
/// Bytes that [`run`] checks at a time.
const BLOCK: usize = 64;

impl Screen {
    pub(crate) fn new(size: Size) -> Self {
        Self {
            terminal: terminal(size.cols.into(), size.rows.into()),
            parser: Parser::new(),
            sequence: String::new(),
            history: History::default(),
            modes: Modes::default(),
            partial: Vec::new(),
            #[cfg(test)]
            followed: 0,
        }
    }

    /// Whether bytes contain only text and line ends, so that processing them may wait.
    pub(crate) fn is_plain(bytes: &[u8]) -> bool {
        run(bytes) == bytes.len()
    }

    /// Processes output until the budget `cells` is used up, and returns the number of bytes processed. The budget becomes
    /// negative if the last function exceeded it.
    ///
    /// Skips bytes that are not UTF-8, as xterm.js does. Of a run of plain lines, skips those that would scroll out of the
    /// scrollback and leave no trace. Processing runs at 50 MB/s and dominates the cost of a build log, so large inputs,
    /// which allow more skipping, are cheaper.
    pub(crate) fn feed(&mut self, bytes: &[u8], cells: &mut i64) -> usize {
        let (_, rows) = self.terminal.size();
        let lines = SNAPSHOT_SCROLLBACK + 2 * rows + 2;
        let long = PROOF + 2 * lines;
        let mut at = 0;
        while *cells > 0
            && let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty())
        {
            let run = run(rest);
            let beyond = rest.get(..run).filter(|run| run.len() > long).and_then(|run| beyond(run, lines));
            if let Some((proof, tail)) = beyond {
                self.history.printed = false;
                let read = self.follow(rest.get(..proof).unwrap_or_default(), cells);
                at += read;
                if read == proof {
                    let scrolls = self.history.printed && !self.history.margins;
                    at += if scrolls {
                        tail - proof
                    } else {
                        self.follow(rest.get(proof..run).unwrap_or_default(), cells)
                    };
                }
            } else {
                // Up to the next run in which lines may be skipped.
                let mut end = (run + 1).min(rest.len());
                while end < PIECE
                    && let Some(after) = rest.get(end..).filter(|after| !after.is_empty())
                {
                    let run = self::run(after);
                    if run > long {
                        break;
                    }
                    end = (end + run + 1).min(rest.len());
                }
                at += self.follow(rest.get(..end).unwrap_or_default(), cells);
            }
            *cells -= i64::try_from(run / LOOKED_AT).unwrap_or(i64::MAX);
        }
        at
    }

    /// Processes every byte while the budget lasts; at least one character.
    fn follow(&mut self, bytes: &[u8], cells: &mut i64) -> usize {
        let began = self.partial.len();
        let joined;
        let text = if began == 0 {
            bytes
        } else {
            joined = [std::mem::take(&mut self.partial).as_slice(), bytes].concat();
            joined.as_slice()
        };
        let mut at = 0;
        let mut chunks = text.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            let read = self.execute(chunk.valid(), cells);
            at += read;
            if read < chunk.valid().len() {
                break;
            }
            let rest = chunk.invalid();
            if chunks.peek().is_none() && std::str::from_utf8(rest).is_err_and(|e| e.error_len().is_none()) {
                self.partial = rest.to_vec();
            }
            at += rest.len();
        }
        let read = at.saturating_sub(began);
        self.modes.scan(bytes.get(..read).unwrap_or_default());
        #[cfg(test)]
        {
            self.followed += read;
        }
        read
    }

    fn execute(&mut self, text: &str, cells: &mut i64) -> usize {
        let Self { terminal, parser, sequence, history, .. } = self;
        let size = terminal.size();
        let spent = Cell::new(0);
        let mut characters = text.chars();
        let functions = std::iter::from_fn(|| {
            while spent.get() < *cells {
                let character = characters.next()?;
                spent.set(spent.get() + 1);
                let function = parser.feed(character);
                if !matches!(parser.state, State::Ground) {
                    note(sequence, character);
                } else if !sequence.is_empty() {
                    sequence.clear();
                }
                if let Some(function) = function {
                    return Some(cost::clamp(function, size));
                }
            }
            None
        });
        terminal.execute_with(functions, (history, Meter(&spent)));
        *cells -= spent.get();
        text.len() - characters.as_str().len()
    }

    /// Skips these bytes and `more` evicted bytes before them. Starts from an empty screen, with a note in the scrollback.
    pub(crate) fn skip(&mut self, more: u64, bytes: &[u8]) {
        let (cols, rows) = self.terminal.size();
        self.terminal = terminal(cols, rows);
        self.parser = Parser::new();
        self.sequence.clear();
        self.partial.clear();
        self.modes.scan(bytes);
        if self.modes.alternate {
            self.terminal.feed("\x1b[?1049h");
        }
        self.history.skip(more + bytes.len() as u64);
    }

    /// Resizes the model and returns the cost in cells.
    pub(crate) fn resize(&mut self, size: Size) -> i64 {
        let before = cost::of_screen(self.terminal.size());
        self.terminal.resize_with(size.cols.into(), size.rows.into(), &mut self.history);
        before + cost::of_screen(self.terminal.size())
    }

    /// Cost of a snapshot in cells.
    pub(crate) fn snapshot_cost(&self) -> i64 {
        cost::of_screen(self.terminal.size()) + i64::try_from(self.history.bytes).unwrap_or(i64::MAX)
    }

    /// Bytes that make a terminal of this size, after a reset, look and behave like this one.
    pub(crate) fn snapshot(&self) -> Vec<u8> {
        let (_, rows) = self.terminal.size();
        let mut out = String::new();
        for line in &self.history.lines {
            out.push_str(line);
            out.push_str("\x1b[m\r\n");
        }
        if !self.history.open.is_empty() {
            out.push_str(&self.history.open);
            out.push_str("\x1b[m\r\n");
        }
        if !out.is_empty() {
            // Moves the last line of the scrollback off the screen.
            out.extend(std::iter::repeat_n('\n', rows.saturating_sub(1)));
            out.push_str("\x1b[H");
        }
        self.modes.write(&mut out);
        out.push_str(&self.terminal.dump());
        // Ends with the unfinished escape sequence or character.
        out.push_str(&self.sequence);
        let mut out = out.into_bytes();
        out.extend_from_slice(&self.partial);
        out
    }
}

fn terminal(cols: usize, rows: usize) -> Terminal {
    // Cannot fail: `Size` is at least 1×1.
    Terminal::new(cols, rows).unwrap_or_else(|_| unreachable!("a size is positive"))
}

/// Appends a character to an unfinished escape sequence or string; an introducer starts a new one. Ignores controls, which
/// take effect at once.
fn note(sequence: &mut String, character: char) {
    let begins = matches!(character, '\x1b' | '\u{90}' | '\u{98}' | '\u{9b}' | '\u{9d}'..='\u{9f}');
    if begins {
        sequence.clear();
    }
    if (begins || character >= ' ') && sequence.len() < MAX_UNFINISHED {
        sequence.push(character);
    }
}

/// Whether a byte prints a character or moves to the next line or tab in every mode.
const fn is_plain(byte: u8) -> bool {
    (byte >= 0x20 && byte <= 0x7e) || byte == b'\r' || byte == b'\n' || byte == b'\t'
}

/// Number of leading plain bytes.
fn run(bytes: &[u8]) -> usize {
    // By blocks, each without a branch, because the compiler turns that into vector instructions.
    let plain = |block: &&[u8]| block.iter().map(|byte| u8::from(!is_plain(*byte))).sum::<u8>() == 0;
    let blocks = bytes.chunks_exact(BLOCK).take_while(plain).count() * BLOCK;
    let rest = bytes.get(blocks..).unwrap_or_default();
    blocks + rest.iter().position(|byte| !is_plain(*byte)).unwrap_or(rest.len())
}

fn line_end(pair: &&[u8]) -> bool {
    *pair == b"\r\n"
}

/// The part of a plain run to skip: from the end of the first line after [`PROOF`] to the start of the last `lines` lines.
fn beyond(run: &[u8], lines: usize) -> Option<(usize, usize)> {
    let proof = PROOF + run.get(PROOF..)?.windows(2).position(|pair| line_end(&pair))? + 2;
    let after = run.windows(2).rev().enumerate().filter(|(_, pair)| line_end(pair)).nth(lines)?.0;
    let tail = run.len() - after;
    (tail > proof).then_some((proof, tail))
}
