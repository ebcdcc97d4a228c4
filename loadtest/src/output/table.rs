//! Tables of text that are Markdown too: what a run prints can stand in a document as it is.

use std::fmt;

pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new(header: &[&str]) -> Self {
        Self { rows: vec![header.iter().map(|&name| name.to_owned()).collect()] }
    }

    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or_default();
        let cell = |row: &Vec<String>, column: usize| row.get(column).cloned().unwrap_or_default();
        let width = |column| self.rows.iter().map(|row| cell(row, column).chars().count()).max().unwrap_or_default();
        let widths = (0..columns).map(width).collect::<Vec<_>>();
        for (number, row) in self.rows.iter().enumerate() {
            // Names to the left, figures to the right.
            for (column, width) in widths.iter().enumerate() {
                let text = cell(row, column);
                match column {
                    0 => write!(formatter, "| {text:width$} ")?,
                    _ => write!(formatter, "| {text:>width$} ")?,
                }
            }
            writeln!(formatter, "|")?;
            if number == 0 {
                for (column, width) in widths.iter().enumerate() {
                    let dashes = "-".repeat(width + 1);
                    write!(formatter, "|{dashes}{}", if column == 0 { '-' } else { ':' })?;
                }
                writeln!(formatter, "|")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(&["way", "µs"]);
        table.row(["tokens".to_owned(), "1".to_owned()]);
        assert_eq!(table.to_string(), "| way    | µs |\n|--------|---:|\n| tokens |  1 |\n");
    }
}
