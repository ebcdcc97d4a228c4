//! `/v1/checkout`: what the cart would cost, and ordering it.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::header::{HeaderValue, LOCATION, RETRY_AFTER};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use doorbuster_engine::domain::carts::CartVersion;
use doorbuster_engine::domain::checkout::{LineFault, NoQuote, Quote};
use doorbuster_engine::domain::claims::ClaimOutcome;
use doorbuster_engine::domain::ids::BuyerId;
use doorbuster_engine::domain::money::Money;
use doorbuster_engine::domain::pricing::Totals;
use doorbuster_engine::flows::EngineError;
use doorbuster_engine::flows::checkout::{CheckedOut, CheckoutAsked, CheckoutRefused};
use doorbuster_engine::ledger::checkouts::{Checkout, CheckoutClaim, ClaimState};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::Amount;
use super::claims::refusal as claim_refusal;
use super::orders::OrderFound;
use crate::auth::Buyer;
use crate::error::sets::{CartUnpriced, ClaimRefused, TooMuchOpen};
use crate::error::{Errors, FieldProblem, IDEMPOTENT_REPLAYED, LineCode, LineProblem, Problem, kinds};
use crate::extract::{JsonBody, Key, KeyHeader};
use crate::state::Gate;

/// Two numbers and a currency.
const BODY_BYTES: usize = 1024;

/// What to order: the cart, sent to the address of the checkout profile
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewCheckout {
    /// The cart that was seen; without it, whatever is in it
    pub cart_version: Option<u64>,
    /// The total that was seen and is agreed to. Needed when prices are not those at which the lines came into the cart
    pub accepted_total: Option<AcceptedTotal>,
}

#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AcceptedTotal {
    pub amount_minor: i64,
    #[schema(example = "EUR")]
    pub currency: String,
}

/// What the cart would cost now
#[derive(Debug, Serialize, ToSchema)]
pub struct CheckoutQuote {
    pub cart_version: u64,
    /// What lies on shelves; null if there is nothing of it
    pub goods: Option<QuotedOrder>,
    /// Units of a drop, which are an order of their own at the drop's terms; null if there are none
    pub drop: Option<QuotedOrder>,
    /// Of both: send it as accepted_total
    pub total: Amount,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct QuotedOrder {
    pub lines: Vec<QuotedLine>,
    pub subtotal: Amount,
    pub tax: Amount,
    pub shipping: Amount,
    pub total: Amount,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct QuotedLine {
    pub variant_id: i32,
    pub sku: String,
    pub title: String,
    pub quantity: u32,
    pub unit_price: Amount,
    /// What was shown when it came into the cart
    pub price_at_add: Amount,
}

/// A cart that was ordered
#[derive(Debug, Serialize, ToSchema)]
pub struct CheckoutMade {
    /// Of both orders
    pub total: Amount,
    /// The order of what lies on shelves, as it is now; null if there is nothing of it
    pub order: Option<OrderFound>,
    /// The claim to the units of a drop, which becomes an order of its own; null if there are none
    pub claim: Option<CheckoutClaimFound>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct CheckoutClaimFound {
    pub claim_id: Uuid,
    /// `pending`: the drop has not answered yet. Should it refuse, the order is cancelled and nothing was sold
    pub status: CheckoutClaimStatus,
    pub quantity: u32,
    /// Where to look for the claim: /v1/claims/{claim_id}
    pub link: String,
}

#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CheckoutClaimStatus {
    Taken,
    Pending,
}

/// What the cart would cost
///
/// Today's prices, tax and shipping to the address of the checkout profile. Nothing is reserved.
#[utoipa::path(
    get, path = "/v1/checkout", tag = "checkout",
    responses(
        (status = 200, body = CheckoutQuote),
        Errors<CartUnpriced>,
    ),
    security(("buyer" = []))
)]
pub async fn quote_cart(State(gate): State<Gate>, Buyer(buyer): Buyer) -> Result<Json<CheckoutQuote>, Problem> {
    let priced = gate.engine.quote_cart(&buyer).await?.map_err(refusal)?;
    Ok(Json(quoted(priced.cart.version, priced.quote)))
}

