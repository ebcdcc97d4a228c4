//! `GET /v1/drops/{drop}`: what everybody may know, a second old at most. How stock is partitioned is nobody's business.

use axum::Json;
use axum::extract::State;
use axum::http::header::CACHE_CONTROL;
use axum::response::IntoResponse;
use doorbuster_engine::domain::drops::{DropState, SaleDrop};
use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use super::Amount;
use crate::error::{Errors, Problem, kinds};
use crate::extract::PathText;
use crate::state::Gate;
use crate::words;

/// A drop
#[derive(Debug, Serialize, ToSchema)]
pub struct DropFound {
    pub name: String,
    pub product: String,
    /// `draft` and `opening` come before `open`, `closed` after it
    #[schema(value_type = words::DropState)]
    pub state: DropState,
    #[schema(example = "EUR")]
    pub currency: String,
    /// Units a buyer may hold
    pub limit: u32,
    pub opens_at: Option<Timestamp>,
    pub closes_at: Option<Timestamp>,
    pub variants: Vec<Variant>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct Variant {
    pub sku: String,
    pub title: String,
    pub price: Amount,
}

/// A drop and its variants
#[utoipa::path(
    get, path = "/v1/drops/{drop}", tag = "drops",
    params(("drop" = String, Path, description = "The drop's name", example = "shoe")),
    responses(
        (status = 200, body = DropFound),
        Errors<(kinds::DropNotFound, kinds::Overloaded)>,
    ),
    security(())
)]
pub async fn get_drop(
    State(gate): State<Gate>,
    PathText(drop): PathText,
) -> Result<impl IntoResponse + use<>, Problem> {
    let name = drop.parse().map_err(|_| Problem::DropNotFound)?;
    let live = gate.drops.fresh(&name).await?.ok_or(Problem::DropNotFound)?;
    Ok(([(CACHE_CONTROL, "public, max-age=1")], Json(DropFound::from(&live.drop))))
}

impl From<&SaleDrop> for DropFound {
    fn from(drop: &SaleDrop) -> Self {
        let variants = drop.variants.iter().map(|variant| Variant {
            sku: variant.sku.clone(),
            title: variant.title.clone(),
            price: variant.price.into(),
        });
        Self {
            name: drop.name.to_string(),
            product: drop.product_name.clone(),
            state: drop.state,
            currency: drop.currency.to_string(),
            limit: drop.buyer_limit,
            opens_at: drop.opens_at,
            closes_at: drop.closes_at,
            variants: variants.collect(),
        }
    }
}
