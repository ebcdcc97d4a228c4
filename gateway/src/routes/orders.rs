//! `GET /v1/orders/{id}`, and `POST` to its `payment`, `accept-total` and `cancel`, for the order's buyer only.

use std::fmt;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use doorbuster_engine::domain::fulfilment::Tracking;
use doorbuster_engine::domain::ids::OrderId;
use doorbuster_engine::domain::orders::{OrderEvent, OrderState};
use doorbuster_engine::domain::payments::{PaymentState, RefundState};
use doorbuster_engine::ledger::orders::{OrderItemView, OrderView, ShipmentView};
use doorbuster_engine::ledger::payments::{MethodGiven, TotalAccepted};
use doorbuster_engine::ledger::refunds::OrderCancelled;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::Amount;
use super::checkout::AcceptedTotal;
use crate::auth::Buyer;
use crate::error::{Errors, IDEMPOTENT_REPLAYED, Problem, kinds};
use crate::extract::{JsonBody, Key, KeyHeader, PathText};
use crate::openapi::examples::ORDER;
use crate::state::Gate;
use crate::words;

/// A number and a currency.
const AGREEMENT_BYTES: usize = 1024;

/// An order
#[derive(Debug, Serialize, ToSchema)]
pub struct OrderFound {
    /// For an order of a drop, also the id of its claim
    pub order_id: Uuid,
    pub drop: Option<String>,
    #[schema(value_type = words::OrderState)]
    pub status: OrderState,
    /// `REQUIRED` and `METHOD_REQUIRED` wait for POST /v1/orders/{id}/payment: the one for a first card, the other for another
    /// one after a decline. `REQUIRED` with `total_to_accept` waits for POST /v1/orders/{id}/accept-total
    #[schema(value_type = words::PaymentState)]
    pub payment: PaymentState,
    pub items: Vec<OrderItem>,
    /// The goods, before tax
    pub subtotal: Amount,
    /// On goods and shipping
    pub tax: Amount,
    /// Before tax
    pub shipping: Amount,
    pub total: Amount,
    /// The unit prices of its items include the tax on them
    pub price_includes_tax: bool,
    /// Nothing is charged before the buyer agrees to this total: sent to their address the order costs more than they
    /// agreed to
    pub total_to_accept: Option<TotalToAccept>,
    /// The address of the checkout profile at the time
    #[schema(value_type = Option<super::profile::ShipTo>)]
    pub ship_to: Option<serde_json::Value>,
    /// While it waits for its buyer: until when its units are kept
    pub pay_by: Option<Timestamp>,
    /// While it is METHOD_REQUIRED: why the last card was declined, in the payment provider's word
    #[schema(example = "insufficient_funds")]
    pub decline: Option<String>,
    /// What to do before the payment goes on, while it is ACTION_REQUIRED
    pub next_action: Option<NextAction>,
    /// Somebody wants it cancelled, and its charge has not come to an end
    pub cancel_requested: bool,
    /// Money on its way back, or there
    pub refunds: Vec<OrderRefund>,
    /// Once it has shipped
    pub shipment: Option<OrderShipment>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub links: OrderLinks,
}

/// An order that costs more than its buyer agreed to
#[derive(Debug, Serialize, ToSchema)]
pub struct TotalToAccept {
    /// What they agreed to when they claimed
    pub accepted: Amount,
    /// What it costs: send it as accepted_total
    pub total: Amount,
}

/// The total that a buyer agrees to
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewAgreement {
    pub accepted_total: AcceptedTotal,
}

/// The bank wants a word with the buyer
#[derive(Serialize, ToSchema)]
pub struct NextAction {
    /// The payment provider's word: `redirect_to_url`, `use_stripe_sdk`
    #[serde(rename = "type")]
    #[schema(example = "redirect_to_url")]
    pub kind: String,
    /// Where the buyer's browser goes
    pub url: Option<String>,
    /// What the provider's own script takes in the buyer's browser
    pub client_secret: Option<String>,
}

