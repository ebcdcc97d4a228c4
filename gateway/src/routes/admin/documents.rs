//! `GET /v1/orders/{id}/invoice` and `GET /v1/orders/{id}/credit-notes/{number}` of the operators: of anybody's orders.

use axum::extract::State;
use axum::response::Response;

use crate::error::{Errors, Problem, kinds};
use crate::extract::{PathPair, PathText};
use crate::openapi::examples::ORDER;
use crate::routes::documents::{credit_note, invoice};
use crate::routes::ops::Ops;

/// The invoice of an order
#[utoipa::path(
    get, path = "/v1/orders/{id}/invoice", tag = "orders",
    params(("id" = Uuid, Path, description = "The order's id", example = json!(ORDER))),
    responses(
        (status = 200, body = String, content_type = "text/html", description = "The invoice",
            example = json!("<!DOCTYPE html><title>Invoice 17</title>…")),
        Errors<(kinds::OrderNotFound, kinds::DocumentNotFound)>,
    ),
    security(("operator" = []))
)]
pub async fn get_invoice(State(ops): State<Ops>, PathText(id): PathText) -> Result<Response, Problem> {
    invoice(&ops.engine, &id, None).await
}

/// A credit note of an order
#[utoipa::path(
    get, path = "/v1/orders/{id}/credit-notes/{number}", tag = "orders",
    params(
        ("id" = Uuid, Path, description = "The order's id", example = json!(ORDER)),
        ("number" = i64, Path, description = "The credit note's number", example = 3)
    ),
    responses(
        (status = 200, body = String, content_type = "text/html", description = "The credit note",
            example = json!("<!DOCTYPE html><title>Credit note 3</title>…")),
        Errors<(kinds::OrderNotFound, kinds::DocumentNotFound)>,
    ),
    security(("operator" = []))
)]
pub async fn get_credit_note(State(ops): State<Ops>, PathPair(id, number): PathPair) -> Result<Response, Problem> {
    credit_note(&ops.engine, &id, &number, None).await
}
