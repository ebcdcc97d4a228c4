//! `doorbuster order list | show | history | process | ship | deliver | return | cancel | refund | review`: what an operator may do with an order. Each leaves his name in its history.

use anyhow::{Context as _, anyhow};
use clap::{Args, Subcommand};
use doorbuster_engine::domain::charges::check_refund;
use doorbuster_engine::domain::ids::{BuyerId, DropName, OrderId, RefundId};
use doorbuster_engine::domain::money::Money;
use doorbuster_engine::domain::orders::OrderState;
use doorbuster_engine::flows::Engine;
use doorbuster_engine::ledger::fulfilment::FulfilmentStep;
use doorbuster_engine::ledger::order_details::HistoryEntry;
use doorbuster_engine::ledger::order_pages::{ORDERS_AT_ONCE, OrderFilter};
use doorbuster_engine::ledger::orders::OrderView;
use doorbuster_engine::ledger::refunds::{OrderCancelled, RefundAsked};
use jiff::Timestamp;
use serde_json::json;
use uuid::Uuid;

use super::Failure;
use super::fulfil::{self, ReturnArguments, ShipArguments};
use super::output::Format;
use super::review::{self, ReviewArguments};
use super::text::{Table, instant, one_of, time, with_next};
use crate::config::StoresConfig;

#[derive(Debug, Args)]
pub struct OrderArguments {
    #[command(subcommand)]
    command: OrderCommand,
    #[command(flatten)]
    stores: StoresConfig,
    /// Who does it, for the order's history
    #[arg(long, env = "DOORBUSTER_OPERATOR", default_value = "operator", value_name = "NAME", global = true)]
    by: String,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, Subcommand)]
enum OrderCommand {
    /// Shows an order
    Show(OrderArgument),
    /// Lists orders, newest first
    List(ListArguments),
    /// Shows what became of an order, and who moved it
    History(OrderArgument),
    /// Says that an order is being packed
    Process(OrderArgument),
    /// Says that an order was handed to its carrier
    Ship(ShipArguments),
    /// Says that an order has been delivered
    Deliver(OrderArgument),
    /// Takes goods back that had shipped
    Return(ReturnArguments),
    /// Cancels an order that has not shipped; what was paid goes back, its units are on sale again
    Cancel(CancelArguments),
    /// Gives money back; the order stays as it is
    Refund(RefundArguments),
    /// Payments that wait for a person
    Review(ReviewArguments),
}

#[derive(Debug, Args)]
struct OrderArgument {
    /// The order's id
    order: Uuid,
}

#[derive(Debug, Args)]
struct ListArguments {
    /// Of this state alone; may be repeated
    #[arg(long, value_name = "STATE", value_parser = one_of(OrderState::ALL, OrderState::as_str))]
    status: Vec<OrderState>,
    /// Of this buyer alone, as their tokens name them
    #[arg(long, value_name = "ID")]
    buyer: Option<BuyerId>,
    /// Of this drop alone
    #[arg(long, value_name = "NAME")]
    drop: Option<DropName>,
    /// Made then or later
    #[arg(long, value_name = "TIME", value_parser = instant)]
    from: Option<Timestamp>,
    /// Made earlier than that
    #[arg(long, value_name = "TIME", value_parser = instant)]
    before: Option<Timestamp>,
    /// How many
    #[arg(long, default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(i64).range(1..ORDERS_AT_ONCE))]
    limit: i64,
    /// Begins behind this order: the last one of the page before
    #[arg(long, value_name = "ORDER")]
    after: Option<Uuid>,
}

#[derive(Debug, Args)]
struct CancelArguments {
    /// The order's id
    order: Uuid,
    /// Why, for its history
    #[arg(long)]
    reason: String,
}

#[derive(Debug, Args)]
struct RefundArguments {
    /// The order's id
    order: Uuid,
    /// How much, in the currency's smallest unit; all that is left when not given
    #[arg(long, value_name = "AMOUNT")]
    amount_minor: Option<i64>,
    /// Why, for the books
    #[arg(long)]
    reason: String,
    /// The refund's id: the same one again is the same refund. Made up and printed when not given
    #[arg(long, value_name = "UUID")]
    id: Option<Uuid>,
}

