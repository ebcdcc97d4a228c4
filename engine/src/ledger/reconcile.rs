//! What the sweep of the provider's list compares with, and what it found; and how much there is left to charge.

use deadpool_postgres::GenericClient;
use jiff::{SignedDuration, Timestamp};

use super::error::LedgerError;
use super::locked_order::{money, payment_state};
use super::pool::Ledger;
use crate::domain::ids::{IntentId, OrderId};
use crate::domain::money::Money;
use crate::domain::payments::PaymentState;

/// A payment as the provider's list is compared with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownPayment {
    pub order: OrderId,
    pub intent: IntentId,
    pub state: PaymentState,
    pub amount: Money,
}

/// What the two may disagree about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FindingKind {
    /// An intent that took money, or may, and is none of our payments'.
    UnknownIntent,
    AmountDiffers,
    /// Captured there, not paid here.
    CapturedNotSettled,
    /// Canceled there, still open here.
    CanceledNotSettled,
    /// Paid here, not captured there.
    PaidNotCaptured,
    /// Paid here, and the provider knows no such intent.
    MissingAtProvider,
    /// A refund that did not go through, or came back: its money is with us, and its buyer waits.
    RefundFailed,
    /// The provider says something of a refund that ours cannot follow.
    RefundDiffers,
    /// A refund of one of our charges that nobody asked for here.
    UnknownRefund,
    /// It has arrived, as far as we know, and the provider knows no such refund.
    RefundMissing,
    /// A buyer's bank wants the money back.
    Disputed,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewFinding {
    pub kind: FindingKind,
    /// What it is about, by the provider's id: an intent, a refund or a dispute.
    pub intent: IntentId,
    pub order: Option<OrderId>,
    pub detail: String,
    /// What the provider says has been taken over.
    pub is_settled: bool,
}

/// A finding that nobody has settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub number: i64,
    pub kind: String,
    pub intent: String,
    pub order: Option<OrderId>,
    pub detail: String,
    pub found_at: Timestamp,
}

/// Calls that the payments of now need at least, by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ChargeBacklog {
    pub creates: i64,
    pub confirms: i64,
    pub cancels: i64,
    pub refunds: i64,
}

impl ChargeBacklog {
    /// How long all of it takes at so many calls of a kind a second; kinds do not wait for each other.
    pub fn seconds_at(&self, per_second: u32) -> f64 {
        let most = self.creates.max(self.confirms).max(self.cancels).max(self.refunds);
        most as f64 / f64::from(per_second.max(1))
    }

    /// Orders that wait to be charged.
    pub fn orders(&self) -> i64 {
        self.confirms
    }
}

impl FindingKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UnknownIntent => "unknown_intent",
            Self::AmountDiffers => "amount_differs",
            Self::CapturedNotSettled => "captured_not_settled",
            Self::CanceledNotSettled => "canceled_not_settled",
            Self::PaidNotCaptured => "paid_not_captured",
            Self::MissingAtProvider => "missing_at_provider",
            Self::RefundFailed => "refund_failed",
            Self::RefundDiffers => "refund_differs",
            Self::UnknownRefund => "unknown_refund",
            Self::RefundMissing => "refund_missing",
            Self::Disputed => "disputed",
        }
    }
}

impl Ledger {
    /// The payments that have one of these intents.
    pub async fn payments_of_intents(&self, intents: &[&str]) -> Result<Vec<KnownPayment>, LedgerError> {
        const SQL: &str = "-- reconcile.payments_of_intents
            select order_id, intent_id, state, amount_minor, currency from payments where intent_id = any($1)";
        let connection = self.connection().await?;
        let statement = connection.prepare_cached(SQL).await?;
        let rows = connection.query(&statement, &[&intents]).await?;
        rows.iter().map(known_payment).collect()
    }

    /// The paid ones among those whose state changed from `since` on and before `until`.
    pub async fn paid_between(&self, since: Timestamp, until: Timestamp) -> Result<Vec<KnownPayment>, LedgerError> {
        const SQL: &str = "-- reconcile.paid_between
            select order_id, intent_id, state, amount_minor, currency from payments
            where state in ('SUCCEEDED', 'REFUND_PENDING', 'PARTIALLY_REFUNDED', 'REFUNDED') and intent_id is not null
                  and updated_at >= $1 and updated_at < $2";
        let connection = self.connection().await?;
        let rows = connection.query(SQL, &[/* since */ &since, /* until */ &until]).await?;
        rows.iter().map(known_payment).collect()
    }

    /// Takes the next sweep if the last one began long enough ago, whoever began it. Answers up to when one was finished.
    pub async fn begin_sweep(
        &self,
        now: Timestamp,
        every: SignedDuration,
    ) -> Result<Option<Option<Timestamp>>, LedgerError> {
        const SQL: &str = "-- reconcile.begin_sweep
            update sweeps set started_at = $1 where started_at is null or started_at <= $2 returning swept_to";
        let before = now.checked_sub(every).unwrap_or(Timestamp::MIN);
        let connection = self.connection().await?;
        let row = connection.query_opt(SQL, &[/* now */ &now, /* before */ &before]).await?;
        Ok(row.map(|row| row.get(0)))
    }

