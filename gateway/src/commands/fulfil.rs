//! `doorbuster order process | ship | deliver | return`: a paid order on its way to its buyer, and back.

use std::str::FromStr;

use anyhow::{Context as _, anyhow};
use clap::{Args, ValueEnum};
use doorbuster_engine::domain::credits::RefundOf;
use doorbuster_engine::domain::fulfilment::{NewReturn, ReturnedLine, Tracking};
use doorbuster_engine::domain::ids::{OrderId, ReturnId};
use doorbuster_engine::domain::money::Money;
use doorbuster_engine::flows::Engine;
use doorbuster_engine::ledger::fulfilment::{Fulfilled, FulfilmentStep};
use doorbuster_engine::ledger::returns::ReturnTaken;
use uuid::Uuid;

use super::Failure;
use super::order::{Extra, unknown};

#[derive(Debug, Args)]
pub struct ShipArguments {
    /// The order's id
    order: Uuid,
    /// Who takes it there
    #[arg(long)]
    carrier: String,
    /// The carrier's number of the parcel
    #[arg(long, value_name = "NUMBER")]
    tracking_number: String,
}

#[derive(Debug, Args)]
pub struct ReturnArguments {
    /// The order's id
    pub(super) order: Uuid,
    /// What came back, as LINE:QUANTITY; once for each line
    #[arg(long = "line", value_name = "LINE:QUANTITY", required = true)]
    lines: Vec<LineArgument>,
    /// It can be sold again. Units of a drop are on sale again while the drop sells, and never afterwards
    #[arg(long)]
    restock: bool,
    /// How much goes back to the buyer with it, in the currency's smallest unit
    #[arg(long, value_name = "AMOUNT")]
    refund_minor: Option<i64>,
    /// Instead of an amount: what these goods are worth goes back, with their VAT, and shipping if you say so
    #[arg(long, value_name = "WHAT", conflicts_with = "refund_minor")]
    refund: Option<RefundArgument>,
    /// Why, for the history
    #[arg(long)]
    reason: String,
    /// The return's id: the same one again is the same return. Made up and printed when not given
    #[arg(long, value_name = "UUID")]
    id: Option<Uuid>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum RefundArgument {
    /// What is left of what these units cost
    Goods,
    /// That, and what is left of shipping
    GoodsAndShipping,
}

impl From<RefundArgument> for RefundOf {
    fn from(refund: RefundArgument) -> Self {
        match refund {
            RefundArgument::Goods => Self::Goods,
            RefundArgument::GoodsAndShipping => Self::GoodsAndShipping,
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct LineArgument {
    line: u32,
    quantity: u32,
}

impl FromStr for LineArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers =
            text.split_once(':').and_then(|(line, quantity)| Some((line.parse().ok()?, quantity.parse().ok()?)));
        let (line, quantity) =
            numbers.ok_or_else(|| "two numbers with a colon between them, such as 1:2".to_owned())?;
        Ok(Self { line, quantity })
    }
}

pub async fn ship(engine: &Engine, arguments: &ShipArguments, by: &str) -> Result<OrderId, Failure> {
    let tracking =
        Tracking::new(&arguments.carrier, &arguments.tracking_number).context("this cannot be written down")?;
    step(engine, OrderId(arguments.order), &FulfilmentStep::Ship(tracking), by).await
}

pub async fn step(engine: &Engine, order: OrderId, step: &FulfilmentStep, by: &str) -> Result<OrderId, Failure> {
    let fulfilled = engine.ledger.fulfil(order, step, by, engine.clock.now()).await;
    let refused = match fulfilled.context("Postgres gave no answer: do it again")? {
        Fulfilled::Now => return Ok(order),
        Fulfilled::Before => {
            tracing::info!("it was done before");
            return Ok(order);
        }
        Fulfilled::ShippedOtherwise(Tracking { carrier, number }) => {
            anyhow!("{order} went with {carrier} under the number {number}")
        }
        Fulfilled::WrongState(state) => {
            anyhow!("{order} is {}: an order is processed, then shipped, then delivered", state.as_str())
        }
        Fulfilled::CancelRequested => anyhow!("{order} is being cancelled"),
        Fulfilled::NotPaid(payment) => {
            anyhow!("the payment of {order} is {}: the goods stay here until that is over", payment.as_str())
        }
        Fulfilled::NoSuchOrder => unknown(order),
    };
    Err(refused.into())
}

pub(super) async fn take_return(engine: &Engine, arguments: &ReturnArguments, by: &str) -> Result<Extra, Failure> {
    let order = OrderId(arguments.order);
    let found = engine.ledger.order(order).await.context("Postgres gave no answer")?.ok_or_else(|| unknown(order))?;
    let amount = arguments.refund_minor.map(|minor| Money::new(minor, found.totals.total.currency));
    if amount.is_some_and(|amount| amount.amount_minor <= 0) {
        return Err(anyhow!("--refund-minor must be above 0; leave it away if nothing goes back").into());
    }
    let line = |line: &LineArgument| ReturnedLine {
        line: line.line,
        quantity: line.quantity,
        serials: Vec::new(),
        restock: arguments.restock,
    };
    let lines = arguments.lines.iter().map(line).collect();
    let new = NewReturn { lines, refund: amount, refund_of: arguments.refund.map(RefundOf::from) };
    new.check().context("this is no return")?;
    let id = ReturnId(arguments.id.unwrap_or_else(Uuid::now_v7));
    let why = (by, arguments.reason.as_str());
    let taken = engine.ledger.take_return(id, order, &new, why, engine.clock.now()).await;
    let refused = match taken.with_context(|| format!("Postgres gave no answer: do it again with --id {id}"))? {
        ReturnTaken::Now => return Ok(taken_return(id, true, format!("return {id}"))),
        ReturnTaken::Before => return Ok(taken_return(id, false, format!("return {id}: was taken before"))),
        ReturnTaken::IdTaken => anyhow!("the id {id} belongs to another return or refund: leave --id away"),
        ReturnTaken::NotShipped(state) => {
            anyhow!("{order} is {}: only what has shipped comes back", state.as_str())
        }
        ReturnTaken::NoSuchLine(line) => anyhow!("{order} has no line {line}"),
        ReturnTaken::TooMany { line, left } => anyhow!("of line {line} of {order} at most {left} can come back"),
        ReturnTaken::NotOut { line, serial } => anyhow!("unit {} is not one of line {line} that is out", serial.0),
        ReturnTaken::RefundTooMuch { left } => anyhow!("at most {left} of {order} can go back"),
        ReturnTaken::NoSuchOrder => unknown(order),
    };
    Err(refused.into())
}

fn taken_return(id: ReturnId, is_new: bool, sentence: String) -> Extra {
    Extra { name: "return", id: id.0, is_new, sentence }
}
