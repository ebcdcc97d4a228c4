//! The sweep: the provider's list of intents against our payments, its list of refunds against our refunds, and ours
//! against its. What the two disagree about is kept and counted; what the provider's word can settle is settled by the
//! functions that settle everything.
//!
//! The account may have other users. An intent that names no order of ours, and a refund of one, is a stranger's: they
//! are one number, and no finding.

use std::collections::{HashMap, HashSet};

use jiff::{SignedDuration, Timestamp};

use crate::domain::ids::{IntentId, OrderId, ProviderRefundId};
use crate::domain::payments::{PaymentState, RefundState, RefundVerdict};
use crate::ledger::payments::PaymentSettled;
use crate::ledger::reconcile::{FindingKind, KnownPayment, NewFinding};
use crate::ledger::refunds::{KnownRefund, RefundSettled};
use crate::provider::{Intent, IntentStatus, PAGE_LIMIT_MAX, ProviderClient, ProviderError, Refund};
use crate::steps;

use super::engine::{Engine, EngineError};

/// How far a sweep goes back behind the last one: an intent may be captured days after it was made.
const OVERLAP: SignedDuration = SignedDuration::from_hours(48);
/// How far the first one goes back.
const FIRST_REACH: SignedDuration = SignedDuration::from_hours(24 * 30);
/// How far refunds are looked at: one may come back weeks after it had arrived. They are far fewer than charges.
const REFUND_REACH: SignedDuration = SignedDuration::from_hours(24 * 30);
/// What is younger than this is still being worked on.
const GRACE: SignedDuration = SignedDuration::from_mins(5);
/// After one that could not come to its end.
const AGAIN: SignedDuration = SignedDuration::from_secs(30);
/// Two million intents; at 25 pages a second, a quarter of an hour.
const PAGES_MAX: usize = 20_000;
/// Payments of ours that the list does not show are read one by one; more than these are an outage, not findings.
const READS_MAX: usize = 1_000;
/// Events are forgotten after this; the provider repeats one for three days.
const KEEP_EVENTS: SignedDuration = SignedDuration::from_hours(24 * 30);
const FORGET_BATCH: i64 = 10_000;

/// What one sweep saw.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SweepReport {
    pub intents: usize,
    /// Intents of ours.
    pub known: usize,
    /// Intents that hold no money and are nobody's: what is left of a create without an answer.
    pub unused: usize,
    /// Refunds of the provider's list that are ours.
    pub refunds: usize,
    /// Intents and refunds of others on the same account.
    pub strangers: usize,
    pub findings: Vec<NewFinding>,
    /// Findings that were settled, and refunds whose end nobody had told us.
    pub settled: usize,
}

impl Engine {
    /// Sweeps if the last one, whoever made it, began more than `every` ago. One that fails is due again much sooner.
    pub async fn sweep_if_due(
        &self,
        provider: &ProviderClient,
        every: SignedDuration,
    ) -> Result<Option<SweepReport>, EngineError> {
        let now = self.clock.now();
        let Some(swept_to) = self.ledger.begin_sweep(now, every).await? else { return Ok(None) };
        steps::passed("sweep.begun");
        let reach = |from: Timestamp, by: SignedDuration| from.checked_sub(by).unwrap_or(Timestamp::MIN);
        let since = swept_to.map_or_else(|| reach(now, FIRST_REACH), |swept_to| reach(swept_to, OVERLAP));
        let until = reach(now, GRACE);
        let swept = self.sweep(provider, since, until).await;
        if swept.is_err() {
            // The provider was away: not a whole interval later, and not at once.
            let again = now.checked_add(AGAIN).unwrap_or(now);
            self.ledger.put_off_sweep(now, reach(again, every)).await?;
        }
        let report = swept?;
        self.ledger.end_sweep(until).await?;
        steps::passed("sweep.ended");
        while self.ledger.forget_events(reach(now, KEEP_EVENTS), FORGET_BATCH).await? == FORGET_BATCH as u64 {}
        Ok(Some(report))
    }

