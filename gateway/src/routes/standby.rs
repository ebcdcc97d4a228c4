//! `/v1/drops/{drop}/standby`: a buyer who was refused waits in line for units that come back.

use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use doorbuster_engine::domain::claims::Quantity;
use doorbuster_engine::domain::drops::{DropState, SaleDrop};
use doorbuster_engine::domain::ids::{BuyerId, ClaimId};
use doorbuster_engine::domain::standby::{Place, PlaceState};
use doorbuster_engine::flows::standby::Queued;
use doorbuster_engine::ledger::standby::{Joined, LeftLine, NewPlace};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::claims::variant_of;
use crate::auth::Buyer;
use crate::error::{Errors, IDEMPOTENT_REPLAYED, Problem, kinds};
use crate::extract::{JsonBody, Key, KeyHeader, PathText};
use crate::receipt::Receipt;
use crate::state::Gate;

/// A receipt is below a kilobyte.
const STANDBY_BODY_BYTES: usize = 8 * 1024;

/// What to wait for
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewStandby {
    /// The variant; may be left out when the drop has only one
    pub sku: Option<String>,
    /// Units, all or nothing: one return of units has to cover them
    #[serde(default = "one")]
    #[schema(minimum = 1, maximum = 100, default = 1)]
    pub quantity: i64,
    /// The receipt of a claim that we answered and then lost: its buyer goes before everybody who merely waits
    pub receipt: Option<String>,
}

fn one() -> i64 {
    1
}

/// A buyer's place in line
#[derive(Debug, Serialize, ToSchema)]
pub struct StandbyPlace {
    pub drop: String,
    pub sku: String,
    pub quantity: u32,
    pub status: StandbyStatus,
    /// Places before his, while he waits
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ahead: Option<u32>,
    /// He goes before those who merely wait: a claim of his was lost
    pub is_first: bool,
    /// The order that an award becomes once it is settled
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order_id: Option<Uuid>,
    pub joined_at: Timestamp,
}

#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StandbyStatus {
    /// In line
    Waiting,
    /// Units came back for him, and are on their way; an order follows
    Awarded,
    /// They are his: there is an order
    Taken,
    /// Units came back, but he held as many as he may
    Refused,
    /// He left
    Left,
    /// The drop closed first
    Expired,
}

/// The places of one buyer, those that wait first
#[derive(Debug, Serialize, ToSchema)]
pub struct StandbyPlaces {
    pub places: Vec<StandbyPlace>,
}

/// Which line
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct WhichLine {
    /// The variant; without it, every line of the drop
    pub sku: Option<String>,
}

/// Wait for units that come back
///
/// Only for what cannot be bought now. Orders that are not paid, and cancelled ones, give their units to the first in line whose quantity they cover. Who is
/// awarded units gets an order as if he had claimed them, and is told by mail; his payment method is charged.
#[utoipa::path(
    post, path = "/v1/drops/{drop}/standby", tag = "standby",
    params(("drop" = String, Path, description = "The drop's name", example = "shoe"), KeyHeader),
    request_body = NewStandby,
    responses(
        (status = 201, body = StandbyPlace, description = "In line now or, with Idempotent-Replayed: true, before",
            headers(("Idempotent-Replayed" = Option<bool>))),
        Errors<(
            kinds::DropNotFound, kinds::VariantNotFound, (kinds::AlreadyInLine, kinds::OnSale), kinds::LineFull,
            kinds::LimitExceeded,
            (kinds::NotOpen, kinds::LineOnly, kinds::Paused), kinds::ClaimNotLost, kinds::Closed, kinds::KeyReused
        )>,
    ),
    security(("buyer" = []))
)]
pub async fn join_standby(
    State(gate): State<Gate>,
    Buyer(buyer): Buyer,
    Key(key): Key,
    PathText(drop): PathText,
    JsonBody(new): JsonBody<NewStandby, STANDBY_BODY_BYTES>,
) -> Result<Response, Problem> {
    let quantity = Quantity::new(new.quantity).map_err(|error| Problem::field("quantity", error.to_string()))?;
    let name = drop.parse().map_err(|_| Problem::DropNotFound)?;
    let live = gate.drops.get(&name).await?.ok_or(Problem::DropNotFound)?;
    let variant = variant_of(&live.drop, new.sku.as_deref())?;
    let lost = match &new.receipt {
        Some(text) => Some(lost_claim(&gate, &live.drop, &buyer, (&variant.sku, quantity), text).await?),
        None => None,
    };
    let place = NewPlace { buyer, variant: variant.number, quantity, key, lost };
    let joined = match gate.engine.join_standby(&live, &place).await? {
        Queued::Joined(joined) => joined,
        Queued::OnSale => return Err(Problem::OnSale),
        Queued::OverLimit { held, limit } => return Err(Problem::LimitExceeded { held, limit }),
    };
    match joined {
        Joined::Now(place) => Ok((StatusCode::CREATED, Json(shown(&live.drop, &place))).into_response()),
        Joined::Before(place) => {
            let replayed = [(IDEMPOTENT_REPLAYED, "true")];
            Ok((StatusCode::CREATED, replayed, Json(shown(&live.drop, &place))).into_response())
        }
        Joined::KeyReused => Err(Problem::KeyReused),
        Joined::InLine => Err(Problem::AlreadyInLine),
        Joined::Full => Err(Problem::LineFull),
        Joined::NotSelling(DropState::Closed | DropState::Archived) => Err(Problem::Closed),
        Joined::NotSelling(DropState::Paused) => Err(Problem::Paused),
        Joined::NotSelling(DropState::Lining) => Err(Problem::LineOnly),
        Joined::NotSelling(_) => Err(Problem::NotOpen),
    }
}

