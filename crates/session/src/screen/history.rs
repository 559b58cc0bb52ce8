//! The scrollback, as text.

use std::{collections::VecDeque, fmt::Write as _};

use avt::{
    Color, Line, Observation, Observer, Operation, Pen,
    parser::{EdScope, Function},
};
use shellbridge_protocol::limits::SNAPSHOT_SCROLLBACK;

/// Most bytes of scrollback.
pub(super) const MAX_HISTORY: usize = 512 * 1024;
/// Most bytes of one line.
const MAX_LINE: usize = 16 * 1024;

/// Lines that left the primary screen, as text with colours. Joins soft-wrapped lines.
#[derive(Default)]
pub(super) struct History {
    pub(super) lines: VecDeque<Box<str>>,
    /// Bytes of all lines: colours can make a line a hundred times as long as its text.
    pub(super) bytes: usize,
    /// The last line continues in the next.
    pub(super) open: String,
    /// Number of skipped bytes that the last line reports; 0 if the line is output.
    skipped: u64,
    /// Possibly only a part of the screen scrolls.
    pub(super) margins: bool,
    /// A character was printed, so the parser is outside any escape sequence or string.
    pub(super) printed: bool,
}

impl History {
    /// Adds a line that reports missing output.
    pub(super) fn skip(&mut self, bytes: u64) {
        if !self.open.is_empty() {
            self.close();
        }
        if self.skipped > 0
            && let Some(line) = self.lines.pop_back()
        {
            self.bytes -= line.len();
        }
        let skipped = self.skipped + bytes;
        self.open =
            format!("\x1b[7m[{skipped} bytes of output came too fast for this picture of the screen]\x1b[m");
        self.close();
        self.skipped = skipped;
        self.margins = false;
    }

    /// Ends the line.
    fn close(&mut self) {
        self.skipped = 0;
        self.bytes += self.open.len();
        self.lines.push_back(std::mem::take(&mut self.open).into_boxed_str());
        while self.lines.len() > SNAPSHOT_SCROLLBACK || self.bytes > MAX_HISTORY {
            let Some(oldest) = self.lines.pop_front() else { break };
            self.bytes -= oldest.len();
        }
    }
}

impl Observer for History {
    type Output = ();

    fn evicted(&mut self, _: &mut Observation<'_>, line: &Line) {
        write_line(&mut self.open, line);
        // An endless line would grow without bound.
        if !line.is_wrapped() || self.open.len() > MAX_LINE {
            self.close();
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

/// Select Graphic Rendition, starting from the default (ECMA-48, section 8.3.117).
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