impl fmt::Debug for NextAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NextAction({}, redacted)", self.kind)
    }
}

#[derive(Debug, Serialize, ToSchema)]
pub struct OrderItem {
    /// Its number in the order
    pub line: u32,
    pub sku: String,
    pub title: String,
    pub quantity: u32,
    pub unit_price: Amount,
    /// The units, by number; kept when the order has ended, as what it once held
    pub serials: Vec<u32>,
    /// What came back of it after it had shipped
    pub returned: u32,
}

/// Where the parcel can be asked after
#[derive(Debug, Serialize, ToSchema)]
pub struct OrderShipment {
    #[schema(example = "DHL")]
    pub carrier: String,
    #[schema(example = "00340434161094015902")]
    pub tracking_number: String,
    pub shipped_at: Timestamp,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct OrderRefund {
    pub amount: Amount,
    /// Where its credit note is, once it has arrived and has a number
    pub credit_note: Option<String>,
    /// `PENDING` is on its way; banks take days
    #[schema(value_type = words::RefundState)]
    pub status: RefundState,
    pub created_at: Timestamp,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct OrderLinks {
    pub order: String,
    /// Where to send the payment, while one is required
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payment: Option<String>,
    /// Where to agree to its total, while it waits for that
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accept_total: Option<String>,
    /// Where its invoice is, once it is paid
    #[serde(skip_serializing_if = "Option::is_none")]
    pub invoice: Option<String>,
    /// Where to cancel it, until it ships
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cancel: Option<String>,
}

/// An order
#[utoipa::path(
    get, path = "/v1/orders/{id}", tag = "orders",
    params(("id" = Uuid, Path, description = "The order's id", example = json!(ORDER))),
    responses(
        (status = 200, body = OrderFound),
        Errors<kinds::OrderNotFound>,
    ),
    security(("buyer" = []))
)]
pub async fn get_order(
    State(gate): State<Gate>,
    Buyer(buyer): Buyer,
    PathText(id): PathText,
) -> Result<Json<OrderFound>, Problem> {
    let order = gate.engine.ledger.order_of(&buyer, order_id(&id)?).await?.ok_or(Problem::OrderNotFound)?;
    Ok(Json(order.into()))
}

