//! The terminal as it stands: what a client is shown in place of output that is gone.

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

/// A model of the terminal that follows every byte of the shell.
///
/// `avt` models both screens, cursor, colours, margins, tabs and charsets. What it does not know is kept beside it:
/// the scrollback, compactly as text, and the modes that only concern the user's end (mouse, paste, keypad).
/// Combining characters are not kept: `avt` has one character a cell.
pub(crate) struct Screen {
    terminal: Terminal,
    /// Beside the terminal, whose own would do what it reads before anybody can bound it.
    parser: Parser,
    /// The escape sequence whose end is still to come.
    sequence: String,
    history: History,
    modes: Modes,
    /// The beginning of a character whose rest is still to come.
    partial: Vec<u8>,
    /// Bytes that were not passed over.
    #[cfg(test)]
    followed: usize,
}

/// Plain text that is followed in any case, to see that it is printed; enough to end any sequence.
const PROOF: usize = 2 * MAX_SEQUENCE;
/// Bytes of an unfinished sequence that are kept: more than any but a string has, and a client needs not all of that.
const MAX_UNFINISHED: usize = 4096;
/// Bytes that are followed before the next are looked at.
const PIECE: usize = 64 * 1024;
/// Plain text that is looked at in the time that a cell takes.
const LOOKED_AT: usize = 8;

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

    /// Whether these bytes are text and line ends alone, so that following them may wait.
    pub(crate) fn is_plain(bytes: &[u8]) -> bool {
        bytes.iter().all(|byte| is_plain(*byte))
    }

    /// Follows the shell's output for so many cells' worth of work, and says how many bytes that were. What is left of
    /// the work is below zero if the last function needed more.
    ///
    /// Bytes that are not UTF-8 are passed over, as xterm.js does. Of plain lines, only as many are followed as the
    /// scrollback and the screen hold: those before them would leave no trace. A model reads 50 MB a second, which is
    /// most of what a build log costs; so give it much at once.
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
                // Up to the next run that something may be passed over in.
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

    /// Follows every byte, for as long as there are cells; at least one character.
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

    /// Gives up following these bytes, and `more` before them that are gone. The picture starts anew, and says so above.
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

    /// Puts it into another size, and says what that cost.
    pub(crate) fn resize(&mut self, size: Size) -> i64 {
        let before = cost::of_screen(self.terminal.size());
        self.terminal.resize_with(size.cols.into(), size.rows.into(), &mut self.history);
        before + cost::of_screen(self.terminal.size())
    }

    /// What a snapshot costs.
    pub(crate) fn snapshot_cost(&self) -> i64 {
        cost::of_screen(self.terminal.size()) + i64::try_from(self.history.bytes).unwrap_or(i64::MAX)
    }

    /// What to write to a terminal of this size that was just reset, so that it looks and behaves like this one.
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
        // An unfinished escape sequence ends it, or an unfinished character.
        out.push_str(&self.sequence);
        let mut out = out.into_bytes();
        out.extend_from_slice(&self.partial);
        out
    }
}

fn terminal(cols: usize, rows: usize) -> Terminal {
    // Infallible: `Size` is at least 1×1.
    Terminal::new(cols, rows).unwrap_or_else(|_| unreachable!("a size is positive"))
}

/// Notes a character inside an escape sequence or string, which an introducer begins anew. Controls in between are done
/// as they come, or belong to none.
fn note(sequence: &mut String, character: char) {
    let begins = matches!(character, '\x1b' | '\u{90}' | '\u{98}' | '\u{9b}' | '\u{9d}'..='\u{9f}');
    if begins {
        sequence.clear();
    }
    if (begins || character >= ' ') && sequence.len() < MAX_UNFINISHED {
        sequence.push(character);
    }
}

/// Bytes that print a character or move to the next line or tab, whatever modes are set.
const fn is_plain(byte: u8) -> bool {
    matches!(byte, 0x20..=0x7e | b'\r' | b'\n' | b'\t')
}

/// How many bytes from the beginning are plain.
fn run(bytes: &[u8]) -> usize {
    bytes.iter().position(|byte| !is_plain(*byte)).unwrap_or(bytes.len())
}

fn line_end(pair: &&[u8]) -> bool {
    *pair == b"\r\n"
}

/// Where the first line of plain text after the proof ends, and where its last `lines` lines begin, if there is
/// anything between.
fn beyond(run: &[u8], lines: usize) -> Option<(usize, usize)> {
    let proof = PROOF + run.get(PROOF..)?.windows(2).position(|pair| line_end(&pair))? + 2;
    let after = run.windows(2).rev().enumerate().filter(|(_, pair)| line_end(pair)).nth(lines)?.0;
    let tail = run.len() - after;
    (tail > proof).then_some((proof, tail))
}
