//! `GET /v1/drops/{drop}`: what everybody may know, a second old at most. How stock is partitioned is nobody's business.

use axum::Json;
use axum::extract::State;
use axum::http::header::CACHE_CONTROL;
use axum::response::IntoResponse;
use doorbuster_engine::domain::countries::Country;
use doorbuster_engine::domain::drops::{DropState, DropVariant, SaleDrop};
use doorbuster_engine::domain::pricing::Totals;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Amount;
use super::claims::{country_of, not_served};
use crate::error::{Errors, Problem, kinds};
use crate::extract::{Params, PathText};
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
    /// The prices include the tax on the goods
    pub price_includes_tax: bool,
    pub variants: Vec<Variant>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct Variant {
    pub sku: String,
    pub title: String,
    pub price: Amount,
    /// What one unit costs in the country that was asked for; only there if one was
    #[serde(skip_serializing_if = "Option::is_none")]
    pub whole_price: Option<WholePrice>,
}

/// What one unit costs, sent to a country
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct WholePrice {
    #[schema(example = "DE")]
    pub country: String,
    /// The unit, before tax
    pub subtotal: Amount,
    /// On the unit and its shipping
    pub tax: Amount,
    /// Before tax
    pub shipping: Amount,
    /// What is charged: send it as accepted_total
    pub total: Amount,
}

/// Where something is to go.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct CountryParam {
    /// ISO 3166-1: the answer says what one unit costs there, with tax and shipping
    #[param(example = "DE")]
    pub country: Option<String>,
}

/// A drop and its variants
///
/// With `country` also what one unit of each costs there. Once the drop has opened that does not change any more.
#[utoipa::path(
    get, path = "/v1/drops/{drop}", tag = "drops",
    params(("drop" = String, Path, description = "The drop's name", example = "shoe"), CountryParam),
    responses(
        (status = 200, body = DropFound),
        Errors<(kinds::DropNotFound, kinds::CountryNotServed, kinds::Overloaded)>,
    ),
    security(())
)]
pub async fn get_drop(
    State(gate): State<Gate>,
    PathText(drop): PathText,
    Params(CountryParam { country }): Params<CountryParam>,
) -> Result<impl IntoResponse + use<>, Problem> {
    let name = drop.parse().map_err(|_| Problem::DropNotFound)?;
    let live = gate.drops.fresh(&name).await?.ok_or(Problem::DropNotFound)?;
    let to = country.map(|country| country_of(&live.drop, &country)).transpose()?;
    Ok(([(CACHE_CONTROL, "public, max-age=1")], Json(found(&live.drop, to)?)))
}

fn found(drop: &SaleDrop, to: Option<Country>) -> Result<DropFound, Problem> {
    let variant = |variant: &DropVariant| {
        Ok(Variant {
            sku: variant.sku.clone(),
            title: variant.title.clone(),
            price: variant.price.into(),
            whole_price: to.map(|to| whole_price(drop, variant, to)).transpose()?,
        })
    };
    Ok(DropFound {
        name: drop.name.to_string(),
        product: drop.product_name.clone(),
        state: drop.state,
        currency: drop.currency.to_string(),
        limit: drop.buyer_limit,
        opens_at: drop.opens_at,
        closes_at: drop.closes_at,
        price_includes_tax: drop.terms.price_includes_tax,
        variants: drop.variants.iter().map(variant).collect::<Result<_, Problem>>()?,
    })
}

fn whole_price(drop: &SaleDrop, variant: &DropVariant, to: Country) -> Result<WholePrice, Problem> {
    let totals = drop.terms.totals(variant.price, 1, to).ok_or_else(|| not_served(drop, to))?;
    let totals = totals.map_err(|error| Problem::NotChargeable { why: error.to_string() })?;
    Ok(WholePrice::new(to, totals))
}

impl WholePrice {
    pub(super) fn new(to: Country, totals: Totals) -> Self {
        let Totals { subtotal, tax, shipping, total } = totals;
        Self {
            country: to.to_string(),
            subtotal: subtotal.into(),
            tax: tax.into(),
            shipping: shipping.into(),
            total: total.into(),
        }
    }
}
