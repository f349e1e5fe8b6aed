//! Rows in aligned columns. Colours take no room.

use std::io::{self, Write};

use owo_colors::OwoColorize;

/// The space between two columns.
const GAP: usize = 2;

/// A table that is being filled.
#[derive(Debug)]
pub(super) struct Table<const N: usize> {
    head: [&'static str; N],
    rows: Vec<[String; N]>,
    widths: [usize; N],
}

impl<const N: usize> Table<N> {
    /// An empty table.
    pub fn new(head: [&'static str; N]) -> Self {
        Self { head, rows: vec![], widths: head.map(str::len) }
    }

    /// Adds a row.
    pub fn row(&mut self, row: [String; N]) {
        for (width, cell) in self.widths.iter_mut().zip(&row) {
            *width = (*width).max(shown(cell));
        }
        self.rows.push(row);
    }

    /// Writes the head.
    pub fn write_head(&self, out: &mut impl Write) -> io::Result<()> {
        self.write(out, &self.head.map(|title| title.bold().to_string()))
    }

    /// Writes the rows that were added, and forgets them; later ones get columns at least as wide.
    pub fn write_rows(&mut self, out: &mut impl Write) -> io::Result<()> {
        let rows = std::mem::take(&mut self.rows);
        rows.iter().try_for_each(|row| self.write(out, row))
    }

    fn write(&self, out: &mut impl Write, row: &[String; N]) -> io::Result<()> {
        for (i, cell) in row.iter().enumerate() {
            // Nothing is written behind a line's last word.
            let is_last = row[i + 1..].iter().all(String::is_empty);
            if is_last {
                return writeln!(out, "{cell}");
            }
            let padding = self.widths[i].saturating_sub(shown(cell)) + GAP;
            write!(out, "{cell}{:padding$}", "")?;
        }
        Ok(())
    }
}

/// How many columns of a terminal the text takes: names and addresses are ASCII.
fn shown(cell: &str) -> usize {
    anstream::adapter::strip_str(cell).to_string().chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(["NAME", "STATE", "AGE"]);
        table.row(["a-long-name".into(), "ready".green().to_string(), "1".into()]);
        table.row(["b".into(), "gone".into(), String::new()]);
        let mut out = Vec::new();
        table.write_head(&mut out).unwrap();
        table.write_rows(&mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let plain = anstream::adapter::strip_str(&text).to_string();
        assert_eq!(plain, "NAME         STATE  AGE\na-long-name  ready  1\nb            gone\n");
    }
}
