//! `POST /v1/drops/{drop}/claims`: the buyer's click, and `GET /v1/claims/{id}`: how far it has got.
//!
//! A claim runs in a task of its own, search for tokens included: a buyer who hangs up, or a deadline here, never stops it
//! half-way. What it came to is found under its id and answered to the same key.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::header::{HeaderValue, LOCATION, RETRY_AFTER};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use doorbuster_engine::domain::claims::{Acknowledgement, Claim, ClaimOutcome, Quantity};
use doorbuster_engine::domain::drops::{DropState, DropVariant, SaleDrop};
use doorbuster_engine::domain::ids::{ClaimId, Serial};
use doorbuster_engine::flows::claim::{ClaimProgress, ClaimView};
use doorbuster_engine::flows::{EngineError, LiveDrop};
use doorbuster_engine::tokens::TokenError;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::auth::Buyer;
use crate::error::{IDEMPOTENT_REPLAYED, Problem, ProblemBody};
use crate::extract::{JsonBody, Key, PathText};
use crate::state::Gate;

/// A claim names a SKU of at most 64 bytes and a number.
const CLAIM_BODY_BYTES: usize = 4 * 1024;

/// What to claim
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewClaim {
    /// The variant; may be left out when the drop has only one
    pub sku: Option<String>,
    /// Units, all or nothing
    #[serde(default = "one")]
    #[schema(minimum = 1, maximum = 100, default = 1)]
    pub quantity: i64,
}

fn one() -> i64 {
    1
}

/// A claim that was taken: these units are the buyer's
#[derive(Debug, Serialize, ToSchema)]
pub struct ClaimTaken {
    pub claim_id: Uuid,
    pub drop: String,
    pub sku: String,
    pub quantity: u32,
    /// The units, by number
    pub serials: Vec<u32>,
    /// How safe the answer is: `accepted` is on Redis' disk
    #[schema(value_type = String, example = "accepted")]
    pub acknowledgement: Acknowledgement,
    pub links: ClaimLinks,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct ClaimLinks {
    pub claim: String,
    /// The order, once the claim has been settled
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order: Option<String>,
}

/// A claim whose outcome could not be found out in time
#[derive(Debug, Serialize, ToSchema)]
pub struct ClaimUnknown {
    pub claim_id: Uuid,
    #[schema(example = "unknown")]
    pub status: &'static str,
    /// Where to look
    pub detail: &'static str,
    pub links: ClaimLinks,
}

/// A claim, and how far it has got
#[derive(Debug, Serialize, ToSchema)]
pub struct ClaimFound {
    pub claim_id: Uuid,
    pub drop: String,
    pub sku: String,
    pub quantity: u32,
    /// Empty once the claim has failed
    pub serials: Vec<u32>,
    pub status: ClaimStatus,
    pub links: ClaimLinks,
}

#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClaimStatus {
    /// Taken; the order follows
    Accepted,
    /// The order is there; its payment is under way
    Settled,
    /// Paid
    Confirmed,
    /// Its units were given back
    Failed,
}

