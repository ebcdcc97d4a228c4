//! `GET /v1/orders` and `GET /v1/orders/{id}` of the operators: anybody's orders, and everything about one.

use axum::Json;
use axum::extract::State;
use doorbuster_engine::domain::ids::{BuyerId, DropName, OrderId};
use doorbuster_engine::domain::orders::OrderState;
use doorbuster_engine::domain::payments::{PaymentState, RefundState};
use doorbuster_engine::ledger::order_details::{AttemptView, HistoryEntry, OrderDetails, RefundDetails};
use doorbuster_engine::ledger::order_pages::{OrderFilter, OrderPosition};
use doorbuster_engine::ledger::orders::OrderView;
use doorbuster_engine::ledger::outbox::Unsent;
use doorbuster_engine::ledger::returns::ReturnView;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::error::{Errors, Problem, kinds};
use crate::extract::{Params, PathText};
use crate::openapi::examples::ORDER;
use crate::page::{Page, PageParams, Paged};
use crate::routes::Amount;
use crate::routes::me::OrderReturnLine;
use crate::routes::ops::Ops;
use crate::routes::order_lists::statuses;
use crate::routes::orders::{OrderItem, OrderShipment, order_id};
use crate::words;

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct OrderParams {
    /// Of these states alone, comma-separated
    #[param(example = "CONFIRMED,PROCESSING")]
    status: Option<String>,
    /// Of this buyer alone
    buyer: Option<String>,
    /// Of this drop alone
    drop: Option<String>,
    /// Made then or later
    created_from: Option<Timestamp>,
    /// Made earlier than that
    created_before: Option<Timestamp>,
}

