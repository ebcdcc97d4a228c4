//! `POST /v1/webhooks/stripe`: what the payment provider tells by itself. No bearer: the signature over the raw bytes is the
//! credential, and what it is about is read back before anything moves. The buyers' description does not have it: it is nobody's
//! but the provider's.

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use doorbuster_engine::ledger::news::EventStored;
use doorbuster_engine::provider::{SIGNATURE_HEADER, WebhookError};
use serde::Serialize;

use crate::error::Problem;
use crate::extract::RawBody;
use crate::state::Gate;

/// An event carries one object; the largest of the provider's, an invoice with its lines, stays below this.
pub const EVENT_BYTES_MAX: usize = 256 * 1024;

/// The event is kept
#[derive(Debug, Serialize)]
pub struct EventReceived {
    pub received: bool,
}

/// The event is kept before this is answered; one that was kept before is answered alike.
pub async fn receive_event(
    State(gate): State<Gate>,
    headers: HeaderMap,
    body: RawBody<EVENT_BYTES_MAX>,
) -> Result<Json<EventReceived>, Problem> {
    // Not 404: a provider that comes before its secret is configured shall come again.
    let verifier = gate.webhooks.as_ref().ok_or(Problem::WebhooksOff)?;
    let mut signatures = headers.get_all(SIGNATURE_HEADER).iter();
    let signature = signatures.next().and_then(|value| value.to_str().ok()).filter(|_| signatures.next().is_none());
    let event = match verifier.verify(signature, &body.0, gate.engine.clock.now()) {
        Ok(event) => event,
        Err(error) => {
            let outcome = match error {
                WebhookError::Signature(_) => "bad_signature",
                WebhookError::Unreadable(_) => "unreadable",
            };
            metrics::counter!("doorbuster_webhook_events_total", "outcome" => outcome).increment(1);
            match error {
                // Anybody can cause this line.
                WebhookError::Signature(_) => tracing::debug!(%error, "a webhook delivery was refused: {error}"),
                WebhookError::Unreadable(_) => tracing::error!(%error, "a webhook delivery was refused: {error}"),
            }
            return Err(Problem::DeliveryRefused);
        }
    };
    let outcome = match gate.engine.keep_event(&event).await? {
        EventStored::Now => "stored",
        EventStored::Before => "duplicate",
    };
    metrics::counter!("doorbuster_webhook_events_total", "outcome" => outcome).increment(1);
    Ok(Json(EventReceived { received: true }))
}
