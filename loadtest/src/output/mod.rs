//! What a run prints and draws: tables of text, figures with their spread, plots as SVG.

mod plots;
mod table;

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::generator::Tally;

pub use plots::{Axis, Series, draw};
pub use table::Table;

/// One figure, measured several times.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Figure {
    pub median: f64,
    pub min: f64,
    pub max: f64,
    pub runs: usize,
}

impl Figure {
    /// `None` of nothing.
    pub fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (runs, middle) = (sorted.len(), sorted.len() / 2);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let median = if runs % 2 == 1 { sorted[middle] } else { f64::midpoint(sorted[middle - 1], sorted[middle]) };
        Some(Self { median, min, max, runs })
    }
}

/// Prints a line of a report: the figures are what these programs are run for.
#[expect(clippy::print_stdout, reason = "the one place that prints")]
pub fn print(line: impl AsRef<str>) {
    println!("{}", line.as_ref());
}

/// A bar on stderr, which is gone at the end; nothing where there is no terminal.
pub fn bar(steps: u64, what: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg:40} {bar:30} {pos}/{len}, {elapsed}").expect("a fixed template");
    ProgressBar::new(steps).with_style(style).with_message(what.to_owned())
}

pub fn write_json(path: &Path, value: &impl Serialize) -> anyhow::Result<()> {
    let json = serde_json::to_vec_pretty(value).context("it cannot be written as JSON")?;
    std::fs::write(path, json).with_context(|| format!("{} cannot be written", path.display()))
}

/// What a run has seen, as text.
pub fn print_tally(tally: &Tally, elapsed: Duration) {
    use crate::generator::Percentiles;
    let rate = tally.answered() as f64 / elapsed.as_secs_f64().max(0.001);
    print(format!("{} requests, {} answered, {rate:.0} a second", tally.total(), tally.answered()));
    let mut table = Table::new(&["answer", "requests", "share"]);
    for (outcome, count) in tally.outcomes() {
        let share = 100.0 * count as f64 / tally.total() as f64;
        table.row([outcome.name().to_owned(), count.to_string(), format!("{share:.2} %")]);
    }
    print(table.to_string());
    let mut table = Table::new(&["in ms", "p50", "p90", "p99", "p99.9", "longest"]);
    let lines = [("from the scheduled time", &tally.latency_us), ("until it was sent", &tally.lateness_us)];
    for (name, histogram) in lines {
        let of = Percentiles::of(histogram);
        let figures = [of.p50_ms, of.p90_ms, of.p99_ms, of.p999_ms, of.max_ms].map(|ms| format!("{ms:.2}"));
        table.row(std::iter::once(name.to_owned()).chain(figures));
    }
    print(table.to_string());
    for sentence in &tally.sentences {
        print(format!("seen: {sentence}"));
    }
}

/// Latency by percentile, as a line: how many of ten, a hundred, a thousand requests are faster.
pub fn percentiles(name: &str, latency_us: &Histogram<u64>) -> Series {
    let points = (0..=40).map(|step| f64::from(step) / 10.0).map(|nines| {
        let quantile = 1.0 - 10_f64.powf(-nines);
        (nines, latency_us.value_at_quantile(quantile) as f64 / 1e3)
    });
    Series { name: name.to_owned(), points: points.collect() }
}

/// Answers a second over the time of a run.
pub fn over_time(name: &str, tally: &Tally) -> Series {
    let slice_s = crate::generator::SLICE.as_secs_f64();
    let points = tally.slices.iter().enumerate();
    let points = points.map(|(index, slice)| ((index as f64 + 0.5) * slice_s, slice.answered as f64 / slice_s));
    Series { name: name.to_owned(), points: points.collect() }
}

/// The two plots of a run, into a folder.
pub fn draw_tally(folder: &Path, name: &str, tally: &Tally) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("{} cannot be made", folder.display()))?;
    let latency = percentiles("from the scheduled time", &tally.latency_us);
    let path = folder.join(format!("{name}-latency.svg"));
    draw(&path, "Latency by percentile", Axis::Nines, Axis::Logarithmic("ms"), &[latency])?;
    let path = folder.join(format!("{name}-throughput.svg"));
    let series = [over_time("answers", tally)];
    draw(&path, "Answers a second", Axis::Plain("seconds"), Axis::Plain("answers a second"), &series)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_the_middle_of_its_runs() {
        assert_eq!(Figure::of(&[]), None);
        assert_eq!(Figure::of(&[3.0, 1.0, 2.0]), Some(Figure { median: 2.0, min: 1.0, max: 3.0, runs: 3 }));
        assert_eq!(Figure::of(&[4.0, 1.0]).unwrap().median, 2.5);
    }
}
