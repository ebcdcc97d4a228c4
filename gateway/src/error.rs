//! Every answer that is not a success, as problem+json (RFC 9457). The only place that knows error statuses.
//!
//! `code` is for programs and never changes; `title` is for people and is the same for every problem of that code;
//! `detail` says what to do. What went wrong inside is logged here, once, and never told to the buyer.

use std::borrow::Cow;

use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use doorbuster_engine::domain::money::Money;
use doorbuster_engine::domain::orders::OrderState;
use doorbuster_engine::domain::payments::PaymentState;
use doorbuster_engine::flows::EngineError;
use doorbuster_engine::ledger::LedgerError;
use doorbuster_engine::tokens::TokenError;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::routes::Amount;

mod samples;

pub const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
/// Everything that answers 503 is over, or decided by a worker, within a second or two.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("1");

/// One reason why a request was not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    // The request itself.
    NotFound,
    MethodNotAllowed,
    TokenMissing,
    TokenInvalid,
    IdempotencyKeyMissing,
    IdempotencyKeyInvalid,
    UnsupportedMediaType { wanted: &'static str },
    BodyTooLarge { limit_bytes: usize },
    BodyTooSlow,
    MalformedJson,
    Invalid(Vec<FieldProblem>),
    PreconditionRequired,
    PreconditionFailed,
    // The operators, and what they ask for.
    OperatorsOff,
    ProductNotFound,
    SkuTaken { sku: String },
    SkuNotFound,
    WarehouseNotFound,
    StockOfDrop { drop: String },
    BelowReserved { available: i64, reserved: i64 },
    ImportRefused(Vec<FieldProblem>),
    // What it is about: not there, or not this buyer's, which nobody can tell apart.
    DropNotFound,
    VariantNotFound,
    NotForSale,
    CartSessionInvalid,
    CartLineNotFound,
    CartFull { limit: u32 },
    QuantityLimit { limit: u32 },
    // A checkout, and why nothing was sold.
    CartEmpty,
    CartChanged,
    CartOrdered { orders: Vec<Uuid> },
    LinesRefused(Vec<LineProblem>),
    PriceChanged { lines: Vec<LineProblem>, total: Amount },
    OutOfStock(Vec<LineProblem>),
    NotServed,
    NotChargeable,
    ClaimNotFound,
    OrderNotFound,
    ProfileNotFound,
    // The payment provider.
    DeliveryRefused,
    WebhooksOff,
    // How a claim ended, when it took nothing.
    SoldOut,
    NotEnough { available: u32 },
    LimitExceeded { held: u32, limit: u32 },
    NotOpen,
    Closed,
    KeyReused,
    ClaimReleased,
    ClaimRejected,
    // Standby.
    AlreadyInLine,
    LineFull,
    UnitsOnTheirWay,
    ClaimNotLost,
    // Payments.
    PaymentNotRequired,
    NotCancellable,
    ProfileMissing,
    // Orders on their way, and back.
    WrongOrderState { state: OrderState },
    CancelRequested,
    PaymentNotSettled { payment: PaymentState },
    ShippedOtherwise { carrier: String, number: String },
    ReturnExceedsOrder { line: u32, left: u32 },
    UnitNotOut { line: u32, serial: u32 },
    RefundExceedsPayment { left: Money },
    NotPaid,
    OrdersOpen { orders: Vec<Uuid> },
    // Ourselves: nothing was decided, the same request may be made again.
    Overloaded,
    WarehouseRebuilding,
    UnitsMoving,
    Unavailable,
    TimedOut,
    Internal,
}

/// What is wrong with one field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct FieldProblem {
    /// The field, with dots between the levels: `ship_to.country`
    pub field: String,
    pub detail: String,
}

impl FieldProblem {
    pub fn new(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { field: field.into(), detail: detail.into() }
    }
}

/// What is wrong with one line of a cart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct LineProblem {
    pub variant_id: i32,
    /// What is wrong, for programs: `not_for_sale`, `other_currency`, `second_of_drop`, `over_claim`, `price_changed`, `out_of_stock`
    #[schema(example = "out_of_stock")]
    pub code: &'static str,
    /// Units that could be had (`out_of_stock`)
    #[serde(skip_serializing_if = "Option::is_none")]
    pub available: Option<i64>,
    /// What the buyer was shown (`price_changed`)
    #[serde(skip_serializing_if = "Option::is_none")]
    pub old_price: Option<Amount>,
    /// What it costs now (`price_changed`)
    #[serde(skip_serializing_if = "Option::is_none")]
    pub price: Option<Amount>,
}

