//! `doorbuster-load`: sends simulated buyers to a gateway that runs somewhere, and says what they were told. Arrivals are
//! scheduled in advance and do not wait for answers (an open model); lateness says how far the generator itself fell behind.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use doorbuster::{Secret, auth};
use doorbuster_engine::domain::clock::Clock;
use doorbuster_sandbox::crowd::{BuyersLog, Crowd, CrowdOptions, Latencies, Mint};
use jiff::SignedDuration;

/// Sends simulated buyers to a running gateway
#[derive(Debug, Parser)]
#[command(name = "doorbuster-load", version)]
struct Options {
    /// The gateway's address
    #[arg(long, default_value = "http://127.0.0.1:8080", value_name = "URL")]
    url: String,
    /// Name of the drop, which must be open
    #[arg(long, value_name = "NAME")]
    drop: String,
    /// SKUs the buyers choose from, comma-separated
    #[arg(long, value_delimiter = ',', required = true, value_name = "SKUS")]
    sku: Vec<String>,
    /// The gateway's secret of buyers' tokens
    #[arg(long, env = "DOORBUSTER_JWT_SECRET", hide_env_values = true, value_name = "SECRET")]
    jwt_secret: Secret,
    /// Buyers, each of whom clicks once
    #[arg(long, default_value_t = 1_000, value_name = "N")]
    buyers: usize,
    /// First clicks are spread over this time
    #[arg(long, default_value = "2s", value_name = "DURATION")]
    within: SignedDuration,
    /// Requests under way at the same time, at most
    #[arg(long, default_value_t = 256, value_name = "N")]
    connections: usize,
    /// Buyers ask for 1 to this many units
    #[arg(long, default_value_t = 1, value_name = "UNITS")]
    quantity_max: u32,
    /// Share of buyers who click twice
    #[arg(long, default_value_t = 0.1, value_name = "SHARE")]
    double_click_rate: f64,
    /// Share of buyers whose card is declined, if the provider knows the test cards
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    decline_rate: f64,
    /// Decides who the buyers are and what they do; the same seed again is the same buyers again
    #[arg(long, default_value_t = 1, value_name = "NUMBER")]
    seed: u64,
    /// Writes every call as JSON
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let within = Duration::try_from(options.within).context("--within cannot be negative")?;
    let crowd = Crowd::new(CrowdOptions {
        buyers: options.buyers,
        seed: options.seed,
        quantity_max: options.quantity_max,
        double_click_rate: options.double_click_rate,
        decline_rate: options.decline_rate,
        arrive_within: within,
        connections: options.connections,
        ..CrowdOptions::new(options.url, options.drop, options.sku, mint(options.jwt_secret))
    })?;
    crowd.save_profiles().await?;
    let log = crowd.rush().await;
    print(&crowd, &log);
    if let Some(path) = options.log {
        let json = serde_json::to_vec(&log).context("the log cannot be written as JSON")?;
        std::fs::write(&path, json).with_context(|| format!("{} cannot be written", path.display()))?;
    }
    Ok(())
}

fn mint(secret: Secret) -> Mint {
    Arc::new(move |buyer: &str| {
        let buyer = buyer.parse().expect("the crowd's buyers have well-formed ids");
        auth::mint(&secret, &buyer, Clock::System.now(), SignedDuration::from_hours(1))
    })
}

#[expect(clippy::print_stdout, reason = "the figures are what this program is run for")]
fn print(crowd: &Crowd, log: &BuyersLog) {
    let progress = crowd.progress();
    let quantiles = |l: Latencies| format!("p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms", l.p50_ms, l.p99_ms, l.max_ms);
    println!("claims      {} accepted, {} answered again", progress.accepted, progress.replayed);
    println!("refusals    {} sold out, {} other", progress.sold_out, progress.other_refusals);
    println!("no answer   {} buyers, {} calls asked to come back", progress.failed, log.undecided());
    println!("latency     {}", quantiles(log.latencies()));
    println!("lateness    {}", quantiles(log.lateness()));
    println!("rate        {:.0} claims/s", log.claims_per_s());
}
