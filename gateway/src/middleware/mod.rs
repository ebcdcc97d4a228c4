//! What lies around every route, from outside in: request id and metrics, security headers, CORS, deadline and panics.

mod observe;
mod headers;
mod guard;

use std::time::Duration;

use axum::Router;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, LOCATION, RETRY_AFTER};
use axum::http::{HeaderName, Method};
use axum::middleware::{from_fn, from_fn_with_state};
use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::config::GatewayConfig;
use crate::error::IDEMPOTENT_REPLAYED;
use crate::extract::IDEMPOTENCY_KEY;

pub(crate) use observe::X_REQUEST_ID;

/// Browsers ask again after this; longer is cut by most of them anyway.
const PREFLIGHT_AGE: Duration = Duration::from_secs(600);

pub(crate) fn around(router: Router, config: &GatewayConfig) -> Router {
    let mut router = router.layer(from_fn_with_state(config.limits.request, guard::guard));
    if !config.cors_origins.is_empty() {
        router = router.layer(cors(config));
    }
    router.layer(from_fn(headers::secure)).layer(from_fn(observe::observe))
}

/// Nobody but the configured origins; no cookies, so no credentials.
fn cors(config: &GatewayConfig) -> CorsLayer {
    let exposed: [HeaderName; 4] = [LOCATION, RETRY_AFTER, IDEMPOTENT_REPLAYED, X_REQUEST_ID];
    CorsLayer::new()
        .allow_origin(AllowOrigin::list(config.cors_origins.iter().cloned()))
        .allow_methods([Method::GET, Method::POST, Method::PUT])
        .allow_headers([AUTHORIZATION, CONTENT_TYPE, IDEMPOTENCY_KEY])
        .expose_headers(exposed)
        .max_age(PREFLIGHT_AGE)
}