    /// Shows how much there is left to charge, and how long it takes at the provider's limit.
    pub async fn measure_payments(&self, provider: &ProviderClient) -> Result<(), EngineError> {
        let counted = self.ledger.open_payments().await?;
        for state in PaymentState::ALL.into_iter().filter(|state| state.is_open()) {
            let count = counted.iter().find(|(name, _)| name == state.as_str()).map_or(0, |(_, count)| *count);
            metrics::gauge!("doorbuster_payments_open", "state" => state.as_str()).set(count as f64);
        }
        let seconds = self.ledger.charge_backlog().await?.seconds_at(provider.limit().per_second);
        metrics::gauge!("doorbuster_charge_backlog_seconds").set(seconds);
        metrics::gauge!("doorbuster_webhook_events_waiting").set(self.ledger.events_waiting().await? as f64);
        let findings = self.ledger.count_open_findings().await?;
        metrics::gauge!("doorbuster_reconcile_findings_open").set(findings as f64);
        Ok(())
    }

    /// Compares all intents made from `since` on and before `until`, and all payments of that time.
    pub async fn sweep(
        &self,
        provider: &ProviderClient,
        since: Timestamp,
        until: Timestamp,
    ) -> Result<SweepReport, EngineError> {
        let mut report = SweepReport::default();
        let mut captured = HashMap::new();
        let mut after: Option<IntentId> = None;
        for page_number in 0.. {
            if page_number == PAGES_MAX {
                return Err(EngineError::Provider(format!("the list has more than {PAGES_MAX} pages")));
            }
            let page = provider.list_intents_since(since, after.as_ref(), PAGE_LIMIT_MAX).await;
            let page = page.map_err(|error| EngineError::Provider(error.to_string()))?;
            steps::passed("sweep.listed");
            after = page.data.last().map(|intent| intent.id.clone());
            let ids = page.data.iter().map(|intent| intent.id.0.as_str()).collect::<Vec<_>>();
            let known = self.ledger.payments_of_intents(&ids).await?;
            let known = known.into_iter().map(|payment| (payment.intent.clone(), payment)).collect::<HashMap<_, _>>();
            let named = self.orders_named(&page.data).await?;
            for intent in &page.data {
                captured.insert(intent.id.clone(), intent.status == IntentStatus::Succeeded);
                if intent.created >= until {
                    continue;
                }
                report.intents += 1;
                match known.get(&intent.id) {
                    Some(payment) => self.compare(provider, payment, intent, &mut report).await?,
                    None => self.nobodys(intent, &named, &mut report).await?,
                }
            }
            if !page.has_more || after.is_none() {
                break;
            }
        }
        let paid = self.ledger.paid_between(since, until).await?;
        let unseen = paid.into_iter().filter(|payment| captured.get(&payment.intent) != Some(&true)).take(READS_MAX);
        for payment in unseen.collect::<Vec<_>>() {
            self.look_for(provider, &payment, &mut report).await?;
        }
        self.sweep_refunds(provider, since, until, &mut report).await?;
        metrics::gauge!("doorbuster_reconcile_strangers").set(report.strangers as f64);
        Ok(report)
    }

    /// Which orders of ours these intents name.
    async fn orders_named(&self, intents: &[Intent]) -> Result<HashSet<OrderId>, EngineError> {
        let named = intents.iter().filter_map(Intent::order_named).collect::<Vec<_>>();
        Ok(self.ledger.existing_orders(&named).await?)
    }

