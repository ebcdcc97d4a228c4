//! The sweep: the provider's list of intents against our payments, and ours against its. What the two disagree about is
//! kept and counted; what the provider's word can settle is settled by the function that settles everything.

use std::collections::HashMap;

use jiff::{SignedDuration, Timestamp};

use crate::domain::ids::IntentId;
use crate::domain::payments::PaymentState;
use crate::ledger::payments::PaymentSettled;
use crate::ledger::reconcile::{FindingKind, KnownPayment, NewFinding};
use crate::provider::{Intent, IntentStatus, PAGE_LIMIT_MAX, ProviderClient, ProviderError};
use crate::steps;

use super::engine::{Engine, EngineError};

/// How far a sweep goes back behind the last one: an intent may be captured days after it was made.
const OVERLAP: SignedDuration = SignedDuration::from_hours(48);
/// How far the first one goes back.
const FIRST_REACH: SignedDuration = SignedDuration::from_hours(24 * 30);
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
    pub findings: Vec<NewFinding>,
    /// Findings that were settled.
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
            for intent in &page.data {
                captured.insert(intent.id.clone(), intent.status == IntentStatus::Succeeded);
                if intent.created >= until {
                    continue;
                }
                report.intents += 1;
                match known.get(&intent.id) {
                    Some(payment) => self.compare(provider, payment, intent, &mut report).await?,
                    None => self.nobodys(intent, &mut report).await?,
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
        Ok(report)
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

    async fn nobodys(&self, intent: &Intent, report: &mut SweepReport) -> Result<(), EngineError> {
        if matches!(
            intent.status,
            IntentStatus::RequiresPaymentMethod | IntentStatus::RequiresConfirmation | IntentStatus::Canceled
        ) {
            report.unused += 1;
            return Ok(());
        }
        let named = intent.order_id.as_deref().unwrap_or("no order");
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