impl LineProblem {
    pub fn new(variant_id: i32, code: &'static str) -> Self {
        Self { variant_id, code, available: None, old_price: None, price: None }
    }
}

/// An error, as RFC 9457 has it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub struct ProblemBody {
    /// What happened, for programs: stable
    #[schema(example = "sold_out")]
    code: &'static str,
    /// What happened, for people
    title: &'static str,
    status: u16,
    /// What to do about it
    detail: Cow<'static, str>,
    /// The fields that do not fit (`invalid_request`), or lines and columns of a file (`import_refused`)
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: Vec<FieldProblem>,
    /// Units that could still be had (`not_enough`), or that are there (`below_reserved`)
    #[serde(skip_serializing_if = "Option::is_none")]
    available: Option<i64>,
    /// Units that unpaid orders hold (`below_reserved`)
    #[serde(skip_serializing_if = "Option::is_none")]
    reserved: Option<i64>,
    /// Units that the buyer holds (`limit_exceeded`)
    #[serde(skip_serializing_if = "Option::is_none")]
    held: Option<u32>,
    /// Units that a buyer may hold (`limit_exceeded`)
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<u32>,
    /// The orders that are in the way (`orders_open`), or that this cart has become (`cart_ordered`)
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    orders: Vec<Uuid>,
    /// The lines of the cart that are in the way (`lines_refused`, `price_changed`, `out_of_stock`)
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    lines: Vec<LineProblem>,
    /// What the cart costs now (`price_changed`)
    #[serde(skip_serializing_if = "Option::is_none")]
    total: Option<Amount>,
}

