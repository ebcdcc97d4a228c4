//! `POST /v1/drops/{drop}/claims`: the buyer's click, and `GET /v1/claims/{id}`: how far it has got.
//!
//! A claim that its buyer's home decides by itself is answered at once. Every other one runs in a task of its own, search for
//! tokens included: a buyer who hangs up, or a deadline here, never stops it half-way. What it came to is found under its id and
//! answered to the same key.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::header::{HeaderValue, LOCATION, RETRY_AFTER};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use doorbuster_engine::domain::claims::{Acknowledgement, Claim, ClaimOutcome, Quantity};
use doorbuster_engine::domain::countries::Country;
use doorbuster_engine::domain::drops::{DropState, DropVariant, SaleDrop};
use doorbuster_engine::domain::ids::{BuyerId, ClaimId, Epoch, IdempotencyKey, Serial};
use doorbuster_engine::domain::money::Money;
use doorbuster_engine::domain::pricing::RateTable;
use doorbuster_engine::flows::acknowledge::Acknowledged;
use doorbuster_engine::flows::claim::{ClaimProgress, ClaimView};
use doorbuster_engine::flows::{EngineError, LiveDrop};
use doorbuster_engine::tokens::TokenError;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::Amount;
use super::checkout::AcceptedTotal;
use crate::auth::Buyer;
use crate::error::sets::ClaimRefused;
use crate::error::{Errors, IDEMPOTENT_REPLAYED, Problem, kinds};
use crate::extract::{JsonBody, Key, KeyHeader, PathText};
use crate::openapi::examples::ORDER;
use crate::receipt::Receipt;
use crate::state::Gate;
use crate::words;

/// A claim names a SKU of at most 64 bytes and a number.
pub const CLAIM_BODY_BYTES: usize = 4 * 1024;

/// What is said of a claim that is not yet as safe as its drop promises.
pub(crate) const PENDING: &str = "The claim was taken, and is not yet as safe as this drop promises. Look at links.claim, or send the \
    same request with the same Idempotency-Key again: it is never taken twice.";

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
    /// Where it is to go (ISO 3166-1): the answer says what it costs there, and an order that its address makes dearer
    /// is not charged before its buyer agrees
    #[schema(example = "DE")]
    pub country: Option<String>,
    /// The total that the buyer was shown for this country, and agrees to: GET /v1/drops/{drop}?country= has it for one
    /// unit. Needs `country`; any other total is refused with `price_changed`
    pub accepted_total: Option<AcceptedTotal>,
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
    /// How safe the claim is. The drop says which
    #[schema(value_type = words::Acknowledgement)]
    pub acknowledgement: Acknowledgement,
    /// What it costs with tax and shipping, sent to the country that was named: no more is charged without asking
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total: Option<Amount>,
    /// This answer, signed (JWS): evidence, should anybody doubt it
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receipt: Option<String>,
    pub links: ClaimLinks,
}

#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ClaimLinks {
    pub claim: String,
    /// The order, once the claim has been settled
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order: Option<String>,
}

/// A claim whose outcome could not be found out in time, or that was not as safe in time as its drop promises
#[derive(Debug, Serialize, ToSchema)]
pub struct ClaimPending {
    pub claim_id: Uuid,
    /// `unknown`: it may have been taken; `pending`: it was, and is on its way to what the drop promises
    pub status: PendingStatus,
    /// How safe a pending claim is so far
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<words::Acknowledgement>)]
    pub acknowledgement: Option<Acknowledgement>,
    /// What is said of a pending claim, signed
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receipt: Option<String>,
    /// Where to look
    pub detail: &'static str,
    pub links: ClaimLinks,
}

#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PendingStatus {
    Unknown,
    Pending,
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

/// What a request wants, and of which drop.
pub struct Asked {
    pub live: Arc<LiveDrop>,
    pub claim: Claim,
}

/// What a claim holds, and how safely.
pub struct Held {
    pub serials: Vec<Serial>,
    pub acknowledgement: Acknowledgement,
    /// The epoch of the warehouse that answered.
    pub epoch: Epoch,
    pub is_replay: bool,
}

