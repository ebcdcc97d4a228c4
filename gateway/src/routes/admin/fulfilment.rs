//! `POST /v1/orders/{id}/process | ship | deliver`: a paid order on its way. Each step is taken once, whatever the key; a repeat
//! is answered as the first, and marked `Idempotent-Replayed: true`.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use doorbuster_engine::domain::fulfilment::Tracking;
use doorbuster_engine::ledger::fulfilment::{Fulfilled, FulfilmentStep};
use serde::Deserialize;
use utoipa::ToSchema;

use super::orders::{OperatorOrderDetails, details};
use crate::error::{Errors, IDEMPOTENT_REPLAYED, Problem, kinds};
use crate::extract::{JsonBody, Key, KeyHeader, PathText};
use crate::openapi::examples::ORDER;
use crate::operators::Operator;
use crate::routes::ops::Ops;
use crate::routes::orders::order_id;

/// Two short texts.
const BODY_BYTES: usize = 2 * 1024;

/// How it travels
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewShipment {
    #[schema(example = "DHL", max_length = 64)]
    pub carrier: String,
    #[schema(example = "00340434161094015902", max_length = 64)]
    pub tracking_number: String,
}

/// An order is being packed
#[utoipa::path(
    post, path = "/v1/orders/{id}/process", tag = "orders",
    params(("id" = Uuid, Path, description = "The order's id", example = json!(ORDER)), KeyHeader),
    responses(
        (status = 200, body = OperatorOrderDetails),
        Errors<(kinds::OrderNotFound, kinds::WrongOrderState, kinds::CancelRequested, kinds::PaymentNotSettled)>,
    ),
    security(("operator" = []))
)]
pub async fn process_order(
    State(ops): State<Ops>,
    operator: Operator,
    Key(_): Key,
    PathText(id): PathText,
) -> Result<Response, Problem> {
    fulfil(&ops, &operator, &id, &FulfilmentStep::Process).await
}

/// An order was handed to its carrier
///
/// Whole orders ship; there are no parcels of a part. Its buyer gets a mail with carrier and number.
#[utoipa::path(
    post, path = "/v1/orders/{id}/ship", tag = "orders",
    params(("id" = Uuid, Path, description = "The order's id", example = json!(ORDER)), KeyHeader),
    request_body = NewShipment,
    responses(
        (status = 200, body = OperatorOrderDetails),
        Errors<(
            kinds::OrderNotFound, kinds::WrongOrderState, kinds::CancelRequested, kinds::PaymentNotSettled,
            kinds::ShippedOtherwise
        )>,
    ),
    security(("operator" = []))
)]
pub async fn ship_order(
    State(ops): State<Ops>,
    operator: Operator,
    Key(_): Key,
    PathText(id): PathText,
    JsonBody(shipment): JsonBody<NewShipment, BODY_BYTES>,
) -> Result<Response, Problem> {
    let tracking = Tracking::new(&shipment.carrier, &shipment.tracking_number);
    let tracking = tracking.map_err(|error| Problem::field(error.what, format!("must be {}", error.rule)))?;
    fulfil(&ops, &operator, &id, &FulfilmentStep::Ship(tracking)).await
}

/// An order has been delivered
#[utoipa::path(
    post, path = "/v1/orders/{id}/deliver", tag = "orders",
    params(("id" = Uuid, Path, description = "The order's id", example = json!(ORDER)), KeyHeader),
    responses(
        (status = 200, body = OperatorOrderDetails),
        Errors<(kinds::OrderNotFound, kinds::WrongOrderState)>,
    ),
    security(("operator" = []))
)]
pub async fn deliver_order(
    State(ops): State<Ops>,
    operator: Operator,
    Key(_): Key,
    PathText(id): PathText,
) -> Result<Response, Problem> {
    fulfil(&ops, &operator, &id, &FulfilmentStep::Deliver).await
}

async fn fulfil(ops: &Ops, operator: &Operator, id: &str, step: &FulfilmentStep) -> Result<Response, Problem> {
    let id = order_id(id)?;
    let now = ops.engine.clock.now();
    let is_replay = match ops.engine.ledger.fulfil(id, step, operator.name(), now).await? {
        Fulfilled::Now => false,
        Fulfilled::Before => true,
        Fulfilled::ShippedOtherwise(Tracking { carrier, number }) => {
            return Err(Problem::ShippedOtherwise { carrier, number });
        }
        Fulfilled::WrongState(state) => return Err(Problem::WrongOrderState { state }),
        Fulfilled::CancelRequested => return Err(Problem::CancelRequested),
        Fulfilled::NotPaid(payment) => return Err(Problem::PaymentNotSettled { payment }),
        Fulfilled::NoSuchOrder => return Err(Problem::OrderNotFound),
    };
    let body = Json(details(ops, id).await?);
    Ok(if is_replay { ([(IDEMPOTENT_REPLAYED, "true")], body).into_response() } else { body.into_response() })
}
