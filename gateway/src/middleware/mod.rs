//! What lies around every route, from outside in: request id and metrics, security headers, CORS, deadline and panics.

mod observe;
mod headers;
mod guard;
pub(crate) mod query;

use std::time::Duration;

use axum::Router;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, DATE, ETAG, IF_MATCH, IF_NONE_MATCH, LOCATION, RETRY_AFTER};
use axum::http::{HeaderName, Method};
use axum::middleware::{from_fn, from_fn_with_state};
use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::config::{GatewayConfig, Limits};
use crate::error::IDEMPOTENT_REPLAYED;
use crate::extract::IDEMPOTENCY_KEY;
use crate::shopper::CART_SESSION;

pub(crate) use observe::X_REQUEST_ID;

/// Browsers ask again after this; longer is cut by most of them anyway.
const PREFLIGHT_AGE: Duration = Duration::from_secs(600);

/// Around the buyers' routes.
pub(crate) fn around(router: Router, config: &GatewayConfig) -> Router {
    let cors = (!config.cors_origins.is_empty()).then(|| cors(config));
    layered(router, config.limits, cors)
}

/// Around the operators' routes, which no page of another origin may call.
pub(crate) fn around_operators(router: Router, limits: Limits) -> Router {
    layered(router, limits, None)
}

fn layered(router: Router, limits: Limits, cors: Option<CorsLayer>) -> Router {
    let mut router = router.layer(from_fn_with_state(limits.request, guard::guard));
    if let Some(cors) = cors {
        router = router.layer(cors);
    }
    router.layer(from_fn(headers::secure)).layer(from_fn(observe::observe))
}

/// What browsers' tracing adds to requests by itself: a page that uses it could not call us otherwise.
const TRACING: [HeaderName; 3] = [
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("baggage"),
    HeaderName::from_static("sentry-trace"),
];

/// Nobody but the configured origins; no cookies, so no credentials.
fn cors(config: &GatewayConfig) -> CorsLayer {
    // With Date a page can count down by our clock.
    let exposed: [HeaderName; 6] = [LOCATION, RETRY_AFTER, DATE, ETAG, IDEMPOTENT_REPLAYED, X_REQUEST_ID];
    let own = [AUTHORIZATION, CONTENT_TYPE, IF_MATCH, IF_NONE_MATCH, IDEMPOTENCY_KEY, CART_SESSION, X_REQUEST_ID];
    CorsLayer::new()
        .allow_origin(AllowOrigin::list(config.cors_origins.iter().cloned()))
        .allow_methods([Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE])
        .allow_headers(own.into_iter().chain(TRACING).collect::<Vec<_>>())
        .expose_headers(exposed)
        .max_age(PREFLIGHT_AGE)
}
