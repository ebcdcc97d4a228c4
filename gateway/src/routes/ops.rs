//! The operators' listener: `/healthz`, `/readyz`, `/metrics`, and their API in [`super::admin`]. Never reachable from the
//! public one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{FromRef, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use doorbuster_engine::flows::Engine;
use doorbuster_engine::ledger::LedgerError;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::admin;
use crate::config::{Limits, settings_of_serve};
use crate::middleware::query::{KnownQueries, refuse_unknown};
use crate::operators::Operators;
use crate::places::Places;
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
    /// Of the public listener; none with a lone worker.
    pub places: Option<Arc<Places>>,
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
    /// What is wrong, a sentence each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    reasons: Vec<String>,
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
    middleware::around_operators(super::described(router, description, settings_of_serve()).with_state(ops), limits)
}

/// Ready to serve: not stopping, and both stores take what is written. One primary of a cluster is enough: what it has
/// is sold, and a gateway that is taken away for the others' sake could not sell it.
async fn readyz(State(ops): State<Ops>) -> Response {
    let redis = tokio::time::timeout(PING_DEADLINE, ops.engine.tokens.reach());
    let postgres = tokio::time::timeout(PING_DEADLINE, ops.engine.ledger.ping());
    let (redis, postgres) = tokio::join!(redis, postgres);
    let mut reasons = Vec::new();
    let (redis, redis_away) = match redis {
        Ok(Ok(reach)) => {
            let word = match (reach.answering, reach.away.is_empty() && reach.refusing.is_empty()) {
                (0, _) if reach.refusing.is_empty() => Word::Silent,
                (0, _) => Word::Refuses,
                (_, true) => Word::Answers,
                (_, false) => Word::AnswersInPart,
            };
            reasons.extend(reach.away.iter().map(|primary| format!("Redis {primary} does not answer")));
            reasons.extend(reach.refusing);
            (word, reach.away)
        }
        Ok(Err(error)) => {
            reasons.push(error.to_string());
            (Word::Silent, Vec::new())
        }
        Err(_) => {
            reasons.push("Redis gives no answer in time".to_owned());
            (Word::Silent, Vec::new())
        }
    };
    let postgres = match postgres {
        Ok(Ok(())) => Word::Answers,
        Ok(Err(error)) => {
            reasons.push(error.to_string());
            if matches!(error, LedgerError::ReadOnly { .. }) { Word::Refuses } else { Word::Silent }
        }
        Err(_) => {
            reasons.push("Postgres gives no answer in time".to_owned());
            Word::Silent
        }
    };
    let status = match (ops.stopping.is_cancelled(), redis.is_good() && postgres.is_good()) {
        (true, _) => "stopping",
        (false, false) => "not_ready",
        (false, true) => "ready",
    };
    if status == "not_ready" {
        tracing::warn!("not ready: {}", reasons.join("; "));
    }
    let code = if status == "ready" { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    // Ready all the same: a balancer that looks away sends the crowd to the next gateway, and from there to none.
    reasons.extend(ops.places.iter().flat_map(|places| places.news(Instant::now())));
    let (redis, postgres) = (redis.text(), postgres.text());
    (code, Json(Readiness { status, redis, redis_away, postgres, reasons })).into_response()
}

/// How a store is, in a word.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Word {
    Answers,
    AnswersInPart,
    Refuses,
    Silent,
}

impl Word {
    fn is_good(self) -> bool {
        matches!(self, Self::Answers | Self::AnswersInPart)
    }

    fn text(self) -> &'static str {
        match self {
            Self::Answers => "answers",
            Self::AnswersInPart => "answers in part",
            Self::Refuses => "refuses",
            Self::Silent => "does not answer",
        }
    }
}

async fn metrics() -> impl IntoResponse {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], telemetry::recorder().render())
}
