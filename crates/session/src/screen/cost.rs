//! What following output costs, so that it can be bounded.

use std::cell::Cell;

use avt::{
    Observation, Observer, Operation,
    parser::{DecMode, Function},
};

/// Cells' worth of work of any function: to parse it, call it, and tell the observers.
const FUNCTION: i64 = 8;
/// The same of one that changes colours, which the scrollback may have to write out as text.
const COLOURS: i64 = 64;

/// Counts cells touched, before they are.
pub(super) struct Meter<'a>(pub(super) &'a Cell<i64>);

impl Observer for Meter<'_> {
    type Output = ();

    fn before(&mut self, context: &mut Observation<'_>, operation: &Operation) {
        let Operation::Function(function) = operation else { return };
        let terminal = context.terminal();
        let (cols, rows) = terminal.size();
        let row = terminal.cursor().row;
        self.0.set(self.0.get() + of(function, cols, rows, row));
    }

    fn end(&mut self, _: &mut Observation<'_>) {}
}

/// At most what `avt` touches: its counts of lines and cells end at the screen's edge, but for REP, which [`clamp`]
/// bounds. With insert mode a character moves the rest of its line; that is a copy, and cheaper than as many cells.
fn of(function: &Function, cols: usize, rows: usize, row: usize) -> i64 {
    let (cols, lines) = (to_cells(cols), to_cells(rows));
    let screen = cols * lines;
    // Scrolled out, made anew, written into the scrollback; and lines change places.
    let scroll = |count: i64| count.clamp(1, lines) * 3 * (cols + lines);
    // One is scrolled every line of characters.
    let print = FUNCTION + cols / 64 + scroll(1) / cols;
    FUNCTION
        + match function {
            Function::Print(_) => print - FUNCTION,
            Function::Rep(count) => i64::from(*count).max(1) * print,
            Function::Lf | Function::Nel | Function::Ri if row > 0 && row + 1 < rows => scroll(1) / 8,
            Function::Lf | Function::Nel | Function::Ri => scroll(1),
            Function::Su(count) | Function::Sd(count) | Function::Il(count) | Function::Dl(count) => {
                scroll(i64::from(*count))
            }
            Function::Ich(_) | Function::Dch(_) | Function::Ech(_) | Function::El(_) => 2 * cols,
            Function::Ed(_) | Function::Decaln => 5 * screen,
            Function::Ris => 3 * screen,
            Function::Decset(modes) | Function::Decrst(modes)
                if modes.as_slice().iter().any(|mode| {
                    matches!(mode, DecMode::AltScreenBuffer | DecMode::SaveCursorAltScreenBuffer)
                }) =>
            {
                3 * screen
            }
            Function::Sgr(_) => COLOURS,
            _ => 0,
        }
}

/// What painting a screen costs, or putting its lines into another width.
pub(super) fn of_screen((cols, rows): (usize, usize)) -> i64 {
    16 * to_cells(cols) * to_cells(rows)
}

fn to_cells(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX / 4)
}

/// Takes from a repetition of a character what changes nothing on the screen: once that is full of it, it looks the same
/// again after every whole number of lines, be it a wide character or not.
pub(super) fn clamp(function: Function, (cols, rows): (usize, usize)) -> Function {
    let Function::Rep(count) = function else { return function };
    let (full, count) = (2 * cols * rows, usize::from(count));
    let lines = if cols.is_multiple_of(2) { cols } else { cols * (cols / 2).max(1) };
    let count = if count > full { full + (count - full) % lines } else { count };
    Function::Rep(u16::try_from(count).unwrap_or(u16::MAX))
}
