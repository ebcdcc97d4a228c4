//! Refunds: what was asked to go back goes back once, under the leases and attempts of charging.
//!
//! The refund's own id is in its key and in its metadata. A call without an answer is looked up in the provider's list of
//! the intent's refunds before it is made again; only what is not there is sent, so that a lost answer costs nobody money.
//! A list can be behind: it counts only if its refunds add up to what the charge says has gone back.

use futures_util::TryStreamExt as _;
use futures_util::stream;
use jiff::SignedDuration;

use crate::domain::ids::{IntentId, OrderId, RefundId};
use crate::domain::payments::{AttemptState, RefundReport, RefundVerdict, is_list_whole};
use crate::ledger::attempts::{Attempt, AttemptEnd, LeasedPayment, SETTLED_ELSEWHERE};
use crate::ledger::payments::PaymentSettled;
use crate::ledger::refunds::{PendingRefund, RefundSettled};
use crate::provider::{
    Endpoint, Outcome, PAGE_LIMIT_MAX, ProviderClient, ProviderError, ProviderRequest, Refund, RefundStatus, Turn,
};
use crate::steps;

use super::charge::{MISCONFIGURED_REST, RATE_LIMITED_REST_MAX, Step, backoff, format_of, outcome_label};
use super::engine::{Engine, EngineError};

/// A call without an answer is repeated under its own key so often before the next key takes over: the provider keeps
/// answering a key with the error it once stored.
const REPEATS: i32 = 3;

impl Engine {
    /// Works on the oldest refund of a leased payment.
    pub(super) async fn refund(
        &self,
        provider: &ProviderClient,
        mut payment: LeasedPayment,
    ) -> Result<Step, EngineError> {
        let now = self.clock.now();
        let (Some(refund), Some(intent)) = (self.ledger.pending_refund(payment.order).await?, payment.intent.clone())
        else {
            // Somebody else brought its news.
            self.ledger.yield_payment(&payment, None, None, None, None, now).await?;
            return Ok(Step::Settled(PaymentSettled::NoChange));
        };
        if let Some(open) = payment.open_attempt.take_if(|open| open.operation != "refund") {
            // A webhook told how the charge had ended before its own answer came.
            let end = payment.ended(&open, given_up(&open), SETTLED_ELSEWHERE);
            self.ledger.finish_attempt(&payment, end, now).await?;
        }
        if let Some(id) = &refund.provider_refund {
            return match provider.read_refund(id).await {
                Ok(found) => {
                    steps::passed("refund.looked_up");
                    self.settle_found(&payment, &refund, &found).await
                }
                Err(error) => self.ask_later(&payment, &error).await,
            };
        }
        let Some(open) = payment.open_attempt.take() else {
            // Sent before, and no attempt is open: somebody died between writing down the answer and settling it. Another
            // key would send the money a second time.
            if refund.attempts > 0 {
                match find(provider, &intent, refund.id).await {
                    Ok(LookedUp::There(found)) => return self.settle_found(&payment, &refund, &found).await,
                    Ok(LookedUp::NotThere) => {}
                    Ok(LookedUp::ListIsBehind) => return self.look_up_later(&payment).await,
                    Err(error) => return self.ask_later(&payment, &error).await,
                }
            }
            return self.send_new(provider, &mut payment, None, &refund, &intent).await;
        };
        if matches!(open.state, AttemptState::Dispatched | AttemptState::Unknown) {
            match find(provider, &intent, refund.id).await {
                Ok(LookedUp::There(found)) => {
                    let end = payment.ended(&open, AttemptState::Succeeded, "found in the provider's list");
                    self.ledger.finish_attempt(&payment, end, now).await?;
                    return self.settle_found(&payment, &refund, &found).await;
                }
                Ok(LookedUp::NotThere) => {}
                Ok(LookedUp::ListIsBehind) => return self.look_up_later(&payment).await,
                Err(error) => return self.ask_later(&payment, &error).await,
            }
            if open.state == AttemptState::Unknown && payment.tries > REPEATS {
                let detail =
                    "no answer came of this key, and the provider lists no such refund; the next key takes over";
                let end = payment.ended(&open, AttemptState::Rejected, detail);
                return self.send_new(provider, &mut payment, Some(end), &refund, &intent).await;
            }
        }
        let Ok(turn) = provider.turn(Endpoint::Refund).await else { return self.no_turn(&payment, None).await };
        if !self.ledger.dispatch_again(&payment, &open, now).await? {
            return self.look_again(&payment).await;
        }
        self.send_refund(provider, &payment, &refund, &open, turn).await
    }