impl Problem {
    fn parts(&self) -> (StatusCode, &'static str, &'static str) {
        use StatusCode as S;
        match self {
            Self::NotFound => (S::NOT_FOUND, "not_found", "There is nothing here"),
            Self::MethodNotAllowed => (S::METHOD_NOT_ALLOWED, "method_not_allowed", "This cannot be done here"),
            Self::TokenMissing => (S::UNAUTHORIZED, "token_missing", "A bearer token is required"),
            Self::TokenInvalid => (S::UNAUTHORIZED, "token_invalid", "The bearer token is not valid"),
            Self::IdempotencyKeyMissing => {
                (S::BAD_REQUEST, "idempotency_key_missing", "The header Idempotency-Key is required")
            }
            Self::IdempotencyKeyInvalid => {
                (S::BAD_REQUEST, "idempotency_key_invalid", "The header Idempotency-Key cannot be used")
            }
            Self::UnsupportedMediaType { .. } => {
                (S::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", "The body is of another type")
            }
            Self::BodyTooLarge { .. } => (S::PAYLOAD_TOO_LARGE, "body_too_large", "The body is too large"),
            Self::BodyTooSlow => (S::REQUEST_TIMEOUT, "body_too_slow", "The body did not arrive in time"),
            Self::MalformedJson => (S::BAD_REQUEST, "malformed_json", "The body is not JSON"),
            Self::Invalid(_) => (S::UNPROCESSABLE_ENTITY, "invalid_request", "The request does not fit"),
            Self::PreconditionRequired => {
                (S::PRECONDITION_REQUIRED, "precondition_required", "The header If-Match is required")
            }
            Self::PreconditionFailed => {
                (S::PRECONDITION_FAILED, "precondition_failed", "It was changed since you have seen it")
            }
            Self::OperatorsOff => (S::FORBIDDEN, "operators_off", "The operators' API is not configured here"),
            Self::ProductNotFound => (S::NOT_FOUND, "product_not_found", "There is no such product"),
            Self::SkuTaken { .. } => (S::CONFLICT, "sku_taken", "The SKU names another variant"),
            Self::SkuNotFound => (S::NOT_FOUND, "sku_not_found", "There is no such SKU"),
            Self::WarehouseNotFound => (S::NOT_FOUND, "warehouse_not_found", "There is no such warehouse"),
            Self::StockOfDrop { .. } => (S::CONFLICT, "stock_of_drop", "This is the stock of a drop"),
            Self::BelowReserved { .. } => (S::CONFLICT, "below_reserved", "Unpaid orders hold these units"),
            Self::ImportRefused(_) => (S::UNPROCESSABLE_ENTITY, "import_refused", "Some lines of the file do not fit"),
            Self::DropNotFound => (S::NOT_FOUND, "drop_not_found", "There is no such drop"),
            Self::VariantNotFound => (S::NOT_FOUND, "variant_not_found", "There is no such variant"),
            Self::NotForSale => (S::CONFLICT, "not_for_sale", "The variant is not for sale"),
            Self::CartSessionInvalid => {
                (S::BAD_REQUEST, "cart_session_invalid", "The header Cart-Session cannot be used")
            }
            Self::CartLineNotFound => (S::NOT_FOUND, "cart_line_not_found", "The cart has no such line"),
            Self::CartFull { .. } => (S::CONFLICT, "cart_full", "The cart has no place for another line"),
            Self::QuantityLimit { .. } => (S::CONFLICT, "quantity_limit", "A line has no place for so many units"),
            Self::CartEmpty => (S::CONFLICT, "cart_empty", "There is nothing in the cart"),
            Self::CartChanged => (S::CONFLICT, "cart_changed", "The cart is not the one that was seen"),
            Self::CartOrdered { .. } => (S::CONFLICT, "cart_ordered", "This cart was ordered before"),
            Self::LinesRefused(_) => (S::CONFLICT, "lines_refused", "Some lines cannot be ordered"),
            Self::PriceChanged { .. } => (S::CONFLICT, "price_changed", "It costs something else than was shown"),
            Self::OutOfStock(_) => (S::CONFLICT, "out_of_stock", "Fewer units are left"),
            Self::NotServed => (S::CONFLICT, "region_not_served", "Nothing is sent there in this currency"),
            Self::NotChargeable => (S::CONFLICT, "not_chargeable", "This amount cannot be charged"),
            Self::ClaimNotFound => (S::NOT_FOUND, "claim_not_found", "There is no such claim"),
            Self::OrderNotFound => (S::NOT_FOUND, "order_not_found", "There is no such order"),
            Self::ProfileNotFound => (S::NOT_FOUND, "profile_not_found", "There is no checkout profile yet"),
            Self::DeliveryRefused => (S::BAD_REQUEST, "delivery_refused", "The delivery is refused"),
            Self::WebhooksOff => (S::SERVICE_UNAVAILABLE, "webhooks_off", "Webhooks are not configured here"),
            Self::SoldOut => (S::CONFLICT, "sold_out", "Sold out"),
            Self::NotEnough { .. } => (S::CONFLICT, "not_enough", "Fewer units are left"),
            Self::LimitExceeded { .. } => (S::CONFLICT, "limit_exceeded", "The limit per buyer is reached"),
            Self::NotOpen => (S::CONFLICT, "not_open", "The drop is not open yet"),
            Self::Closed => (S::GONE, "closed", "The drop is closed"),
            Self::KeyReused => (S::UNPROCESSABLE_ENTITY, "key_reused", "The Idempotency-Key was used otherwise"),
            Self::ClaimReleased => (S::CONFLICT, "claim_released", "The claim's units have been given back"),
            Self::ClaimRejected => (S::CONFLICT, "claim_rejected", "The claim could not become an order"),
            Self::AlreadyInLine => (S::CONFLICT, "already_in_line", "The buyer waits in this line already"),
            Self::LineFull => (S::CONFLICT, "line_full", "Too many are waiting"),
            Self::UnitsOnTheirWay => (S::CONFLICT, "units_on_their_way", "Units are on their way to the buyer"),
            Self::ClaimNotLost => (S::CONFLICT, "claim_not_lost", "The receipt's claim is not lost"),
            Self::PaymentNotRequired => (S::CONFLICT, "payment_not_required", "The order needs no payment method"),
            Self::NotCancellable => (S::CONFLICT, "not_cancellable", "The order cannot be cancelled any more"),
            Self::ProfileMissing => (S::CONFLICT, "checkout_profile_missing", "There is no checkout profile yet"),
            Self::WrongOrderState { .. } => (S::CONFLICT, "wrong_order_state", "The order's state does not lead there"),
            Self::CancelRequested => (S::CONFLICT, "cancel_requested", "The order is being cancelled"),
            Self::PaymentNotSettled { .. } => {
                (S::CONFLICT, "payment_not_settled", "The order's money is not there, or on its way back")
            }
            Self::ShippedOtherwise { .. } => (S::CONFLICT, "shipped_otherwise", "The order was shipped otherwise"),
            Self::ReturnExceedsOrder { .. } => {
                (S::CONFLICT, "return_exceeds_order", "Fewer units are out than would come back")
            }
            Self::UnitNotOut { .. } => (S::CONFLICT, "unit_not_out", "This unit is not out"),
            Self::RefundExceedsPayment { .. } => {
                (S::CONFLICT, "refund_exceeds_payment", "Less is left of what was paid")
            }
            Self::NotPaid => (S::CONFLICT, "not_paid", "The order has not been paid"),
            Self::OrdersOpen { .. } => (S::CONFLICT, "orders_open", "Some orders are not over"),
            Self::Overloaded => (S::SERVICE_UNAVAILABLE, "overloaded", "Too many are asking at once"),
            Self::WarehouseRebuilding => {
                (S::SERVICE_UNAVAILABLE, "warehouse_rebuilding", "Stock is being brought back")
            }
            Self::UnitsMoving => (S::SERVICE_UNAVAILABLE, "units_moving", "The last units are being moved"),
            Self::Unavailable => (S::SERVICE_UNAVAILABLE, "unavailable", "This cannot be answered just now"),
            Self::TimedOut => (S::SERVICE_UNAVAILABLE, "timed_out", "This took too long"),
            Self::Internal => (S::INTERNAL_SERVER_ERROR, "internal", "This is our fault"),
        }
    }

    pub fn status(&self) -> u16 {
        self.parts().0.as_u16()
    }

    /// For metrics and programs.
    pub fn code(&self) -> &'static str {
        self.parts().1
    }

