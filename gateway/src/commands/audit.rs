//! `doorbuster audit`: every unit in exactly one place, every order charged once. Exit code 1 when something is wrong.

use anyhow::{Context as _, anyhow};
use clap::Args;
use doorbuster_engine::flows::audit::{AuditReport, Violation};

use serde_json::json;

use super::Failure;
use super::output::Format;
use super::progress::Bar;
use super::text::count;
use crate::config::{self, Secret, StoresConfig};

#[derive(Debug, Args)]
pub struct AuditArguments {
    #[command(flatten)]
    stores: StoresConfig,
    /// The payment provider's address; without it the captures are not compared
    #[arg(long, env = "DOORBUSTER_PROVIDER_URL", value_name = "URL", requires = "provider_key")]
    provider_url: Option<String>,
    /// The payment provider's secret key
    #[arg(long, env = "DOORBUSTER_PROVIDER_KEY", hide_env_values = true, value_name = "KEY")]
    provider_key: Option<Secret>,
    #[command(flatten)]
    format: Format,
}

pub async fn run(arguments: &AuditArguments) -> Result<(), Failure> {
    let provider = match (&arguments.provider_url, &arguments.provider_key) {
        (Some(url), Some(key)) => Some(config::provider(url, key)?),
        _ => None,
    };
    let mut engine = super::engine(&arguments.stores)?;
    let bar = Bar::start(arguments.format);
    engine.ledger.progress = bar.progress();
    let report = engine.audit(provider.as_ref()).await.context("the audit could not read everything")?;
    drop(bar);
    arguments.format.answer(|| json!(report), || as_text(&report));
    match report.violations.len() as u64 {
        0 => Ok(()),
        found => Err(anyhow!("the audit found {}", count(found, "violation")).into()),
    }
}

fn as_text(report: &AuditReport) -> String {
    let mut lines = Vec::new();
    for drop in &report.drops {
        let quiet = if drop.is_quiet { "" } else { " (not quiet: read at different instants)" };
        let poisoned = match drop.poisoned {
            0 => String::new(),
            units => format!(" + {units} set aside"),
        };
        let resting = match drop.resting {
            0 => String::new(),
            units => format!(" + {units} at rest"),
        };
        let units = count(drop.stock as u64, "unit");
        lines.push(format!(
            "{}: {units} = {} free + {} moving{resting} + {} claimed{poisoned} + {} reserved + {} sold{quiet}",
            drop.drop, drop.free, drop.moving, drop.claimed, drop.reserved, drop.sold
        ));
    }
    let stock = &report.stock;
    if stock.shelves > 0 {
        let shelves = if stock.shelves == 1 { "1 shelf".to_owned() } else { format!("{} shelves", stock.shelves) };
        let units = count(stock.available.unsigned_abs(), "unit");
        lines.push(format!("ordinary stock: {shelves} with {units}, {} of them reserved", stock.reserved));
    }
    if report.strangers > 0 {
        let charges = count(report.strangers as u64, "charge");
        lines.push(format!("{charges} of others on the same account of the payment provider"));
    }
    let violation = |found: &Violation| format!("{} {}: {}", found.drop, found.rule, found.detail);
    lines.extend(report.violations.iter().map(violation));
    lines.push(count(report.violations.len() as u64, "violation"));
    lines.join("\n")
}
