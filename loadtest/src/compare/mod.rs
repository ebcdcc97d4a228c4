//! `compare`: every way against every other in one run, interleaved and repeated, with medians and spread.
//!
//! A figure is a ratio of two samples of the same round, so that a machine whose speed drifts favours neither. Every sample has
//! a drop and buyers of its own; servers are processes that stay, so that no sample pays for a start.

mod bench;
mod figures;
mod probe;
mod report;

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context as _, ensure};
use clap::Args;
use jiff::SignedDuration;

use crate::machine::{self, Machine};
use crate::output::{self, Figure};
use crate::stage::Stage;
use bench::{Bench, Sample};
use figures::{FIGURES, Measured};
use probe::Probe;

const ROUNDS: usize = 5;

#[derive(Debug, Args)]
pub struct CompareArguments {
    /// Measures just these figures, comma-separated; --list names them
    #[arg(long, value_delimiter = ',', value_name = "NAME,…")]
    only: Vec<String>,
    /// Measures claims with these numbers of warehouses instead, comma-separated: many at a time, few, and at half of the rate of
    /// the first
    #[arg(long, value_delimiter = ',', value_name = "N,…", conflicts_with = "only")]
    warehouses: Vec<u32>,
    /// Names the figures, with their goals, and measures nothing
    #[arg(long)]
    list: bool,
    /// How often everything is measured
    #[arg(long, default_value_t = ROUNDS, value_name = "N")]
    rounds: usize,
    /// How long a sample is counted, behind a warm-up of a quarter of it
    #[arg(long, default_value = "3s", value_name = "DURATION")]
    sample: SignedDuration,
    /// How long `checkouts_per_s` is sustained
    #[arg(long, default_value = "60s", value_name = "DURATION")]
    sustain: SignedDuration,
    /// Orders that there are already when settlement is compared with COPY
    #[arg(long, default_value_t = 50_000, value_name = "N")]
    earlier_orders: u32,
    /// Claims after which `redis_bytes_per_claim` is read
    #[arg(long, default_value_t = 1_000_000, value_name = "N")]
    claims_in_memory: u64,
    /// Leaves out what is in the table only and in no figure: the other ways in SQL, 64 connections, fsync no, numbers of warehouses
    #[arg(long)]
    figures_only: bool,
    /// Also writes everything as JSON
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Also draws plots into this folder
    #[arg(long, value_name = "DIR")]
    plots: Option<PathBuf>,
}

pub async fn run(arguments: CompareArguments) -> anyhow::Result<()> {
    if arguments.list {
        for figure in FIGURES {
            output::print(format!("{:28} {}", figure.name, figure.goal));
        }
        return Ok(());
    }
    let mut wanted = figures::wanted(&arguments.only)?;
    ensure!(arguments.rounds > 0, "--rounds must be at least 1");
    let length = std::time::Duration::try_from(arguments.sample).context("--sample cannot be negative")?;
    let mut probes = figures::probes_of(&wanted);
    if !arguments.warehouses.is_empty() {
        wanted.clear();
        probes = arguments.warehouses.iter().flat_map(|warehouses| Probe::of_warehouses(*warehouses)).collect();
    }
    // Before anything is measured: what is missing would be found out minutes later.
    if probes.contains(&Probe::Wrk) {
        bench::find_wrk()?;
    }
    let stage = Stage::start(std::env::current_exe()?).await?;
    let machine = Machine::look(stage.folder(), stage.redis.version(), stage.postgres.version())?;
    output::print(machine.sentence());

    if arguments.only.is_empty() && arguments.warehouses.is_empty() && !arguments.figures_only {
        let others = Probe::table_only().into_iter().filter(|probe| !probes.contains(probe)).collect::<Vec<_>>();
        probes.extend(others);
    }
    let mut bench = Bench::new(&stage, length);
    let mut samples: BTreeMap<Probe, Vec<Sample>> = BTreeMap::new();
    let bar = output::bar((probes.len() * arguments.rounds) as u64, "samples");
    for round in 0..arguments.rounds {
        for probe in probes_of_round(&probes, round) {
            bar.set_message(probe.name());
            let sample = Box::pin(bench.measure(probe)).await.with_context(|| probe.name())?;
            samples.entry(probe).or_default().push(sample);
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    drop(bench);

    let (mut measured, mut failed) = (BTreeMap::new(), Vec::new());
    for figure in wanted {
        let values = match figure.measured {
            Measured::Over(over, under) => ratios(&samples[&over], &samples[&under], |sample| sample.value),
            Measured::ServerTimeOver(over, under) => {
                ratios(&samples[&over], &samples[&under], |sample| sample.server_us)
            }
            // The others are worth having without it.
            Measured::Alone(alone) => match alone.run(&arguments, &stage).await {
                Ok(values) => values,
                Err(error) => {
                    failed.push(format!("{}: {error:#}", figure.name));
                    continue;
                }
            },
        };
        if let Some(value) = Figure::of(&values) {
            measured.insert(figure.name, value);
        }
    }
    let report = report::Report { machine, load_average_after: machine::load_average(), samples, figures: measured };
    report.print();
    if let Some(path) = &arguments.out {
        output::write_json(path, &report.json())?;
    }
    if let Some(folder) = &arguments.plots {
        report.draw(folder)?;
    }
    ensure!(failed.is_empty(), "not measured: {}", failed.join("; "));
    Ok(())
}

/// To and fro, so that what comes late in a round is not always late.
fn probes_of_round(probes: &[Probe], round: usize) -> Vec<Probe> {
    let mut probes = probes.to_vec();
    if round % 2 == 1 {
        probes.reverse();
    }
    probes
}

/// Of each round by itself.
fn ratios(over: &[Sample], under: &[Sample], of: fn(&Sample) -> f64) -> Vec<f64> {
    over.iter().zip(under).map(|(over, under)| of(over) / of(under)).collect()
}