/// Claim units of a drop
///
/// Send the same Idempotency-Key when you try again: a claim that was taken is answered as it was taken, never twice.
#[utoipa::path(
    post, path = "/v1/drops/{drop}/claims", tag = "claims",
    params(("drop" = String, Path, description = "The drop's name", example = "shoe"), KeyHeader),
    request_body = NewClaim,
    responses(
        (status = 201, body = ClaimTaken, description = "Taken now or, with Idempotent-Replayed: true, before",
            headers(("Location" = String), ("Idempotent-Replayed" = Option<bool>))),
        (status = 202, body = ClaimPending, description = "Not known yet, or not yet as safe as the drop promises: look at \
            Location, or ask again",
            headers(("Location" = String), ("Retry-After" = u32))),
        Errors<(kinds::DropNotFound, kinds::VariantNotFound, ClaimRefused, kinds::ClaimReleased)>,
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
    let asked = asked(&gate, buyer, &key, &drop, &new).await?;
    let Asked { live, claim, .. } = &asked;
    let id = claim.id;

    // Most claims end at home, and whoever hangs up meanwhile leaves nothing half-done there.
    let answered = match tokio::time::timeout(gate.limits.claim, gate.engine.claim_at_home(live, claim)).await {
        Ok(Ok(Some(answered))) => Ok(answered),
        Ok(Err(error)) => Err(error),
        Err(_) => return Ok(counted("unknown", unknown(id))),
        Ok(Ok(None)) => {
            let (task_gate, task_live, task_claim) = (Arc::clone(&gate), Arc::clone(live), claim.clone());
            let task = gate.claims.spawn(async move { task_gate.engine.claim(&task_live, &task_claim).await });
            match tokio::time::timeout(gate.limits.claim, task).await {
                Ok(Ok(answered)) => answered,
                // It panicked, or takes too long: either way it may have taken units.
                Ok(Err(_)) | Err(_) => return Ok(counted("unknown", unknown(id))),
            }
        }
    };
    let answered = match answered {
        Ok(answered) => answered,
        Err(error) if is_unknown(&error) => return Ok(counted("unknown", unknown(id))),
        // A draft has no warehouses yet. The engine has just looked again.
        Err(error) if error.is_fenced() && is_not_loaded_yet(&gate, live) => {
            return Err(counted_problem(Problem::NotOpen));
        }
        Err(error) => return Err(counted_problem(error.into())),
    };
    let (serials, is_replay) = match answered.outcome {
        ClaimOutcome::Taken { serials } => (serials, false),
        ClaimOutcome::Replayed { serials } => (serials, true),
        ClaimOutcome::NotOpen if is_paused(&gate, live).await => return Err(counted_problem(Problem::Paused)),
        ClaimOutcome::NotServed => {
            let country = claim.told.map(|told| told.country).expect("only a claim that names a country is not served");
            return Err(counted_problem(not_served(&live.drop, country)));
        }
        refused => return Err(counted_problem(refusal(refused))),
    };
    let Acknowledged::Reached(acknowledgement) = answered.acknowledged else {
        return Err(counted_problem(Problem::ClaimRejected));
    };
    let held = Held { serials, acknowledgement, epoch: answered.epoch, is_replay };
    Ok(answer(&gate, &asked, &held))
}

/// How far a claim has got
#[utoipa::path(
    get, path = "/v1/claims/{id}", tag = "claims",
    params(("id" = Uuid, Path, description = "The claim's id", example = json!(ORDER))),
    responses(
        (status = 200, body = ClaimFound),
        Errors<kinds::ClaimNotFound>,
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

/// A request that says what it wants, checked against the drop.
pub async fn asked(
    gate: &Gate,
    buyer: BuyerId,
    key: &IdempotencyKey,
    drop: &str,
    new: &NewClaim,
) -> Result<Asked, Problem> {
    let quantity = Quantity::new(new.quantity).map_err(|error| Problem::field("quantity", error.to_string()))?;
    let name = drop.parse().map_err(|_| Problem::DropNotFound)?;
    let live = gate.drops.get(&name).await?.ok_or(Problem::DropNotFound)?;
    let variant = variant_of(&live.drop, new.sku.as_deref())?;
    let claim = Claim::new(live.drop.id, buyer, key, variant.number, quantity);
    let claim = match told(&live.drop, variant, quantity, new)? {
        Some((country, total)) => claim.told(country, total),
        None => claim,
    };
    Ok(Asked { live, claim })
}

/// What a buyer who names a country was told, or is told by the answer. Whether it is so is for the claim to say: what
/// is known here of the drop may be older.
fn told(
    drop: &SaleDrop,
    variant: &DropVariant,
    quantity: Quantity,
    new: &NewClaim,
) -> Result<Option<(Country, Money)>, Problem> {
    let accepted = new.accepted_total.clone().map(AcceptedTotal::parse).transpose()?;
    let Some(country) = &new.country else {
        return match accepted {
            Some(_) => Err(Problem::field("country", "accepted_total needs it: the total is that of a country")),
            None => Ok(None),
        };
    };
    let country = country_of(drop, country)?;
    let Some(totals) = drop.terms.totals(variant.price, quantity.units(), country) else {
        return Err(counted_problem(not_served(drop, country)));
    };
    let total = totals.map_err(|error| Problem::NotChargeable { why: error.to_string() })?.total;
    match accepted {
        Some(accepted) if accepted.currency != total.currency => {
            Err(counted_problem(Problem::PriceChanged { lines: Vec::new(), total: total.into() }))
        }
        accepted => Ok(Some((country, accepted.unwrap_or(total)))),
    }
}

/// A country by its code.
pub(super) fn country_of(drop: &SaleDrop, code: &str) -> Result<Country, Problem> {
    code.parse().map_err(|wrong| {
        let served = served(&drop.terms.rates);
        Problem::field("country", format!("{wrong}; {} is sent to {served}", drop.name))
    })
}

pub(super) fn not_served(drop: &SaleDrop, country: Country) -> Problem {
    Problem::CountryNotServed { country, served: served(&drop.terms.rates) }
}

/// `DE, FR and everywhere else`.
fn served(rates: &RateTable) -> String {
    let own = rates.countries().map(|country| country.to_string()).collect::<Vec<_>>().join(", ");
    match (own.is_empty(), rates.elsewhere()) {
        (_, None) => own,
        (true, Some(_)) => "every country".to_owned(),
        (false, Some(_)) => format!("{own} and everywhere else"),
    }
}

/// The answer to a claim that was taken, now or before.
pub fn answer(gate: &Gate, asked: &Asked, held: &Held) -> Response {
    let Asked { live, claim } = asked;
    let (id, drop) = (claim.id, live.drop.name.to_string());
    let sku = live.drop.variant(claim.variant).map(|variant| variant.sku.clone()).unwrap_or_default();
    let receipt = gate.receipts.as_ref().map(|receipts| {
        receipts.sign(&Receipt {
            jti: id.0,
            sub: claim.buyer.as_str().to_owned(),
            drop: drop.clone(),
            sku: sku.clone(),
            serials: numbers(&held.serials),
            acknowledgement: held.acknowledgement,
            epoch: held.epoch.0,
            iat: gate.engine.clock.now().as_second(),
        })
    });
    if held.acknowledgement < live.drop.acknowledgement {
        return counted("pending", pending(id, held.acknowledgement, receipt));
    }
    let taken = ClaimTaken {
        claim_id: id.0,
        drop,
        sku,
        quantity: claim.quantity.units(),
        serials: numbers(&held.serials),
        acknowledgement: held.acknowledgement,
        total: claim.told.map(|told| Money::new(told.total_minor, live.drop.currency).into()),
        receipt,
        links: links(id, Some(id)),
    };
    counted(if held.is_replay { "replayed" } else { "taken" }, created(taken, held.is_replay))
}

pub(super) fn variant_of<'a>(drop: &'a SaleDrop, sku: Option<&str>) -> Result<&'a DropVariant, Problem> {
    match (sku, &*drop.variants) {
        (Some(sku), _) => drop.variant_by_sku(sku).ok_or(Problem::VariantNotFound),
        (None, [only]) => Ok(only),
        (None, _) => Err(Problem::field("sku", "the drop has several variants: name one")),
    }
}

