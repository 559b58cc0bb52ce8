//! The terminal as it stands: what a client is shown in place of output that is gone.

use std::{collections::VecDeque, fmt::Write as _};

use avt::{
    Color, Line, Observation, Observer, Operation, Pen, Terminal,
    parser::{EdScope, Function},
};
use shellbridge_protocol::{limits::SNAPSHOT_SCROLLBACK, size::Size, stream::OutputLog};

/// A model of the terminal that follows every byte of the shell.
///
/// `avt` models both screens, cursor, colours, margins, tabs and charsets. What it does not know is kept beside it:
/// the scrollback, compactly as text, and the modes that only concern the user's end (mouse, paste, keypad).
/// Combining characters are not kept: `avt` has one character a cell.
pub(crate) struct Screen {
    terminal: Terminal,
    history: History,
    modes: Modes,
    /// The beginning of a character whose rest is still to come.
    partial: Vec<u8>,
    /// Offset of the first byte of the output that it has not seen.
    at: u64,
    /// Bytes that were not passed over.
    #[cfg(test)]
    followed: usize,
}

/// Lines that left the primary screen, as text with colours. A soft-wrapped line is one with what follows it.
#[derive(Default)]
struct History {
    lines: VecDeque<Box<str>>,
    /// Bytes of all of them: colours can make a line a hundred times as long as its text.
    bytes: usize,
    /// The last line goes on in the next.
    open: String,
    /// Only a part of the screen may be scrolling.
    margins: bool,
    /// Something was printed: the parser is outside any escape sequence or string.
    printed: bool,
}

/// How the user's terminal is to behave: the last word on each mode.
#[derive(Default)]
struct Modes {
    /// DEC private modes that are set.
    set: Vec<u16>,
    keypad: bool,
    /// DECSCUSR.
    cursor_style: u16,
    /// An escape sequence whose end is still to come.
    pending: Vec<u8>,
}

/// Modes of the user's end, as xterm numbers them: mouse tracking and its encodings, focus, blink, bracketed paste.
const TRACKED: [u16; 11] = [9, 12, 1000, 1002, 1003, 1004, 1005, 1006, 1015, 1016, 2004];
/// Bytes of scrollback, whatever it is made of.
const MAX_HISTORY: usize = 512 * 1024;
/// Longest escape sequence that can hold a tracked mode.
const MAX_SEQUENCE: usize = 64;
/// Plain text that is followed in any case, to see that it is printed; enough to end any sequence.
const PROOF: usize = 2 * MAX_SEQUENCE;

impl Screen {
    pub(crate) fn new(size: Size) -> Self {
        // Infallible: `Size` is at least 1×1. The fallback is avt's own smallest.
        let terminal = Terminal::new(size.cols.into(), size.rows.into());
        Self {
            terminal: terminal.unwrap_or_else(|_| unreachable!("a size is positive")),
            history: History::default(),
            modes: Modes::default(),
            partial: Vec::new(),
            at: 0,
            #[cfg(test)]
            followed: 0,
        }
    }

    /// Offset of the first byte of the output that it has not seen.
    pub(crate) const fn at(&self) -> u64 {
        self.at
    }

    /// Whether these bytes are text and line ends alone, so that following them may wait.
    pub(crate) fn is_plain(bytes: &[u8]) -> bool {
        bytes.iter().all(|byte| is_plain(*byte))
    }

    /// Follows the shell's output to its end.
    pub(crate) fn catch_up(&mut self, log: &OutputLog) {
        // Whoever appends sees to it that nothing is gone that was not followed.
        if let Some((a, b)) = log.since(self.at) {
            self.feed_before(a, b);
            self.feed(b);
            self.at = log.end();
        }
    }

