//! What `/openapi.json` says beside the routes, which describe themselves.
//!
//! A response that is a problem is described as `code, code: a remark`. [`complete`] adds what lies around every route, and turns
//! the codes into a schema, so that a program can hold an answer against them.

use utoipa::OpenApi as _;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::path::Operation;
use utoipa::openapi::response::ResponseBuilder;
use utoipa::openapi::schema::{AllOfBuilder, ObjectBuilder, Schema, Type};
use utoipa::openapi::security::{
    ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme,
};
use utoipa::openapi::{ContentBuilder, OpenApi, Ref, RefOr};

use crate::error::Problem;

const PROBLEM_JSON: &str = "application/problem+json";

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "Doorbuster",
        description = "Sells a limited stock to a crowd. Errors are problem+json (RFC 9457) with a stable `code`."
    ),
    tags(
        (name = "claims", description = "Take units of a drop, once"),
        (name = "standby", description = "Wait in line for units that come back"),
        (name = "drops", description = "What is sold to a crowd"),
        (name = "catalog", description = "What is sold outside of drops"),
        (name = "carts", description = "What is meant to be bought"),
        (name = "orders", description = "What was bought, and what became of it"),
        (name = "me", description = "What is kept of a buyer, and its end"),
        (name = "checkout", description = "From the cart to an order: how a buyer pays, and where to"),
        (name = "webhooks", description = "What the payment provider tells us")
    ),
    components(schemas(crate::error::ProblemBody, crate::error::FieldProblem, crate::error::LineProblem))
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
        (name = "orders", description = "What was bought, on its way to the buyer and back")
    ),
    components(schemas(crate::error::ProblemBody, crate::error::FieldProblem, crate::error::LineProblem))
)]
struct OperatorsBase;

pub(crate) fn operators_base() -> OpenApi {
    let mut description = OperatorsBase::openapi();
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

/// Adds to every route what its handler does not decide: tokens, bodies, paths, deadlines, and what a problem looks like.
pub(crate) fn complete(mut description: OpenApi) -> OpenApi {
    for (path, item) in &mut description.paths.paths {
        let methods = [&mut item.get, &mut item.put, &mut item.post, &mut item.patch, &mut item.delete];
        for operation in methods.into_iter().flatten() {
            if path.contains('{') {
                add(operation, &[Problem::NotFound]);
            }
            let is_open = operation.security.iter().flatten().all(|one| *one == SecurityRequirement::default());
            if !is_open {
                add(operation, &[Problem::TokenMissing, Problem::TokenInvalid]);
            }
            if operation.request_body.is_some() {
                add(operation, &[Problem::BodyTooSlow]);
            }
            add(operation, &[Problem::Internal]);
            add(operation, &[Problem::Unavailable, Problem::TimedOut]);
            with_schemas(operation);
        }
    }
    description
}

/// The codes of a described problem, and the remark behind them.
pub fn codes_of(description: &str) -> (Vec<&str>, Option<&str>) {
    let (head, remark) = match description.split_once(": ") {
        Some((head, remark)) => (head, Some(remark)),
        None => (description, None),
    };
    (head.split(", ").filter(|code| !code.is_empty()).collect(), remark)
}

/// Adds problems of one status to an operation, behind those that it names itself.
fn add(operation: &mut Operation, problems: &[Problem]) {
    let status = problems[0].status().to_string();
    let entry = operation.responses.responses.entry(status);
    let entry = entry.or_insert_with(|| {
        RefOr::T(ResponseBuilder::new().content(PROBLEM_JSON, ContentBuilder::new().build()).build())
    });
    let RefOr::T(response) = entry else { return };
    let (mut codes, remark) = codes_of(&response.description);
    for problem in problems {
        if !codes.contains(&problem.code()) {
            codes.push(problem.code());
        }
    }
    let codes = codes.join(", ");
    response.description = remark.map_or(codes.clone(), |remark| format!("{codes}: {remark}"));
}

/// Gives every problem of an operation its schema, with the codes that it can have, and its headers.
fn with_schemas(operation: &mut Operation) {
    for (status, response) in &mut operation.responses.responses {
        let RefOr::T(response) = response else { continue };
        if !response.content.contains_key(PROBLEM_JSON) {
            continue;
        }
        let text = || ObjectBuilder::new().schema_type(Type::String);
        let code = text().enum_values(Some(codes_of(&response.description).0));
        let these = ObjectBuilder::new().property("code", code);
        let schema = AllOfBuilder::new().item(Ref::from_schema_name("Problem")).item(these);
        let content = ContentBuilder::new().schema(Some(Schema::AllOf(schema.build()))).build();
        response.content.insert(PROBLEM_JSON.to_owned(), content.into());
        let header = match status.as_str() {
            "401" => HeaderBuilder::new().schema(Some(text())).description(Some("How to prove who you are")),
            "503" => {
                let seconds = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(0));
                HeaderBuilder::new().schema(Some(seconds)).description(Some("Seconds until it is worth trying again"))
            }
            _ => continue,
        };
        let name = if status == "401" { "WWW-Authenticate" } else { "Retry-After" };
        response.headers.insert(name.to_owned(), header.build().into());
    }
}
