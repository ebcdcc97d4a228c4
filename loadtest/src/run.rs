//! `run`: a crowd against a gateway that runs somewhere, with its drops open.

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, anyhow, ensure};
use clap::Args;
use doorbuster::Secret;
use doorbuster_engine::domain::clock::Clock;
use jiff::SignedDuration;
use serde_json::json;

use crate::generator::{Buyers, DropPaths, OpenRun, Percentiles, Scenario, Schedule, save_profiles};
use crate::output;

const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
const LOOK_EVERY: Duration = Duration::from_millis(200);
const TOKEN_LIFE: SignedDuration = SignedDuration::from_hours(6);

#[derive(Debug, Args)]
pub struct RunArguments {
    /// The gateway's address; plain HTTP
    #[arg(long, default_value = "http://127.0.0.1:8080", value_name = "URL")]
    url: String,
    /// A drop that is open, with its SKUs: shoe-drop=SHOE-42,SHOE-43. May be given several times
    #[arg(long = "drop", required = true, value_name = "NAME=SKU,…")]
    drops: Vec<String>,
    /// The gateway's secret of buyers' tokens
    #[arg(long, env = "DOORBUSTER_JWT_SECRET", hide_env_values = true, value_name = "SECRET")]
    jwt_secret: Secret,
    /// When buyers arrive: constant:RATE:TIME, ramp:FROM-TO:TIME, spike:BASE-PEAK:TIME, stages:RATE:TIME,FROM-TO:TIME,… or
    /// trace:FILE, with a time in seconds on each line
    #[arg(long, default_value = "constant:500:2s", value_name = "SCHEDULE")]
    schedule: String,
    /// Buyers come evenly spaced, and not as people come who know nothing of each other
    #[arg(long)]
    even: bool,
    /// Kept connections
    #[arg(long, default_value_t = 256, value_name = "N")]
    connections: usize,
    /// Threads of the generator
    #[arg(long, default_value_t = 1, value_name = "N")]
    threads: usize,
    /// Buyers ask for 1 to this many units
    #[arg(long, default_value_t = 1, value_name = "UNITS")]
    quantity_max: u8,
    /// Share of buyers who click twice
    #[arg(long, default_value_t = 0.1, value_name = "SHARE")]
    double_clicks: f64,
    /// Share of buyers who look at the drop first, and click after thinking
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    looks: f64,
    /// How long they think, more or less
    #[arg(long, default_value = "1s", value_name = "DURATION")]
    think: SignedDuration,
    /// Share of buyers who are programs and hammer one key
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    bots: f64,
    /// Clicks of one bot
    #[arg(long, default_value_t = 50, value_name = "N")]
    bot_clicks: u32,
    /// Share of requests over a connection of their own
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    fresh: f64,
    /// First saves for each buyer how he pays and where he lives, so that his orders are charged
    #[arg(long)]
    profiles: bool,
    /// Decides who the buyers are and what they do; the same seed again is the same buyers again
    #[arg(long, default_value_t = 1, value_name = "NUMBER")]
    seed: u64,
    /// How long answers are waited for at the end
    #[arg(long, default_value = "10s", value_name = "DURATION")]
    grace: SignedDuration,
    /// Writes every claim and its answer as JSON, for `verify`; with several drops, FILE-NAME for each
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Also writes the figures as JSON
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Also draws plots into this folder
    #[arg(long, value_name = "DIR")]
    plots: Option<PathBuf>,
}

