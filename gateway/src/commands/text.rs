//! How commands write what people read: tables with a header, counts with their noun, times to the second.

use std::fmt;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use jiff::{Timestamp, Zoned};

/// Columns as wide as their widest cell. A column whose header begins with `>` is flush right.
pub(super) struct Table {
    right: Vec<bool>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new<const COLUMNS: usize>(header: [&str; COLUMNS]) -> Self {
        let right = header.iter().map(|cell| cell.starts_with('>')).collect();
        let header = header.iter().map(|cell| cell.trim_start_matches('>').to_owned()).collect();
        Self { right, rows: vec![header] }
    }

    pub(super) fn with<T, const COLUMNS: usize>(mut self, rows: &[T], cells: impl Fn(&T) -> [String; COLUMNS]) -> Self {
        rows.iter().for_each(|row| self.row(cells(row)));
        self
    }

    pub(super) fn row<const COLUMNS: usize>(&mut self, cells: [String; COLUMNS]) {
        self.rows.push(cells.into());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width_of =
            |column: usize| self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
        let widths = (0..self.right.len()).map(width_of).collect::<Vec<_>>();
        for (number, row) in self.rows.iter().enumerate() {
            let cells = row.iter().zip(&widths).zip(&self.right).map(|((cell, width), is_right)| match is_right {
                true => format!("{cell:>width$}"),
                false => format!("{cell:<width$}"),
            });
            let line = cells.collect::<Vec<_>>().join("  ");
            write!(f, "{}{}", if number == 0 { "" } else { "\n" }, line.trim_end())?;
        }
        Ok(())
    }
}

/// `1 unit`, `2 units`.
pub(super) fn count(number: u64, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

/// One of these words. Whoever misspells one is told which it is most like, and shells complete them.
pub(super) fn one_of<T: Copy + Send + Sync + 'static, const COUNT: usize>(
    all: [T; COUNT],
    word: fn(T) -> &'static str,
) -> impl TypedValueParser<Value = T> {
    let meant = move |given: String| all.into_iter().find(|one| word(*one) == given);
    PossibleValuesParser::new(all.map(word)).map(move |given| meant(given).expect("other words were refused before"))
}

/// A list that goes on, or has ended.
pub(super) fn with_next(table: &Table, next: Option<&dyn fmt::Display>) -> String {
    next.map_or_else(|| table.to_string(), |next| format!("{table}\nmore: --after {next}"))
}

/// A time as RFC 3339 has it. With a zone behind it in brackets, the offset must be one that the zone has then: a clock that
/// shows no such hour on that day is a mistake.
pub(super) fn instant(text: &str) -> Result<Timestamp, String> {
    let read = if text.contains('[') { text.parse::<Zoned>().map(|at| at.timestamp()) } else { text.parse() };
    read.map_err(|error| format!("{error}; a time is written as 2026-11-27T09:00:00Z"))
}

/// To the second; nobody's eyes need more.
pub(super) fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// When the clock opens or closes a drop.
pub(super) fn time_or_by_hand(at: Option<Timestamp>) -> String {
    at.map_or_else(|| "by hand".to_owned(), time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_a_header_and_columns_that_stand_below_each_other() {
        let mut table = Table::new(["NAME", ">UNITS", "STATE"]);
        table.row(["shoe".to_owned(), "1000".to_owned(), "open".to_owned()]);
        table.row(["überschuh".to_owned(), "7".to_owned(), String::new()]);
        assert_eq!(table.to_string(), "NAME       UNITS  STATE\nshoe        1000  open\nüberschuh      7");
    }

    #[test]
    fn one_is_singular_and_times_end_with_the_second() {
        assert_eq!([0, 1, 2].map(|number| count(number, "unit")), ["0 units", "1 unit", "2 units"]);
        assert_eq!(time("2026-11-23T09:00:00.987654Z".parse().unwrap()), "2026-11-23T09:00:00Z");
    }

    #[test]
    fn a_time_that_no_clock_in_its_zone_shows_is_refused() {
        for given in ["2027-03-28T01:30:00Z", "2027-03-28T03:30:00+02:00[Europe/Berlin]"] {
            assert_eq!(instant(given).map(|at| at.to_string()), Ok("2027-03-28T01:30:00Z".to_owned()), "{given}");
        }
        for given in ["2027-03-28T02:30:00+02:00[Europe/Berlin]", "2027-03-28T02:30:00", "tomorrow", ""] {
            assert!(instant(given).is_err_and(|why| why.contains("2026-11-27T09:00:00Z")), "{given}");
        }
    }
}