pub async fn run(arguments: OrderArguments) -> Result<(), Failure> {
    let engine = super::engine(&arguments.stores)?;
    let (by, format) = (arguments.by.as_str(), arguments.format);
    let mut extra = None;
    let order = match &arguments.command {
        OrderCommand::List(list) => return list_orders(&engine, list, format).await,
        OrderCommand::Show(OrderArgument { order }) => OrderId(*order),
        OrderCommand::History(OrderArgument { order }) => {
            return show_history(&engine, OrderId(*order), format).await;
        }
        OrderCommand::Process(OrderArgument { order }) => {
            fulfil::step(&engine, OrderId(*order), &FulfilmentStep::Process, by).await?
        }
        OrderCommand::Ship(ship) => fulfil::ship(&engine, ship, by).await?,
        OrderCommand::Deliver(OrderArgument { order }) => {
            fulfil::step(&engine, OrderId(*order), &FulfilmentStep::Deliver, by).await?
        }
        OrderCommand::Return(taking) => {
            extra = Some(fulfil::take_return(&engine, taking, by).await?);
            OrderId(taking.order)
        }
        OrderCommand::Cancel(cancel) => cancel_order(&engine, cancel, by).await?,
        OrderCommand::Refund(refund) => {
            extra = Some(refund_order(&engine, refund, by).await?);
            OrderId(refund.order)
        }
        OrderCommand::Review(review) => return review::run(&engine, review, by, format).await,
    };
    let found = engine.ledger.order(order).await.context("Postgres gave no answer")?;
    let found = found.ok_or_else(|| unknown(order))?;
    format.answer(
        || {
            let mut shown = as_json(&found);
            if let Some(Extra { name, id, is_new, .. }) = &extra {
                shown[*name] = json!({ "id": id, "is_new": is_new });
            }
            shown
        },
        || match &extra {
            Some(extra) => format!("{}\n{}", extra.sentence, as_text(&found)),
            None => as_text(&found),
        },
    );
    Ok(())
}

/// What was done beside moving the order: a refund or a return, and whether it was new.
pub(super) struct Extra {
    pub(super) name: &'static str,
    pub(super) id: Uuid,
    pub(super) is_new: bool,
    pub(super) sentence: String,
}

async fn list_orders(engine: &Engine, list: &ListArguments, format: Format) -> Result<(), Failure> {
    let filter = OrderFilter {
        statuses: list.status.clone(),
        buyer: list.buyer.clone(),
        drop: list.drop.clone(),
        created_from: list.from,
        created_before: list.before,
    };
    let after = match list.after.map(OrderId) {
        Some(order) => {
            let last = engine.ledger.order(order).await.context("Postgres gave no answer")?;
            Some(last.ok_or_else(|| anyhow!("there is no order {order} to go on behind"))?.position())
        }
        None => None,
    };
    // One more than is shown says whether there are more.
    let found = engine.ledger.find_orders(&filter, after, list.limit + 1).await;
    let mut found = found.context("Postgres gave no answer")?;
    let has_more = found.len() as i64 > list.limit;
    found.truncate(list.limit as usize);
    let next = found.last().filter(|_| has_more).map(|last| last.id);
    let cells = |order: &OrderView| {
        let (status, payment) = (order.status.as_str().to_owned(), order.payment.as_str().to_owned());
        let (total, buyer) = (order.totals.total.to_string(), order.buyer.to_string());
        [order.id.to_string(), time(order.created_at), status, payment, total, buyer]
    };
    format.answer(
        || json!({ "orders": found.iter().map(as_json).collect::<Vec<_>>(), "next_after": next.map(|next| next.0) }),
        || {
            let table = Table::new(["ORDER", "CREATED", "STATUS", "PAYMENT", ">TOTAL", "BUYER"]).with(&found, cells);
            with_next(&table, next.as_ref().map(|next| next as &dyn std::fmt::Display))
        },
    );
    Ok(())
}

async fn show_history(engine: &Engine, order: OrderId, format: Format) -> Result<(), Failure> {
    let history = engine.ledger.history(order).await.context("Postgres gave no answer")?;
    let history = history.ok_or_else(|| unknown(order))?;
    let cells =
        |entry: &HistoryEntry| [time(entry.at), entry.to.as_str().to_owned(), entry.by.clone(), entry.reason.clone()];
    format.answer(|| json!(history), || Table::new(["AT", "STATUS", "BY", "REASON"]).with(&history, cells));
    Ok(())
}