/// Order the cart
///
/// All of it or nothing: units are reserved, the order is made and its payment begins. Only what was ordered leaves the cart. Send
/// the same Idempotency-Key when you try again: a cart is ordered once.
#[utoipa::path(
    post, path = "/v1/checkout", tag = "checkout",
    params(KeyHeader),
    request_body = NewCheckout,
    responses(
        (status = 201, body = CheckoutMade, description = "Ordered now or, with Idempotent-Replayed: true, before",
            headers(("Location" = String), ("Idempotent-Replayed" = Option<bool>))),
        (status = 202, body = CheckoutMade, description = "Ordered, and the drop has not answered yet: ask again", headers(("Location" = String), ("Retry-After" = u32))),
        Errors<(
            CartUnpriced, kinds::CartChanged, kinds::CartOrdered, kinds::PriceChanged, kinds::OutOfStock,
            TooMuchOpen, ClaimRefused
        )>,
    ),
    security(("buyer" = []))
)]
pub async fn check_out(
    State(gate): State<Gate>,
    Buyer(buyer): Buyer,
    Key(key): Key,
    JsonBody(new): JsonBody<NewCheckout, BODY_BYTES>,
) -> Result<Response, Problem> {
    let accepted_total = new.accepted_total.map(AcceptedTotal::parse).transpose()?;
    let asked = CheckoutAsked { key, cart_version: new.cart_version.map(CartVersion), accepted_total };
    // In a task of its own: a buyer who hangs up never stops it half-way.
    let task = {
        let (gate, buyer) = (Arc::clone(&gate), buyer.clone());
        gate.claims.clone().spawn(async move { gate.engine.checkout(&buyer, &asked).await })
    };
    let ended = match tokio::time::timeout(gate.limits.claim, task).await {
        Ok(Ok(ended)) => ended,
        // It goes on; the same key finds what became of it.
        Ok(Err(_)) | Err(_) => return Err(counted(Problem::TimedOut)),
    };
    let (checkout, is_replay) = match ended.map_err(|error: EngineError| counted(error.into()))? {
        CheckedOut::Now(checkout) => (checkout, false),
        CheckedOut::Before(checkout) => (checkout, true),
        CheckedOut::Refused(refused) => return Err(counted(refusal(refused))),
    };
    metrics::counter!("doorbuster_checkouts_total", "outcome" => if is_replay { "replayed" } else { "ordered" })
        .increment(1);
    answer(&gate, &buyer, checkout, is_replay).await
}

async fn answer(gate: &Gate, buyer: &BuyerId, checkout: Checkout, is_replay: bool) -> Result<Response, Problem> {
    let order = match checkout.order {
        Some(order) => gate.engine.ledger.order_of(buyer, order).await?.map(OrderFound::from),
        None => None,
    };
    let is_pending = checkout.claim.as_ref().is_some_and(|claim| claim.state == ClaimState::Pending);
    let claim = checkout.claim.map(CheckoutClaimFound::from);
    let place = match (&order, &claim) {
        (Some(order), _) => order.links.order.clone(),
        (None, Some(claim)) => claim.link.clone(),
        (None, None) => "/v1/orders".to_owned(),
    };
    let mut headers = HeaderMap::new();
    headers.insert(LOCATION, HeaderValue::from_str(&place).expect("a path of ASCII characters is a header"));
    if is_replay {
        headers.insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
    }
    let status = if is_pending {
        headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        StatusCode::ACCEPTED
    } else {
        StatusCode::CREATED
    };
    let made = CheckoutMade { total: checkout.total.into(), order, claim };
    Ok((status, headers, Json(made)).into_response())
}

impl AcceptedTotal {
    pub(super) fn parse(self) -> Result<Money, Problem> {
        let wrong = |error: doorbuster_engine::domain::money::InvalidCurrency| {
            Problem::Invalid(vec![FieldProblem::new("accepted_total.currency", error.to_string())])
        };
        Ok(Money::new(self.amount_minor, self.currency.parse().map_err(wrong)?))
    }
}

