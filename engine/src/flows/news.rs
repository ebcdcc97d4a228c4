//! What the provider tells by itself. An event is a hint and nothing more: it says which intent to read back, and what the
//! provider answers then is settled by the same function as everything else.
//!
//! An event is kept before it is answered, so it may come before the row it is about, after the order has ended, twice, or
//! out of order: each time the intent is read as it is now. Declines are left to the charge worker, which knows its open
//! attempt; the event only makes it look at once.

use futures_util::future::join_all;
use jiff::SignedDuration;

use crate::domain::ids::{IntentId, OrderId, ProviderRefundId};
use crate::domain::payments::ask_again;
use crate::ledger::news::{EventEnd, EventStored, LeasedEvent, NewEvent};
use crate::ledger::payments::PaymentSettled;
use crate::ledger::reconcile::{FindingKind, NewFinding};
use crate::ledger::refunds::RefundSettled;
use crate::provider::{Event, Intent, IntentStatus, ProviderClient, ProviderError};
use crate::steps;

use super::charge::{Step, needs_a_person};
use super::engine::{Engine, EngineError};

/// Longer than reading one intent takes with all the waiting for a turn.
const EVENT_LEASE: SignedDuration = SignedDuration::from_secs(60);
/// Events dealt with at the same time; all their reads share one limit anyway.
const AT_ONCE: usize = 8;
/// An event about an intent that has been nobody's for so long is somebody else's. The provider repeats for three days.
const STRANGER_AFTER: SignedDuration = SignedDuration::from_hours(24 * 30);

/// A page that has been nobody's for so long is somebody else's: the worker that asked for it would know by now.
const STRANGER_SESSION_AFTER: SignedDuration = SignedDuration::from_hours(1);

/// What became of the events of one round.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NewsReport {
    pub leased: usize,
    /// Moved an order or a payment.
    pub settled: usize,
    /// Told nothing that was not known.
    pub known: usize,
    /// Wait for their intent, or for the provider.
    pub kept: usize,
    pub ignored: usize,
    /// Told something that cannot be: a person must look.
    pub review: usize,
}