    /// Bytes that are not UTF-8 are passed over, as xterm.js does.
    ///
    /// Of plain lines, only as many are followed as the scrollback and the screen hold: those before them would
    /// leave no trace. A model reads 50 MB a second, which is most of what a build log costs; so give it much at once.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        self.feed_before(bytes, &[]);
    }

    /// The same, with what is to be fed after it: lines that it holds need not be kept of this.
    fn feed_before(&mut self, bytes: &[u8], next: &[u8]) {
        let (_, rows) = self.terminal.size();
        let lines = SNAPSHOT_SCROLLBACK + 2 * rows + 2;
        let next = next.split(|byte| !is_plain(*byte)).next().unwrap_or_default();
        let kept_by_next = next.windows(2).filter(line_end).take(lines).count();
        let (mut fed, mut at) = (0, 0);
        while let Some(rest) = bytes.get(at..).filter(|rest| rest.len() > PROOF + 2 * lines) {
            let run = rest.iter().position(|byte| !is_plain(*byte)).unwrap_or(rest.len());
            let kept = if run == rest.len() { lines - kept_by_next } else { lines };
            if let Some((proof, tail)) = rest.get(..run).and_then(|run| beyond(run, kept)) {
                self.follow(bytes.get(fed..at).unwrap_or_default());
                self.history.printed = false;
                self.follow(rest.get(..proof).unwrap_or_default());
                let scrolls = self.history.printed && !self.history.margins;
                fed = at + if scrolls { tail } else { proof };
            }
            at += run + 1;
        }
        self.follow(bytes.get(fed..).unwrap_or_default());
    }

    fn follow(&mut self, bytes: &[u8]) {
        #[cfg(test)]
        {
            self.followed += bytes.len();
        }
        self.modes.scan(bytes);
        let joined;
        let bytes = if self.partial.is_empty() {
            bytes
        } else {
            joined = [std::mem::take(&mut self.partial).as_slice(), bytes].concat();
            joined.as_slice()
        };
        let mut chunks = bytes.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            self.terminal.feed_with(chunk.valid(), &mut self.history);
            let rest = chunk.invalid();
            if chunks.peek().is_none() && std::str::from_utf8(rest).is_err_and(|e| e.error_len().is_none()) {
                self.partial = rest.to_vec();
            }
        }
    }

    pub(crate) fn resize(&mut self, size: Size) {
        self.terminal.resize_with(size.cols.into(), size.rows.into(), &mut self.history);
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
        // The dump ends with an unfinished escape sequence, if there is one; so does an unfinished character.
        out.push_str(&self.terminal.dump());
        let mut out = out.into_bytes();
        out.extend_from_slice(&self.partial);
        out
    }
}

