//! `doorbuster settlement show | retry | dismiss`: what settlement had to set aside, and its way back.

use anyhow::{Context as _, anyhow};
use clap::{Args, Subcommand};
use doorbuster_engine::domain::clock::Clock;
use doorbuster_engine::domain::ids::{DropName, PoisonId};
use doorbuster_engine::ledger::poison::{PoisonRow, Poisoned};
use serde_json::{Value, json};

use super::Failure;
use super::output::Format;
use super::text::{Table, time};
use crate::config::StoresConfig;

#[derive(Debug, Args)]
pub struct SettlementArguments {
    #[command(subcommand)]
    command: SettlementCommand,
    #[command(flatten)]
    stores: StoresConfig,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, Subcommand)]
enum SettlementCommand {
    /// Shows what was set aside: claims that keep their units until they are settled, and entries nobody could read
    Show(OfDrop),
    /// Tries to settle what was set aside, once its cause is mended; what still fails stays, with its new error
    Retry(OfDrop),
    /// Takes an unreadable entry off the list; a claim, which holds units, can only be settled
    Dismiss(OneEntry),
}

#[derive(Debug, Args)]
struct OfDrop {
    /// The drop's name; without it, of all drops
    drop: Option<DropName>,
}

#[derive(Debug, Args)]
struct OneEntry {
    /// Its number, as `show` lists it
    number: i64,
}

pub async fn run(arguments: &SettlementArguments) -> Result<(), Failure> {
    match &arguments.command {
        SettlementCommand::Show(of) => {
            let ledger = super::ledger(&arguments.stores)?;
            let rows = ledger.poisoned(of.drop.as_ref()).await.context("Postgres cannot be asked")?;
            let json = || json!(rows.iter().map(as_json).collect::<Vec<_>>());
            let header = ["NUMBER", "DROP", ">WAREHOUSE", "ENTRY", "WHAT", ">TRIES", "SINCE", "ERROR"];
            let text = || match rows.as_slice() {
                [] => "0 set aside".to_owned(),
                rows => format!("{}\n{} set aside", Table::new(header).with(rows, cells), rows.len()),
            };
            arguments.format.answer(json, text);
            Ok(())
        }
        SettlementCommand::Retry(of) => {
            let engine = super::engine(&arguments.stores)?;
            let report = engine.retry_poisoned(of.drop.as_ref()).await.context("the retry could not finish")?;
            let left = report.left.iter().map(|(id, error)| json!({ "id": id, "error": error })).collect::<Vec<_>>();
            let (settled, rejected, known) = (report.settled, report.rejected, report.known);
            arguments.format.answer(
                || json!({ "settled": settled, "rejected": rejected, "known": known, "left": left }),
                || {
                    let lines = report.left.iter().map(|(id, error)| format!("{}: {error}\n", id.0));
                    let lines = lines.collect::<String>();
                    format!("{lines}{settled} settled, {rejected} rejected, {known} known before, {} left", left.len())
                },
            );
            if left.is_empty() { Ok(()) } else { Err(anyhow!("{} could not be settled", left.len()).into()) }
        }
        SettlementCommand::Dismiss(one) => {
            let ledger = super::ledger(&arguments.stores)?;
            let dismissed = ledger.dismiss_poisoned(PoisonId(one.number), Clock::System.now()).await;
            if dismissed.context("Postgres cannot be asked")? {
                let json = || json!({ "dismissed": one.number });
                arguments.format.answer(json, || format!("{} is off the list", one.number));
                return Ok(());
            }
            Err(anyhow!("{} is no unreadable entry: it does not exist, or is a claim, which holds units", one.number)
                .into())
        }
    }
}

fn cells(row: &PoisonRow) -> [String; 8] {
    let what = match &row.what {
        Poisoned::Claim { claim, serials, .. } => {
            let units = serials.iter().map(|serial| serial.0.to_string()).collect::<Vec<_>>().join(" ");
            format!("claim {} of {} holds {units}", claim.id, claim.buyer)
        }
        Poisoned::Entry { raw } => format!("an entry of {} bytes", raw.len()),
    };
    let PoisonRow { id, drop, warehouse, entry, tries, poisoned_at, error, .. } = row;
    [
        id.0.to_string(),
        drop.to_string(),
        warehouse.0.to_string(),
        entry.to_string(),
        what,
        tries.to_string(),
        time(*poisoned_at),
        error.clone(),
    ]
}

fn as_json(row: &PoisonRow) -> Value {
    let (claim, serials, raw) = match &row.what {
        Poisoned::Claim { claim, serials, raw } => (Some(claim), serials.as_slice(), raw.as_deref()),
        Poisoned::Entry { raw } => (None, &[][..], Some(raw.as_slice())),
    };
    json!({
        "id": row.id,
        "drop": row.drop,
        "warehouse_id": row.warehouse.0,
        "epoch": row.epoch.0,
        "entry": row.entry.to_string(),
        "taken_at": row.taken_at,
        "claim_id": claim.map(|claim| claim.id.to_string()),
        "buyer": claim.map(|claim| claim.buyer.as_str()),
        "serials": serials.iter().map(|serial| serial.0).collect::<Vec<_>>(),
        "raw_hex": raw.map(hex),
        "error": row.error,
        "tries": row.tries,
        "poisoned_at": row.poisoned_at,
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
