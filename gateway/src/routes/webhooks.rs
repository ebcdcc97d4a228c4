//! `POST /v1/webhooks/stripe`: what the payment provider tells by itself. No bearer: the signature over the raw bytes is the
//! credential, and what it is about is read back before anything moves. The buyers' description does not have it: it is nobody's
//! but the provider's.
//!
//! Anybody may send here, so a body is read only behind a header that could be the provider's, and few bodies at a time.

use std::time::Duration;

use axum::Json;
use axum::extract::{Request, State};
use doorbuster_engine::ledger::news::EventStored;
use doorbuster_engine::provider::{Event, SIGNATURE_HEADER, WebhookError, WebhookVerifier};
use serde::Serialize;

use crate::error::Problem;
use crate::extract::read_bounded;
use crate::state::{Gate, GateState};

/// An event carries one object of a few KiB.
pub const EVENT_BYTES_MAX: usize = 64 * 1024;
/// Bodies that are being read or checked at the same time: 2 MiB at most.
pub const BODIES_MAX: usize = 32;
/// Most bodies are there within milliseconds, so a crowd of events seldom waits longer for its turn. Past this the provider
/// is told to come again.
const TURN_DEADLINE: Duration = Duration::from_millis(250);

/// The event is kept
#[derive(Debug, Serialize)]
pub struct EventReceived {
    pub received: bool,
}

/// The event is kept before this is answered; one that was kept before is answered alike.
pub async fn receive_event(State(gate): State<Gate>, request: Request) -> Result<Json<EventReceived>, Problem> {
    // Not 404: a provider that comes before its secret is configured shall come again.
    let verifier = gate.webhooks.as_ref().ok_or(Problem::WebhooksOff)?;
    let event = read_event(&gate, verifier, request).await?;
    let outcome = match gate.engine.keep_event(&event).await? {
        EventStored::Now => "stored",
        EventStored::Before => "duplicate",
    };
    count(outcome);
    Ok(Json(EventReceived { received: true }))
}

/// The event that a request brings, if the provider sent it. The body has gone when this is over.
async fn read_event(gate: &GateState, verifier: &WebhookVerifier, request: Request) -> Result<Event, Problem> {
    let mut signatures = request.headers().get_all(SIGNATURE_HEADER).iter();
    let signature = signatures.next().and_then(|value| value.to_str().ok()).filter(|_| signatures.next().is_none());
    let signature = signature.map(str::to_owned);
    let now = || gate.engine.clock.now();
    verifier.check_header(signature.as_deref(), now()).map_err(|error| refused(&error.into()))?;
    let Ok(turn) = tokio::time::timeout(TURN_DEADLINE, gate.webhook_bodies.acquire()).await else {
        count("too_many");
        return Err(Problem::Overloaded);
    };
    let _turn = turn.expect("this semaphore is never closed");
    let body = read_bounded(request, gate.limits, EVENT_BYTES_MAX).await?;
    verifier.verify(signature.as_deref(), &body, now()).map_err(|error| refused(&error))
}

fn refused(error: &WebhookError) -> Problem {
    match error {
        WebhookError::Signature(_) => {
            count("bad_signature");
            // Anybody can cause this line.
            tracing::debug!(%error, "a webhook delivery was refused: {error}");
        }
        WebhookError::Unreadable(_) => {
            count("unreadable");
            tracing::error!(%error, "a webhook delivery was refused: {error}");
        }
    }
    Problem::DeliveryRefused
}

fn count(outcome: &'static str) {
    metrics::counter!("doorbuster_webhook_events_total", "outcome" => outcome).increment(1);
}