    /// Compares the refunds of the provider's list with ours, and ours with them.
    async fn sweep_refunds(
        &self,
        provider: &ProviderClient,
        since: Timestamp,
        until: Timestamp,
        report: &mut SweepReport,
    ) -> Result<(), EngineError> {
        let reach = since.min(until.checked_sub(REFUND_REACH).unwrap_or(Timestamp::MIN));
        let mut listed = HashSet::new();
        let mut after: Option<ProviderRefundId> = None;
        for page_number in 0.. {
            if page_number == PAGES_MAX {
                return Err(EngineError::Provider(format!("the list of refunds has more than {PAGES_MAX} pages")));
            }
            let page = provider.list_refunds_since(reach, after.as_ref(), PAGE_LIMIT_MAX).await;
            let page = page.map_err(|error| EngineError::Provider(error.to_string()))?;
            after = page.data.last().map(|refund| refund.id.clone());
            let provider_ids = page.data.iter().map(|refund| refund.id.0.as_str()).collect::<Vec<_>>();
            let ids =
                page.data.iter().filter_map(|refund| refund.refund_id.as_deref()?.parse().ok()).collect::<Vec<_>>();
            let known = self.ledger.known_refunds(&ids, &provider_ids).await?;
            let intents = page.data.iter().filter_map(|refund| refund.intent.as_ref()).collect::<Vec<_>>();
            let intents = intents.iter().map(|intent| intent.0.as_str()).collect::<Vec<_>>();
            let payments = self.ledger.payments_of_intents(&intents).await?;
            for refund in &page.data {
                listed.insert(refund.id.clone());
                if refund.created >= until {
                    continue;
                }
                let by_provider = known.iter().find(|known| known.provider_refund.as_ref() == Some(&refund.id));
                let by_name = || known.iter().find(|known| refund.refund_id == Some(known.refund.to_string()));
                let payment = payments.iter().find(|payment| refund.intent.as_ref() == Some(&payment.intent));
                match (by_provider.or_else(by_name), payment) {
                    (Some(known), _) => self.compare_refund(known, refund, report).await?,
                    (None, Some(payment)) => {
                        let detail =
                            format!("{:?} over {}, and nobody here asked for it", refund.status, refund.amount);
                        self.found_of_refund(FindingKind::UnknownRefund, &refund.id, payment.order, detail, report)
                            .await?;
                    }
                    (None, None) => report.strangers += 1,
                }
            }
            if !page.has_more || after.is_none() {
                break;
            }
        }
        let arrived = self.ledger.arrived_between(since, until).await?;
        let is_unseen = |known: &KnownRefund| known.provider_refund.as_ref().is_some_and(|id| !listed.contains(id));
        for known in arrived.into_iter().filter(is_unseen).take(READS_MAX).collect::<Vec<_>>() {
            let Some(id) = &known.provider_refund else { continue };
            match provider.read_refund(id).await {
                Ok(refund) => self.compare_refund(&known, &refund, report).await?,
                Err(ProviderError::NotFound) => {
                    let detail =
                        format!("the refund {} of {} is {} here", known.refund, known.amount, known.state.as_str());
                    self.found_of_refund(FindingKind::RefundMissing, id, known.order, detail, report).await?;
                }
                Err(error) => return Err(EngineError::Provider(error.to_string())),
            }
        }
        Ok(())
    }

    async fn compare_refund(
        &self,
        known: &KnownRefund,
        refund: &Refund,
        report: &mut SweepReport,
    ) -> Result<(), EngineError> {
        report.refunds += 1;
        let here = format!("the refund {} of {} is {} here", known.refund, known.amount, known.state.as_str());
        let is_another = known.provider_refund.as_ref().is_some_and(|id| *id != refund.id);
        let said = super::refund::report(refund);
        let differs = if is_another {
            Some(format!("{here}, and another one than this"))
        } else if known.amount != refund.amount {
            Some(format!("{here}, {} there", refund.amount))
        } else if known.state == RefundState::Failed && said.verdict == RefundVerdict::Succeeded {
            Some(format!("{here}, and has arrived there"))
        } else {
            None
        };
        if let Some(detail) = differs {
            return self.found_of_refund(FindingKind::RefundDiffers, &refund.id, known.order, detail, report).await;
        }
        if known.state.apply(&said.verdict).is_some() {
            let settled = self.settle_refund_read_back(known.order, known.refund, refund).await?;
            // One that has failed is a finding of the transaction that has settled it.
            report.settled += usize::from(matches!(settled, RefundSettled::Succeeded | RefundSettled::Failed));
        }
        Ok(())
    }

    async fn found_of_refund(
        &self,
        kind: FindingKind,
        refund: &ProviderRefundId,
        order: OrderId,
        detail: String,
        report: &mut SweepReport,
    ) -> Result<(), EngineError> {
        let intent = IntentId(refund.0.clone());
        self.keep(NewFinding { kind, intent, order: Some(order), detail, is_settled: false }, report).await
    }

