//! `doorbuster migrate`: brings the database up to date.

use anyhow::Context as _;
use clap::Args;

use serde_json::json;

use super::Failure;
use super::output::Format;
use super::progress::Bar;
use crate::config::StoresConfig;

#[derive(Debug, Args)]
pub struct MigrateArguments {
    #[command(flatten)]
    stores: StoresConfig,
    #[command(flatten)]
    format: Format,
}

pub async fn run(arguments: &MigrateArguments) -> Result<(), Failure> {
    let mut ledger = super::ledger(&arguments.stores)?;
    let bar = Bar::start(arguments.format);
    ledger.progress = bar.progress();
    let applied = ledger.migrate().await.context("the database cannot be brought up to date")?;
    drop(bar);
    arguments.format.answer(
        || json!({ "applied": applied }),
        || match applied.as_slice() {
            [] => "the database was up to date".to_owned(),
            applied => applied.iter().map(|name| format!("applied {name}")).collect::<Vec<_>>().join("\n"),
        },
    );
    Ok(())
}