/// Pay an order with the saved checkout profile
///
/// For an order whose payment is REQUIRED. Applied at most once; a repeat with the same key is answered as the first, and
/// marked `Idempotent-Replayed: true`.
#[utoipa::path(
    post, path = "/v1/orders/{id}/payment", tag = "orders",
    params(("id" = Uuid, Path, description = "The order's id", example = json!(ORDER)), KeyHeader),
    responses(
        (status = 202, body = OrderFound, description = "The payment is under way, or there is nothing to pay"),
        Errors<(
            kinds::OrderNotFound, kinds::PaymentNotRequired, kinds::ProfileMissing, kinds::CardMissing, kinds::NotServed,
            kinds::TotalNotAccepted
        )>,
    ),
    security(("buyer" = []))
)]
pub async fn pay_order(
    State(gate): State<Gate>,
    Buyer(buyer): Buyer,
    Key(key): Key,
    PathText(id): PathText,
) -> Result<Response, Problem> {
    let id = order_id(&id)?;
    let ledger = &gate.engine.ledger;
    let given = gate.engine.use_profile(id, &buyer, &key).await?;
    let replayed = match given {
        MethodGiven::Now => HeaderMap::new(),
        MethodGiven::Before => HeaderMap::from_iter([(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"))]),
        MethodGiven::NotRequired => return Err(Problem::PaymentNotRequired),
        MethodGiven::NoProfile => return Err(Problem::ProfileMissing),
        MethodGiven::NoCard => return Err(Problem::CardMissing),
        MethodGiven::NoSuchOrder => return Err(Problem::OrderNotFound),
        MethodGiven::NotServed => return Err(Problem::NotServed),
        MethodGiven::TotalNotAccepted { total } => return Err(Problem::TotalNotAccepted { total: total.into() }),
    };
    let order = ledger.order_of(&buyer, id).await?.ok_or(Problem::OrderNotFound)?;
    Ok((StatusCode::ACCEPTED, replayed, Json(OrderFound::from(order))).into_response())
}

/// Agree to an order's total
///
/// For an order with `total_to_accept`: sent to its buyer's address it costs more than they agreed to when they
/// claimed. It is charged once they agree, with the saved checkout profile; without an agreement it ends as any order
/// that is not paid in time. Applied once; a repeat with the same key is answered as the first, and marked
/// `Idempotent-Replayed: true`.
#[utoipa::path(
    post, path = "/v1/orders/{id}/accept-total", tag = "orders",
    params(("id" = Uuid, Path, description = "The order's id", example = json!(ORDER)), KeyHeader),
    request_body = NewAgreement,
    responses(
        (status = 202, body = OrderFound, description = "The payment is under way"),
        Errors<(
            kinds::OrderNotFound, kinds::AcceptanceNotRequired, kinds::PriceChanged, kinds::ProfileMissing, kinds::CardMissing,
            kinds::KeyReused
        )>,
    ),
    security(("buyer" = []))
)]
pub async fn accept_total(
    State(gate): State<Gate>,
    Buyer(buyer): Buyer,
    Key(key): Key,
    PathText(id): PathText,
    JsonBody(new): JsonBody<NewAgreement, AGREEMENT_BYTES>,
) -> Result<Response, Problem> {
    let id = order_id(&id)?;
    let accepted = new.accepted_total.parse()?;
    let ledger = &gate.engine.ledger;
    let replayed = match ledger.accept_total(id, &buyer, &key, accepted, gate.engine.clock.now()).await? {
        TotalAccepted::Now => HeaderMap::new(),
        TotalAccepted::Before => HeaderMap::from_iter([(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"))]),
        TotalAccepted::KeyReused => return Err(Problem::KeyReused),
        TotalAccepted::NotRequired => return Err(Problem::AcceptanceNotRequired),
        TotalAccepted::Changed { total } => {
            return Err(Problem::PriceChanged { lines: Vec::new(), total: total.into() });
        }
        TotalAccepted::NoProfile => return Err(Problem::ProfileMissing),
        TotalAccepted::NoCard => return Err(Problem::CardMissing),
        TotalAccepted::NoSuchOrder => return Err(Problem::OrderNotFound),
    };
    let order = ledger.order_of(&buyer, id).await?.ok_or(Problem::OrderNotFound)?;
    Ok((StatusCode::ACCEPTED, replayed, Json(OrderFound::from(order))).into_response())
}

/// Cancel an order before it ships
///
/// What was paid goes back. While a charge is under way the answer is 202: the order ends with the provider's word.
#[utoipa::path(
    post, path = "/v1/orders/{id}/cancel", tag = "orders",
    params(("id" = Uuid, Path, description = "The order's id", example = json!(ORDER)), KeyHeader),
    responses(
        (status = 200, body = OrderFound, description = "It is cancelled"),
        (status = 202, body = OrderFound, description = "Its charge may be under way: it is cancelled once that has ended"),
        Errors<(kinds::OrderNotFound, kinds::NotCancellable)>,
    ),
    security(("buyer" = []))
)]
pub async fn cancel_order(
    State(gate): State<Gate>,
    Buyer(buyer): Buyer,
    // An order is cancelled once, whatever the key; it is asked for as of every request that has an effect.
    Key(_): Key,
    PathText(id): PathText,
) -> Result<Response, Problem> {
    let id = order_id(&id)?;
    let ledger = &gate.engine.ledger;
    let why = ("buyer", "cancelled by the buyer");
    let cancelled = ledger.cancel_order(id, Some(&buyer), why, gate.engine.clock.now()).await?;
    let (status, replayed) = match cancelled {
        OrderCancelled::Now => (StatusCode::OK, HeaderMap::new()),
        OrderCancelled::Before => {
            (StatusCode::OK, HeaderMap::from_iter([(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"))]))
        }
        OrderCancelled::Requested => (StatusCode::ACCEPTED, HeaderMap::new()),
        OrderCancelled::TooLate(_) | OrderCancelled::InReview => return Err(Problem::NotCancellable),
        OrderCancelled::NoSuchOrder => return Err(Problem::OrderNotFound),
    };
    // It was theirs when it was cancelled. Erased since, it bears a pseudonym, and is shown all the same.
    let order = ledger.order(id).await?.ok_or(Problem::OrderNotFound)?;
    Ok((status, replayed, Json(OrderFound::from(order))).into_response())
}

/// A text that is no id names no order.
pub(super) fn order_id(text: &str) -> Result<OrderId, Problem> {
    text.parse().map(OrderId).map_err(|_| Problem::OrderNotFound)
}

impl From<OrderItemView> for OrderItem {
    fn from(item: OrderItemView) -> Self {
        Self {
            line: item.line,
            sku: item.sku,
            title: item.title,
            quantity: item.quantity,
            unit_price: item.unit_price.into(),
            serials: item.serials.iter().map(|serial| serial.0).collect(),
            returned: item.returned,
        }
    }
}

impl From<ShipmentView> for OrderShipment {
    fn from(shipment: ShipmentView) -> Self {
        let Tracking { carrier, number } = shipment.tracking;
        Self { carrier, tracking_number: number, shipped_at: shipment.shipped_at }
    }
}

impl From<OrderView> for OrderFound {
    fn from(order: OrderView) -> Self {
        let link = format!("/v1/orders/{}", order.id);
        let waits_beyond = order.waits_beyond;
        let is_required =
            matches!(order.payment, PaymentState::Required | PaymentState::MethodRequired) && waits_beyond.is_none();
        // An order that cost nothing has no charge, and so no invoice.
        let is_invoiced = order.payment.was_paid() && order.totals.total.amount_minor > 0;
        let is_cancellable = order.status.apply(OrderEvent::Cancel).is_ok() && !order.is_cancel_requested;
        let refunds = order.refunds.into_iter().map(|refund| OrderRefund {
            amount: refund.amount.into(),
            credit_note: refund.credit_note.map(|number| format!("{link}/credit-notes/{number}")),
            status: refund.state,
            created_at: refund.created_at,
        });
        Self {
            order_id: order.id.0,
            drop: order.drop_name,
            status: order.status,
            payment: order.payment,
            items: order.items.into_iter().map(OrderItem::from).collect(),
            subtotal: order.totals.subtotal.into(),
            tax: order.totals.tax.into(),
            shipping: order.totals.shipping.into(),
            total: order.totals.total.into(),
            price_includes_tax: order.price_includes_tax,
            total_to_accept: waits_beyond
                .map(|accepted| TotalToAccept { accepted: accepted.into(), total: order.totals.total.into() }),
            ship_to: order.ship_to,
            next_action: order.next_action.map(|action| NextAction {
                kind: action.kind,
                url: action.url,
                client_secret: action.client_secret,
            }),
            pay_by: order.pay_by,
            decline: order.decline,
            cancel_requested: order.is_cancel_requested,
            refunds: refunds.collect(),
            shipment: order.shipment.map(OrderShipment::from),
            created_at: order.created_at,
            updated_at: order.updated_at,
            links: OrderLinks {
                payment: is_required.then(|| format!("{link}/payment")),
                accept_total: waits_beyond.map(|_| format!("{link}/accept-total")),
                invoice: is_invoiced.then(|| format!("{link}/invoice")),
                cancel: is_cancellable.then(|| format!("{link}/cancel")),
                order: link,
            },
        }
    }
}