    pub fn title(&self) -> &'static str {
        self.parts().2
    }

    pub fn detail(&self) -> Cow<'static, str> {
        match self {
            Self::NotFound => "See /docs or /openapi.json for what there is.".into(),
            Self::MethodNotAllowed => "The header Allow says what can be done.".into(),
            Self::TokenMissing => "Send the header Authorization: Bearer <token>.".into(),
            Self::TokenInvalid => "It has expired, or was not issued for this service: get a new one.".into(),
            Self::IdempotencyKeyMissing => {
                "Make one up for each purchase or change, and send the same one when you try again.".into()
            }
            Self::IdempotencyKeyInvalid => "Send exactly one, of 1 to 255 visible ASCII characters.".into(),
            Self::UnsupportedMediaType { wanted } => format!("Send Content-Type: {wanted}.").into(),
            Self::BodyTooLarge { limit_bytes } => format!("At most {limit_bytes} bytes are read.").into(),
            Self::BodyTooSlow => "Send the whole body at once.".into(),
            Self::MalformedJson => "The body cannot be parsed.".into(),
            Self::Invalid(_) => "See errors for the fields that do not fit.".into(),
            Self::PreconditionRequired => {
                "Send the ETag of what you have seen, so that no other change is lost.".into()
            }
            Self::PreconditionFailed => "GET it again, look at what changed, and send the new ETag in If-Match.".into(),
            Self::OperatorsOff => {
                "Start `doorbuster serve` with DOORBUSTER_OPERATOR_TOKENS=name=secret, at least 32 characters each."
                    .into()
            }
            Self::ProductNotFound => "GET /v1/products lists what there is.".into(),
            Self::SkuTaken { sku } => format!("{sku} names a variant for ever, also one that is not sold any more.").into(),
            Self::SkuNotFound => "Make its product with POST /v1/products, or check the SKU.".into(),
            Self::WarehouseNotFound => "Make it with POST /v1/warehouses, or check its code.".into(),
            Self::StockOfDrop { drop } => {
                format!("{drop} is a drop: its stock is changed by `doorbuster drop restock {drop}` alone.").into()
            }
            Self::BelowReserved { available, reserved } => format!(
                "{available} units are there and {reserved} of them reserved: at most {} can go.",
                available - reserved
            )
            .into(),
            Self::ImportRefused(_) => "Nothing was changed: errors names lines and columns; mend them and send all of it again.".into(),
            Self::DropNotFound => "Check the drop's name.".into(),
            Self::VariantNotFound => "Name one that GET /v1/drops/{drop} or GET /v1/products lists.".into(),
            Self::NotForSale => "It may be again later; it cannot be put into a cart now.".into(),
            Self::CartSessionInvalid => "Send exactly one, as POST /v1/carts/guest has given it.".into(),
            Self::CartLineNotFound => "GET /v1/cart lists the variants that are in it.".into(),
            Self::CartFull { limit } => format!("It has {limit} lines: take one out first.").into(),
            Self::QuantityLimit { limit } => format!("A line has at most {limit} units.").into(),
            Self::CartEmpty => "Put something in with POST /v1/cart/items.".into(),
            Self::CartChanged => "GET /v1/cart, look at it, and send its version.".into(),
            Self::CartOrdered { .. } => "Nothing was ordered a second time: see orders for what it has become.".into(),
            Self::LinesRefused(_) => "Nothing was ordered: take the lines out, or change them.".into(),
            Self::PriceChanged { .. } => {
                "Nothing was ordered. If the buyer agrees, send the request again with this total as accepted_total.".into()
            }
            Self::OutOfStock(_) => "Nothing was reserved: lines says what can be had of each.".into(),
            Self::NotServed => "Change the country in PUT /v1/me/checkout-profile, or what is in the cart.".into(),
            Self::NotChargeable => "One charge is 0.01 to 999,999.99 in most currencies: order less, or in parts.".into(),
            Self::ClaimNotFound | Self::OrderNotFound => "Check the id, and whose token you sent.".into(),
            Self::ProfileNotFound => "Save one with PUT /v1/me/checkout-profile.".into(),
            Self::DeliveryRefused => "It is not what the payment provider sends.".into(),
            Self::WebhooksOff => "Nothing was taken: send it again later.".into(),
            Self::SoldOut => {
                "No unit is left. Wait in line for one that comes back with POST /v1/drops/{drop}/standby.".into()
            }
            Self::NotEnough { available } => format!("Only {available} can be had: ask for fewer.").into(),
            Self::LimitExceeded { held, limit } => {
                format!("You hold {held} of at most {limit} units per buyer.").into()
            }
            Self::NotOpen => "GET /v1/drops/{drop} says when it opens.".into(),
            Self::Closed => "No new claims are taken. What you have claimed stays yours.".into(),
            Self::KeyReused => "It stood for another request before: use a new key for a new one.".into(),
            Self::ClaimReleased => "It was not paid in time, or was cancelled. To try again use a new key.".into(),
            Self::ClaimRejected => {
                "Its units had gone to somebody else, after a failure of ours; nothing was charged. Use a new key."
                    .into()
            }
            Self::AlreadyInLine => {
                "GET /v1/drops/{drop}/standby says where; to change the quantity leave the line first.".into()
            }
            Self::LineFull => "Nobody else can wait for this variant: so many returns will not come.".into(),
            Self::UnitsOnTheirWay => "They become an order within seconds: cancel that.".into(),
            Self::ClaimNotLost => {
                "GET /v1/claims/{id} says what became of it. Without the receipt you join at the end.".into()
            }
            Self::PaymentNotRequired => "Its payment is under way, done or over: GET the order to see which.".into(),
            Self::NotCancellable => {
                "It has shipped, has ended otherwise, or is being looked at by a person: GET the order to see which."
                    .into()
            }
            Self::ProfileMissing => "Save one with PUT /v1/me/checkout-profile, then ask again.".into(),
            Self::WrongOrderState { state } => {
                format!("It is {}: an order is processed, then shipped, then delivered, and comes back after that.", state.as_str())
                    .into()
            }
            Self::CancelRequested => "It ends with the word of the payment provider: GET it again in a while.".into(),
            Self::PaymentNotSettled { payment } => {
                format!("Its payment is {}: the goods stay here until a refund has ended in part.", payment.as_str()).into()
            }
            Self::ShippedOtherwise { carrier, number } => {
                format!("It went with {carrier} under the number {number}; that is not changed any more.").into()
            }
            Self::ReturnExceedsOrder { line, left } => {
                format!("Of line {line} at most {left} can come back.").into()
            }
            Self::UnitNotOut { line, serial } => {
                format!("Unit {serial} is not one of line {line}, or has come back before.").into()
            }
            Self::RefundExceedsPayment { left } => format!("At most {left} can go back.").into(),
            Self::NotPaid => "There is nothing to give back: cancel it instead.".into(),
            Self::OrdersOpen { .. } => {
                "Nothing was erased: wait until they are delivered and refunds have arrived, or cancel them, then ask again."
                    .into()
            }
            Self::Overloaded | Self::WarehouseRebuilding | Self::UnitsMoving => {
                "Nothing was taken, and it does not mean sold out: send the same request again.".into()
            }
            Self::Unavailable | Self::TimedOut | Self::Internal => {
                "Send the same request again; if it was done, you get its answer.".into()
            }
        }
    }

    fn is_ours_and_passing(&self) -> bool {
        self.parts().0 == StatusCode::SERVICE_UNAVAILABLE
    }

    fn body(self) -> ProblemBody {
        let (status, code, title) = self.parts();
        let detail = self.detail();
        let mut body = ProblemBody {
            code,
            title,
            status: status.as_u16(),
            detail,
            errors: Vec::new(),
            available: None,
            reserved: None,
            held: None,
            limit: None,
            orders: Vec::new(),
            lines: Vec::new(),
            total: None,
        };
        match self {
            Self::Invalid(errors) | Self::ImportRefused(errors) => body.errors = errors,
            Self::NotEnough { available } => body.available = Some(available.into()),
            Self::BelowReserved { available, reserved } => {
                (body.available, body.reserved) = (Some(available), Some(reserved));
            }
            Self::OrdersOpen { orders } | Self::CartOrdered { orders } => body.orders = orders,
            Self::LinesRefused(lines) | Self::OutOfStock(lines) => body.lines = lines,
            Self::PriceChanged { lines, total } => (body.lines, body.total) = (lines, Some(total)),
            Self::CartFull { limit } | Self::QuantityLimit { limit } => body.limit = Some(limit),
            Self::LimitExceeded { held, limit } => (body.held, body.limit) = (Some(held), Some(limit)),
            _ => {}
        }
        body
    }

    pub fn field(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::Invalid(vec![FieldProblem::new(field, detail)])
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = self.parts().0;
        let is_passing = self.is_ours_and_passing();
        let challenge = match self {
            Self::TokenMissing => Some(r#"Bearer realm="doorbuster""#),
            Self::TokenInvalid => Some(r#"Bearer realm="doorbuster", error="invalid_token""#),
            _ => None,
        };
        let is_replay = self == Self::ClaimReleased;
        let closes = matches!(self, Self::BodyTooLarge { .. } | Self::BodyTooSlow);
        let body = serde_json::to_vec(&self.body()).expect("a problem is made of texts and numbers only");
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if is_passing {
            headers.insert(header::RETRY_AFTER, RETRY_AFTER_SECONDS);
        }
        if let Some(challenge) = challenge {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        if is_replay {
            headers.insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
        }
        if closes {
            // What is left of the body will not be read.
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

impl From<EngineError> for Problem {
    fn from(error: EngineError) -> Self {
        let problem = match &error {
            EngineError::Tokens(tokens) => match **tokens {
                TokenError::Overloaded => Self::Overloaded,
                TokenError::NotLoaded | TokenError::Fenced | TokenError::Stale => Self::WarehouseRebuilding,
                TokenError::Refused { .. } | TokenError::Redis(_) | TokenError::Gap => Self::Unavailable,
                TokenError::BadReply { .. } => Self::Internal,
            },
            EngineError::Moving => Self::UnitsMoving,
            _ if error.is_retryable() => Self::Unavailable,
            _ => Self::Internal,
        };
        match problem {
            Self::Internal => tracing::error!(%error, "a request failed: {error}"),
            // What is refused of claims is said where they are sent.
            _ if error.is_refusal() && !matches!(error, EngineError::Tokens(_)) => {
                tracing::warn!(%error, "requests are refused: {error}");
            }
            _ => tracing::debug!(%error, code = problem.code(), "a request got no answer: {error}"),
        }
        problem
    }
}

impl From<LedgerError> for Problem {
    fn from(error: LedgerError) -> Self {
        EngineError::from(error).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_that_passes_says_when_to_come_back() {
        for problem in [Problem::Overloaded, Problem::WarehouseRebuilding, Problem::UnitsMoving, Problem::TimedOut] {
            let response = problem.into_response();
            assert_eq!(response.status(), 503);
            assert_eq!(response.headers()[header::RETRY_AFTER], "1");
        }
    }

    #[test]
    fn extension_members_appear_only_where_they_mean_something() {
        let body = serde_json::to_value(Problem::NotEnough { available: 1 }.body()).unwrap();
        assert_eq!(body["available"], 1);
        assert!(body.get("held").is_none() && body.get("errors").is_none());
    }
}
