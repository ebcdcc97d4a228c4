//! Which problems a route may answer with, for its description.
//!
//! A route names its own: `responses((status = 200, …), Errors<(kinds::SoldOut, kinds::NotOpen)>)`. What comes of the way in
//! which it is asked (a token, a key, a body) is one of the sets below. openapi.rs adds them by what the route declares, so that
//! none can be forgotten.

use std::collections::{BTreeMap, BTreeSet};
use std::marker::PhantomData;
use std::sync::LazyLock;

use axum::http::StatusCode;
use utoipa::IntoResponses;
use utoipa::openapi::example::{Example, ExampleBuilder};
use utoipa::openapi::header::{Header, HeaderBuilder};
use utoipa::openapi::response::{Response, ResponseBuilder};
use utoipa::openapi::schema::{AllOfBuilder, ObjectBuilder, Schema, Type};
use utoipa::openapi::{ContentBuilder, Ref, RefOr};

use super::{Problem, kinds};

pub const PROBLEM_JSON: &str = "application/problem+json";

static SAMPLES: LazyLock<Vec<Problem>> = LazyLock::new(Problem::samples);

/// A problem or several, as a type.
pub trait Problems {
    fn problems() -> Vec<Problem>;
}

/// The problems of a route, as utoipa wants them.
pub struct Errors<T>(PhantomData<T>);

impl<T: Problems> IntoResponses for Errors<T> {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let mut responses = BTreeMap::new();
        add(&mut responses, &T::problems());
        responses
    }
}

macro_rules! sets {
    ($($(#[$meta:meta])* $set:ident = $($kind:ident)+;)+) => {
        $(
            $(#[$meta])*
            pub struct $set;

            impl Problems for $set {
                fn problems() -> Vec<Problem> {
                    [$(kinds::$kind::problems()),+].concat()
                }
            }
        )+
    };
}

sets! {
    /// Whatever was asked.
    EveryRoute = Internal Unavailable TimedOut;
    /// A part of the path that varies, and was not UTF-8.
    WithPath = NotFound;
    WithToken = TokenMissing TokenInvalid;
    /// The token of an operator.
    WithOperator = OperatorsOff;
    WithCartSession = CartSessionInvalid;
    WithIdempotencyKey = IdempotencyKeyMissing IdempotencyKeyInvalid;
    WithIfMatch = PreconditionRequired PreconditionFailed;
    WithQuery = Invalid;
    /// A body of any kind.
    WithBody = BodyTooSlow BodyTooLarge UnsupportedMediaType EncodedBody Invalid;
    WithJson = MalformedJson;

    /// Why a claim took nothing, whether it was made by itself or out of a cart.
    ClaimRefused = SoldOut NotEnough LimitExceeded NotOpen LineOnly Paused Closed TooManyReleased KeyReused
        PriceChanged CountryNotServed ClaimRejected Overloaded WarehouseRebuilding UnitsMoving;
    /// The buyer has more unpaid than they may.
    TooMuchOpen = TooManyOpen TooManyUnitsOpen;
    /// Why a cart has no price.
    CartUnpriced = CartEmpty ProfileMissing LinesRefused NotServed NotChargeable;
}

macro_rules! tuples {
    ($($first:ident $($rest:ident)*;)+) => {
        $(impl<$first: Problems, $($rest: Problems),*> Problems for ($first, $($rest,)*) {
            fn problems() -> Vec<Problem> {
                [$first::problems(), $($rest::problems()),*].concat()
            }
        })+
    };
}

tuples! {
    A B;
    A B C;
    A B C D;
    A B C D E;
    A B C D E F;
    A B C D E F G;
    A B C D E F G H I;
}

/// Adds problems to the responses of a route, each to those of its status.
pub fn add(responses: &mut BTreeMap<String, RefOr<Response>>, problems: &[Problem]) {
    let mut by_status = BTreeMap::<u16, BTreeSet<String>>::new();
    for problem in problems {
        by_status.entry(problem.status()).or_default().insert(problem.code().to_owned());
    }
    for (status, mut codes) in by_status {
        if let Some(RefOr::T(known)) = responses.get(&status.to_string()) {
            codes.extend(codes_of(known));
        }
        responses.insert(status.to_string(), described(status, &codes).into());
    }
}

/// The codes of a described problem: each has its example.
pub fn codes_of(response: &Response) -> Vec<String> {
    match response.content.get(PROBLEM_JSON) {
        Some(RefOr::T(content)) => content.examples.keys().cloned().collect(),
        _ => Vec::new(),
    }
}

/// An example of every problem, by code: `#/components/examples/…`.
pub fn examples() -> impl Iterator<Item = (String, Example)> {
    SAMPLES.iter().map(|problem| {
        let example = ExampleBuilder::new().summary(problem.title()).value(Some(problem.clone().to_json()));
        (problem.code().to_owned(), example.build())
    })
}

/// All codes, in the catalogue's order.
pub fn codes() -> impl Iterator<Item = &'static str> {
    SAMPLES.iter().map(Problem::code)
}

fn described(status: u16, codes: &BTreeSet<String>) -> Response {
    let problems = SAMPLES.iter().filter(|problem| codes.contains(problem.code())).collect::<Vec<_>>();
    let sentences = problems.iter().map(|problem| format!("`{}`: {}", problem.code(), problem.title()));
    let code = ObjectBuilder::new().schema_type(Type::String);
    let code = code.enum_values(Some(problems.iter().map(|problem| problem.code())));
    let these = ObjectBuilder::new().property("code", code).required("code");
    let schema = AllOfBuilder::new().item(Ref::from_schema_name("Problem")).item(these).build();
    let examples = problems.iter().map(|problem| {
        let place = format!("#/components/examples/{}", problem.code());
        (problem.code(), RefOr::<Example>::Ref(Ref::new(place)))
    });
    let content = ContentBuilder::new().schema(Some(Schema::AllOf(schema))).examples_from_iter(examples).build();
    let mut response = ResponseBuilder::new().description(sentences.collect::<Vec<_>>().join(". "));
    if let Some((name, header)) = header(status) {
        response = response.header(name, header);
    }
    response.content(PROBLEM_JSON, content).build()
}

/// The header that every problem of a status has.
fn header(status: u16) -> Option<(&'static str, Header)> {
    let header = HeaderBuilder::new();
    if status == StatusCode::UNAUTHORIZED.as_u16() {
        let text = ObjectBuilder::new().schema_type(Type::String);
        return Some((
            "WWW-Authenticate",
            header.schema(Some(text)).description(Some("How to prove who you are")).build(),
        ));
    }
    if status == StatusCode::SERVICE_UNAVAILABLE.as_u16() {
        let seconds = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(0));
        let header = header.schema(Some(seconds)).description(Some("Seconds until it is worth trying again"));
        return Some(("Retry-After", header.build()));
    }
    None
}
