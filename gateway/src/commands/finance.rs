//! `doorbuster finance close | drop`: the books of a day against the provider's, and what one drop brought in.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use clap::{Args, Subcommand};
use doorbuster_engine::domain::ids::DropName;
use doorbuster_engine::flows::Engine;
use doorbuster_engine::flows::finance::{DayReport, day_in_utc};
use doorbuster_engine::ledger::finance::AccountSum;
use jiff::civil::Date;
use serde_json::json;

use super::Failure;
use super::output::Format;
use super::text::{Table, count};
use crate::config::{self, Secret, StoresConfig};

#[derive(Debug, Args)]
pub struct FinanceArguments {
    #[command(subcommand)]
    command: FinanceCommand,
    #[command(flatten)]
    stores: StoresConfig,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, Subcommand)]
enum FinanceCommand {
    /// Compares orders, journal and payment provider of a day that is over, charge by charge; books fees and payouts;
    /// numbers invoices and credit notes. May be repeated. Exit code 1 when something differs
    Close(CloseArguments),
    /// What a drop's orders brought in and gave back, by account
    Drop(DropArgument),
}

#[derive(Debug, Args)]
struct CloseArguments {
    /// The day, in UTC: 2026-11-23
    #[arg(long, value_name = "DATE")]
    day: Date,
    /// The payment provider's address
    #[arg(long, env = "DOORBUSTER_PROVIDER_URL", value_name = "URL")]
    provider_url: String,
    /// The payment provider's secret key
    #[arg(long, env = "DOORBUSTER_PROVIDER_KEY", hide_env_values = true, value_name = "KEY")]
    provider_key: Secret,
    /// Also writes journal, orders, invoices and credit notes of the day to this folder
    #[arg(long, value_name = "FOLDER")]
    csv: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct DropArgument {
    /// The drop's name
    name: DropName,
}

pub async fn run(arguments: FinanceArguments) -> Result<(), Failure> {
    let engine = super::engine(&arguments.stores)?;
    match &arguments.command {
        FinanceCommand::Close(close) => close_day(&engine, close, arguments.format).await,
        FinanceCommand::Drop(DropArgument { name }) => show_drop(&engine, name, arguments.format).await,
    }
}

async fn close_day(engine: &Engine, arguments: &CloseArguments, format: Format) -> Result<(), Failure> {
    let provider = config::provider(&arguments.provider_url, &arguments.provider_key)?;
    let day = arguments.day;
    let closed = engine.close_day(&provider, day).await.context("the day could not be compared: do it again")?;
    let report = closed.map_err(|_| anyhow!("{day} is not over yet (in UTC): close it tomorrow"))?;
    if let Some(folder) = &arguments.csv {
        export(engine, day, folder).await?;
    }
    format.answer(|| json!(report), || as_text(&report));
    match report.differences.len() as u64 {
        0 => Ok(()),
        found => Err(anyhow!("{} on {day}", count(found, "difference")).into()),
    }
}

async fn export(engine: &Engine, day: Date, folder: &Path) -> Result<(), Failure> {
    std::fs::create_dir_all(folder).with_context(|| format!("the folder {} cannot be made", folder.display()))?;
    let tables = engine.ledger.day_tables(&day_in_utc(day)).await.context("the day cannot be read")?;
    for (table, rows) in tables {
        let path = folder.join(format!("{table}-{day}.csv"));
        let written = (|| {
            let mut file = csv::Writer::from_path(&path)?;
            for row in rows {
                file.write_record(&row)?;
            }
            file.flush().map_err(csv::Error::from)
        })();
        written.with_context(|| format!("{} cannot be written", path.display()))?;
    }
    Ok(())
}

async fn show_drop(engine: &Engine, name: &DropName, format: Format) -> Result<(), Failure> {
    let drop = engine.ledger.drop_by_name(name).await.context("Postgres gave no answer")?;
    let drop = drop.ok_or_else(|| anyhow!("there is no drop named {name}"))?;
    let counts = engine.ledger.order_counts(drop.id).await.context("Postgres gave no answer")?;
    let accounts = engine.ledger.account_sums_of_drop(drop.id).await.context("Postgres gave no answer")?;
    let orders = counts.iter().map(|(state, number)| (state.as_str(), *number)).collect::<BTreeMap<_, _>>();
    let text = || {
        let lines = orders.iter().map(|(state, number)| format!("  {} {state}\n", count(*number, "order")));
        let (units, lines) = (count(drop.stock_units(), "unit"), lines.collect::<String>());
        format!("{}: {units}\n{lines}{}", drop.name, account_table(&accounts))
    };
    format.answer(
        || json!({ "drop": drop.name, "units": drop.stock_units(), "orders": orders, "accounts": accounts }),
        text,
    );
    Ok(())
}

pub(super) fn account_table(accounts: &[AccountSum]) -> Table {
    Table::new(["ACCOUNT", "CURRENCY", ">DEBIT", ">CREDIT", ">BALANCE"]).with(accounts, |sum| {
        let balance = sum.debit_minor - sum.credit_minor;
        let minor = [sum.debit_minor, sum.credit_minor, balance].map(|minor| minor.to_string());
        let [debit, credit, balance] = minor;
        [sum.account.clone(), sum.currency.to_string(), debit, credit, balance]
    })
}

fn as_text(report: &DayReport) -> String {
    let documents = |documents: &doorbuster_engine::ledger::finance::Documents| match (documents.first, documents.last)
    {
        (Some(first), Some(last)) => format!("{first} to {last}"),
        _ => "none new".to_owned(),
    };
    let mut lines = vec![
        format!(
            "{}: {}, {}",
            report.day,
            count(report.charges as u64, "charge"),
            count(report.refunds as u64, "refund")
        ),
        format!("  invoices {}, credit notes {}", documents(&report.invoices), documents(&report.credit_notes)),
        account_table(&report.accounts).to_string(),
    ];
    for (currency, minor) in &report.provider_net_minor {
        let across = report.across_midnight_minor.get(currency).copied().unwrap_or_default();
        lines.push(format!("  the provider's books: {minor} {currency}, and {across} dated on another day there"));
    }
    lines.extend(report.differences.iter().map(|difference| format!("  ✗ {}: {}", difference.rule, difference.detail)));
    lines.push(count(report.differences.len() as u64, "difference"));
    lines.join("\n")
}
