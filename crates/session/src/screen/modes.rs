//! Modes of the user's terminal that `avt` does not model.

use std::fmt::Write as _;

/// Tracked DEC private modes, by xterm's numbers: mouse tracking and its encodings, focus, blink, bracketed paste.
const TRACKED: [u16; 11] = [9, 12, 1000, 1002, 1003, 1004, 1005, 1006, 1015, 1016, 2004];
/// Modes that select the alternate screen, by xterm's numbers.
const ALTERNATE: [u16; 2] = [1047, 1049];
/// Longest escape sequence that can set a tracked mode.
pub(super) const MAX_SEQUENCE: usize = 64;

/// The current value of each mode.
#[derive(Default)]
pub(super) struct Modes {
    /// DEC private modes in effect.
    set: Vec<u16>,
    /// Whether the alternate screen is shown.
    pub(super) alternate: bool,
    keypad: bool,
    /// DECSCUSR.
    cursor_style: u16,
    /// An unfinished escape sequence.
    pending: Vec<u8>,
}

impl Modes {
    /// Finds the few sequences that matter; skips everything else at the speed of a search.
    pub(super) fn scan(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        if !self.pending.is_empty() {
            // The sequence began in an earlier chunk: complete it byte by byte.
            while let Some((&byte, after)) = rest.split_first() {
                rest = after;
                self.pending.push(byte);
                let pending = std::mem::take(&mut self.pending);
                match sequence(&pending) {
                    Sequence::Incomplete => self.pending = pending,
                    Sequence::Complete(_) => {
                        self.apply(&pending);
                        break;
                    }
                }
            }
        }
        while let Some(at) = rest.iter().position(|byte| *byte == 0x1b) {
            rest = rest.get(at..).unwrap_or_default();
            match sequence(rest) {
                Sequence::Complete(len) => {
                    let (this, after) = rest.split_at_checked(len).unwrap_or((rest, &[]));
                    self.apply(this);
                    rest = after;
                }
                Sequence::Incomplete => {
                    self.pending = rest.to_vec();
                    return;
                }
            }
        }
    }

    fn apply(&mut self, sequence: &[u8]) {
        match sequence {
            b"\x1b=" => self.keypad = true,
            b"\x1b>" => self.keypad = false,
            // RIS, and DECSTR, which keeps the current screen.
            b"\x1bc" => *self = Self::default(),
            b"\x1b[!p" => *self = Self { alternate: self.alternate, ..Self::default() },
            [0x1b, b'[', b'?', numbers @ .., end @ (b'h' | b'l')] => {
                for number in numbers.split(|b| *b == b';').filter_map(parse) {
                    self.set.retain(|mode| *mode != number);
                    if ALTERNATE.contains(&number) {
                        self.alternate = *end == b'h';
                    }
                    if *end == b'h' && TRACKED.contains(&number) {
                        self.set.push(number);
                    }
                }
            }
            [0x1b, b'[', style @ .., b' ', b'q'] => self.cursor_style = parse(style).unwrap_or(0),
            _ => {}
        }
    }

    pub(super) fn write(&self, out: &mut String) {
        // Writing to a String cannot fail.
        for mode in &self.set {
            let _ = write!(out, "\x1b[?{mode}h");
        }
        if self.keypad {
            out.push_str("\x1b=");
        }
        if self.cursor_style != 0 {
            let _ = write!(out, "\x1b[{} q", self.cursor_style);
        }
    }
}

fn parse(digits: &[u8]) -> Option<u16> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

enum Sequence {
    /// Complete, with this length.
    Complete(usize),
    Incomplete,
}

/// Length of the sequence that begins with ESC. Recognizes only short CSI sequences and two-byte escapes. OSC and DCS strings
/// are read as text; they can contain ESC only at their end.
fn sequence(bytes: &[u8]) -> Sequence {
    match bytes.get(1) {
        None => Sequence::Incomplete,
        Some(b'[') => match bytes.iter().skip(2).position(|b| !(0x20..=0x3f).contains(b)) {
            Some(at) => Sequence::Complete(at + 3),
            None if bytes.len() > MAX_SEQUENCE => Sequence::Complete(2),
            None => Sequence::Incomplete,
        },
        // Another ESC starts a new sequence.
        Some(0x1b) => Sequence::Complete(1),
        Some(_) => Sequence::Complete(2),
    }
}
