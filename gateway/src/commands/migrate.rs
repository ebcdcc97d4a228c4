//! `doorbuster migrate`: brings the database up to date.

use anyhow::Context as _;
use clap::Args;

use super::{Failure, print};
use crate::config::StoresConfig;

#[derive(Debug, Args)]
pub struct MigrateArguments {
    #[command(flatten)]
    stores: StoresConfig,
}

pub async fn run(arguments: &MigrateArguments) -> Result<(), Failure> {
    let ledger = super::ledger(&arguments.stores)?;
    let applied = ledger.migrate().await.context("the database cannot be brought up to date")?;
    if applied.is_empty() {
        print("the database was up to date");
    }
    applied.iter().for_each(|name| print(format_args!("applied {name}")));
    Ok(())
}