    async fn send_new(
        &self,
        provider: &ProviderClient,
        payment: &mut LeasedPayment,
        before: Option<AttemptEnd>,
        refund: &PendingRefund,
        intent: &IntentId,
    ) -> Result<Step, EngineError> {
        let request = match refund.attempts {
            0 => ProviderRequest::refund(payment.order, refund.id, intent, refund.amount),
            again => ProviderRequest::refund_again(payment.order, refund.id, intent, refund.amount, again),
        };
        let request = match request {
            Ok(request) => request,
            Err(error) => return self.refund_failed(payment, refund, error.to_string()).await,
        };
        let Ok(turn) = provider.turn(Endpoint::Refund).await else { return self.no_turn(payment, before).await };
        let call = ("refund", &*request.idempotency_key, &*request.path, &*request.body);
        let Some(attempt) = self.ledger.begin_attempt(payment, before, call, self.clock.now()).await? else {
            return self.look_again(payment).await;
        };
        self.send_refund(provider, payment, refund, &attempt, turn).await
    }

    async fn send_refund(
        &self,
        provider: &ProviderClient,
        payment: &LeasedPayment,
        refund: &PendingRefund,
        attempt: &Attempt,
        turn: Turn,
    ) -> Result<Step, EngineError> {
        let request = ProviderRequest {
            operation: crate::provider::Operation::Refund,
            format: format_of(attempt.format),
            path: attempt.path.clone(),
            idempotency_key: attempt.idempotency_key.clone(),
            body: attempt.body.clone(),
        };
        steps::passed("refund.dispatched");
        let outcome = provider.send_refund_in_turn(&request, turn).await;
        steps::passed("refund.answered");
        let label = outcome_label(&outcome);
        metrics::counter!("doorbuster_provider_calls_total", "operation" => "refund", "outcome" => label).increment(1);
        let now = self.clock.now();
        let (state, detail, wait) = match outcome {
            Outcome::Answered(found) => {
                let end = payment.ended(attempt, AttemptState::Succeeded, &*found.id.0);
                self.ledger.finish_attempt(payment, end, now).await?;
                return self.settle_found(payment, refund, &found).await;
            }
            Outcome::Rejected { code, message } => {
                let detail = format!("{code}: {message}");
                self.ledger
                    .finish_attempt(payment, payment.ended(attempt, AttemptState::Rejected, &*detail), now)
                    .await?;
                return self.refund_failed(payment, refund, detail).await;
            }
            Outcome::NotSent { reason } => (AttemptState::NotSent, reason, backoff(payment.tries)),
            Outcome::Unknown { reason } => (AttemptState::Unknown, reason, backoff(payment.tries)),
            // Our own balance is too small, or the like: nothing that another key would change.
            Outcome::Declined(decline) => (AttemptState::NotSent, decline.code, MISCONFIGURED_REST),
            Outcome::RateLimited { retry_after } => {
                let wait = retry_after.and_then(|wait| wait.try_into().ok());
                let wait =
                    wait.map_or_else(|| backoff(payment.tries), |wait: SignedDuration| wait.min(RATE_LIMITED_REST_MAX));
                (AttemptState::NotSent, "rate limited".to_owned(), wait)
            }
            Outcome::Misconfigured { status } => {
                (AttemptState::NotSent, format!("refused with {status}"), MISCONFIGURED_REST)
            }
        };
        self.later(payment, Some(payment.ended(attempt, state, detail)), None, wait).await
    }

    async fn settle_found(
        &self,
        payment: &LeasedPayment,
        refund: &PendingRefund,
        found: &Refund,
    ) -> Result<Step, EngineError> {
        Ok(Step::Refunded(self.settle_refund_read_back(payment.order, refund.id, found).await?))
    }

    /// Settles what the provider has just said of a refund, whoever asked.
    pub(super) async fn settle_refund_read_back(
        &self,
        order: OrderId,
        refund: RefundId,
        found: &Refund,
    ) -> Result<RefundSettled, EngineError> {
        let settled = self.ledger.settle_refund(order, refund, &report(found), self.clock.now()).await?;
        note(settled, order, refund);
        Ok(settled)
    }

