//! The size of a terminal.

/// A terminal's size in cells; both are at least 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Columns.
    pub cols: u16,
    /// Rows.
    pub rows: u16,
}

impl Default for Size {
    /// The size of a VT100, until a client sends one.
    fn default() -> Self {
        Self { cols: 80, rows: 24 }
    }
}
