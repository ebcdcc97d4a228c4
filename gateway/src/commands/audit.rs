//! `doorbuster audit`: every unit in exactly one place, every order charged once. Exit code 1 when something is wrong.

use anyhow::Context as _;
use clap::Args;

use super::{Failure, print};
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
    /// Prints JSON
    #[arg(long)]
    json: bool,
}

pub async fn run(arguments: &AuditArguments) -> Result<(), Failure> {
    let provider = match (&arguments.provider_url, &arguments.provider_key) {
        (Some(url), Some(key)) => Some(config::provider(url, key)?),
        _ => None,
    };
    let engine = super::engine(&arguments.stores)?;
    let report = engine.audit(provider.as_ref()).await.context("the audit could not read everything")?;
    if arguments.json {
        print(serde_json::to_string_pretty(&report).context("the report cannot be written as JSON")?);
    } else {
        for drop in &report.drops {
            let quiet = if drop.is_quiet { "" } else { " (not quiet: read at different instants)" };
            let poisoned = match drop.poisoned {
                0 => String::new(),
                units => format!(" + {units} set aside"),
            };
            print(format!(
                "{}: {} units = {} free + {} moving + {} claimed{poisoned} + {} reserved + {} sold{quiet}",
                drop.drop, drop.stock, drop.free, drop.moving, drop.claimed, drop.reserved, drop.sold
            ));
        }
        let stock = &report.stock;
        if stock.shelves > 0 {
            print(format!(
                "ordinary stock: {} shelves with {} units, {} of them reserved",
                stock.shelves, stock.available, stock.reserved
            ));
        }
        for violation in &report.violations {
            print(format!("{} {}: {}", violation.drop, violation.rule, violation.detail));
        }
        print(format!("{} violations", report.violations.len()));
    }
    if report.violations.is_empty() {
        Ok(())
    } else {
        Err(anyhow::anyhow!("the audit found {} violations", report.violations.len()).into())
    }
}