/// An order, in short
#[derive(Debug, Serialize, ToSchema)]
pub struct OperatorOrder {
    pub order_id: Uuid,
    pub buyer: String,
    pub drop: Option<String>,
    #[schema(value_type = words::OrderState)]
    pub status: OrderState,
    #[schema(value_type = words::PaymentState)]
    pub payment: PaymentState,
    pub items: Vec<OrderItem>,
    pub total: Amount,
    pub shipment: Option<OrderShipment>,
    /// Somebody wants it cancelled, and its charge has not come to an end
    pub cancel_requested: bool,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

/// An order with everything that is known of it
#[derive(Debug, Serialize, ToSchema)]
pub struct OperatorOrderDetails {
    #[serde(flatten)]
    pub order: OperatorOrder,
    pub subtotal: Amount,
    pub tax: Amount,
    pub shipping: Amount,
    /// What its buyer agreed to, while it costs more and waits for a new agreement; nothing is charged meanwhile
    pub accepted_total: Option<Amount>,
    pub email: Option<String>,
    #[schema(value_type = Option<crate::routes::profile::ShipTo>)]
    pub ship_to: Option<serde_json::Value>,
    pub cancel_asked_by: Option<String>,
    pub cancel_reason: Option<String>,
    /// The payment provider's id of the payment
    pub intent_id: Option<String>,
    pub payment_failure: Option<String>,
    pub history: Vec<OperatorStep>,
    /// Calls to the payment provider
    pub attempts: Vec<PaymentAttempt>,
    pub refunds: Vec<OperatorRefund>,
    pub returns: Vec<OperatorReturn>,
    /// Who was told what, by mail and webhook
    pub deliveries: Vec<OrderDelivery>,
}

/// One change of an order, or a note
#[derive(Debug, Serialize, ToSchema)]
pub struct OperatorStep {
    pub at: Timestamp,
    #[schema(value_type = Option<words::OrderState>)]
    pub from: Option<OrderState>,
    #[schema(value_type = words::OrderState)]
    pub to: OrderState,
    /// `buyer`, a part of the program, or an operator
    pub by: String,
    pub reason: String,
}

/// A call that could move money
#[derive(Debug, Serialize, ToSchema)]
pub struct PaymentAttempt {
    pub number: u32,
    #[schema(value_type = words::AttemptOperation)]
    pub operation: String,
    pub idempotency_key: String,
    #[schema(value_type = words::AttemptState)]
    pub state: String,
    pub detail: Option<String>,
    pub prepared_at: Timestamp,
    pub dispatched_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct OperatorRefund {
    pub refund_id: Uuid,
    pub amount: Amount,
    #[schema(value_type = words::RefundState)]
    pub status: RefundState,
    pub reason: String,
    pub asked_by: String,
    pub failure: Option<String>,
    pub provider_refund_id: Option<String>,
    pub created_at: Timestamp,
    pub settled_at: Option<Timestamp>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct OperatorReturn {
    pub return_id: Uuid,
    pub reason: String,
    pub taken_by: String,
    /// The refund that goes with it
    pub refund_id: Option<Uuid>,
    pub lines: Vec<OperatorReturnLine>,
    pub created_at: Timestamp,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct OperatorReturnLine {
    #[serde(flatten)]
    pub line: OrderReturnLine,
    /// They are available again; units of a drop that sells no longer never are
    pub restocked: bool,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct OrderDelivery {
    pub event: String,
    /// `mail`, or `webhook:` and the endpoint's name
    pub destination: String,
    #[schema(value_type = words::DeliveryState)]
    pub state: String,
    pub attempts: i32,
    pub last_error: Option<String>,
    pub next_at: Option<Timestamp>,
}

/// Orders, newest first
#[utoipa::path(
    get, path = "/v1/orders", tag = "orders",
    params(OrderParams, PageParams),
    responses((status = 200, body = Paged<OperatorOrder>)),
    security(("operator" = []))
)]
pub async fn find_orders(
    State(ops): State<Ops>,
    page: Page<OrderPosition>,
    Params(params): Params<OrderParams>,
) -> Result<Json<Paged<OperatorOrder>>, Problem> {
    let buyer = params.buyer.map(|text| text.parse::<BuyerId>());
    let drop = params.drop.map(|text| text.parse::<DropName>());
    let filter = OrderFilter {
        statuses: statuses(params.status.as_deref())?,
        buyer: buyer.transpose().map_err(|error| Problem::field("buyer", error.to_string()))?,
        drop: drop.transpose().map_err(|error| Problem::field("drop", error.to_string()))?,
        created_from: params.created_from,
        created_before: params.created_before,
    };
    let found = ops.engine.ledger.find_orders(&filter, page.after, page.fetch()).await?;
    Ok(Json(page.of(found, OrderView::position)))
}

/// Everything about an order
#[utoipa::path(
    get, path = "/v1/orders/{id}", tag = "orders",
    params(("id" = Uuid, Path, description = "The order's id", example = json!(ORDER))),
    responses(
        (status = 200, body = OperatorOrderDetails),
        Errors<kinds::OrderNotFound>,
    ),
    security(("operator" = []))
)]
pub async fn get_order(State(ops): State<Ops>, PathText(id): PathText) -> Result<Json<OperatorOrderDetails>, Problem> {
    details(&ops, order_id(&id)?).await.map(Json)
}

/// What every route that changes an order answers with.
pub(super) async fn details(ops: &Ops, id: OrderId) -> Result<OperatorOrderDetails, Problem> {
    let ledger = &ops.engine.ledger;
    let order = ledger.order(id).await?.ok_or(Problem::OrderNotFound)?;
    let details = ledger.order_details(id).await?.ok_or(Problem::OrderNotFound)?;
    Ok(OperatorOrderDetails::new(order, details))
}

impl From<OrderView> for OperatorOrder {
    fn from(order: OrderView) -> Self {
        Self {
            order_id: order.id.0,
            buyer: order.buyer.to_string(),
            drop: order.drop_name,
            status: order.status,
            payment: order.payment,
            items: order.items.into_iter().map(OrderItem::from).collect(),
            total: order.totals.total.into(),
            shipment: order.shipment.map(OrderShipment::from),
            cancel_requested: order.is_cancel_requested,
            created_at: order.created_at,
            updated_at: order.updated_at,
        }
    }
}

impl OperatorOrderDetails {
    fn new(order: OrderView, details: OrderDetails) -> Self {
        Self {
            subtotal: order.totals.subtotal.into(),
            tax: order.totals.tax.into(),
            shipping: order.totals.shipping.into(),
            accepted_total: order.waits_beyond.map(Amount::from),
            email: details.email,
            ship_to: order.ship_to.clone(),
            cancel_asked_by: details.cancel_asked_by,
            cancel_reason: details.cancel_reason,
            intent_id: details.intent_id,
            payment_failure: details.payment_failure,
            history: details.history.into_iter().map(OperatorStep::from).collect(),
            attempts: details.attempts.into_iter().map(PaymentAttempt::from).collect(),
            refunds: details.refunds.into_iter().map(OperatorRefund::from).collect(),
            returns: details.returns.into_iter().map(OperatorReturn::from).collect(),
            deliveries: details.deliveries.into_iter().map(OrderDelivery::from).collect(),
            order: order.into(),
        }
    }
}

impl From<HistoryEntry> for OperatorStep {
    fn from(entry: HistoryEntry) -> Self {
        let HistoryEntry { at, from, to, by, reason } = entry;
        Self { at, from, to, by, reason }
    }
}

impl From<AttemptView> for PaymentAttempt {
    fn from(attempt: AttemptView) -> Self {
        let AttemptView { number, operation, idempotency_key, state, detail, prepared_at, dispatched_at, finished_at } =
            attempt;
        Self { number, operation, idempotency_key, state, detail, prepared_at, dispatched_at, finished_at }
    }
}

impl From<RefundDetails> for OperatorRefund {
    fn from(refund: RefundDetails) -> Self {
        Self {
            refund_id: refund.refund_id.0,
            amount: refund.amount.into(),
            status: refund.state,
            reason: refund.reason,
            asked_by: refund.asked_by,
            failure: refund.failure,
            provider_refund_id: refund.provider_refund_id,
            created_at: refund.created_at,
            settled_at: refund.settled_at,
        }
    }
}

impl From<ReturnView> for OperatorReturn {
    fn from(found: ReturnView) -> Self {
        let lines =
            found.lines.into_iter().map(|line| OperatorReturnLine { restocked: line.restocked, line: line.into() });
        Self {
            return_id: found.return_id.0,
            lines: lines.collect(),
            reason: found.reason,
            taken_by: found.taken_by,
            refund_id: found.refund_id.map(|refund| refund.0),
            created_at: found.created_at,
        }
    }
}

impl From<Unsent> for OrderDelivery {
    fn from(delivery: Unsent) -> Self {
        let Unsent { event, destination, state, attempts, last_error, next_at } = delivery;
        Self { event, destination, state, attempts, last_error, next_at }
    }
}
