//! `GET /v1/orders/{id}/invoice` and `GET /v1/orders/{id}/credit-notes/{number}`, for the order's buyer; operators have
//! the same for anybody's orders.

use axum::extract::State;
use axum::response::Response;
use doorbuster_engine::domain::ids::BuyerId;
use doorbuster_engine::flows::Engine;

use super::orders::order_id;
use crate::auth::Buyer;
use crate::documents;
use crate::error::{Errors, Problem, kinds};
use crate::extract::{PathPair, PathText};
use crate::openapi::examples::ORDER;
use crate::state::Gate;

/// The invoice of an order
///
/// A page that loads nothing: keep it, or print it. Its number has no gaps and does not change.
#[utoipa::path(
    get, path = "/v1/orders/{id}/invoice", tag = "orders",
    params(("id" = Uuid, Path, description = "The order's id", example = json!(ORDER))),
    responses(
        (status = 200, body = String, content_type = "text/html", description = "The invoice",
            example = json!("<!DOCTYPE html><title>Invoice 17</title>…")),
        Errors<(kinds::OrderNotFound, kinds::DocumentNotFound)>,
    ),
    security(("buyer" = []))
)]
pub async fn get_invoice(
    State(gate): State<Gate>,
    Buyer(buyer): Buyer,
    PathText(id): PathText,
) -> Result<Response, Problem> {
    invoice(&gate.engine, &id, Some(&buyer)).await
}

/// A credit note of an order
///
/// One for each refund that has arrived. It names the invoice that it corrects.
#[utoipa::path(
    get, path = "/v1/orders/{id}/credit-notes/{number}", tag = "orders",
    params(
        ("id" = Uuid, Path, description = "The order's id", example = json!(ORDER)),
        ("number" = i64, Path, description = "The credit note's number, as the order's refunds name it", example = 3)
    ),
    responses(
        (status = 200, body = String, content_type = "text/html", description = "The credit note",
            example = json!("<!DOCTYPE html><title>Credit note 3</title>…")),
        Errors<(kinds::OrderNotFound, kinds::DocumentNotFound)>,
    ),
    security(("buyer" = []))
)]
pub async fn get_credit_note(
    State(gate): State<Gate>,
    Buyer(buyer): Buyer,
    PathPair(id, number): PathPair,
) -> Result<Response, Problem> {
    credit_note(&gate.engine, &id, &number, Some(&buyer)).await
}

pub(super) async fn invoice(engine: &Engine, id: &str, buyer: Option<&BuyerId>) -> Result<Response, Problem> {
    let found = engine.order_documents(order_id(id)?, buyer).await?.ok_or(Problem::OrderNotFound)?;
    found.invoice.as_ref().map(documents::answer).ok_or(Problem::DocumentNotFound)
}

pub(super) async fn credit_note(
    engine: &Engine,
    id: &str,
    number: &str,
    buyer: Option<&BuyerId>,
) -> Result<Response, Problem> {
    let found = engine.order_documents(order_id(id)?, buyer).await?.ok_or(Problem::OrderNotFound)?;
    // A text that is no number names no credit note, and neither does one of another order.
    let asked = number.parse().ok();
    let note = found.credit_notes.iter().find(|note| Some(note.head.number) == asked);
    note.map(documents::answer).ok_or(Problem::DocumentNotFound)
}