/// Claim units of a drop
///
/// Send the same Idempotency-Key when you try again: a claim that was taken is answered as it was taken, never twice.
#[utoipa::path(
    post, path = "/v1/drops/{drop}/claims", tag = "claims",
    params(
        ("drop" = String, Path, description = "The drop's name"),
        ("Idempotency-Key" = String, Header, description = "1 to 255 visible ASCII characters, one per purchase"),
    ),
    request_body = NewClaim,
    responses(
        (status = 201, body = ClaimTaken, description = "Taken now or, with Idempotent-Replayed: true, before",
            headers(("Location" = String), ("Idempotent-Replayed" = Option<bool>))),
        (status = 202, body = ClaimUnknown, description = "The outcome is not known yet: look at Location, or ask again",
            headers(("Location" = String), ("Retry-After" = u32))),
        (status = 400, body = ProblemBody, content_type = "application/problem+json",
            description = "idempotency_key_missing, idempotency_key_invalid, malformed_json"),
        (status = 401, body = ProblemBody, content_type = "application/problem+json",
            description = "token_missing, token_invalid"),
        (status = 404, body = ProblemBody, content_type = "application/problem+json",
            description = "drop_not_found, variant_not_found"),
        (status = 408, body = ProblemBody, content_type = "application/problem+json", description = "body_too_slow"),
        (status = 409, body = ProblemBody, content_type = "application/problem+json",
            description = "sold_out, not_enough, limit_exceeded, not_open, claim_released"),
        (status = 410, body = ProblemBody, content_type = "application/problem+json", description = "closed"),
        (status = 413, body = ProblemBody, content_type = "application/problem+json", description = "body_too_large"),
        (status = 415, body = ProblemBody, content_type = "application/problem+json",
            description = "unsupported_media_type"),
        (status = 422, body = ProblemBody, content_type = "application/problem+json",
            description = "invalid_request, key_reused"),
        (status = 503, body = ProblemBody, content_type = "application/problem+json",
            description = "overloaded, warehouse_rebuilding, units_moving, unavailable: nothing was taken, ask again",
            headers(("Retry-After" = u32))),
    ),
    security(("buyer" = []))
)]
pub async fn make_claim(
    State(gate): State<Gate>,
    Buyer(buyer): Buyer,
    Key(key): Key,
    PathText(drop): PathText,
    JsonBody(new): JsonBody<NewClaim, CLAIM_BODY_BYTES>,
) -> Result<Response, Problem> {
    let quantity = Quantity::new(new.quantity).map_err(|error| Problem::field("quantity", error.to_string()))?;
    let name = drop.parse().map_err(|_| Problem::DropNotFound)?;
    let live = gate.drops.get(&name).await?.ok_or(Problem::DropNotFound)?;
    let variant = variant_of(&live.drop, new.sku.as_deref())?;
    let claim = Claim::new(live.drop.id, buyer, &key, variant.number, quantity);
    let id = claim.id;

    let (task_gate, task_live) = (Arc::clone(&gate), Arc::clone(&live));
    let task = gate.claims.spawn(async move { task_gate.engine.claim(&task_live, &claim).await });
    let outcome = match tokio::time::timeout(gate.limits.claim, task).await {
        Ok(Ok(outcome)) => outcome,
        // It panicked, or takes too long: either way it may have taken units.
        Ok(Err(_)) | Err(_) => return Ok(counted("unknown", unknown(id))),
    };
    match outcome {
        Ok(ClaimOutcome::Taken { serials }) => {
            Ok(counted("taken", taken(&live, variant, quantity, id, &serials, false)))
        }
        Ok(ClaimOutcome::Replayed { serials }) => {
            Ok(counted("replayed", taken(&live, variant, quantity, id, &serials, true)))
        }
        Ok(refused) => Err(counted_problem(refusal(refused))),
        Err(error) if is_unknown(&error) => Ok(counted("unknown", unknown(id))),
        // A draft has no warehouses yet. The engine has just looked again.
        Err(error) if error.is_fenced() && is_not_loaded_yet(&gate, &live) => Err(counted_problem(Problem::NotOpen)),
        Err(error) => Err(counted_problem(error.into())),
    }
}

/// How far a claim has got
#[utoipa::path(
    get, path = "/v1/claims/{id}", tag = "claims",
    params(("id" = String, Path, description = "The claim's id")),
    responses(
        (status = 200, body = ClaimFound),
        (status = 401, body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, body = ProblemBody, content_type = "application/problem+json",
            description = "claim_not_found: not there, or not yours"),
        (status = 503, body = ProblemBody, content_type = "application/problem+json"),
    ),
    security(("buyer" = []))
)]
pub async fn get_claim(
    State(gate): State<Gate>,
    Buyer(buyer): Buyer,
    PathText(id): PathText,
) -> Result<Json<ClaimFound>, Problem> {
    let id = id.parse().map(ClaimId).map_err(|_| Problem::ClaimNotFound)?;
    let view = gate.engine.claim_of(&buyer, id).await?.ok_or(Problem::ClaimNotFound)?;
    Ok(Json(found(view)))
}

fn variant_of<'a>(drop: &'a SaleDrop, sku: Option<&str>) -> Result<&'a DropVariant, Problem> {
    match (sku, &*drop.variants) {
        (Some(sku), _) => drop.variant_by_sku(sku).ok_or(Problem::VariantNotFound),
        (None, [only]) => Ok(only),
        (None, _) => Err(Problem::field("sku", "the drop has several variants: name one")),
    }
}