async fn cancel_order(engine: &Engine, arguments: &CancelArguments, by: &str) -> Result<OrderId, Failure> {
    let order = OrderId(arguments.order);
    let why = (by, arguments.reason.as_str());
    let cancelled = engine.ledger.cancel_order(order, None, why, engine.clock.now()).await;
    match cancelled.context("Postgres gave no answer: do it again")? {
        OrderCancelled::Now | OrderCancelled::Before => {}
        OrderCancelled::Requested => {
            tracing::info!("its charge may be under way: it is cancelled, and refunded, once that has ended");
        }
        OrderCancelled::TooLate(status) => {
            return Err(anyhow!("{order} is {} and cannot be cancelled any more", status.as_str()).into());
        }
        OrderCancelled::InReview => {
            return Err(anyhow!("{order} waits for a person to look at its payment: resolve that first").into());
        }
        OrderCancelled::NoSuchOrder => return Err(unknown(order).into()),
    }
    Ok(order)
}

async fn refund_order(engine: &Engine, arguments: &RefundArguments, by: &str) -> Result<Extra, Failure> {
    let order = OrderId(arguments.order);
    let found = engine.ledger.order(order).await.context("Postgres gave no answer")?.ok_or_else(|| unknown(order))?;
    let amount = arguments.amount_minor.map(|minor| Money::new(minor, found.totals.total.currency));
    if let Some(amount) = amount {
        check_refund(amount).map_err(|why| anyhow!("--amount-minor: {why}"))?;
    }
    let id = RefundId(arguments.id.unwrap_or_else(Uuid::now_v7));
    let why = (by, arguments.reason.as_str());
    let asked = engine.ledger.ask_refund(id, order, amount, why, engine.clock.now()).await;
    match asked.with_context(|| format!("Postgres gave no answer: do it again with --id {id}"))? {
        RefundAsked::Now => Ok(refund(id, true, "workers carry it out")),
        RefundAsked::Before => Ok(refund(id, false, "was asked for before")),
        RefundAsked::IdTaken => Err(anyhow!("the id {id} belongs to another refund: leave --id away").into()),
        RefundAsked::TooMuch { left } => Err(anyhow!("at most {left} of {order} can go back").into()),
        RefundAsked::NotPaid => Err(anyhow!("{order} has not been paid: cancel it instead").into()),
        RefundAsked::NoSuchOrder => Err(unknown(order).into()),
    }
}

fn refund(id: RefundId, is_new: bool, what: &str) -> Extra {
    Extra { name: "refund", id: id.0, is_new, sentence: format!("refund {id}: {what}") }
}

pub(super) fn unknown(order: OrderId) -> anyhow::Error {
    anyhow!("there is no order {order}")
}

pub(super) fn as_json(order: &OrderView) -> serde_json::Value {
    json!({
        "order_id": order.id.0,
        "buyer": order.buyer,
        "drop": order.drop_name,
        "status": order.status,
        "payment": order.payment,
        "total": order.totals.total,
        "accepted_total": order.waits_beyond,
        "cancel_requested": order.is_cancel_requested,
        "items": order.items.iter().map(|item| json!({
            "line": item.line, "sku": item.sku, "quantity": item.quantity, "unit_price": item.unit_price,
            "serials": item.serials, "returned": item.returned,
        })).collect::<Vec<_>>(),
        "refunds": order.refunds.iter().map(|refund| json!({
            "refund_id": refund.id, "amount": refund.amount, "status": refund.state, "created_at": refund.created_at,
        })).collect::<Vec<_>>(),
        "shipment": order.shipment.as_ref().map(|shipment| json!({
            "carrier": shipment.tracking.carrier, "tracking_number": shipment.tracking.number,
            "shipped_at": shipment.shipped_at,
        })),
        "created_at": order.created_at,
        "updated_at": order.updated_at,
    })
}

fn as_text(order: &OrderView) -> String {
    let mut lines = vec![format!(
        "{}  {}  payment {}  {}",
        order.id,
        order.status.as_str(),
        order.payment.as_str(),
        order.totals.total
    )];
    lines.extend(order.waits_beyond.map(|agreed| format!("  waits for its buyer, who agreed to {agreed} and no more")));
    lines.extend(order.items.iter().map(|item| {
        let serials = item.serials.iter().map(|serial| serial.0.to_string()).collect::<Vec<_>>().join(", ");
        let returned = if item.returned > 0 { format!("  {} returned", item.returned) } else { String::new() };
        format!(
            "  line {}: {} × {}  {}  units {serials}{returned}",
            item.line, item.quantity, item.sku, item.unit_price
        )
    }));
    lines.extend(
        order
            .shipment
            .iter()
            .map(|shipment| format!("  shipped with {} {}", shipment.tracking.carrier, shipment.tracking.number)),
    );
    lines
        .extend(order.refunds.iter().map(|refund| format!("  refund of {}: {}", refund.amount, refund.state.as_str())));
    lines.join("\n")
}
