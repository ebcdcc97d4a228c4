//! The public API. One file a resource; every route is declared once, for axum and for /openapi.json alike.

pub mod claims;
pub mod drops;
pub mod orders;
pub mod profile;
pub mod standby;
pub mod webhooks;
pub mod ops;

use axum::Router;
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::get;
use bytes::Bytes;
use doorbuster_engine::domain::money::Money;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::config::GatewayConfig;
use crate::error::Problem;
use crate::middleware;
use crate::openapi;
use crate::state::Gate;

/// An amount of money
#[derive(Debug, Serialize, ToSchema)]
pub struct Amount {
    /// In the currency's smallest unit: cents for EUR, yen for JPY
    pub amount_minor: i64,
    /// ISO 4217
    #[schema(example = "EUR")]
    pub currency: String,
}

impl From<Money> for Amount {
    fn from(money: Money) -> Self {
        Self { amount_minor: money.amount_minor, currency: money.currency.to_string() }
    }
}

/// The routes and their description, which cannot differ.
pub fn api() -> (Router<Gate>, OpenApi) {
    OpenApiRouter::with_openapi(openapi::base())
        .routes(routes!(claims::make_claim))
        .routes(routes!(claims::get_claim))
        .routes(routes!(drops::get_drop))
        .routes(routes!(orders::get_order))
        .routes(routes!(orders::pay_order))
        .routes(routes!(orders::cancel_order))
        .routes(routes!(profile::get_profile, profile::put_profile))
        .routes(routes!(standby::join_standby, standby::get_standby, standby::leave_standby))
        .routes(routes!(webhooks::receive_event))
        .split_for_parts()
}

/// The whole public listener.
pub fn public(gate: Gate, config: &GatewayConfig) -> Router {
    let (router, description) = api();
    let description = Bytes::from(description.to_json().expect("a description made of texts is JSON"));
    let router = router
        .route("/openapi.json", get(async move || ([(header::CONTENT_TYPE, "application/json")], description.clone())))
        .fallback(async || Problem::NotFound.into_response())
        .method_not_allowed_fallback(async || Problem::MethodNotAllowed.into_response())
        .with_state(gate);
    middleware::around(router, config)
}