    /// The provider will never carry it out as it stands: a person has to find another way to the buyer.
    async fn refund_failed(
        &self,
        payment: &LeasedPayment,
        refund: &PendingRefund,
        reason: String,
    ) -> Result<Step, EngineError> {
        let report =
            RefundReport { provider_refund: None, amount: refund.amount, verdict: RefundVerdict::Failed { reason } };
        let settled = self.ledger.settle_refund(payment.order, refund.id, &report, self.clock.now()).await?;
        note(settled, payment.order, refund.id);
        Ok(Step::Refunded(settled))
    }

    async fn ask_later(&self, payment: &LeasedPayment, error: &ProviderError) -> Result<Step, EngineError> {
        if matches!(error, ProviderError::NotAsked(_)) {
            return self.no_turn(payment, None).await;
        }
        tracing::warn!(order = %payment.order, %error, "looking up a refund of order {}: {error}", payment.order);
        self.later(payment, None, None, backoff(payment.tries)).await
    }

    /// The charge says that more has gone back than the list shows. The refund may be among that: sending it again could
    /// give the money twice.
    async fn look_up_later(&self, payment: &LeasedPayment) -> Result<Step, EngineError> {
        let order = payment.order;
        tracing::info!(%order, "the provider's list of refunds of order {order} is behind: the worker looks again");
        self.later(payment, None, None, backoff(payment.tries)).await
    }
}

/// What the provider says of a refund, in our words.
pub(super) fn report(found: &Refund) -> RefundReport {
    let verdict = match &found.status {
        RefundStatus::Succeeded => RefundVerdict::Succeeded,
        RefundStatus::Failed | RefundStatus::Canceled => RefundVerdict::Failed {
            reason: found.failure_reason.clone().unwrap_or_else(|| "the provider gave no reason".to_owned()),
        },
        RefundStatus::Pending | RefundStatus::RequiresAction | RefundStatus::Other(_) => RefundVerdict::Pending,
    };
    RefundReport { provider_refund: Some(found.id.clone()), amount: found.amount, verdict }
}

/// What became of a refund whose answer nobody heard.
enum LookedUp {
    There(Box<Refund>),
    NotThere,
    ListIsBehind,
}

/// This refund in the provider's list of the intent's refunds.
async fn find(provider: &ProviderClient, intent: &IntentId, refund: RefundId) -> Result<LookedUp, ProviderError> {
    let pages = stream::try_unfold(Some(None), |after| async move {
        let Some(after) = after else { return Ok::<_, ProviderError>(None) };
        let page = provider.list_refunds(intent, Option::as_ref(&after), PAGE_LIMIT_MAX).await?;
        let next = page.has_more.then(|| page.data.last().map(|refund| refund.id.clone()));
        Ok(Some((page.data, next)))
    });
    let name = refund.to_string();
    let mut pages = std::pin::pin!(pages);
    let mut listed = Vec::new();
    while let Some(page) = pages.try_next().await? {
        for found in page {
            if found.refund_id.as_deref() == Some(&*name) {
                steps::passed("refund.looked_up");
                return Ok(LookedUp::There(Box::new(found)));
            }
            listed.push(report(&found));
        }
    }
    // The list first: a refund that arrives between the two reads makes the list look behind, never whole.
    let Some(charge) = provider.read_intent(intent).await?.latest_charge else { return Ok(LookedUp::ListIsBehind) };
    let refunded = provider.read_charge(&charge).await?.refunded;
    Ok(if is_list_whole(&listed, refunded) { LookedUp::NotThere } else { LookedUp::ListIsBehind })
}

/// How an open attempt ends that is not to be sent any more.
pub(super) fn given_up(attempt: &Attempt) -> AttemptState {
    match attempt.state {
        AttemptState::Prepared => AttemptState::Withdrawn,
        _ => AttemptState::Rejected,
    }
}

fn note(settled: RefundSettled, order: OrderId, refund: RefundId) {
    match settled {
        RefundSettled::Succeeded => metrics::counter!("doorbuster_refunds_total").increment(1),
        RefundSettled::Failed => {
            metrics::counter!("doorbuster_refunds_failed_total").increment(1);
            tracing::error!(%order, %refund, "the refund {refund} of order {order} failed: it needs a person");
        }
        RefundSettled::Waiting | RefundSettled::NoChange => {}
    }
}
