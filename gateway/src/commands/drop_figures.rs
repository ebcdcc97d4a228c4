//! `doorbuster drop list | watch`, and what `show` says of units and money: how sales stand.

use std::io::IsTerminal as _;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use clap::{Args, value_parser};
use doorbuster_engine::domain::drops::DropState;
use doorbuster_engine::domain::ids::DropName;
use doorbuster_engine::flows::drop_figures::{DROPS_AT_ONCE, DropAccount, DropFigures};
use doorbuster_engine::flows::{Engine, EngineError};
use serde_json::{Value, json};

use super::finance::account_table;
use super::output::{self, Format, print};
use super::text::{Table, count, one_of, time, time_or_by_hand, with_next};
use super::{Failure, StopSignals};

/// What Redis and Postgres answer in a few milliseconds, at a pace that eyes follow.
const WATCH_EVERY: Duration = Duration::from_secs(1);

const AT_MOST: i64 = DROPS_AT_ONCE as i64;

#[derive(Debug, Args)]
pub(super) struct ListArguments {
    /// Of this state alone; may be repeated
    #[arg(long, value_name = "STATE", value_parser = one_of(DropState::ALL, DropState::as_str))]
    state: Vec<DropState>,
    /// How many
    #[arg(long, default_value_t = 20, value_name = "N", value_parser = value_parser!(u16).range(1..=AT_MOST))]
    limit: u16,
    /// Begins behind this drop: the last one of the page before
    #[arg(long, value_name = "NAME")]
    after: Option<DropName>,
}

#[derive(Debug, Args)]
pub(super) struct WatchArguments {
    /// The drop's name
    name: DropName,
    /// Prints once, and ends
    #[arg(long)]
    once: bool,
}

pub(super) async fn list(engine: &Engine, arguments: &ListArguments, format: Format) -> Result<(), Failure> {
    let found = engine.list_drops(&arguments.state, arguments.after.as_ref(), arguments.limit).await;
    let page = found.context("the drops cannot be listed")?.ok_or_else(|| {
        anyhow!("there is no drop named {} to go on behind", arguments.after.as_ref().map_or("", DropName::as_str))
    })?;
    let next = page.drops.last().filter(|_| page.has_more).map(|last| last.name.clone());
    let mut table = Table::new(["NAME", "STATE", ">UNITS", ">LIMIT", "OPENS", "CLOSES", "PRODUCT"]);
    for drop in &page.drops {
        table.row([
            drop.name.to_string(),
            drop.state.as_str().to_owned(),
            drop.stock_units.to_string(),
            drop.limit.to_string(),
            time_or_by_hand(drop.opens_at),
            time_or_by_hand(drop.closes_at),
            drop.product.clone(),
        ]);
    }
    format.answer(
        || json!({ "drops": page.drops, "next_after": next }),
        || with_next(&table, next.as_ref().map(|next| next as &dyn std::fmt::Display)),
    );
    Ok(())
}

/// Every second until Ctrl-C, or until nobody reads it any more. On a terminal each look takes the place of the one
/// before.
pub(super) async fn watch(engine: &Engine, arguments: &WatchArguments, as_json: bool) -> Result<(), Failure> {
    let name = &arguments.name;
    let mut signals = StopSignals::listen()?;
    let redraws = std::io::stdout().is_terminal() && !as_json && !arguments.once;
    let mut drawn_lines = 0;
    let mut ticks = tokio::time::interval(WATCH_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let look = async {
            ticks.tick().await;
            engine.drop_figures(name).await
        };
        let figures = tokio::select! {
            figures = look => figures,
            () = signals.next() => return Ok(()),
        };
        let text = match figures {
            Ok(Some(figures)) if as_json => figures_as_json(&figures).to_string(),
            Ok(Some(figures)) => figures_as_text(&figures),
            Ok(None) => return Err(anyhow!("there is no drop named {name}").into()),
            // It is watched because something may happen to it; a store that is away comes back.
            Err(error) if error.is_retryable() && !arguments.once => unknown(&error),
            Err(error) => return Err(anyhow::Error::new(error).context("nobody knows how it stands").into()),
        };
        if redraws && drawn_lines > 0 {
            // Up to where the last look begins, and away with it.
            output::write(format_args!("\x1b[{drawn_lines}A\x1b[J"));
        }
        drawn_lines = text.lines().count();
        print(text);
        if arguments.once || !output::is_read() {
            return Ok(());
        }
    }
}

fn unknown(error: &EngineError) -> String {
    format!("unknown: {error}")
}

/// One line of JSON for each look.
pub(super) fn figures_as_json(figures: &DropFigures) -> Value {
    json!({
        "name": figures.drop.name, "state": figures.drop.state, "at": figures.at, "variants": figures.variants,
        "unread": figures.unread,
    })
}

fn figures_as_text(figures: &DropFigures) -> String {
    let state = figures.drop.state.as_str();
    format!("{}  {state}  {}\n{}", figures.drop.name, time(figures.at), units_as_text(figures))
}

/// Units by variant, and their sum.
pub(super) fn units_as_text(figures: &DropFigures) -> String {
    let known = |units: Option<u64>| units.map_or_else(|| "?".to_owned(), |units| units.to_string());
    let mut table = Table::new(["SKU", ">PRICE", ">UNITS", ">LEFT", ">MOVING", ">ORDERED", ">SOLD"]);
    for variant in &figures.variants {
        table.row([
            variant.sku.clone(),
            variant.price.to_string(),
            variant.stock_units.to_string(),
            known(variant.left_units),
            known(variant.moving_units),
            variant.ordered_units.to_string(),
            variant.sold_units.to_string(),
        ]);
    }
    if figures.variants.len() > 1 {
        let of = |units: fn(&doorbuster_engine::domain::figures::VariantFigures) -> Option<u64>| {
            known(figures.variants.iter().map(units).sum())
        };
        table.row([
            "all".to_owned(),
            String::new(),
            of(|variant| Some(variant.stock_units)),
            of(|variant| variant.left_units),
            of(|variant| variant.moving_units),
            of(|variant| Some(variant.ordered_units)),
            of(|variant| Some(variant.sold_units)),
        ]);
    }
    let unread = figures.unread.iter().map(|why| format!("\nhow many are left is unknown: {why}"));
    format!("{table}{}", unread.collect::<String>())
}

/// Orders by state, and the accounts that they moved.
pub(super) fn account_as_text(account: &DropAccount) -> String {
    if account.orders.is_empty() {
        return "no orders yet".to_owned();
    }
    let mut orders = account.orders.iter().collect::<Vec<_>>();
    orders.sort_by_key(|(state, _)| state.as_str());
    let orders = orders.iter().map(|(state, number)| format!("{} {}", count(**number, "order"), state.as_str()));
    format!("{}\n{}", orders.collect::<Vec<_>>().join(", "), account_table(&account.accounts))
}

pub(super) fn account_as_json(account: &DropAccount) -> Value {
    let orders = account.orders.iter().map(|(state, number)| (state.as_str(), *number));
    json!({ "orders": orders.collect::<std::collections::BTreeMap<_, _>>(), "accounts": account.accounts })
}