    /// A sweep that could not come to its end, begun at `begun`: as if it had begun at `instead`.
    pub async fn put_off_sweep(&self, begun: Timestamp, instead: Timestamp) -> Result<(), LedgerError> {
        const SQL: &str = "-- reconcile.put_off_sweep
            update sweeps set started_at = $2 where started_at = $1";
        self.connection().await?.execute(SQL, &[/* begun */ &begun, /* instead */ &instead]).await?;
        Ok(())
    }

    pub async fn end_sweep(&self, swept_to: Timestamp) -> Result<(), LedgerError> {
        const SQL: &str = "-- reconcile.end_sweep
            update sweeps set swept_to = $1 where swept_to is null or swept_to < $1";
        self.connection().await?.execute(SQL, &[/* swept_to */ &swept_to]).await?;
        Ok(())
    }

    /// Keeps a finding. `true`: it is new.
    pub async fn store_finding(&self, finding: &NewFinding, now: Timestamp) -> Result<bool, LedgerError> {
        store(&self.connection().await?, finding, now).await
    }

    /// Findings that nobody has settled, oldest first.
    pub async fn open_findings(&self, limit: i64) -> Result<Vec<Finding>, LedgerError> {
        const SQL: &str = "-- reconcile.open_findings
            select finding_id, kind, intent_id, order_id, detail, found_at from reconcile_findings
            where settled_at is null order by finding_id limit $1";
        let rows = self.connection().await?.query(SQL, &[&limit]).await?;
        let finding = |row: &tokio_postgres::Row| Finding {
            number: row.get(0),
            kind: row.get(1),
            intent: row.get(2),
            order: row.get::<_, Option<uuid::Uuid>>(3).map(OrderId),
            detail: row.get(4),
            found_at: row.get(5),
        };
        Ok(rows.iter().map(finding).collect())
    }

    pub async fn count_open_findings(&self) -> Result<i64, LedgerError> {
        const SQL: &str = "-- reconcile.count_open_findings
            select count(*) from reconcile_findings where settled_at is null";
        Ok(self.connection().await?.query_one(SQL, &[]).await?.get(0))
    }

    /// A person has dealt with a finding, and says how. `false`: there is none, or it was settled before.
    pub async fn settle_finding(&self, number: i64, why: (&str, &str), now: Timestamp) -> Result<bool, LedgerError> {
        const SQL: &str = "-- reconcile.settle_finding
            update reconcile_findings set settled_at = $2, detail = detail || $3
            where finding_id = $1 and settled_at is null";
        let said = format!("; {}: {}", why.0, why.1);
        Ok(self.connection().await?.execute(SQL, &[&number, /* now */ &now, &said]).await? == 1)
    }

    /// How many payments that are not over are in each state.
    pub async fn open_payments(&self) -> Result<Vec<(String, i64)>, LedgerError> {
        const SQL: &str = "-- reconcile.open_payments
            select state, count(*) from payments
            where state not in ('SUCCEEDED', 'FAILED', 'CANCELED', 'PARTIALLY_REFUNDED', 'REFUNDED') group by state";
        let rows = self.connection().await?.query(SQL, &[]).await?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    /// What is left to charge. Claims that are not orders yet are not in it.
    pub async fn charge_backlog(&self) -> Result<ChargeBacklog, LedgerError> {
        const SQL: &str = "-- reconcile.charge_backlog
            select count(*) filter (where state in ('IN_FLIGHT', 'UNKNOWN') and intent_id is null),
                   count(*) filter (where state in ('IN_FLIGHT', 'UNKNOWN')),
                   count(*) filter (where state = 'CANCEL_REQUESTED'),
                   count(*) filter (where state = 'REFUND_PENDING')
            from payments where state not in ('SUCCEEDED', 'FAILED', 'CANCELED', 'PARTIALLY_REFUNDED', 'REFUNDED')";
        let row = self.connection().await?.query_one(SQL, &[]).await?;
        Ok(ChargeBacklog { creates: row.get(0), confirms: row.get(1), cancels: row.get(2), refunds: row.get(3) })
    }
}

/// Keeps a finding, with a connection or in the transaction in which it became true.
pub(super) async fn store(
    client: &impl GenericClient,
    finding: &NewFinding,
    now: Timestamp,
) -> Result<bool, LedgerError> {
    const SQL: &str = "-- reconcile.store_finding
        insert into reconcile_findings (kind, intent_id, order_id, detail, found_at, seen_at, settled_at)
        values ($1, $2, $3, $4, $5, $5, case when $6 then $5::timestamptz end)
        on conflict (kind, intent_id) do update
            set seen_at = excluded.seen_at, detail = excluded.detail,
                settled_at = coalesce(reconcile_findings.settled_at, excluded.settled_at)
        returning found_at = seen_at";
    let statement = client.prepare_cached(SQL).await?;
    let order = finding.order.map(|order| order.0);
    let arguments: &[&(dyn tokio_postgres::types::ToSql + Sync)] = &[
        &finding.kind.as_str(),
        &finding.intent.0,
        &order,
        &finding.detail,
        /* now */ &now,
        /* settled */ &finding.is_settled,
    ];
    Ok(client.query_one(&statement, arguments).await?.get(0))
}

fn known_payment(row: &tokio_postgres::Row) -> Result<KnownPayment, LedgerError> {
    let order = row.get(0);
    Ok(KnownPayment {
        order: OrderId(order),
        intent: IntentId(row.get(1)),
        state: payment_state(row.get(2), order)?,
        amount: money(row.get(3), row.get(4), order)?,
    })
}
