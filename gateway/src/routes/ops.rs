//! The operators' listener: `/healthz`, `/readyz`, `/metrics`, and their API in [`super::admin`]. Never reachable from the
//! public one.

use std::time::Duration;

use axum::extract::{FromRef, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use doorbuster_engine::flows::Engine;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::admin;
use crate::config::{Limits, settings_of_serve};
use crate::middleware::query::{KnownQueries, refuse_unknown};
use crate::operators::Operators;
use crate::{middleware, operators, telemetry};

/// Less than the second that most load balancers wait.
const PING_DEADLINE: Duration = Duration::from_millis(900);

#[derive(Clone)]
pub struct Ops {
    pub engine: Engine,
    /// Set when this process has been told to stop.
    pub stopping: CancellationToken,
    /// Who may use the API; nobody with a lone worker.
    pub operators: Operators,
    pub limits: Limits,
}

impl FromRef<Ops> for Limits {
    fn from_ref(ops: &Ops) -> Self {
        ops.limits
    }
}

#[derive(Debug, Serialize)]
struct Readiness {
    status: &'static str,
    redis: &'static str,
    /// The primaries of a cluster that do not answer: their warehouses sell nothing until they are replaced.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    redis_away: Vec<String>,
    postgres: &'static str,
}

pub fn router(ops: Ops) -> Router {
    let (router, description) = admin::api();
    let router = router
        .route_layer(from_fn_with_state(KnownQueries::of(&description), refuse_unknown))
        // Outside of it: who is not an operator learns nothing of the routes.
        .route_layer(from_fn_with_state(ops.clone(), operators::require))
        .route("/healthz", get(async || Json(serde_json::json!({ "status": "alive" }))))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics));
    let limits = ops.limits;
    middleware::around_operators(super::described(router, &description, &settings_of_serve()).with_state(ops), limits)
}

/// What operators find while a process that has been started waits for Redis: it is alive, and not ready.
pub fn waiting_for_redis() -> Router {
    let redis = "does not answer";
    let readiness = || Readiness { status: "not_ready", redis, redis_away: Vec::new(), postgres: "not asked yet" };
    Router::new()
        .route("/healthz", get(async || Json(serde_json::json!({ "status": "alive" }))))
        .route("/readyz", get(async move || (StatusCode::SERVICE_UNAVAILABLE, Json(readiness()))))
}

/// Ready to serve: not stopping, and both stores answer in time. One primary of a cluster is enough: what it has is sold, and
/// a gateway that is taken away for the others' sake could not sell it.
async fn readyz(State(ops): State<Ops>) -> Response {
    let redis = tokio::time::timeout(PING_DEADLINE, ops.engine.tokens.reach());
    let postgres = tokio::time::timeout(PING_DEADLINE, ops.engine.ledger.ping());
    let (redis, postgres) = tokio::join!(redis, postgres);
    let (redis, postgres) = (redis.ok().and_then(Result::ok), matches!(postgres, Ok(Ok(()))));
    let has_redis = redis.as_ref().is_some_and(|reach| reach.answering > 0);
    let redis_away = redis.map_or_else(Vec::new, |reach| reach.away);
    let status = match (ops.stopping.is_cancelled(), has_redis && postgres) {
        (true, _) => "stopping",
        (false, false) => "not_ready",
        (false, true) => "ready",
    };
    let word = |is_there| if is_there { "answers" } else { "does not answer" };
    let redis_word = if has_redis && !redis_away.is_empty() { "answers in part" } else { word(has_redis) };
    let code = if status == "ready" { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(Readiness { status, redis: redis_word, redis_away, postgres: word(postgres) })).into_response()
}

async fn metrics() -> impl IntoResponse {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], telemetry::recorder().render())
}
