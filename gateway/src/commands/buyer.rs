//! `doorbuster buyer export | erase`: what is kept of a buyer, for him, and its end.

use anyhow::{Context as _, anyhow};
use clap::{Args, Subcommand};
use doorbuster_engine::domain::ids::BuyerId;
use doorbuster_engine::flows::Engine;
use doorbuster_engine::ledger::erasures::{Erasure, ExportedOrder};
use doorbuster_engine::ledger::order_pages::ORDERS_AT_ONCE;
use serde_json::{Value, json};

use super::order::as_json;
use super::output::Format;
use super::text::count;
use super::{Failure, print};
use crate::config::StoresConfig;

#[derive(Debug, Args)]
pub struct BuyerArguments {
    #[command(subcommand)]
    command: BuyerCommand,
    #[command(flatten)]
    stores: StoresConfig,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, Subcommand)]
enum BuyerCommand {
    /// Prints everything that is kept of a buyer, always as JSON
    Export(BuyerArgument),
    /// Forgets a buyer, once all of his orders are over; the books keep them under a pseudonym
    Erase(BuyerArgument),
}

#[derive(Debug, Args)]
struct BuyerArgument {
    /// The buyer, as his tokens name him
    buyer: BuyerId,
}

pub async fn run(arguments: BuyerArguments) -> Result<(), Failure> {
    let engine = super::engine(&arguments.stores)?;
    match &arguments.command {
        BuyerCommand::Export(BuyerArgument { buyer }) => export(&engine, buyer).await,
        BuyerCommand::Erase(BuyerArgument { buyer }) => erase(&engine, buyer, arguments.format).await,
    }
}

async fn export(engine: &Engine, buyer: &BuyerId) -> Result<(), Failure> {
    let profile = engine.ledger.profile_of(buyer).await.context("Postgres gave no answer")?;
    let (mut orders, mut after) = (Vec::new(), None);
    // As many rounds as he has pages of orders.
    loop {
        let page = engine.ledger.exported_orders(buyer, after, ORDERS_AT_ONCE).await;
        let page = page.context("Postgres gave no answer")?;
        after = page.last().map(|exported| exported.order.position());
        let is_last = (page.len() as i64) < ORDERS_AT_ONCE;
        orders.extend(page.iter().map(exported));
        if is_last {
            break;
        }
    }
    let profile = profile.map(|profile| {
        json!({ "payment_method": profile.payment_method, "email": profile.email, "ship_to": profile.ship_to })
    });
    let all = json!({ "buyer": buyer, "checkout_profile": profile, "orders": orders });
    print(serde_json::to_string_pretty(&all).context("the data cannot be written as JSON")?);
    Ok(())
}

fn exported(exported: &ExportedOrder) -> Value {
    let mut order = as_json(&exported.order);
    order["ship_to"] = json!(exported.order.ship_to);
    // Without our own words, which are about people and cases.
    let steps = exported.history.iter().filter(|entry| entry.from != Some(entry.to));
    order["history"] = steps.map(|entry| json!({ "at": entry.at, "status": entry.to })).collect();
    let lines = exported.returns.iter().map(|found| json!({ "created_at": found.created_at, "lines": found.lines }));
    order["returns"] = lines.collect();
    order
}

async fn erase(engine: &Engine, buyer: &BuyerId, format: Format) -> Result<(), Failure> {
    let erased = engine.ledger.erase_buyer(buyer, engine.clock.now()).await;
    match erased.context("Postgres gave no answer: do it again")? {
        Erasure::Done(erased) => {
            let text = || {
                let have = if erased.orders == 1 { "has" } else { "have" };
                let mut text = format!("{} {have} a pseudonym now", count(erased.orders, "order"));
                if !erased.kept_by_drops.is_empty() {
                    let drops = erased.kept_by_drops.join(", ");
                    text += &format!("\ntheir limit needs their id until these are archived: {drops}");
                }
                text
            };
            format.answer(|| json!({ "orders": erased.orders, "kept_by_drops": erased.kept_by_drops }), text);
            Ok(())
        }
        Erasure::Open(orders) => {
            let orders = orders.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            Err(anyhow!("nothing was erased, these orders are not over: {orders}").into())
        }
    }
}
