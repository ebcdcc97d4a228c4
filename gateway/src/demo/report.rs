//! The report: figures, and zeros that are computed from the buyers' own log and the stores, never from the engine's counters.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use doorbuster_engine::flows::audit::AuditReport;
use doorbuster_sandbox::crowd::{Latencies, OrderFact, Second, Verdict, judge};
use doorbuster_sandbox::smtp_sink::ReceivedMail;
use serde::Serialize;

use super::facts::{off_sale_s, store_facts};
use super::sale::{Demo, MAIL_FROM};
use super::timeline::Timeline;

/// A buyer who waits longer notices it.
const SLOW: Duration = Duration::from_millis(250);

/// What the demo found. Its JSON form is what `--report` writes.
#[derive(Debug, Serialize)]
pub struct DemoReport {
    pub stock: u32,
    pub buyers: usize,
    pub warehouses: u32,
    pub limit: u32,
    pub seed: u64,
    /// From the buyers' log, the order rows and the provider's ledger.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// Answers that asked a buyer to come back (503), and calls without an answer.
    pub asked_to_come_back: u64,
    /// Clicks that were answered 503.
    pub unavailable: u64,
    #[serde(flatten)]
    pub mails: MailsReport,
    pub audit_violations: usize,
    /// Of every click, whatever it was answered.
    pub claim_latency_ms: Quantiles,
    /// Of every click: the share that waited longer than [`SLOW`].
    pub share_over_250ms: f64,
    /// What the clicks saw, second by second.
    pub by_second: Vec<Second>,
    /// Units of declined orders that came on sale again.
    pub declined_units_on_sale: u64,
    /// Of these, in seconds: from the answer that declined the card, as its attempt in Postgres says, to the moment at
    /// which the grant that puts the unit on sale was applied to Redis. `null` if there were none.
    pub decline_to_on_sale_s: Option<Quantiles>,
    /// How late clicks were sent after the moment they were meant for: the crowd's own limit, not the gateway's.
    pub click_lateness_ms: Quantiles,
    pub claims_per_s: f64,
    /// Claims settled for each second spent settling; `null` if nobody could say.
    pub settle_per_s: Option<f64>,
    pub elapsed_s: f64,
    pub redis_version: String,
    pub postgres_version: String,
    /// Of a sale with faults.
    #[serde(flatten)]
    pub timeline: Option<Timeline>,
    #[serde(skip)]
    pub audit: AuditReport,
}

/// What the mail server has taken, against the order rows: one confirmation for each confirmed order, one mail for each
/// order whose payment failed, and no others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct MailsReport {
    /// Different mails.
    pub mails_delivered: u64,
    /// The same mail again, as after a worker that died while it sent one.
    pub mails_repeated: u64,
    pub mails_missing: u64,
    pub mails_unexpected: u64,
}

#[derive(Debug, Clone, Copy, Serialize)]
pub struct Quantiles {
    pub p50: f64,
    pub p99: f64,
    pub max: f64,
}

impl Quantiles {
    /// Of the values, in any order; `None` if there are none.
    fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let max = *values.last()?;
        let at = |share: f64| values[((values.len() as f64 * share).ceil() as usize).clamp(1, values.len()) - 1];
        Some(Self { p50: at(0.5), p99: at(0.99), max })
    }
}

impl From<Latencies> for Quantiles {
    fn from(latencies: Latencies) -> Self {
        Self { p50: latencies.p50_ms, p99: latencies.p99_ms, max: latencies.max_ms }
    }
}

impl DemoReport {
    pub fn is_clean(&self) -> bool {
        self.verdict.is_clean() && self.audit.is_clean() && self.mails.is_clean()
    }
}

impl MailsReport {
    pub fn is_clean(&self) -> bool {
        self.mails_missing == 0 && self.mails_unexpected == 0
    }

    /// `of_each`: the kinds of mails that every order has, whatever became of it. `others`: mails about what is no order,
    /// by id and kind, and whether they have to come.
    pub(super) fn new(
        orders: &[OrderFact],
        mails: &[ReceivedMail],
        of_each: &[&str],
        others: &[(String, &str, bool)],
    ) -> Self {
        let message = |id: &str, kind: &str| {
            let address = MAIL_FROM.rsplit('@').next().unwrap_or_default().trim_end_matches('>');
            format!("<evt_{}_{kind}@{address}>", id.replace('-', ""))
        };
        let told = |order: &OrderFact, kind: &str| message(&order.order_id, kind);
        let due = orders.iter().filter_map(|order| match order.status.as_str() {
            "CONFIRMED" => Some(told(order, "order_confirmed")),
            "PAYMENT_FAILED" => Some(told(order, "payment_failed")),
            _ => None,
        });
        let first = orders.iter().flat_map(|order| of_each.iter().map(move |kind| told(order, kind)));
        let others = others.iter().map(|(id, kind, is_due)| (message(id, kind), *is_due)).collect::<HashMap<_, _>>();
        let other = others.iter().filter(|(_, is_due)| **is_due).map(|(message, _)| message.clone());
        let due = due.chain(first).chain(other).collect::<HashSet<_>>();
        let delivered = mails.iter().map(ReceivedMail::message_id).collect::<HashSet<_>>();
        Self {
            mails_delivered: delivered.len() as u64,
            mails_repeated: (mails.len() - delivered.len()) as u64,
            mails_missing: due.difference(&delivered).count() as u64,
            mails_unexpected: delivered.difference(&due).filter(|mail| !others.contains_key(*mail)).count() as u64,
        }
    }
}

impl Demo {
    /// Reads log and stores as they are now.
    pub async fn report(&self) -> anyhow::Result<DemoReport> {
        let audit = self.engine.audit(Some(&self.provider_client)).await?;
        let tokens_free = audit.drops.iter().map(|drop| drop.free as u32).sum();
        let facts = store_facts(&self.engine, &self.drop, self.provider.captures(), tokens_free).await?;
        let off_sale = off_sale_s(&self.engine, &self.drop).await?;
        Ok(DemoReport {
            stock: self.options.stock,
            buyers: self.options.buyers,
            warehouses: self.options.warehouses,
            limit: self.options.limit,
            seed: self.options.seed,
            verdict: judge(&self.log, &facts),
            mails: MailsReport::new(&facts.orders, &self.mailbox.mails(), &[], &[]),
            asked_to_come_back: self.log.undecided(),
            unavailable: self.log.unavailable(),
            audit_violations: audit.violations.len(),
            claim_latency_ms: self.log.latencies().into(),
            share_over_250ms: self.log.share_over(SLOW),
            by_second: self.log.by_second(),
            declined_units_on_sale: off_sale.len() as u64,
            decline_to_on_sale_s: Quantiles::of(off_sale),
            click_lateness_ms: self.log.lateness().into(),
            claims_per_s: self.log.claims_per_s(),
            settle_per_s: self.shop.settled_per_s().await,
            elapsed_s: self.elapsed.as_secs_f64(),
            redis_version: self.redis.version().to_owned(),
            postgres_version: self.postgres.version().to_owned(),
            timeline: self.timeline(),
            audit,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_were_seen() {
        let of = |values: &[f64]| Quantiles::of(values.to_vec()).map(|found| (found.p50, found.p99, found.max));
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[7.0]), Some((7.0, 7.0, 7.0)));
        assert_eq!(of(&[3.0, 1.0, 2.0]), Some((2.0, 3.0, 3.0)));
        let hundred = (1..=100).rev().map(f64::from).collect::<Vec<_>>();
        assert_eq!(of(&hundred), Some((50.0, 99.0, 100.0)));
    }
}
