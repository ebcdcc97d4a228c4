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
use crate::error::{IDEMPOTENT_REPLAYED, Problem, ProblemBody};
use crate::extract::{JsonBody, Key, PathText};
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
    params(
        ("id" = String, Path, description = "The order's id"),
        ("Idempotency-Key" = String, Header, description = "1 to 255 visible ASCII characters"),
    ),
    responses(
        (status = 200, body = OperatorOrderDetails),
        (status = 400, body = ProblemBody, content_type = "application/problem+json",
            description = "idempotency_key_missing, idempotency_key_invalid"),
        (status = 403, body = ProblemBody, content_type = "application/problem+json", description = "operators_off"),
        (status = 404, body = ProblemBody, content_type = "application/problem+json", description = "order_not_found"),
        (status = 409, body = ProblemBody, content_type = "application/problem+json",
            description = "wrong_order_state, cancel_requested, payment_not_settled"),
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
    params(
        ("id" = String, Path, description = "The order's id"),
        ("Idempotency-Key" = String, Header, description = "1 to 255 visible ASCII characters"),
    ),
    request_body = NewShipment,
    responses(
        (status = 200, body = OperatorOrderDetails),
        (status = 400, body = ProblemBody, content_type = "application/problem+json",
            description = "idempotency_key_missing, idempotency_key_invalid, malformed_json"),
        (status = 403, body = ProblemBody, content_type = "application/problem+json", description = "operators_off"),
        (status = 404, body = ProblemBody, content_type = "application/problem+json", description = "order_not_found"),
        (status = 409, body = ProblemBody, content_type = "application/problem+json",
            description = "wrong_order_state, cancel_requested, payment_not_settled, shipped_otherwise"),
        (status = 413, body = ProblemBody, content_type = "application/problem+json", description = "body_too_large"),
        (status = 415, body = ProblemBody, content_type = "application/problem+json",
            description = "unsupported_media_type"),
        (status = 422, body = ProblemBody, content_type = "application/problem+json", description = "invalid_request"),
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
    params(
        ("id" = String, Path, description = "The order's id"),
        ("Idempotency-Key" = String, Header, description = "1 to 255 visible ASCII characters"),
    ),
    responses(
        (status = 200, body = OperatorOrderDetails),
        (status = 400, body = ProblemBody, content_type = "application/problem+json",
            description = "idempotency_key_missing, idempotency_key_invalid"),
        (status = 403, body = ProblemBody, content_type = "application/problem+json", description = "operators_off"),
        (status = 404, body = ProblemBody, content_type = "application/problem+json", description = "order_not_found"),
        (status = 409, body = ProblemBody, content_type = "application/problem+json",
            description = "wrong_order_state"),
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
