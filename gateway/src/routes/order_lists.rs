//! `GET /v1/orders` and `GET /v1/orders/{id}/history`: a buyer's own orders, page by page, and what became of each.

use axum::Json;
use axum::extract::State;
use doorbuster_engine::domain::orders::OrderState;
use doorbuster_engine::ledger::order_details::HistoryEntry;
use doorbuster_engine::ledger::order_pages::OrderPosition;
use doorbuster_engine::ledger::orders::OrderView;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::orders::{OrderFound, order_id};
use crate::auth::Buyer;
use crate::error::{Errors, Problem, kinds};
use crate::extract::{Params, PathText};
use crate::openapi::examples::ORDER;
use crate::page::{Page, PageParams, Paged};
use crate::state::Gate;
use crate::words;

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct StatusParams {
    /// Of these states alone, comma-separated
    #[param(example = "CONFIRMED,PROCESSING")]
    status: Option<String>,
}

/// What became of an order
#[derive(Debug, Serialize, ToSchema)]
pub struct OrderHistory {
    /// Oldest first
    pub entries: Vec<OrderStep>,
}

/// One change of an order
#[derive(Debug, Serialize, ToSchema)]
pub struct OrderStep {
    pub at: Timestamp,
    /// What the order was from then on
    #[schema(value_type = words::OrderState)]
    pub status: OrderState,
    #[schema(example = "handed over to the carrier")]
    pub reason: String,
}

/// My orders, newest first
#[utoipa::path(
    get, path = "/v1/orders", tag = "orders",
    params(StatusParams, PageParams),
    responses((status = 200, body = Paged<OrderFound>)),
    security(("buyer" = []))
)]
pub async fn list_orders(
    State(gate): State<Gate>,
    Buyer(buyer): Buyer,
    page: Page<OrderPosition>,
    Params(StatusParams { status }): Params<StatusParams>,
) -> Result<Json<Paged<OrderFound>>, Problem> {
    let statuses = statuses(status.as_deref())?;
    let found = gate.engine.ledger.orders_of(&buyer, &statuses, page.after, page.fetch()).await?;
    Ok(Json(page.of(found, OrderView::position)))
}

/// The history of an order
#[utoipa::path(
    get, path = "/v1/orders/{id}/history", tag = "orders",
    params(("id" = Uuid, Path, description = "The order's id", example = json!(ORDER))),
    responses(
        (status = 200, body = OrderHistory),
        Errors<kinds::OrderNotFound>,
    ),
    security(("buyer" = []))
)]
pub async fn get_history(
    State(gate): State<Gate>,
    Buyer(buyer): Buyer,
    PathText(id): PathText,
) -> Result<Json<OrderHistory>, Problem> {
    let found = gate.engine.ledger.history_of(&buyer, order_id(&id)?).await?.ok_or(Problem::OrderNotFound)?;
    Ok(Json(OrderHistory { entries: found.iter().filter_map(step).collect() }))
}

pub(super) fn statuses(text: Option<&str>) -> Result<Vec<OrderState>, Problem> {
    let names = text.unwrap_or_default().split(',').map(str::trim).filter(|name| !name.is_empty());
    names.map(|name| name.parse().map_err(|error| Problem::field("status", format!("{error}")))).collect()
}

/// An entry as its buyer reads it: our own reasons name people and cases, so each state has its sentence here. Entries that
/// change nothing are notes of ours, and are not shown.
pub(super) fn step(entry: &HistoryEntry) -> Option<OrderStep> {
    if entry.from == Some(entry.to) {
        return None;
    }
    let reason = match entry.to {
        OrderState::PendingPayment => "ordered",
        OrderState::Confirmed => "paid",
        OrderState::Processing => "being packed",
        OrderState::Shipped => "handed over to the carrier",
        OrderState::Delivered => "delivered",
        OrderState::PaymentFailed => "the payment failed",
        OrderState::Cancelled if entry.by == "buyer" => "cancelled by you",
        OrderState::Cancelled => "cancelled by the shop",
    };
    Some(OrderStep { at: entry.at, status: entry.to, reason: reason.to_owned() })
}
