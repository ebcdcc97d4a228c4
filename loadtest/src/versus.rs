//! `versus`: the same crowd against one locked row, ten locked rows, and tokens; one plot.
//!
//! The crowd comes at the same times each time, whatever it is answered. Shown is how many buyers have an order in Postgres:
//! ways in SQL write it before they answer, tokens answer first and settle behind it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use clap::Args;
use doorbuster_sandbox::provider::{FakeProvider, FakeProviderOptions};

use crate::generator::{OpenResult, OpenRun, Outcome, Percentiles, SLICE, Scenario, Schedule};
use crate::machine::Machine;
use crate::output::{self, Axis, Series, Table};
use crate::stage::{Served, Stage};
use crate::ways::Way;

const CONNECTIONS: usize = 512;
const LOOK_EVERY: Duration = Duration::from_millis(100);

#[derive(Debug, Args)]
pub struct VersusArguments {
    /// Buyers, each of whom clicks once
    #[arg(long, default_value_t = 60_000, value_name = "N")]
    buyers: u32,
    /// They come within this time
    #[arg(long, default_value_t = 6.0, value_name = "SECONDS")]
    within: f64,
    /// How long each way is watched
    #[arg(long, default_value_t = 18.0, value_name = "SECONDS")]
    watch: f64,
    /// Where the plot goes
    #[arg(long, default_value = "versus.svg", value_name = "FILE")]
    plot: PathBuf,
    /// Also writes the figures as JSON
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// What became of one crowd.
struct Told {
    name: &'static str,
    result: OpenResult,
    /// Seconds and orders in Postgres by then.
    orders: Vec<(f64, f64)>,
}

pub async fn run(arguments: VersusArguments) -> anyhow::Result<()> {
    let stage = Stage::start(std::env::current_exe()?).await?;
    let machine = Machine::look(stage.folder(), stage.redis.version(), stage.postgres.version())?;
    output::print(machine.sentence());
    let mut all = Vec::new();
    let bar = output::bar(3, "");
    for way in [Way::RowLock, Way::TenRows, Way::Tokens] {
        bar.set_message(way.name());
        all.push(crowd(&stage, way, &arguments).await?);
        bar.inc(1);
    }
    bar.finish_and_clear();

    let mut table = Table::new(&["way", "answered", "p50 ms", "p99 ms", "orders at the end", "90 % have one after"]);
    for told in &all {
        let latency = Percentiles::of(&told.result.tally.latency_us);
        let orders = told.orders.last().map_or(0.0, |last| last.1);
        let most = told.orders.iter().find(|(_, orders)| *orders >= 0.9 * f64::from(arguments.buyers));
        table.row([
            told.name.to_owned(),
            told.result.tally.count(Outcome::Ok).to_string(),
            format!("{:.0}", latency.p50_ms),
            format!("{:.0}", latency.p99_ms),
            format!("{orders:.0}"),
            most.map_or_else(|| format!("not within {} s", arguments.watch), |(at, _)| format!("{at:.1} s")),
        ]);
    }
    output::print(table.to_string());
    let series = all.iter().map(|told| Series { name: told.name.to_owned(), points: told.orders.clone() });
    let mut series = series.collect::<Vec<_>>();
    if let Some(tokens) = all.last() {
        let name = "tokens: answered".to_owned();
        series.push(Series { name, points: answered(&tokens.result, arguments.watch) });
    }
    let title = format!("{} buyers come within {} s: orders in Postgres", arguments.buyers, arguments.within);
    output::draw(&arguments.plot, &title, Axis::Plain("seconds"), Axis::Plain("buyers"), &series)?;
    if let Some(path) = &arguments.out {
        let ways = all.iter().map(|told| {
            serde_json::json!({
                "way": told.name,
                "answered": told.result.tally.count(Outcome::Ok),
                "latency": Percentiles::of(&told.result.tally.latency_us),
                "orders": told.orders,
            })
        });
        output::write_json(path, &serde_json::json!({ "machine": machine, "ways": ways.collect::<Vec<_>>() }))?;
    }
    Ok(())
}

async fn crowd(stage: &Stage, way: Way, arguments: &VersusArguments) -> anyhow::Result<Told> {
    // Nobody charges: orders wait for their payment, in all ways alike.
    let provider = FakeProvider::start(FakeProviderOptions::bench(1)).await?;
    let server: Served = match way {
        Way::Tokens => stage.serve_with_workers(&provider, 1).await?,
        _ => stage.serve(way).await?,
    };
    let drop = stage.open_drop(arguments.buyers, way.rows()).await?;
    let skus = vec![drop.variants[0].sku.clone()];
    let within = Duration::from_secs_f64(arguments.within);
    let (plan, count) =
        Scenario::plain(Schedule::constant(f64::from(arguments.buyers) / arguments.within, within), skus).plan();
    let buyers = stage.buyers(count);
    if way.shelves().is_some() {
        stage.put_on_shelves(&drop, way.rows(), arguments.buyers).await?;
        stage.save_profiles(&buyers).await?;
    }
    let watch = Duration::from_secs_f64(arguments.watch);
    let run = OpenRun {
        address: server.address,
        drops: vec![server.paths(&drop)],
        buyers,
        plan,
        connections: CONNECTIONS,
        threads: 1,
        answer_timeout: watch,
        grace: watch.saturating_sub(within),
        keeps_log: false,
        ended: Arc::new(AtomicU64::new(0)),
    };
    let (began, running) = (Instant::now(), tokio::task::spawn_blocking(move || run.run()));
    const RESERVED: &str = "select sum(quantity_reserved) from inventory where product_id = $1";
    let mut orders = vec![(0.0, 0.0)];
    while began.elapsed() < watch {
        tokio::time::sleep(LOOK_EVERY).await;
        let row = stage.sql.query_one(RESERVED, &[&drop.product_id]).await?;
        orders.push((began.elapsed().as_secs_f64(), row.get::<_, Option<i64>>(0).unwrap_or_default() as f64));
    }
    let result = running.await??;
    stage.forget(&drop).await?;
    Ok(Told { name: way.name(), result, orders })
}

/// How many have been answered by when.
fn answered(result: &OpenResult, until_s: f64) -> Vec<(f64, f64)> {
    let mut sum = 0.0;
    let mut points = vec![(0.0, 0.0)];
    for (index, slice) in result.tally.slices.iter().enumerate() {
        sum += slice.answered as f64;
        points.push(((index as f64 + 1.0) * SLICE.as_secs_f64(), sum));
    }
    points.push((until_s, sum));
    points
}
