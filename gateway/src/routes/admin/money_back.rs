//! `POST /v1/orders/{id}/returns | refunds | cancel`: goods that came back, money that goes back, orders that end before they
//! ship. A return's and a refund's id are made of operator and Idempotency-Key, so each is done once for each key.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use doorbuster_engine::domain::charges::check_refund;
use doorbuster_engine::domain::credits::RefundOf;
use doorbuster_engine::domain::fulfilment::{InvalidReturn, NewReturn, REASON_CHARACTERS_MAX, ReturnedLine, is_plain};
use doorbuster_engine::domain::ids::{OrderId, RefundId, ReturnId, Serial};
use doorbuster_engine::domain::money::{Currency, Money};
use doorbuster_engine::domain::requests::RequestId;
use doorbuster_engine::ledger::refunds::{OrderCancelled, RefundAsked};
use doorbuster_engine::ledger::returns::ReturnTaken;
use serde::Deserialize;
use utoipa::ToSchema;

use super::orders::{OperatorOrderDetails, details};
use crate::error::{Errors, IDEMPOTENT_REPLAYED, Problem, kinds};
use crate::extract::{JsonBody, Key, KeyHeader, PathText};
use crate::openapi::examples::ORDER;
use crate::operators::Operator;
use crate::routes::ops::Ops;
use crate::routes::orders::order_id;

/// A reason in four-byte characters, and some hundred lines.
const BODY_BYTES: usize = 16 * 1024;

/// Goods that came back
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewOrderReturn {
    pub lines: Vec<NewReturnLine>,
    /// How much goes back to the buyer with it, in the order's currency; nothing when neither this nor `refund` is
    /// there
    #[schema(example = 14900)]
    pub refund_minor: Option<i64>,
    /// Instead of an amount: what these goods are worth, with their VAT
    pub refund: Option<ReturnRefund>,
    /// Why, for the history
    #[schema(max_length = 500)]
    pub reason: String,
}

/// What goes back with goods
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReturnRefund {
    Goods,
    /// What is left of shipping goes back too
    GoodsAndShipping,
}

impl From<ReturnRefund> for RefundOf {
    fn from(refund: ReturnRefund) -> Self {
        match refund {
            ReturnRefund::Goods => Self::Goods,
            ReturnRefund::GoodsAndShipping => Self::GoodsAndShipping,
        }
    }
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewReturnLine {
    pub line: u32,
    pub quantity: u32,
    /// Which units of a drop; the lowest numbers that are out when not given
    #[serde(default)]
    pub serials: Vec<u32>,
    /// They can be sold again
    pub restock: bool,
}

/// Money that goes back
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewOrderRefund {
    /// How much, in the order's currency; all that is left when it is not there
    pub amount_minor: Option<i64>,
    /// Why, for the books
    #[schema(max_length = 500)]
    pub reason: String,
}

/// Why an order ends
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewCancel {
    #[schema(max_length = 500)]
    pub reason: String,
}

/// Goods came back
///
/// Of an order that has shipped. With `restock` they are available again; units of a drop are on sale again while the drop sells,
/// and never afterwards. The buyer's limit does not come back.
#[utoipa::path(
    post, path = "/v1/orders/{id}/returns", tag = "orders",
    params(("id" = Uuid, Path, description = "The order's id", example = json!(ORDER)), KeyHeader),
    request_body = NewOrderReturn,
    responses(
        (status = 201, body = OperatorOrderDetails),
        Errors<(
            kinds::OrderNotFound, kinds::WrongOrderState, kinds::ReturnExceedsOrder, kinds::UnitNotOut,
            kinds::RefundExceedsPayment, kinds::KeyReused
        )>,
    ),
    security(("operator" = []))
)]
pub async fn take_return(
    State(ops): State<Ops>,
    operator: Operator,
    Key(key): Key,
    PathText(id): PathText,
    JsonBody(new): JsonBody<NewOrderReturn, BODY_BYTES>,
) -> Result<Response, Problem> {
    let order = order_id(&id)?;
    check_reason(&new.reason)?;
    let refund = match new.refund_minor {
        Some(minor) => Some(positive("refund_minor", minor, currency_of(&ops, order).await?)?),
        None => None,
    };
    if new.refund.is_some() && refund.is_some() {
        return Err(Problem::field(
            "refund",
            "says what goes back, and so does refund_minor: send one of them".to_owned(),
        ));
    }
    let lines = new.lines.into_iter().map(|line| ReturnedLine {
        line: line.line,
        quantity: line.quantity,
        serials: line.serials.into_iter().map(Serial).collect(),
        restock: line.restock,
    });
    let taking = NewReturn { lines: lines.collect(), refund, refund_of: new.refund.map(RefundOf::from) };
    taking.check().map_err(|error: InvalidReturn| Problem::field("lines", error.to_string()))?;
    let id = ReturnId(RequestId::new(operator.name(), &key).0);
    let why = (operator.name(), new.reason.as_str());
    let is_replay = match ops.engine.ledger.take_return(id, order, &taking, why, ops.engine.clock.now()).await? {
        ReturnTaken::Now => false,
        ReturnTaken::Before => true,
        ReturnTaken::IdTaken => return Err(Problem::KeyReused),
        ReturnTaken::NotShipped(state) => return Err(Problem::WrongOrderState { state }),
        ReturnTaken::NoSuchLine(line) => return Err(Problem::field("lines", format!("the order has no line {line}"))),
        ReturnTaken::TooMany { line, left } => return Err(Problem::ReturnExceedsOrder { line, left }),
        ReturnTaken::NotOut { line, serial } => return Err(Problem::UnitNotOut { line, serial: serial.0 }),
        ReturnTaken::RefundTooMuch { left } => return Err(Problem::RefundExceedsPayment { left }),
        ReturnTaken::NoSuchOrder => return Err(Problem::OrderNotFound),
    };
    answer(&ops, order, StatusCode::CREATED, is_replay).await
}