/// Sends the crowd; blocks until it is over.
pub fn run(arguments: &RunArguments) -> anyhow::Result<()> {
    let address = address(&arguments.url)?;
    let drops = arguments.drops.iter().map(|drop| named(drop)).collect::<anyhow::Result<Vec<_>>>()?;
    let scenario = scenario(arguments, &drops)?;
    let (plan, count) = scenario.plan();
    ensure!(count > 0, "the schedule holds no arrivals");
    let bar = output::bar(plan.len() as u64, "minting tokens");
    // Buyers of other seeds are other people.
    let first = arguments.seed.wrapping_mul(100_000_000) % 10_u64.pow(14);
    let buyers = Buyers::mint(first, count, &arguments.jwt_secret, Clock::System.now(), TOKEN_LIFE);
    let buyers = Arc::new(buyers);
    if arguments.profiles {
        bar.set_message("saving profiles");
        save_profiles(address, &buyers, arguments.connections.min(64))?;
    }
    let ended = Arc::new(AtomicU64::new(0));
    let run = OpenRun {
        address,
        drops: drops.iter().map(|(name, skus)| DropPaths::new(address, name, skus.clone())).collect(),
        buyers,
        plan,
        connections: arguments.connections,
        threads: arguments.threads,
        answer_timeout: ANSWER_TIMEOUT,
        grace: Duration::try_from(arguments.grace).context("--grace cannot be negative")?,
        keeps_log: arguments.log.is_some(),
        ended: Arc::clone(&ended),
    };
    bar.set_message("requests");
    let is_over = Arc::new(AtomicBool::new(false));
    let showing = std::thread::spawn({
        let is_over = Arc::clone(&is_over);
        move || {
            while !is_over.load(Ordering::Relaxed) {
                bar.set_position(ended.load(Ordering::Relaxed));
                std::thread::sleep(LOOK_EVERY);
            }
            bar.finish_and_clear();
        }
    });
    let result = run.run();
    is_over.store(true, Ordering::Relaxed);
    let _ = showing.join();
    let result = result?;

    output::print_tally(&result.tally, result.elapsed);
    if let Some(path) = &arguments.out {
        let outcomes = result.tally.outcomes().map(|(outcome, count)| (outcome.name(), count));
        let figures = json!({
            "requests": result.tally.total(),
            "answered": result.tally.answered(),
            "elapsed_s": result.elapsed.as_secs_f64(),
            "outcomes": outcomes.collect::<std::collections::BTreeMap<_, _>>(),
            "latency": Percentiles::of(&result.tally.latency_us),
            "lateness": Percentiles::of(&result.tally.lateness_us),
        });
        output::write_json(path, &figures)?;
    }
    if let Some(folder) = &arguments.plots {
        output::draw_tally(folder, "run", &result.tally)?;
    }
    for ((name, _), log) in drops.iter().zip(&result.logs) {
        if let Some(path) = &arguments.log {
            let path = if drops.len() == 1 { path.clone() } else { format!("{}-{name}", path.display()).into() };
            output::write_json(&path, log)?;
        }
    }
    Ok(())
}

fn scenario(arguments: &RunArguments, drops: &[(String, Vec<String>)]) -> anyhow::Result<Scenario> {
    let plain = Scenario::plain(schedule(&arguments.schedule)?, Vec::new());
    let scenario = Scenario {
        spacing: if arguments.even { crate::generator::Spacing::Even } else { plain.spacing },
        drops: drops.iter().map(|(_, skus)| skus.clone()).collect(),
        seed: arguments.seed,
        quantity_max: arguments.quantity_max,
        double_click_share: arguments.double_clicks,
        look_share: arguments.looks,
        think: Duration::try_from(arguments.think).context("--think cannot be negative")?,
        bot_share: arguments.bots,
        bot_clicks: arguments.bot_clicks,
        fresh_share: arguments.fresh,
        ..plain
    };
    scenario.check().map_err(|reason| anyhow!(reason))?;
    Ok(scenario)
}

fn schedule(text: &str) -> anyhow::Result<Schedule> {
    let Some(path) = text.strip_prefix("trace:") else { return Ok(text.parse()?) };
    let trace = std::fs::read_to_string(path).with_context(|| path.to_owned())?;
    Ok(Schedule::trace(&trace)?)
}

fn named(text: &str) -> anyhow::Result<(String, Vec<String>)> {
    let (name, skus) = text.split_once('=').with_context(|| format!("{text:?} is not NAME=SKU,…"))?;
    Ok((name.to_owned(), skus.split(',').map(str::to_owned).collect()))
}

fn address(url: &str) -> anyhow::Result<SocketAddr> {
    let host = url.strip_prefix("http://").context("the address begins with http://; for TLS see loadtest/k6")?;
    let host = host.trim_end_matches('/');
    let host = if host.contains(':') { host.to_owned() } else { format!("{host}:80") };
    host.to_socket_addrs()?.next().with_context(|| format!("{host} has no address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_and_addresses_are_read() {
        let skus = vec!["A-1".to_owned(), "B".to_owned()];
        assert_eq!(named("shoe=A-1,B").unwrap(), ("shoe".to_owned(), skus));
        assert!(named("shoe").is_err());
        assert_eq!(address("http://127.0.0.1:8080/").unwrap(), SocketAddr::from(([127, 0, 0, 1], 8080)));
        assert!(address("https://shop.example").is_err());
    }
}