/// Where one stands
#[utoipa::path(
    get, path = "/v1/drops/{drop}/standby", tag = "standby",
    params(("drop" = String, Path, description = "The drop's name", example = "shoe")),
    responses(
        (status = 200, body = StandbyPlaces, description = "Empty for who never waited"),
        Errors<kinds::DropNotFound>,
    ),
    security(("buyer" = []))
)]
pub async fn get_standby(
    State(gate): State<Gate>,
    Buyer(buyer): Buyer,
    PathText(drop): PathText,
) -> Result<Json<StandbyPlaces>, Problem> {
    let name = drop.parse().map_err(|_| Problem::DropNotFound)?;
    let live = gate.drops.get(&name).await?.ok_or(Problem::DropNotFound)?;
    let places = gate.engine.standby_of(&live, &buyer).await?;
    Ok(Json(StandbyPlaces { places: places.iter().map(|place| shown(&live.drop, place)).collect() }))
}

/// Leave the line
#[utoipa::path(
    delete, path = "/v1/drops/{drop}/standby", tag = "standby",
    params(("drop" = String, Path, description = "The drop's name", example = "shoe"), WhichLine),
    responses(
        (status = 204, description = "In no such line any more"),
        Errors<(kinds::DropNotFound, kinds::VariantNotFound, kinds::UnitsOnTheirWay)>,
    ),
    security(("buyer" = []))
)]
pub async fn leave_standby(
    State(gate): State<Gate>,
    Buyer(buyer): Buyer,
    PathText(drop): PathText,
    which: Result<Query<WhichLine>, axum::extract::rejection::QueryRejection>,
) -> Result<StatusCode, Problem> {
    let Query(which) = which.map_err(|error| Problem::field("query", error.body_text()))?;
    let name = drop.parse().map_err(|_| Problem::DropNotFound)?;
    let live = gate.drops.get(&name).await?.ok_or(Problem::DropNotFound)?;
    let variant = match &which.sku {
        Some(sku) => Some(live.drop.variant_by_sku(sku).ok_or(Problem::VariantNotFound)?.number),
        None => None,
    };
    match gate.engine.leave_standby(&live, &buyer, variant).await? {
        LeftLine::Left => Ok(StatusCode::NO_CONTENT),
        LeftLine::Awarded => Err(Problem::UnitsOnTheirWay),
    }
}

/// The claim that a receipt proves, if we know nothing of it any more.
async fn lost_claim(
    gate: &Gate,
    drop: &SaleDrop,
    buyer: &BuyerId,
    (sku, quantity): (&str, Quantity),
    text: &str,
) -> Result<ClaimId, Problem> {
    let not_ours = |why: String| Problem::field("receipt", why);
    let receipts = gate.receipts.as_ref().ok_or_else(|| not_ours("no receipts are given here".to_owned()))?;
    let receipt: Receipt = receipts.verify(text).map_err(|error| not_ours(error.to_string()))?;
    if (&*receipt.sub, &*receipt.drop, &*receipt.sku) != (buyer.as_str(), drop.name.as_str(), sku) {
        return Err(not_ours("it is about another buyer, drop or variant".to_owned()));
    }
    // First in line for what was lost, and not for more.
    if quantity.units() as usize > receipt.serials.len() {
        return Err(not_ours(format!("it is about {} units: ask for no more with it", receipt.serials.len())));
    }
    let claim = ClaimId(receipt.jti);
    // Else it is held, an order, or over in a way that is its buyer's own.
    if gate.engine.is_lost(buyer, claim).await? { Ok(claim) } else { Err(Problem::ClaimNotLost) }
}

fn shown(drop: &SaleDrop, place: &Place) -> StandbyPlace {
    StandbyPlace {
        drop: drop.name.to_string(),
        sku: drop.variant(place.variant).map(|variant| variant.sku.clone()).unwrap_or_default(),
        quantity: place.quantity.units(),
        status: match place.state {
            PlaceState::Waiting => StandbyStatus::Waiting,
            PlaceState::Awarded => StandbyStatus::Awarded,
            PlaceState::Taken => StandbyStatus::Taken,
            PlaceState::Refused => StandbyStatus::Refused,
            PlaceState::Left => StandbyStatus::Left,
            PlaceState::Expired => StandbyStatus::Expired,
        },
        ahead: place.ahead,
        is_first: place.is_first,
        order_id: place.claim.filter(|_| place.state == PlaceState::Taken).map(|claim| claim.order_id().0),
        joined_at: place.joined_at,
    }
}