impl From<CheckoutClaim> for CheckoutClaimFound {
    fn from(claim: CheckoutClaim) -> Self {
        let id = claim.claim.id;
        Self {
            claim_id: id.0,
            status: match claim.state {
                ClaimState::Taken => CheckoutClaimStatus::Taken,
                ClaimState::Pending | ClaimState::Refused => CheckoutClaimStatus::Pending,
            },
            quantity: claim.claim.quantity.units(),
            link: format!("/v1/claims/{id}"),
        }
    }
}

fn quoted(version: CartVersion, quote: Quote) -> CheckoutQuote {
    let line = |line: doorbuster_engine::domain::checkout::Line| QuotedLine {
        variant_id: line.sale.variant_id.0,
        sku: line.sale.sku,
        title: line.sale.title,
        quantity: line.quantity,
        unit_price: line.sale.price.into(),
        price_at_add: line.price_at_add.into(),
    };
    let order = |lines: Vec<QuotedLine>, totals: Totals| QuotedOrder {
        lines,
        subtotal: totals.subtotal.into(),
        tax: totals.tax.into(),
        shipping: totals.shipping.into(),
        total: totals.total.into(),
    };
    CheckoutQuote {
        cart_version: version.0,
        goods: quote.goods.map(|goods| order(goods.lines.into_iter().map(line).collect(), goods.totals)),
        drop: quote.drop_line.map(|of_drop| order(vec![line(of_drop.line)], of_drop.totals)),
        total: quote.total.into(),
    }
}

fn refusal(refused: CheckoutRefused) -> Problem {
    match refused {
        CheckoutRefused::KeyReused => Problem::KeyReused,
        CheckoutRefused::CartEmpty => Problem::CartEmpty,
        CheckoutRefused::CartChanged { .. } => Problem::CartChanged,
        CheckoutRefused::CartOrdered(known) => {
            let claim = known.claim.map(|claim| claim.claim.id.0);
            Problem::CartOrdered { orders: known.order.map(|order| order.0).into_iter().chain(claim).collect() }
        }
        CheckoutRefused::NoProfile => Problem::ProfileMissing,
        CheckoutRefused::NoQuote(NoQuote::Lines(faults)) => {
            let line = |(variant, fault): (doorbuster_engine::domain::ids::VariantId, LineFault)| {
                LineProblem::new(
                    variant.0,
                    match fault {
                        LineFault::NotForSale => LineCode::NotForSale,
                        LineFault::OtherCurrency => LineCode::OtherCurrency,
                        LineFault::SecondOfDrop => LineCode::SecondOfDrop,
                        LineFault::OverClaim => LineCode::OverClaim,
                    },
                )
            };
            Problem::LinesRefused(faults.into_iter().map(line).collect())
        }
        CheckoutRefused::NoQuote(NoQuote::NotServed) => Problem::NotServed,
        CheckoutRefused::NoQuote(NoQuote::NotChargeable(why)) => Problem::NotChargeable { why },
        CheckoutRefused::PriceChanged { changes, total } => {
            let line = |change: doorbuster_engine::domain::checkout::PriceChange| LineProblem {
                old_price: Some(change.old.into()),
                price: Some(change.new.into()),
                ..LineProblem::new(change.variant_id.0, LineCode::PriceChanged)
            };
            Problem::PriceChanged { lines: changes.into_iter().map(line).collect(), total: total.into() }
        }
        CheckoutRefused::OutOfStock(short) => {
            let line = |short: doorbuster_engine::ledger::checkouts::Shortage| LineProblem {
                available: Some(short.available),
                ..LineProblem::new(short.variant_id.0, LineCode::OutOfStock)
            };
            Problem::OutOfStock(short.into_iter().map(line).collect())
        }
        CheckoutRefused::TooManyOpen { limit } => Problem::TooManyOpen { limit },
        CheckoutRefused::TooManyUnitsOpen { limit } => Problem::TooManyUnitsOpen { limit },
        CheckoutRefused::Claim(ClaimOutcome::Taken { .. } | ClaimOutcome::Replayed { .. })
        | CheckoutRefused::ClaimFailed => Problem::ClaimRejected,
        CheckoutRefused::Claim(refused) => claim_refusal(refused),
    }
}

fn counted(problem: Problem) -> Problem {
    metrics::counter!("doorbuster_checkouts_total", "outcome" => problem.code()).increment(1);
    problem
}
