//! `GET /v1/me/export` and `DELETE /v1/me`: everything that is kept of a buyer, for him, and its end.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use doorbuster_engine::domain::carts::CartOwner;
use doorbuster_engine::flows::EngineError;
use doorbuster_engine::ledger::erasures::{Erasure, ExportedOrder};
use doorbuster_engine::ledger::order_pages::OrderPosition;
use doorbuster_engine::ledger::profiles::CheckoutProfile;
use doorbuster_engine::ledger::returns::{ReturnLineView, ReturnView};
use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::carts::{self, CartFound};
use super::order_lists::{OrderStep, step};
use super::orders::OrderFound;
use crate::auth::Buyer;
use crate::error::{Errors, IDEMPOTENT_REPLAYED, Problem, kinds};
use crate::extract::{Key, KeyHeader};
use crate::page::{Page, PageParams, Paged};
use crate::state::Gate;

/// Everything that is kept of a buyer
#[derive(Debug, Serialize, ToSchema)]
pub struct BuyerExport {
    pub buyer: String,
    pub checkout_profile: Option<ExportedProfile>,
    pub cart: Option<CartFound>,
    /// A page of all orders, newest first
    pub orders: Paged<OrderExport>,
}

/// The checkout profile as it is saved
#[derive(Debug, Serialize, ToSchema)]
pub struct ExportedProfile {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payment_method: Option<String>,
    pub email: String,
    #[schema(value_type = super::profile::ShipTo)]
    pub ship_to: serde_json::Value,
}

/// An order with all that belongs to it
#[derive(Debug, Serialize, ToSchema)]
pub struct OrderExport {
    pub order: OrderFound,
    pub history: Vec<OrderStep>,
    pub returns: Vec<OrderReturn>,
}

/// Goods that came back
#[derive(Debug, Serialize, ToSchema)]
pub struct OrderReturn {
    pub return_id: Uuid,
    pub lines: Vec<OrderReturnLine>,
    pub created_at: Timestamp,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct OrderReturnLine {
    pub line: u32,
    pub quantity: u32,
    /// The units of a drop, by number
    pub serials: Vec<u32>,
}

/// What was erased
#[derive(Debug, Serialize, ToSchema)]
pub struct BuyerErased {
    /// Orders that stay in the books under a pseudonym
    pub orders_made_anonymous: u64,
    /// Drops whose limit per buyer needs the buyer's id until they are archived; e-mail and address are gone from their orders
    pub kept_until_archived: Vec<String>,
}

/// Everything that is kept of me
#[utoipa::path(
    get, path = "/v1/me/export", tag = "me",
    params(PageParams),
    responses((status = 200, body = BuyerExport)),
    security(("buyer" = []))
)]
pub async fn export_buyer(
    State(gate): State<Gate>,
    Buyer(buyer): Buyer,
    page: Page<OrderPosition>,
) -> Result<Json<BuyerExport>, Problem> {
    let ledger = &gate.engine.ledger;
    let profile = ledger.profile_of(&buyer).await?;
    let cart = carts::cart_of(&gate, &CartOwner::Buyer(buyer.clone())).await?;
    let orders = ledger.exported_orders(&buyer, page.after, page.fetch()).await?;
    Ok(Json(BuyerExport {
        buyer: buyer.to_string(),
        checkout_profile: profile.map(ExportedProfile::from),
        cart,
        orders: page.of(orders, |exported: &ExportedOrder| exported.order.position()),
    }))
}

/// Forget me
///
/// E-mail, address, payment method and cart go, orders stay in the books under a pseudonym. Refused while an order is open. Asked for
/// again it erases what has come since; when there was nothing, the answer is marked `Idempotent-Replayed: true`.
#[utoipa::path(
    delete, path = "/v1/me", tag = "me",
    params(KeyHeader),
    responses(
        (status = 200, body = BuyerErased),
        Errors<kinds::OrdersOpen>,
    ),
    security(("buyer" = []))
)]
pub async fn erase_buyer(
    State(gate): State<Gate>,
    Buyer(buyer): Buyer,
    // Erasing is the same each time, whatever the key; it is asked for as of every request that has an effect.
    Key(_): Key,
) -> Result<Response, Problem> {
    let erased = match gate.engine.ledger.erase_buyer(&buyer, gate.engine.clock.now()).await? {
        Erasure::Done(erased) => erased,
        Erasure::Open(orders) => {
            return Err(Problem::OrdersOpen { orders: orders.iter().map(|order| order.0).collect() });
        }
    };
    // After the rest: should this fail, asking again does it, whatever else there is to erase.
    gate.engine.carts.forget(&CartOwner::Buyer(buyer)).await.map_err(EngineError::from)?;
    let body = Json(BuyerErased { orders_made_anonymous: erased.orders, kept_until_archived: erased.kept_by_drops });
    Ok(if erased.is_repeat { ([(IDEMPOTENT_REPLAYED, "true")], body).into_response() } else { body.into_response() })
}

impl From<CheckoutProfile> for ExportedProfile {
    fn from(profile: CheckoutProfile) -> Self {
        Self {
            payment_method: profile.payment_method.map(|method| method.as_str().to_owned()),
            email: profile.email,
            ship_to: profile.ship_to,
        }
    }
}

impl From<ExportedOrder> for OrderExport {
    fn from(exported: ExportedOrder) -> Self {
        Self {
            history: exported.history.iter().filter_map(step).collect(),
            returns: exported.returns.into_iter().map(OrderReturn::from).collect(),
            order: exported.order.into(),
        }
    }
}

impl From<ReturnLineView> for OrderReturnLine {
    fn from(line: ReturnLineView) -> Self {
        let serials = line.serials.iter().map(|serial| serial.0).collect();
        Self { line: line.line, quantity: line.quantity, serials }
    }
}

impl From<ReturnView> for OrderReturn {
    fn from(found: ReturnView) -> Self {
        Self {
            return_id: found.return_id.0,
            lines: found.lines.into_iter().map(OrderReturnLine::from).collect(),
            created_at: found.created_at,
        }
    }
}
