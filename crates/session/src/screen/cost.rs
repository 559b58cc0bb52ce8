//! Cost of processing output, to bound it.

use std::cell::Cell;

use avt::{
    Observation, Observer, Operation,
    parser::{DecMode, Function},
};

/// Fixed cost of any function, in cells: parsing, the call and the observers.
const FUNCTION: i64 = 8;
/// Fixed cost of a function that changes colours, which the scrollback may have to write as text.
const COLOURS: i64 = 64;

/// Charges each function before it runs.
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

/// Upper bound of the cells that `avt` touches. Its counts of lines and cells end at the edge of the screen, except REP's,
/// which [`clamp`] bounds. In insert mode a character moves the rest of its line, but a copy is cheaper than those cells.
fn of(function: &Function, cols: usize, rows: usize, row: usize) -> i64 {
    let (cols, lines) = (to_cells(cols), to_cells(rows));
    let screen = cols * lines;
    // A scrolled line is evicted, recreated and written to the scrollback; all lines move.
    let scroll = |count: i64| count.clamp(1, lines) * 3 * (cols + lines);
    // One line scrolls per line of characters.
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

/// Cost of painting a screen, or of rewrapping its lines.
pub(super) fn of_screen((cols, rows): (usize, usize)) -> i64 {
    16 * to_cells(cols) * to_cells(rows)
}

fn to_cells(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX / 4)
}

/// Shortens a repetition of a character without changing the result: once the character fills the screen, every further
/// whole number of lines leaves it the same, even for a wide character.
pub(super) fn clamp(function: Function, (cols, rows): (usize, usize)) -> Function {
    let Function::Rep(count) = function else { return function };
    let (full, count) = (2 * cols * rows, usize::from(count));
    let lines = if cols.is_multiple_of(2) { cols } else { cols * (cols / 2).max(1) };
    let count = if count > full { full + (count - full) % lines } else { count };
    Function::Rep(u16::try_from(count).unwrap_or(u16::MAX))
}