/// Bytes that print a character or move to the next line or tab, whatever modes are set.
const fn is_plain(byte: u8) -> bool {
    matches!(byte, 0x20..=0x7e | b'\r' | b'\n' | b'\t')
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

impl Observer for History {
    type Output = ();

    fn evicted(&mut self, _: &mut Observation<'_>, line: &Line) {
        write_line(&mut self.open, line);
        // A line without end would grow without bound.
        if !line.is_wrapped() || self.open.len() > 16 * 1024 {
            self.bytes += self.open.len();
            self.lines.push_back(std::mem::take(&mut self.open).into_boxed_str());
            while self.lines.len() > SNAPSHOT_SCROLLBACK || self.bytes > MAX_HISTORY {
                let Some(oldest) = self.lines.pop_front() else { break };
                self.bytes -= oldest.len();
            }
        }
    }

    fn after(&mut self, context: &mut Observation<'_>, operation: &Operation) {
        let Operation::Function(function) = operation else { return };
        match function {
            Function::Print(_) => self.printed = true,
            Function::Decstbm(top, bottom) => {
                let (_, rows) = context.terminal().size();
                self.margins = *top > 1 || !(*bottom == 0 || usize::from(*bottom) == rows);
            }
            Function::Decstr => self.margins = false,
            Function::Ed(EdScope::SavedLines) => *self = Self { margins: self.margins, ..Self::default() },
            Function::Ris => *self = Self::default(),
            _ => {}
        }
    }

    fn end(&mut self, _: &mut Observation<'_>) {}
}

/// Appends a line's text, with colours where they change.
fn write_line(out: &mut String, line: &Line) {
    let mut pen = Pen::default();
    let cells = line.cells();
    let blank = |cell: &&avt::Cell| cell.char() == ' ' && cell.pen().is_default();
    let used = if line.is_wrapped() {
        cells.len()
    } else {
        cells.len() - cells.iter().rev().take_while(blank).count()
    };
    for cell in cells.iter().take(used).filter(|cell| cell.width() > 0) {
        if *cell.pen() != pen {
            pen = *cell.pen();
            write_pen(out, &pen);
        }
        out.push(cell.char());
    }
    if !pen.is_default() {
        out.push_str("\x1b[m");
    }
}

/// Select Graphic Rendition, from nothing (ECMA-48, section 8.3.117).
fn write_pen(out: &mut String, pen: &Pen) {
    out.push_str("\x1b[0");
    for (on, code) in [
        (pen.is_bold(), ";1"),
        (pen.is_faint(), ";2"),
        (pen.is_italic(), ";3"),
        (pen.is_underline(), ";4"),
        (pen.is_blink(), ";5"),
        (pen.is_inverse(), ";7"),
        (pen.is_strikethrough(), ";9"),
    ] {
        if on {
            out.push_str(code);
        }
    }
    for (color, base) in [(pen.foreground(), 38), (pen.background(), 48)] {
        // Writing to a String cannot fail.
        let _ = match color {
            None => Ok(()),
            Some(Color::Indexed(index)) => write!(out, ";{base};5;{index}"),
            Some(Color::RGB(rgb)) => write!(out, ";{base};2;{};{};{}", rgb.r, rgb.g, rgb.b),
        };
    }
    out.push('m');
}

impl Modes {
    /// Looks for the few sequences that matter; everything else is passed over at the speed of a search.
    fn scan(&mut self, bytes: &[u8]) {
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
            // RIS and DECSTR.
            b"\x1bc" | b"\x1b[!p" => *self = Self::default(),
            [0x1b, b'[', b'?', numbers @ .., end @ (b'h' | b'l')] => {
                for number in numbers.split(|b| *b == b';').filter_map(parse) {
                    self.set.retain(|mode| *mode != number);
                    if *end == b'h' && TRACKED.contains(&number) {
                        self.set.push(number);
                    }
                }
            }
            [0x1b, b'[', style @ .., b' ', b'q'] => self.cursor_style = parse(style).unwrap_or(0),
            _ => {}
        }
    }

    fn write(&self, out: &mut String) {
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
    /// It is this long.
    Complete(usize),
    Incomplete,
}

/// Where the sequence that begins with ESC ends. Only short CSI sequences and two-byte escapes are told apart;
/// the strings of OSC and DCS are read as text, and cannot hold ESC but as their end.
fn sequence(bytes: &[u8]) -> Sequence {
    match bytes.get(1) {
        None => Sequence::Incomplete,
        Some(b'[') => match bytes.iter().skip(2).position(|b| !(0x20..=0x3f).contains(b)) {
            Some(at) => Sequence::Complete(at + 3),
            None if bytes.len() > MAX_SEQUENCE => Sequence::Complete(2),
            None => Sequence::Incomplete,
        },
        // Another ESC starts anew.
        Some(0x1b) => Sequence::Complete(1),
        Some(_) => Sequence::Complete(2),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn screen(cols: u16, rows: u16, text: &str) -> Screen {
        let mut screen = Screen::new(Size { cols, rows });
        screen.feed(text.as_bytes());
        screen
    }

    fn shown(terminal: &Terminal) -> Vec<String> {
        terminal.screen().text()
    }

    fn text(screen: &Screen) -> String {
        String::from_utf8(screen.snapshot()).unwrap()
    }

    /// A client's terminal, reset and given the snapshot.
    fn restored(screen: &Screen) -> Terminal {
        let (cols, rows) = screen.terminal.size();
        let mut terminal = Terminal::with_scrollback(cols, rows, None).unwrap();
        terminal.feed(text(screen));
        terminal
    }

    #[test]
    fn scrollback_stays_above_the_screen() {
        let screen = screen(10, 3, "one\r\ntwo\r\nthree\r\nfour\r\n\x1b[31mfive");
        let terminal = restored(&screen);
        assert_eq!(shown(&terminal), ["one", "two", "three", "four", "five"]);
        assert_eq!(terminal.cursor().position(), Some((4, 2)));
    }

    #[test]
    fn a_nearly_empty_screen_stays_at_the_top() {
        let screen = screen(10, 5, "a\r\nb\r\nc\r\nd\r\ne\r\nf\x1b[H\x1b[J$ ");
        let terminal = restored(&screen);
        assert_eq!(terminal.screen().line(0).unwrap().text().trim_end(), "$");
        assert_eq!(terminal.cursor().position(), Some((2, 0)));
    }

    #[test]
    fn quitting_vi_after_a_snapshot_brings_the_shell_back() {
        let screen = screen(20, 4, "$ vi x\r\n\x1b[?1049h\x1b[2J\x1b[H~ text\x1b[?2004h");
        let mut terminal = restored(&screen);
        assert_eq!(terminal.screen().line(0).unwrap().text().trim_end(), "~ text");
        terminal.feed("\x1b[?1049l");
        assert_eq!(terminal.screen().line(0).unwrap().text().trim_end(), "$ vi x");
        assert!(text(&screen).contains("\x1b[?2004h"));
    }

    #[test]
    fn modes_are_the_last_word_even_when_cut_in_pieces() {
        let mut screen = screen(10, 3, "");
        for byte in b"\x1b[?1000;1006h\x1b]0;title\x07\x1b[?1000l\x1b=\x1b[5 q\x1b[?25l" {
            screen.feed(&[*byte]);
        }
        let snapshot = text(&screen);
        assert!(snapshot.contains("\x1b[?1006h\x1b=\x1b[5 q"), "{snapshot:?}");
        assert!(!snapshot.contains("1000"), "{snapshot:?}");
        screen.feed(b"\x1bc");
        assert!(!text(&screen).contains("1006"));
    }

    #[test]
    fn characters_may_be_cut_anywhere_and_nonsense_is_passed_over() {
        let mut screen = screen(10, 3, "");
        for byte in "añ界".bytes().chain([0xff, b'b', 0xe2, 0x82]).chain([b'c']) {
            screen.feed(&[byte]);
        }
        assert_eq!(shown(&restored(&screen))[0].trim_end(), "añ界bc");
    }

    #[test]
    fn an_unfinished_character_ends_the_snapshot() {
        let mut screen = screen(10, 3, "a");
        screen.feed(&[0xe2, 0x82]);
        assert!(screen.snapshot().ends_with(&[0xe2, 0x82]));
    }

    #[test]
    fn clearing_the_scrollback_clears_it_here_too() {
        let screen = screen(10, 2, "a\r\nb\r\nc\r\nd\x1b[3J");
        assert_eq!(screen.history.lines.len(), 0);
    }

    #[test]
    fn scrollback_is_bounded() {
        let screen = screen(10, 2, &"x\r\n".repeat(SNAPSHOT_SCROLLBACK + 50));
        assert_eq!(screen.history.lines.len(), SNAPSHOT_SCROLLBACK);
        let colours = "\x1b[38;2;100;100;100mx\x1b[38;2;200;200;200my".repeat(400);
        let colourful = self::screen(1000, 2, &format!("{colours}\r\n").repeat(SNAPSHOT_SCROLLBACK));
        assert!(colourful.history.bytes <= MAX_HISTORY);
        let endless = self::screen(10, 2, &"x".repeat(100_000));
        assert!(endless.history.open.len() <= 17 * 1024);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Plain lines that are passed over leave the same terminal as if every byte had been followed.
        #[test]
        fn what_is_passed_over_leaves_no_trace(
            parts in proptest::collection::vec((
                prop_oneof![
                    "\\x1b\\[[1-4];[1-5]r(\\x1b\\[[1-5]H)?",
                    "\\x1b\\[r|\\x1bc|\\x1b\\[!p|\\x1b\\[3J|\\x1b\\[2J",
                    "\\x1b\\[[?](1049|7|6)[hl]|\\x1b\\[4[hl]|\\x1b\\[20[hl]",
                    "\\x1b\\[[1-5];[1-9]H|\\x1b\\[4[1-7]m|\\x1b\\[m|\\x0e|\\x1b[(]0|\\x1bH",
                    "\\x1b|\\x1b\\[|\\x1b\\]0;|\\x1bP|\\x1b\\[?[0-9]{0,70}|\\x07|\\x1b\\\\|界|\u{9b}3",
                    "[a-z]{0,30}",
                ],
                ("[a-z0-9 \t]{0,25}", "(\r\n|\n|\r)?", 0_usize..2600, "[a-z]{0,14}"),
            ), 1..5),
            cut: proptest::sample::Index,
        ) {
            let mut text = String::new();
            for (before, (line, end, count, rest)) in &parts {
                text.push_str(before);
                for n in 0..*count {
                    text.push_str(line.get(..line.len() - n % (line.len() + 1)).unwrap_or(line));
                    text.push_str(if n % 3 == 0 { end } else { "\r\n" });
                }
                text.push_str(rest);
            }
            let (mut passing, mut following) = (screen(12, 5, ""), screen(12, 5, ""));
            passing.feed(text.as_bytes());
            following.follow(text.as_bytes());
            prop_assert_eq!(passing.snapshot(), following.snapshot());
            // In two pieces, as it lies in a log.
            let (a, b) = text.as_bytes().split_at(cut.index(text.len() + 1));
            let mut passing = screen(12, 5, "");
            passing.feed_before(a, b);
            passing.feed(b);
            prop_assert_eq!(passing.snapshot(), following.snapshot());
        }
    }

    #[test]
    fn most_of_a_build_log_is_passed_over() {
        let log: Vec<u8> = (0..20_000).flat_map(|n| format!("{n} compiling\r\n").into_bytes()).collect();
        let run = &log[..];
        let (proof, tail) = beyond(run, 1000).unwrap();
        assert_eq!(&log[proof - 2..proof], b"\r\n");
        assert!(log[tail..].starts_with(b"19000 compiling\r\n"), "{}", tail);
        let mut screen = screen(80, 24, "$ make\r\n");
        screen.feed(run);
        assert!(text(&screen).contains("18999 compiling") && !text(&screen).contains("18900 compiling"));
        assert!(screen.followed < log.len() / 10, "{} of {}", screen.followed, log.len());
        // Nor does it cost more where it lies in two pieces.
        let (once, (a, b)) = (screen.followed, run.split_at(run.len() / 2));
        let mut screen = self::screen(80, 24, "$ make\r\n");
        screen.feed_before(a, b);
        screen.feed(b);
        assert!(screen.followed <= once + 2 * PROOF, "{} and {once}", screen.followed);
        assert!(text(&screen).contains("18999 compiling") && !text(&screen).contains("18900 compiling"));
    }

    /// Below the part that scrolls, lines are written over each other, and long ones leave their ends.
    #[test]
    fn nothing_is_passed_over_where_only_a_part_of_the_screen_scrolls() {
        let lines = ["x\r\n".repeat(60), "longer\r\n".repeat(200), "short\r\n".repeat(1_100)].concat();
        let mut screen = screen(12, 5, "\x1b[1;3r\x1b[5H");
        screen.feed(lines.as_bytes());
        assert!(text(&screen).contains("shortr"));
        screen.feed(b"\x1b[1;5r\x1b[5H");
        assert!(!screen.history.margins);
    }

    proptest! {
        /// Whatever the shell wrote, the restored terminal shows the same screen, now and after more output.
        #[test]
        fn a_restored_terminal_equals_one_that_saw_everything(
            parts in proptest::collection::vec(prop_oneof![
                "[a-z界 ]{1,12}".prop_map(String::from),
                Just("\r\n".to_owned()),
                (0_u8..50).prop_map(|n| format!("\x1b[{n}m")),
                (1_u8..9, 1_u8..20).prop_map(|(r, c)| format!("\x1b[{r};{c}H")),
                prop_oneof!["\x1b\\[\\?1049[hl]", "\x1b\\[[0-2]?[JKLMP@]", "\x1b[78M]"].prop_map(String::from),
            ], 0..40),
            more in "[a-z\r\n]{0,20}",
        ) {
            let mut all = Terminal::new(12, 5).unwrap();
            let text = parts.concat();
            all.feed(text.as_str());
            let mut after = restored(&screen(12, 5, &text));
            for terminal in [&mut all, &mut after] {
                terminal.feed(more.as_str());
            }
            let cells = |t: &Terminal| t.screen().visible_lines().map(|l| l.cells().to_vec()).collect::<Vec<_>>();
            prop_assert_eq!(cells(&all), cells(&after));
            prop_assert_eq!(all.cursor(), after.cursor());
        }
    }
}