/// Give money back
///
/// The order stays as it is. Workers carry it out; never more goes back than was paid. An amount lowers the price of
/// the goods that are left, each with its VAT; shipping goes back last.
#[utoipa::path(
    post, path = "/v1/orders/{id}/refunds", tag = "orders",
    params(("id" = Uuid, Path, description = "The order's id", example = json!(ORDER)), KeyHeader),
    request_body = NewOrderRefund,
    responses(
        (status = 202, body = OperatorOrderDetails, description = "It is on its way"),
        Errors<(kinds::OrderNotFound, kinds::NotPaid, kinds::RefundExceedsPayment, kinds::KeyReused)>,
    ),
    security(("operator" = []))
)]
pub async fn refund_order(
    State(ops): State<Ops>,
    operator: Operator,
    Key(key): Key,
    PathText(id): PathText,
    JsonBody(new): JsonBody<NewOrderRefund, BODY_BYTES>,
) -> Result<Response, Problem> {
    let order = order_id(&id)?;
    check_reason(&new.reason)?;
    let amount = match new.amount_minor {
        Some(minor) => Some(positive("amount_minor", minor, currency_of(&ops, order).await?)?),
        None => None,
    };
    let id = RefundId(RequestId::new(operator.name(), &key).0);
    let why = (operator.name(), new.reason.as_str());
    let is_replay = match ops.engine.ledger.ask_refund(id, order, amount, why, ops.engine.clock.now()).await? {
        RefundAsked::Now => false,
        RefundAsked::Before => true,
        RefundAsked::IdTaken => return Err(Problem::KeyReused),
        RefundAsked::TooMuch { left } => return Err(Problem::RefundExceedsPayment { left }),
        RefundAsked::NotPaid => return Err(Problem::NotPaid),
        RefundAsked::NoSuchOrder => return Err(Problem::OrderNotFound),
    };
    answer(&ops, order, StatusCode::ACCEPTED, is_replay).await
}

/// End an order before it ships
///
/// What was paid goes back, its units are on sale again. While a charge is under way the answer is 202: the order ends with the
/// provider's word.
#[utoipa::path(
    post, path = "/v1/orders/{id}/cancel", tag = "orders",
    params(("id" = Uuid, Path, description = "The order's id", example = json!(ORDER)), KeyHeader),
    request_body = NewCancel,
    responses(
        (status = 200, body = OperatorOrderDetails, description = "It is cancelled"),
        (status = 202, body = OperatorOrderDetails, description = "Its charge may be under way"),
        Errors<(kinds::OrderNotFound, kinds::NotCancellable)>,
    ),
    security(("operator" = []))
)]
pub async fn cancel_order(
    State(ops): State<Ops>,
    operator: Operator,
    // An order is cancelled once, whatever the key.
    Key(_): Key,
    PathText(id): PathText,
    JsonBody(new): JsonBody<NewCancel, BODY_BYTES>,
) -> Result<Response, Problem> {
    let order = order_id(&id)?;
    check_reason(&new.reason)?;
    let why = (operator.name(), new.reason.as_str());
    let cancelled = ops.engine.ledger.cancel_order(order, None, why, ops.engine.clock.now()).await?;
    let (status, is_replay) = match cancelled {
        OrderCancelled::Now => (StatusCode::OK, false),
        OrderCancelled::Before => (StatusCode::OK, true),
        OrderCancelled::Requested => (StatusCode::ACCEPTED, false),
        OrderCancelled::TooLate(_) | OrderCancelled::InReview => return Err(Problem::NotCancellable),
        OrderCancelled::NoSuchOrder => return Err(Problem::OrderNotFound),
    };
    answer(&ops, order, status, is_replay).await
}

async fn answer(ops: &Ops, order: OrderId, status: StatusCode, is_replay: bool) -> Result<Response, Problem> {
    let replayed = is_replay.then(|| (IDEMPOTENT_REPLAYED, HeaderValue::from_static("true")));
    Ok((status, HeaderMap::from_iter(replayed), Json(details(ops, order).await?)).into_response())
}

fn check_reason(reason: &str) -> Result<(), Problem> {
    if is_plain(reason, REASON_CHARACTERS_MAX) {
        return Ok(());
    }
    let rule = format!(
        "must be 1 to {REASON_CHARACTERS_MAX} characters, without control characters and without spaces around them"
    );
    Err(Problem::field("reason", rule))
}

async fn currency_of(ops: &Ops, order: OrderId) -> Result<Currency, Problem> {
    let order = ops.engine.ledger.order(order).await?.ok_or(Problem::OrderNotFound)?;
    Ok(order.totals.total.currency)
}

fn positive(field: &'static str, minor: i64, currency: Currency) -> Result<Money, Problem> {
    let amount = Money::new(minor, currency);
    check_refund(amount).map_err(|why| Problem::field(field, why.to_string())).map(|()| amount)
}
