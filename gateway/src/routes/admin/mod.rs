//! The operators' API, on their own listener. The layer of `operators.rs` lies around all of it; each route is declared once,
//! for axum and for that listener's /openapi.json alike.

pub mod products;
pub mod stock;
pub mod imports;
pub mod orders;
pub mod fulfilment;
pub mod money_back;
pub mod documents;

use axum::{Json, Router};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::ops::Ops;
use crate::openapi;
use crate::operators::Operator;

/// The routes and what they say of themselves, which cannot differ; [`openapi::complete`] adds the rest.
pub fn api() -> (Router<Ops>, OpenApi) {
    OpenApiRouter::with_openapi(openapi::operators_base())
        .routes(routes!(get_operator))
        .routes(routes!(products::make_product, products::list_products))
        .routes(routes!(products::get_product, products::change_product))
        .routes(routes!(products::add_variant))
        .routes(routes!(products::get_stock))
        .routes(routes!(imports::import_products))
        .routes(routes!(imports::import_stock))
        .routes(routes!(stock::make_warehouse, stock::list_warehouses))
        .routes(routes!(stock::adjust_stock, stock::list_adjustments))
        .routes(routes!(orders::find_orders))
        .routes(routes!(orders::get_order))
        .routes(routes!(documents::get_invoice))
        .routes(routes!(documents::get_credit_note))
        .routes(routes!(fulfilment::process_order))
        .routes(routes!(fulfilment::ship_order))
        .routes(routes!(fulfilment::deliver_order))
        .routes(routes!(money_back::take_return))
        .routes(routes!(money_back::refund_order))
        .routes(routes!(money_back::cancel_order))
        .split_for_parts()
}

/// An operator
#[derive(Debug, Serialize, ToSchema)]
pub struct OperatorFound {
    /// The actor in every history row of what he does
    #[schema(example = "ada")]
    pub name: String,
}

/// Whose token this is
#[utoipa::path(
    get, path = "/v1/operator", tag = "operators",
    responses((status = 200, body = OperatorFound)),
    security(("operator" = []))
)]
pub async fn get_operator(operator: Operator) -> Json<OperatorFound> {
    Json(OperatorFound { name: operator.name().to_owned() })
}
