//! The public API, and in `admin/` the operators'. One file a resource; every route is declared once, for axum and for
//! /openapi.json alike.

pub mod claims;
pub mod carts;
pub mod checkout;
pub mod drops;
pub mod products;
pub mod orders;
pub mod order_lists;
pub mod documents;
pub mod profile;
pub mod setups;
pub mod standby;
pub mod line;
pub mod me;
pub mod webhooks;
pub mod ops;
pub mod admin;

use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use bytes::Bytes;
use doorbuster_engine::domain::money::Money;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::config::{GatewayConfig, Setting};
use crate::docs_page;
use crate::draw_page;
use crate::error::Problem;
use crate::etag::{IfNoneMatch, etag_of_bytes};
use crate::middleware;
use crate::openapi;
use crate::state::Gate;
use crate::static_page::StaticPage;

/// An amount of money
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
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

/// The routes and what they say of themselves, which cannot differ; [`openapi::complete`] adds the rest.
pub fn api() -> (Router<Gate>, OpenApi) {
    api_with(OpenApiRouter::new().routes(routes!(claims::make_claim)))
}

fn api_with(claims: OpenApiRouter<Gate>) -> (Router<Gate>, OpenApi) {
    OpenApiRouter::with_openapi(openapi::base())
        .merge(claims)
        .routes(routes!(claims::get_claim))
        .routes(routes!(drops::get_drop))
        .routes(routes!(products::list_products))
        .routes(routes!(products::get_product))
        .routes(routes!(carts::begin_guest))
        .routes(routes!(carts::get_cart, carts::clear_cart))
        .routes(routes!(carts::add_item))
        .routes(routes!(carts::set_item, carts::remove_item))
        .routes(routes!(carts::merge_cart))
        .routes(routes!(checkout::quote_cart, checkout::check_out))
        .routes(routes!(order_lists::list_orders))
        .routes(routes!(orders::get_order))
        .routes(routes!(order_lists::get_history))
        .routes(routes!(documents::get_invoice))
        .routes(routes!(documents::get_credit_note))
        .routes(routes!(orders::pay_order))
        .routes(routes!(orders::accept_total))
        .routes(routes!(orders::cancel_order))
        .routes(routes!(profile::get_profile, profile::put_profile))
        .routes(routes!(setups::begin_setup))
        .routes(routes!(setups::return_from_setup))
        .routes(routes!(standby::join_standby, standby::get_standby, standby::leave_standby))
        .routes(routes!(line::join_line, line::get_board))
        .routes(routes!(line::get_place, line::change_place, line::leave_line))
        .routes(routes!(line::get_rules))
        .routes(routes!(line::get_leaves))
        .routes(routes!(line::get_bundle))
        .routes(routes!(me::export_buyer))
        .routes(routes!(me::erase_buyer))
        .route("/v1/webhooks/stripe", post(webhooks::receive_event))
        .split_for_parts()
}

/// The whole public listener.
pub fn public(gate: Gate, config: &GatewayConfig) -> Router {
    around(gate, config, api())
}

/// The public listener with another answer to `POST /v1/drops/{drop}/claims`, everything around it being the same: load
/// tests compare ways to claim.
pub fn public_claiming(gate: Gate, config: &GatewayConfig, claims: MethodRouter<Gate>) -> Router {
    let claims = Router::new().route("/v1/drops/{drop}/claims", claims);
    around(gate, config, api_with(claims.into()))
}

fn around(gate: Gate, config: &GatewayConfig, (router, description): (Router<Gate>, OpenApi)) -> Router {
    let router = router.route("/draw", get(draw));
    middleware::around(described(router, description, Vec::new()).with_state(gate), config)
}

/// Kept, and asked for again each time: the next program may say something else.
const UNTIL_ASKED: [(header::HeaderName, &str); 1] = [(header::CACHE_CONTROL, "public, no-cache")];

/// The page that checks draws. It is no part of the API, so the description leaves it out.
async fn draw(known: IfNoneMatch) -> Response {
    static PAGE: LazyLock<StaticPage> = LazyLock::new(draw_page::page);
    known.answer(PAGE.etag.clone(), (UNTIL_ASKED, PAGE.clone()))
}

/// A listener's routes with their description, for programs and for people; whatever else is asked for is a problem.
fn described<S: Clone + Send + Sync + 'static>(
    router: Router<S>,
    description: OpenApi,
    settings: Vec<Setting>,
) -> Router<S> {
    // Made when somebody first asks: few do, and every start would wait for it.
    let page_and_document = Arc::new(LazyLock::new(move || {
        let description = openapi::complete(description);
        let value = serde_json::to_value(&description).expect("a description made of texts is JSON");
        let page = docs_page::page(&value, &Problem::samples(), &settings);
        let document = Bytes::from(description.to_json().expect("a description made of texts is JSON"));
        (page, etag_of_bytes(&document), document)
    }));
    let for_people = Arc::clone(&page_and_document);
    let docs = async move |known: IfNoneMatch| {
        let (page, ..) = &**for_people;
        known.answer(page.etag.clone(), (UNTIL_ASKED, page.clone()))
    };
    let json = async move |known: IfNoneMatch| {
        let (_, etag, document) = &**page_and_document;
        let json = [(header::CONTENT_TYPE, "application/json")];
        known.answer(etag.clone(), (UNTIL_ASKED, json, document.clone()))
    };
    router
        .route("/docs", get(docs))
        .route("/openapi.json", get(json))
        .fallback(async || Problem::NotFound.into_response())
        .method_not_allowed_fallback(async || Problem::MethodNotAllowed.into_response())
}
