//! `doorbuster rates show | import`: what tax and shipping cost, by country.

use std::path::PathBuf;

use anyhow::{Context as _, anyhow};
use clap::{Args, Subcommand};
use doorbuster_engine::domain::money::Money;
use doorbuster_engine::ledger::rates::{RateRow, check};

use serde_json::json;

use super::Failure;
use super::output::Format;
use super::text::{Table, count};
use crate::config::StoresConfig;

#[derive(Debug, Args)]
pub struct RatesArguments {
    #[command(subcommand)]
    command: RatesCommand,
    #[command(flatten)]
    stores: StoresConfig,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, Subcommand)]
enum RatesCommand {
    /// Prints the table; with --json as import takes it
    Show,
    /// Puts the table of a file in the place of the old one, all of it or nothing
    Import {
        /// JSON: [{"country": "DE", "currency": "EUR", "tax_basis_points": 1900, "shipping_minor": 490,
        /// "free_shipping_from_minor": 10000}, …]; the country * is everywhere else. Shipping is taxed as goods are,
        /// unless "shipping_tax_basis_points" says otherwise
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Takes a table without any row: then no country is served
        #[arg(long)]
        none: bool,
    },
}

pub async fn run(arguments: RatesArguments) -> Result<(), Failure> {
    let ledger = super::ledger(&arguments.stores)?;
    match arguments.command {
        RatesCommand::Show => {
            let rows = ledger.rates().await.context("the table cannot be read")?;
            arguments.format.answer(
                || json!(rows),
                || match rows.as_slice() {
                    [] => "there are no rates: no country is served, and checkout answers region_not_served".to_owned(),
                    rows => Table::new(["COUNTRY", ">TAX", ">SHIPPING", ">ITS TAX", ">FREE FROM"])
                        .with(rows, cells)
                        .to_string(),
                },
            );
        }
        RatesCommand::Import { file, none } => {
            let name = file.display();
            let text = std::fs::read_to_string(&file).with_context(|| format!("{name} cannot be read"))?;
            let rows: Vec<RateRow> =
                serde_json::from_str(&text).map_err(|error| anyhow!("{name} is not a table of rates: {error}"))?;
            check(&rows).map_err(|error| anyhow!("{name}: {error}; nothing was changed"))?;
            if rows.is_empty() && !none {
                return Err(
                    anyhow!("{name} has no row, so no country would be served: say --none if you mean that").into()
                );
            }
            ledger.replace_rates(&rows).await.context("nothing was changed")?;
            let rates = rows.len() as u64;
            let are = if rates == 1 { "is" } else { "are" };
            arguments
                .format
                .answer(|| json!({ "rates": rates }), || format!("{} {are} in force", count(rates, "rate")));
        }
    }
    Ok(())
}

fn cells(row: &RateRow) -> [String; 5] {
    let money = |minor| Money::new(minor, row.currency).to_string();
    let percent = |rate: u32| format!("{}.{:02} %", rate / 100, rate % 100);
    let of_shipping = row.shipping_tax_basis_points.map_or("as goods".to_owned(), percent);
    let free = row.free_shipping_from_minor.map_or("never".to_owned(), money);
    [row.country.clone(), percent(row.tax_basis_points), money(row.shipping_minor), of_shipping, free]
}