pub(super) fn refusal(outcome: ClaimOutcome) -> Problem {
    match outcome {
        ClaimOutcome::SoldOut => Problem::SoldOut,
        ClaimOutcome::NotEnough { available } => Problem::NotEnough { available },
        ClaimOutcome::OverLimit { held, limit } => Problem::LimitExceeded { held, limit },
        ClaimOutcome::NotOpen => Problem::NotOpen,
        ClaimOutcome::Closed => Problem::Closed,
        ClaimOutcome::LineOnly => Problem::LineOnly,
        ClaimOutcome::TooManyReleased => Problem::TooManyReleased,
        ClaimOutcome::KeyReused => Problem::KeyReused,
        ClaimOutcome::Released => Problem::ClaimReleased,
        ClaimOutcome::PriceChanged { total } => Problem::PriceChanged { lines: Vec::new(), total: total.into() },
        ClaimOutcome::NotServed => Problem::NotServed,
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

/// Redis says that the drop is not open; whether that is for now, Postgres knows.
async fn is_paused(gate: &Gate, live: &LiveDrop) -> bool {
    let fresh = gate.drops.fresh(&live.drop.name).await;
    fresh.is_ok_and(|fresh| fresh.is_some_and(|fresh| fresh.drop.state == DropState::Paused))
}

fn created(taken: ClaimTaken, is_replay: bool) -> Response {
    let mut headers = location(&taken.links);
    if is_replay {
        headers.insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
    }
    (StatusCode::CREATED, headers, Json(taken)).into_response()
}

fn unknown(id: ClaimId) -> Response {
    accepted(ClaimPending {
        claim_id: id.0,
        status: PendingStatus::Unknown,
        acknowledgement: None,
        receipt: None,
        detail: "We could not find out in time whether the claim was taken. Look at links.claim, or send the same \
                 request with the same Idempotency-Key again: it is never taken twice.",
        links: links(id, None),
    })
}

fn pending(id: ClaimId, acknowledgement: Acknowledgement, receipt: Option<String>) -> Response {
    accepted(ClaimPending {
        claim_id: id.0,
        status: PendingStatus::Pending,
        acknowledgement: Some(acknowledgement),
        receipt,
        detail: PENDING,
        links: links(id, None),
    })
}

fn accepted(pending: ClaimPending) -> Response {
    let mut headers = location(&pending.links);
    headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
    (StatusCode::ACCEPTED, headers, Json(pending)).into_response()
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