fn refusal(outcome: ClaimOutcome) -> Problem {
    match outcome {
        ClaimOutcome::SoldOut => Problem::SoldOut,
        ClaimOutcome::NotEnough { available } => Problem::NotEnough { available },
        ClaimOutcome::OverLimit { held, limit } => Problem::LimitExceeded { held, limit },
        ClaimOutcome::NotOpen => Problem::NotOpen,
        ClaimOutcome::Closed => Problem::Closed,
        ClaimOutcome::KeyReused => Problem::KeyReused,
        ClaimOutcome::Released => Problem::ClaimReleased,
        ClaimOutcome::Taken { .. } | ClaimOutcome::Replayed { .. } => unreachable!("these two are answered with 201"),
    }
}

/// Redis gave no answer to what it was sent, or none we understand: the claim may have been taken.
fn is_unknown(error: &EngineError) -> bool {
    matches!(error, EngineError::Tokens(error) if matches!(**error, TokenError::Redis(_) | TokenError::BadReply { .. }))
}

fn is_not_loaded_yet(gate: &Gate, live: &LiveDrop) -> bool {
    let known = gate.engine.known_drop(&live.drop.name);
    known.is_some_and(|known| matches!(known.drop.state, DropState::Draft | DropState::Opening))
}

fn taken(
    live: &LiveDrop,
    variant: &DropVariant,
    quantity: Quantity,
    id: ClaimId,
    serials: &[Serial],
    is_replay: bool,
) -> Response {
    let links = links(id, Some(id));
    let mut headers = location(&links);
    if is_replay {
        headers.insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
    }
    let body = ClaimTaken {
        claim_id: id.0,
        drop: live.drop.name.to_string(),
        sku: variant.sku.clone(),
        quantity: quantity.units(),
        serials: numbers(serials),
        acknowledgement: Acknowledgement::Accepted,
        links,
    };
    (StatusCode::CREATED, headers, Json(body)).into_response()
}

fn unknown(id: ClaimId) -> Response {
    let links = links(id, None);
    let mut headers = location(&links);
    headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
    let body = ClaimUnknown {
        claim_id: id.0,
        status: "unknown",
        detail: "We could not find out in time whether the claim was taken. Look at links.claim, or send the same \
                 request with the same Idempotency-Key again: it is never taken twice.",
        links,
    };
    (StatusCode::ACCEPTED, headers, Json(body)).into_response()
}

fn found(view: ClaimView) -> ClaimFound {
    ClaimFound {
        claim_id: view.id.0,
        drop: view.drop.to_string(),
        sku: view.sku,
        quantity: view.quantity,
        serials: numbers(&view.serials),
        status: match view.progress {
            ClaimProgress::Accepted => ClaimStatus::Accepted,
            ClaimProgress::Settled => ClaimStatus::Settled,
            ClaimProgress::Confirmed => ClaimStatus::Confirmed,
            ClaimProgress::Failed => ClaimStatus::Failed,
        },
        links: links(view.id, view.order.map(|order| ClaimId(order.0))),
    }
}

/// A claim and its order carry the same id.
fn links(id: ClaimId, order: Option<ClaimId>) -> ClaimLinks {
    ClaimLinks { claim: format!("/v1/claims/{id}"), order: order.map(|id| format!("/v1/orders/{id}")) }
}

fn location(links: &ClaimLinks) -> HeaderMap {
    let value = HeaderValue::from_str(&links.claim).expect("a path of ASCII characters is a header");
    HeaderMap::from_iter([(LOCATION, value)])
}

fn numbers(serials: &[Serial]) -> Vec<u32> {
    serials.iter().map(|serial| serial.0).collect()
}

fn counted(outcome: &'static str, response: Response) -> Response {
    metrics::counter!("doorbuster_claims_total", "outcome" => outcome).increment(1);
    response
}

fn counted_problem(problem: Problem) -> Problem {
    metrics::counter!("doorbuster_claims_total", "outcome" => problem.code()).increment(1);
    problem
}