enum Dealt {
    Settled,
    Known,
    Kept(&'static str),
    Ignored(&'static str),
    Review(String),
}

impl Engine {
    /// Keeps an event whose signature was good. Committed when this returns.
    pub async fn keep_event(&self, event: &Event) -> Result<EventStored, EngineError> {
        let event = NewEvent {
            id: event.id.clone(),
            kind: event.kind.clone(),
            object: event.object.clone(),
            object_id: event.object_id.clone(),
            intent: event.intent.clone(),
            livemode: event.livemode,
            happened_at: event.created,
        };
        let stored = self.ledger.store_event(&event, self.clock.now()).await?;
        steps::passed("news.kept");
        Ok(stored)
    }

    /// Deals with up to `limit` events that are due.
    pub async fn deal_with_events(&self, provider: &ProviderClient, limit: i64) -> Result<NewsReport, EngineError> {
        let leased = self.ledger.lease_events(self.clock.now(), EVENT_LEASE, limit).await?;
        let mut report = NewsReport { leased: leased.len(), ..NewsReport::default() };
        if !leased.is_empty() {
            steps::passed("news.leased");
        }
        for events in leased.chunks(AT_ONCE) {
            let dealt = join_all(events.iter().map(|event| Box::pin(self.deal_with(provider, event)))).await;
            for (event, dealt) in events.iter().zip(dealt) {
                self.write_down(event, dealt?, &mut report).await?;
            }
        }
        Ok(report)
    }

    async fn write_down(&self, event: &LeasedEvent, dealt: Dealt, report: &mut NewsReport) -> Result<(), EngineError> {
        let (end, detail, count, result) = match dealt {
            Dealt::Settled => (Some(EventEnd::Done), "settled".to_owned(), &mut report.settled, "settled"),
            Dealt::Known => (Some(EventEnd::Done), "nothing new".to_owned(), &mut report.known, "known"),
            Dealt::Ignored(why) => (Some(EventEnd::Ignored), why.to_owned(), &mut report.ignored, "ignored"),
            Dealt::Review(why) => (Some(EventEnd::Done), why, &mut report.review, "review"),
            Dealt::Kept(why) => (None, why.to_owned(), &mut report.kept, "kept"),
        };
        *count += 1;
        metrics::counter!("doorbuster_webhook_events_dealt_total", "result" => result).increment(1);
        let now = self.clock.now();
        match end {
            Some(end) => self.ledger.end_event(event, end, &detail, now).await?,
            None => {
                let due = now.checked_add(ask_again(event.tries)).unwrap_or(now);
                self.ledger.keep_event(event, &detail, due).await?;
            }
        }
        steps::passed("news.ended");
        Ok(())
    }

    async fn deal_with(&self, provider: &ProviderClient, event: &LeasedEvent) -> Result<Dealt, EngineError> {
        if event.livemode != provider.is_live() {
            return Ok(Dealt::Ignored("of the other mode than our key"));
        }
        if event.object == "checkout.session" {
            let age = self.clock.now().duration_since(event.received_at);
            return Ok(match self.ledger.read_session_now(&event.object_id, self.clock.now()).await? {
                true => Dealt::Known,
                false if age > STRANGER_SESSION_AFTER => Dealt::Ignored("its page is none of ours"),
                false => Dealt::Kept("no page of ours has this name yet"),
            });
        }
        let Some(intent) = &event.intent else { return Ok(Dealt::Ignored("about no payment intent")) };
        let Some(order) = self.ledger.order_of_intent(intent).await? else {
            let age = self.clock.now().duration_since(event.received_at);
            return Ok(match age > STRANGER_AFTER {
                true => Dealt::Ignored("its intent is no order's"),
                false => Dealt::Kept("no order has its intent yet"),
            });
        };
        if event.object == "dispute" {
            return self.dispute(order, event).await;
        }
        if event.object == "refund" {
            return self.take_over_refund(provider, order, &ProviderRefundId(event.object_id.clone())).await;
        }
        if event.kind.starts_with("charge.refund") {
            // The refund's own row and worker know which of them it is.
            self.ledger.bring_forward(order, self.clock.now()).await?;
            return Ok(Dealt::Known);
        }
        match provider.read_intent(intent).await {
            Ok(intent) => {
                steps::passed("news.read");
                self.take_over(provider, order, &intent).await
            }
            Err(ProviderError::NotFound) => Ok(Dealt::Kept("the provider knows no such intent")),
            Err(error) => {
                tracing::debug!(%order, %error, "the intent of order {order} could not be read: {error}");
                Ok(Dealt::Kept("the provider could not be asked"))
            }
        }
    }

    /// A buyer's bank wants the money back: a person must answer. What it moves is booked when its day is closed.
    async fn dispute(&self, order: OrderId, event: &LeasedEvent) -> Result<Dealt, EngineError> {
        let kind = &event.kind;
        let finding = NewFinding {
            kind: FindingKind::Disputed,
            intent: IntentId(event.object_id.clone()),
            order: Some(order),
            detail: format!("{kind}: the buyer of order {order} disputes the charge"),
            is_settled: false,
        };
        if self.ledger.store_finding(&finding, self.clock.now()).await? {
            metrics::counter!("doorbuster_reconcile_findings_total", "kind" => finding.kind.as_str()).increment(1);
            tracing::error!(%order, kind, "{kind}: the buyer of order {order} disputes it; a person must answer");
        }
        Ok(Dealt::Known)
    }

    /// Takes the provider's word on a refund, which may come back long after it had arrived.
    async fn take_over_refund(
        &self,
        provider: &ProviderClient,
        order: OrderId,
        id: &ProviderRefundId,
    ) -> Result<Dealt, EngineError> {
        let Some((order, refund)) = self.ledger.refund_by_provider_id(id).await? else {
            if self.ledger.pending_refund(order).await?.is_none() {
                return Ok(Dealt::Known);
            }
            // The worker that sent it is about to write down its id.
            self.ledger.bring_forward(order, self.clock.now()).await?;
            return Ok(Dealt::Kept("no refund of its order has its id yet"));
        };
        match provider.read_refund(id).await {
            Ok(found) => {
                let settled = self.settle_refund_read_back(order, refund, &found).await?;
                Ok(match settled {
                    RefundSettled::Succeeded | RefundSettled::Failed => Dealt::Settled,
                    RefundSettled::Waiting | RefundSettled::NoChange => Dealt::Known,
                })
            }
            Err(ProviderError::NotFound) => Ok(Dealt::Kept("the provider knows no such refund")),
            Err(error) => {
                tracing::debug!(%order, %error, "the refund {refund} of order {order} could not be read: {error}");
                Ok(Dealt::Kept("the provider could not be asked"))
            }
        }
    }

    async fn take_over(
        &self,
        provider: &ProviderClient,
        order: OrderId,
        intent: &Intent,
    ) -> Result<Dealt, EngineError> {
        Ok(match self.settle_read_back(provider, order, intent).await? {
            PaymentSettled::Confirmed | PaymentSettled::Released | PaymentSettled::Refunding => Dealt::Settled,
            PaymentSettled::Waiting
            | PaymentSettled::CancelNext
            | PaymentSettled::MethodNeeded
            | PaymentSettled::NoChange => Dealt::Known,
            PaymentSettled::Review(reason) => Dealt::Review(reason),
        })
    }

    /// Settles what the provider has just said of an order's intent, whoever asked.
    pub(super) async fn settle_read_back(
        &self,
        provider: &ProviderClient,
        order: OrderId,
        intent: &Intent,
    ) -> Result<PaymentSettled, EngineError> {
        if intent.livemode != provider.is_live() {
            let reason = "the intent is not of the mode of our key";
            needs_a_person(order, reason);
            return Ok(PaymentSettled::Review(reason.to_owned()));
        }
        match intent.status {
            IntentStatus::Succeeded
            | IntentStatus::Canceled
            | IntentStatus::RequiresAction
            | IntentStatus::Processing => {
                let Step::Settled(settled) = self.settle_intent(order, intent, None).await? else {
                    return Ok(PaymentSettled::NoChange);
                };
                match settled {
                    PaymentSettled::Confirmed => metrics::counter!("doorbuster_orders_confirmed_total").increment(1),
                    PaymentSettled::Released => {
                        metrics::counter!("doorbuster_orders_payment_failed_total").increment(1)
                    }
                    _ => {}
                }
                Ok(settled)
            }
            // Not tried yet, or declined in an attempt that may not be the open one.
            _ => {
                self.ledger.bring_forward(order, self.clock.now()).await?;
                Ok(PaymentSettled::NoChange)
            }
        }
    }
}
