//! What `/openapi.json` says beside the routes, which describe themselves.
//!
//! A route names the problems that are its own; [`complete`] adds those that come of the way in which it is asked. Each is
//! described with its schema and an example by code, so that a program can hold an answer against them.

pub(crate) mod examples;
pub mod webhooks;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use utoipa::OpenApi as _;
use utoipa::openapi::path::{Operation, ParameterIn};
use utoipa::openapi::response::Response;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{Content, OpenApi, RefOr, Schema};

use crate::error::Problem;
use crate::error::sets::{self, Problems as _};

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "Doorbuster",
        description = "Sells a limited stock to a crowd. Errors are problem+json (RFC 9457) with a stable `code`."
    ),
    tags(
        (name = "claims", description = "Take units of a drop, once"),
        (name = "standby", description = "Wait in line for units that come back"),
        (name = "line", description = "Stand in the line of a drop: rounds give units, in an order that a draw decides"),
        (name = "drops", description = "What is sold to a crowd"),
        (name = "catalog", description = "What is sold outside of drops"),
        (name = "carts", description = "What is meant to be bought"),
        (name = "orders", description = "What was bought, and what became of it"),
        (name = "me", description = "What is kept of a buyer, and its end"),
        (name = "checkout", description = "From the cart to an order: how a buyer pays, and where to")
    ),
    components(schemas(crate::error::ProblemBody))
)]
struct Base;

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "Doorbuster, for operators",
        description = "Products, stock and orders, on the operators' own listener. Errors are problem+json (RFC 9457) with a \
                       stable `code`."
    ),
    tags(
        (name = "operators", description = "Who is asking"),
        (name = "catalog", description = "What is sold"),
        (name = "stock", description = "What is there, and every change of it"),
        (name = "orders", description = "What was bought, on its way to the buyer and back"),
        (name = "webhooks", description = "What we tell the shop's own systems, as Standard Webhooks has it")
    ),
    components(schemas(
        crate::error::ProblemBody, webhooks::WebhookEvent, webhooks::PaymentFailedDetail,
        webhooks::PaymentMethodRequiredDetail, webhooks::OrderCancelledDetail, webhooks::RefundIssuedDetail,
        webhooks::RefundFailedDetail, webhooks::OrderShippedDetail, webhooks::OrderReturnedDetail, webhooks::WebhookDropEvent,
        webhooks::DropSealedDetail, webhooks::DropDrawnDetail, webhooks::LineRoundDetail, webhooks::LineClosedDetail
    ))
)]
struct OperatorsBase;

pub(crate) fn operators_base() -> OpenApi {
    let mut description = OperatorsBase::openapi();
    description.webhooks = Some(webhooks::all());
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer);
    let bearer = bearer.description(Some("A secret of DOORBUSTER_OPERATOR_TOKENS; its name is the actor")).build();
    description.components.get_or_insert_default().add_security_scheme("operator", SecurityScheme::Http(bearer));
    description
}

pub(crate) fn base() -> OpenApi {
    let mut description = Base::openapi();
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("JWT");
    let bearer = bearer.description(Some("HS256; `sub` is the buyer, `exp` is required")).build();
    let session =
        ApiKeyValue::with_description("Cart-Session", "As POST /v1/carts/guest gives it; a bearer token wins");
    let components = description.components.get_or_insert_default();
    components.add_security_scheme("buyer", SecurityScheme::Http(bearer));
    components.add_security_scheme("guest", SecurityScheme::ApiKey(ApiKey::Header(session)));
    description
}

/// Adds to every route what its handler does not decide, by what the route declares: path, token, headers, query and body.
pub(crate) fn complete(mut description: OpenApi) -> OpenApi {
    let mut named = BTreeSet::new();
    let mut schemas = std::mem::take(&mut description.components.get_or_insert_default().schemas);
    schemas.values_mut().for_each(lift_descriptions);
    let bodies = examples::all().into_iter().map(|example| (example.name, example.value)).collect();
    for (path, item) in &mut description.paths.paths {
        let methods = [&mut item.get, &mut item.put, &mut item.post, &mut item.patch, &mut item.delete];
        for operation in methods.into_iter().flatten() {
            let implied = implied(path, operation);
            illustrate(operation, &bodies);
            let responses = &mut operation.responses.responses;
            sets::add(responses, &implied);
            responses.values_mut().for_each(|response| describe(response, &schemas));
            let problems = responses.values().filter_map(|response| match response {
                RefOr::T(response) => Some(sets::codes_of(response)),
                RefOr::Ref(_) => None,
            });
            named.extend(problems.flatten());
        }
    }
    let examples = sets::examples().filter(|(code, _)| named.contains(code));
    let components = description.components.get_or_insert_default();
    components.schemas = schemas;
    components.examples.extend(examples.map(|(code, example)| (code, example.into())));
    description
}