    async fn compare(
        &self,
        provider: &ProviderClient,
        payment: &KnownPayment,
        intent: &Intent,
        report: &mut SweepReport,
    ) -> Result<(), EngineError> {
        report.known += 1;
        let held = if intent.status == IntentStatus::Succeeded { intent.amount_received } else { intent.amount };
        if held != payment.amount {
            let detail = format!("{held} there, {} here", payment.amount);
            self.found(FindingKind::AmountDiffers, intent, Some(payment), detail, false, report).await?;
        }
        let kind = match intent.status {
            IntentStatus::Succeeded if !payment.state.was_paid() => FindingKind::CapturedNotSettled,
            IntentStatus::Canceled if payment.state.is_chargeable() => FindingKind::CanceledNotSettled,
            _ => return Ok(()),
        };
        let was = payment.state.as_str();
        let settled = self.settle_read_back(provider, payment.order, intent).await?;
        let is_settled = matches!(
            settled,
            PaymentSettled::Confirmed | PaymentSettled::Released | PaymentSettled::Refunding | PaymentSettled::NoChange
        );
        let detail = format!("here it was {was}; settling it: {settled:?}");
        self.found(kind, intent, Some(payment), detail, is_settled, report).await
    }

    async fn nobodys(
        &self,
        intent: &Intent,
        ours: &HashSet<OrderId>,
        report: &mut SweepReport,
    ) -> Result<(), EngineError> {
        if matches!(
            intent.status,
            IntentStatus::RequiresPaymentMethod | IntentStatus::RequiresConfirmation | IntentStatus::Canceled
        ) {
            report.unused += 1;
            return Ok(());
        }
        let Some(named) = intent.order_named().filter(|order| ours.contains(order)) else {
            report.strangers += 1;
            return Ok(());
        };
        let detail = format!("{:?} over {}, naming {named}", intent.status, intent.amount);
        self.found(FindingKind::UnknownIntent, intent, None, detail, false, report).await
    }

    /// A payment that is paid here and was not among the captured ones of the list, perhaps because it is older.
    async fn look_for(
        &self,
        provider: &ProviderClient,
        payment: &KnownPayment,
        report: &mut SweepReport,
    ) -> Result<(), EngineError> {
        match provider.read_intent(&payment.intent).await {
            Ok(intent) if intent.status == IntentStatus::Succeeded => Ok(()),
            Ok(intent) => {
                let detail = format!("{:?} there, {} here", intent.status, payment.state.as_str());
                self.found(FindingKind::PaidNotCaptured, &intent, Some(payment), detail, false, report).await
            }
            Err(ProviderError::NotFound) => {
                let finding = NewFinding {
                    kind: FindingKind::MissingAtProvider,
                    intent: payment.intent.clone(),
                    order: Some(payment.order),
                    detail: format!("{} here", payment.state.as_str()),
                    is_settled: false,
                };
                self.keep(finding, report).await
            }
            // The next sweep looks again.
            Err(error) => Err(EngineError::Provider(error.to_string())),
        }
    }

    async fn found(
        &self,
        kind: FindingKind,
        intent: &Intent,
        payment: Option<&KnownPayment>,
        detail: String,
        is_settled: bool,
        report: &mut SweepReport,
    ) -> Result<(), EngineError> {
        let order = payment.map(|payment| payment.order);
        self.keep(NewFinding { kind, intent: intent.id.clone(), order, detail, is_settled }, report).await
    }

    async fn keep(&self, finding: NewFinding, report: &mut SweepReport) -> Result<(), EngineError> {
        let (kind, intent, detail) = (finding.kind.as_str(), &finding.intent.0, &finding.detail);
        if self.ledger.store_finding(&finding, self.clock.now()).await? {
            metrics::counter!("doorbuster_reconcile_findings_total", "kind" => kind).increment(1);
            tracing::error!(kind, intent, detail, "the provider and our payments disagree: {kind} {intent}: {detail}");
        }
        report.settled += usize::from(finding.is_settled);
        report.findings.push(finding);
        Ok(())
    }
}
