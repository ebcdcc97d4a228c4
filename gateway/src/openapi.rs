//! What `/openapi.json` says beside the routes, which describe themselves.

use utoipa::OpenApi as _;
use utoipa::openapi::OpenApi;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};

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
