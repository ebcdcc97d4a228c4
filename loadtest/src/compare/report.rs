//! What a comparison prints, writes and draws.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context as _;
use serde_json::{Value, json};

use super::bench::Sample;
use super::figures::FIGURES;
use super::probe::Probe;
use crate::generator::Tally;
use crate::machine::Machine;
use crate::output::{self, Axis, Figure, Table};

pub(super) struct Report {
    pub(super) machine: Machine,
    pub(super) load_average_after: f64,
    pub(super) samples: BTreeMap<Probe, Vec<Sample>>,
    pub(super) figures: BTreeMap<&'static str, Figure>,
}

impl Report {
    pub(super) fn print(&self) {
        let header = [
            "measured",
            "a second",
            "min",
            "max",
            "p50 ms",
            "p99 ms",
            "server µs",
            "Redis µs",
            "Postgres µs",
            "generator µs",
        ];
        if !self.samples.is_empty() {
            let mut table = Table::new(&header);
            for (probe, samples) in &self.samples {
                let rate = of(samples, |sample| sample.per_s);
                let middle = |value: fn(&Sample) -> f64| of(samples, value).median;
                let times = [
                    middle(|sample| sample.latency.p50_ms),
                    middle(|sample| sample.latency.p99_ms),
                    middle(|sample| sample.server_us),
                    middle(|sample| sample.redis_us),
                    middle(|sample| sample.postgres_us),
                    middle(|sample| sample.generator_us),
                ];
                let rates = [rate.median, rate.min, rate.max].map(|rate| format!("{rate:.0}"));
                // What was not measured for this line is left out.
                let times = times.map(|time| if time > 0.0 { format!("{time:.1}") } else { String::new() });
                table.row(std::iter::once(probe.name()).chain(rates).chain(times));
            }
            output::print(table.to_string());
        }
        let mut table = Table::new(&["figure", "median", "min", "max", "runs", "goal"]);
        for definition in FIGURES {
            if let Some(figure) = self.figures.get(definition.name) {
                let digits = if figure.median >= 100.0 { 0 } else { 2 };
                let values = [figure.median, figure.min, figure.max].map(|value| format!("{value:.digits$}"));
                let ends = [figure.runs.to_string(), definition.goal.to_owned()];
                table.row(std::iter::once(definition.name.to_owned()).chain(values).chain(ends));
            }
        }
        output::print(table.to_string());
        output::print(format!("load average {:.2} after", self.load_average_after));
    }

    pub(super) fn json(&self) -> Value {
        let rows = self.samples.iter().map(|(probe, samples)| {
            json!({
                "measured": probe.name(),
                "per_s": of(samples, |sample| sample.per_s),
                "p50_ms": of(samples, |sample| sample.latency.p50_ms),
                "p99_ms": of(samples, |sample| sample.latency.p99_ms),
                "server_us": of(samples, |sample| sample.server_us),
                "redis_us": of(samples, |sample| sample.redis_us),
                "postgres_us": of(samples, |sample| sample.postgres_us),
                "generator_us": of(samples, |sample| sample.generator_us),
            })
        });
        json!({
            "machine": self.machine,
            "load_average_after": self.load_average_after,
            "figures": self.figures,
            "rows": rows.collect::<Vec<_>>(),
        })
    }

    /// Latency by percentile at half load, and the rates of the closed loops over their time.
    pub(super) fn draw(&self, folder: &Path) -> anyhow::Result<()> {
        std::fs::create_dir_all(folder).with_context(|| format!("{} cannot be made", folder.display()))?;
        let together = |is_wanted: fn(&Probe) -> bool| {
            let wanted = self.samples.iter().filter(move |(probe, _)| is_wanted(probe));
            wanted.map(|(probe, samples)| {
                let mut all = Tally::default();
                samples.iter().for_each(|sample| all.add(&sample.tally));
                (probe.name(), all)
            })
        };
        let half = together(|probe| matches!(probe, Probe::HalfLoad { .. }));
        let half = half.map(|(name, all)| output::percentiles(&name, &all.latency_us)).collect::<Vec<_>>();
        if !half.is_empty() {
            let (title, path) = ("Latency at half of the rate", folder.join("half-load-latency.svg"));
            output::draw(&path, title, Axis::Nines, Axis::Logarithmic("ms"), &half)?;
        }
        let closed = self.samples.iter().filter(|(probe, _)| matches!(probe, Probe::Claims { connections: 512, .. }));
        let closed = closed.filter_map(|(probe, samples)| {
            let tally = &samples.first()?.tally;
            // The last slice is not a whole one.
            let mut series = output::over_time(&probe.name(), tally);
            series.points.pop();
            (series.points.len() > 1).then_some(series)
        });
        let closed = closed.take(7).collect::<Vec<_>>();
        if !closed.is_empty() {
            let (title, path) = ("Answers a second in the first round", folder.join("claims-throughput.svg"));
            let (x, y) = (Axis::Plain("seconds"), Axis::Logarithmic("answers a second"));
            output::draw(&path, title, x, y, &closed)?;
        }
        Ok(())
    }
}

fn of(samples: &[Sample], value: fn(&Sample) -> f64) -> Figure {
    let values = samples.iter().map(value).collect::<Vec<_>>();
    Figure::of(&values).expect("every probe was measured at least once")
}