/// The problems that come of the way in which an operation is asked.
fn implied(path: &str, operation: &Operation) -> Vec<Problem> {
    let schemes = operation.security.iter().flatten().filter_map(|one| serde_json::to_value(one).ok());
    let schemes = schemes.filter_map(|one| Some(one.as_object()?.keys().cloned().collect::<Vec<_>>()));
    let schemes = schemes.flatten().collect::<Vec<_>>();
    let takes = |scheme: &str| schemes.iter().any(|name| name == scheme);
    let parameters = operation.parameters.iter().flatten().filter_map(|parameter| match parameter {
        RefOr::T(parameter) => Some(parameter),
        RefOr::Ref(_) => None,
    });
    let parameters = parameters.collect::<Vec<_>>();
    let has_header = |name: &str| parameters.iter().any(|parameter| parameter.name == name);
    let has_query = parameters.iter().any(|parameter| parameter.parameter_in == ParameterIn::Query);
    let body = match &operation.request_body {
        Some(RefOr::T(body)) => body.content.keys().map(String::as_str).collect::<Vec<_>>(),
        _ => Vec::new(),
    };
    let mut problems = sets::EveryRoute::problems();
    let mut add_if = |holds, set: Vec<Problem>| problems.extend(set.into_iter().filter(|_| holds));
    add_if(path.contains('{'), sets::WithPath::problems());
    add_if(!schemes.is_empty(), sets::WithToken::problems());
    add_if(takes("operator"), sets::WithOperator::problems());
    add_if(takes("guest") || has_header("Cart-Session"), sets::WithCartSession::problems());
    add_if(has_header("Idempotency-Key"), sets::WithIdempotencyKey::problems());
    add_if(has_header("If-Match"), sets::WithIfMatch::problems());
    // Operators are told of a parameter that is none.
    add_if(has_query || takes("operator"), sets::WithQuery::problems());
    add_if(!body.is_empty(), sets::WithBody::problems());
    add_if(body.contains(&"application/json"), sets::WithJson::problems());
    problems
}

/// An answer that says nothing of itself is what its body is.
fn describe(response: &mut RefOr<Response>, schemas: &BTreeMap<String, RefOr<Schema>>) {
    let RefOr::T(response) = response else { return };
    if !response.description.is_empty() {
        return;
    }
    let body = response.content.values().find_map(|content| schema_name(content));
    let about = body.and_then(|name| schemas.get(name)).and_then(|schema| match schema {
        RefOr::T(Schema::Object(object)) => object.description.clone(),
        RefOr::T(Schema::AllOf(all)) => all.description.clone(),
        _ => None,
    });
    response.description = about.unwrap_or_default();
}

/// Gives each body of an operation the example of its schema.
fn illustrate(operation: &mut Operation, bodies: &BTreeMap<String, Value>) {
    let sent = operation.request_body.iter_mut().filter_map(|body| match body {
        RefOr::T(body) => Some(body.content.values_mut()),
        RefOr::Ref(_) => None,
    });
    let answered = operation.responses.responses.values_mut().filter_map(|response| match response {
        RefOr::T(response) => Some(response.content.values_mut()),
        RefOr::Ref(_) => None,
    });
    for content in sent.flatten().chain(answered.flatten()) {
        let example = schema_name(content).and_then(|name| bodies.get(name)).cloned();
        if let RefOr::T(content) = content
            && example.is_some()
        {
            content.example = example;
        }
    }
}

/// The schema that a body refers to.
fn schema_name(content: &RefOr<Content>) -> Option<&str> {
    let RefOr::T(Content { schema: Some(RefOr::Ref(reference)), .. }) = content else { return None };
    reference.ref_location.strip_prefix("#/components/schemas/")
}

/// utoipa hangs the description of a field that may be null on one of the alternatives, where no reader looks for it.
fn lift_descriptions(schema: &mut RefOr<Schema>) {
    match schema {
        RefOr::T(Schema::Object(object)) => object.properties.values_mut().for_each(lift_description),
        RefOr::T(Schema::AllOf(all)) => all.items.iter_mut().for_each(lift_descriptions),
        _ => {}
    }
}

fn lift_description(property: &mut RefOr<Schema>) {
    let RefOr::T(Schema::OneOf(alternatives)) = property else { return };
    for alternative in &mut alternatives.items {
        if let RefOr::Ref(reference) = alternative
            && !reference.description.is_empty()
        {
            alternatives.description = Some(std::mem::take(&mut reference.description));
        }
    }
}
