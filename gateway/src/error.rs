//! Every answer that is not a success, as problem+json (RFC 9457). The only place that knows error statuses.
//!
//! `code` is for programs and never changes; `title` is for people and is the same for every problem of that code;
//! `detail` says what to do. What went wrong inside is logged here, once, and never told to the buyer.

use std::borrow::Cow;

use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use doorbuster_engine::flows::EngineError;
use doorbuster_engine::ledger::LedgerError;
use doorbuster_engine::tokens::TokenError;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa::openapi::schema::{Object, ObjectBuilder, Type};
use uuid::Uuid;

use crate::routes::Amount;

mod catalogue;
pub mod sets;

pub use catalogue::{Problem, kinds};
pub use sets::{Errors, PROBLEM_JSON};

pub const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

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
    /// What is wrong, for programs
    pub code: LineCode,
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

/// What is wrong with a line, for programs
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LineCode {
    NotForSale,
    /// The cart has lines in another currency
    OtherCurrency,
    /// One order takes one variant of one drop
    SecondOfDrop,
    /// More units of a drop than one claim may take
    OverClaim,
    PriceChanged,
    OutOfStock,
}

impl LineProblem {
    pub fn new(variant_id: i32, code: LineCode) -> Self {
        Self { variant_id, code, available: None, old_price: None, price: None }
    }
}

/// An error, as RFC 9457 has it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub struct ProblemBody {
    /// What happened, for programs: stable
    #[schema(schema_with = code_schema)]
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
    /// What the cart, the claim or the order costs (`price_changed`, `total_not_accepted`)
    #[serde(skip_serializing_if = "Option::is_none")]
    total: Option<Amount>,
}

fn code_schema() -> Object {
    ObjectBuilder::new().schema_type(Type::String).enum_values(Some(sets::codes())).build()
}

/// How a problem's field becomes a member of its answer.
trait Member<T> {
    fn member(self) -> T;
}

impl<T> Member<Vec<T>> for Vec<T> {
    fn member(self) -> Self {
        self
    }
}

impl Member<Option<i64>> for i64 {
    fn member(self) -> Option<i64> {
        Some(self)
    }
}

impl Member<Option<i64>> for u32 {
    fn member(self) -> Option<i64> {
        Some(self.into())
    }
}

impl Member<Option<u32>> for u32 {
    fn member(self) -> Option<u32> {
        Some(self)
    }
}

impl Member<Option<Amount>> for Amount {
    fn member(self) -> Option<Amount> {
        Some(self)
    }
}

impl Problem {
    pub fn status(&self) -> u16 {
        self.status_code().as_u16()
    }

    /// What it takes, in seconds, until the same request is answered otherwise.
    fn retry_after(&self) -> Option<&'static str> {
        match self {
            // Units rest for a second and a half, and a rebuild waits as long before it puts any on sale.
            Self::UnitsMoving | Self::WarehouseRebuilding => Some("2"),
            // A person pauses a drop, and takes longer than a store that comes back.
            Self::Paused => Some("10"),
            _ if self.status_code() == StatusCode::SERVICE_UNAVAILABLE => Some("1"),
            _ => None,
        }
    }

    fn body(self) -> ProblemBody {
        let mut body = ProblemBody {
            code: self.code(),
            title: self.title(),
            status: self.status(),
            detail: self.detail(),
            errors: Vec::new(),
            available: None,
            reserved: None,
            held: None,
            limit: None,
            orders: Vec::new(),
            lines: Vec::new(),
            total: None,
        };
        self.tell(&mut body);
        body
    }

    /// The answer's body, for descriptions and their examples.
    pub fn to_json(self) -> serde_json::Value {
        serde_json::to_value(self.body()).expect("a problem is made of texts and numbers only")
    }

    pub fn field(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::Invalid(vec![FieldProblem::new(field, detail)])
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = self.status_code();
        let retry_after = self.retry_after();
        let challenge = match self {
            Self::TokenMissing => Some(r#"Bearer realm="doorbuster""#),
            Self::TokenInvalid => Some(r#"Bearer realm="doorbuster", error="invalid_token""#),
            _ => None,
        };
        let is_replay = self == Self::ClaimReleased;
        let is_encoded = self == Self::EncodedBody;
        let closes = matches!(self, Self::BodyTooLarge { .. } | Self::BodyTooSlow);
        let body = serde_json::to_vec(&self.body()).expect("a problem is made of texts and numbers only");
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        if let Some(seconds) = retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static(seconds));
        }
        if let Some(challenge) = challenge {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        if is_replay {
            headers.insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
        }
        if is_encoded {
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
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
        for (problem, seconds) in [
            (Problem::Overloaded, "1"),
            (Problem::TimedOut, "1"),
            (Problem::WarehouseRebuilding, "2"),
            (Problem::UnitsMoving, "2"),
            (Problem::Paused, "10"),
        ] {
            assert_eq!(problem.into_response().headers()[header::RETRY_AFTER], seconds);
        }
    }

    #[test]
    fn extension_members_appear_only_where_they_mean_something() {
        let body = serde_json::to_value(Problem::NotEnough { available: 1 }.body()).unwrap();
        assert_eq!(body["available"], 1);
        assert!(body.get("held").is_none() && body.get("errors").is_none());
    }
}
