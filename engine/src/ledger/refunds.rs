//! Orders that end before they ship, and money on its way back.
//!
//! Asking and executing are apart: an order is cancelled, its units go back on sale and the refund is written down in one
//! transaction; the provider is told by the charge worker, under the same leases and attempts as a charge.

use deadpool_postgres::Transaction;
use jiff::{SignedDuration, Timestamp};
use tokio_postgres::Row;
use uuid::Uuid;

use super::credits::{charged_lines, fixed_notes, insert_lines};
use super::error::{LedgerError, expect_rows};
use super::journal;
use super::locked_order::{
    LockedOrder, LockedPayment, UnitsWere, cancel, lock_order, lock_payment, lock_warehouses_of, money, move_payment,
    refund_state,
};
use super::outbox;
use super::pool::Ledger;
use super::reconcile::{self, FindingKind, NewFinding};
use super::tx::run_tx;
use crate::domain::charges::step;
use crate::domain::credits::{Credit, CreditLine, next_note, total_minor};
use crate::domain::ids::{BuyerId, IntentId, OrderId, ProviderRefundId, RefundId};
use crate::domain::money::Money;
use crate::domain::notices::Notice;
use crate::domain::orders::{OrderEvent, OrderState};
use crate::domain::payments::{PaymentEvent, PaymentState, RefundReport, RefundState, RefundVerdict};
use crate::domain::turns::{Turn, Work};

/// How long a refund that the provider works on is left before it is asked about again.
const ASK_AGAIN: SignedDuration = SignedDuration::from_mins(10);

/// What cancelling an order did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OrderCancelled {
    Now,
    /// Its charge may be under way: it ends with the provider's word, and what was taken goes back.
    Requested,
    /// Earlier.
    Before,
    /// It has shipped, or it had ended otherwise.
    TooLate(OrderState),
    /// Its payment is being looked at by a person.
    InReview,
    /// Not there, or not his.
    NoSuchOrder,
}

/// What asking for a refund did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefundAsked {
    Now,
    /// The same refund, earlier.
    Before,
    /// Its id was used for another order, amount or reason.
    IdTaken,
    /// More than is left of what was paid.
    TooMuch {
        left: Money,
    },
    NotPaid,
    NoSuchOrder,
}

/// A refund that was asked for, and has not arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingRefund {
    pub id: RefundId,
    pub amount: Money,
    /// Once the provider has taken it.
    pub provider_refund: Option<ProviderRefundId>,
    /// Calls made for it so far; they number the keys of the next ones.
    pub attempts: u32,
}

/// A refund as the provider's list is compared with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownRefund {
    pub order: OrderId,
    pub refund: RefundId,
    pub state: RefundState,
    pub amount: Money,
    pub provider_refund: Option<ProviderRefundId>,
}

/// What settling a refund's report did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefundSettled {
    Succeeded,
    Waiting,
    Failed,
    NoChange,
}

impl Ledger {
    /// Ends an order before it ships. `buyer`: it must be his; an operator may end anybody's.
    pub async fn cancel_order(
        &self,
        order: OrderId,
        buyer: Option<&BuyerId>,
        (actor, reason): (&str, &str),
        now: Timestamp,
    ) -> Result<OrderCancelled, LedgerError> {
        run_tx!(self, "refunds.cancel_order", tx, {
            const FIND: &str = "-- refunds.owned
                select 1 from orders where order_id = $1 and ($2::text is null or buyer = $2)";
            let owner = buyer.map(BuyerId::as_str);
            if tx.query_opt(FIND, &[&order.0, /* buyer */ &owner]).await?.is_none() {
                return Ok(OrderCancelled::NoSuchOrder);
            }
            lock_warehouses_of(tx, order).await?;
            let found = lock_order(tx, order).await?;
            let payment = lock_payment(tx, order).await?;
            if found.status == OrderState::Cancelled {
                return Ok(OrderCancelled::Before);
            }
            if found.cancel_asked.is_some() {
                return Ok(OrderCancelled::Requested);
            }
            if found.status.apply(OrderEvent::Cancel).is_err() {
                return Ok(OrderCancelled::TooLate(found.status));
            }
            if payment.state == PaymentState::ManualReview {
                return Ok(OrderCancelled::InReview);
            }
            const ASKED: &str = "-- refunds.ask_cancel
                update orders set cancel_asked_by = $2, cancel_reason = $3, updated_at = $4 where order_id = $1";
            tx.execute(ASKED, &[&order.0, &actor, &reason, /* now */ &now]).await?;
            if payment.state.was_paid() {
                if payment.amount.amount_minor == 0
                    && let Ok(to) = payment.state.apply(PaymentEvent::CancelFree)
                {
                    move_payment(tx, order, &payment, to, Some("order_cancelled"), None, None, now).await?;
                    cancel(tx, &found, UnitsWere::Sold, false, (actor, reason), now).await?;
                    return Ok(OrderCancelled::Now);
                }
                cancel(tx, &found, UnitsWere::Sold, true, (actor, reason), now).await?;
                refund_rest(tx, order, &payment, (actor, reason), now).await?;
                return Ok(OrderCancelled::Now);
            }
            if !confirm_was_dispatched(tx, order).await?
                && let Ok(to) = payment.state.apply(PaymentEvent::CancelUnsent)
            {
                withdraw(tx, order, now).await?;
                move_payment(tx, order, &payment, to, Some("order_cancelled"), None, None, now).await?;
                cancel(tx, &found, UnitsWere::Reserved, false, (actor, reason), now).await?;
                return Ok(OrderCancelled::Now);
            }
            request_cancel(tx, order, &payment, now).await?;
            Ok(OrderCancelled::Requested)
        })
    }

    /// Asks for money to go back to the buyer; all that is left without an amount.
    pub async fn ask_refund(
        &self,
        refund: RefundId,
        order: OrderId,
        amount: Option<Money>,
        (actor, reason): (&str, &str),
        now: Timestamp,
    ) -> Result<RefundAsked, LedgerError> {
        run_tx!(self, "refunds.ask_refund", tx, {
            const EXISTS: &str = "-- refunds.order_exists\nselect 1 from orders where order_id = $1 for update";
            if tx.query_opt(EXISTS, &[&order.0]).await?.is_none() {
                return Ok(RefundAsked::NoSuchOrder);
            }
            let payment = lock_payment(tx, order).await?;
            if amount.is_some_and(|amount| amount.currency != payment.amount.currency) {
                return Ok(RefundAsked::TooMuch { left: left_of(&payment) });
            }
            let asked = match amount {
                Some(amount) => Credit::Amount { minor: amount.amount_minor, units: Vec::new() },
                None => Credit::Rest,
            };
            refund_in(tx, refund, order, &payment, &asked, (actor, reason), now).await
        })
    }

    /// The refund of this order that is to be worked on next.
    pub async fn pending_refund(&self, order: OrderId) -> Result<Option<PendingRefund>, LedgerError> {
        const SQL: &str = "-- refunds.pending
            select r.refund_id, r.amount_minor, r.currency, r.provider_refund_id,
                   (select count(*) from payment_attempts a
                    where a.order_id = r.order_id and a.operation = 'refund'
                          and starts_with(a.idempotency_key, 'order-' || r.order_id || ':refund:' || r.refund_id))
            from refunds r where r.order_id = $1 and r.state = 'PENDING' order by r.created_at, r.refund_id limit 1";
        let connection = self.connection().await?;
        let statement = connection.prepare_cached(SQL).await?;
        let Some(row) = connection.query_opt(&statement, &[&order.0]).await? else { return Ok(None) };
        Ok(Some(PendingRefund {
            id: RefundId(row.get(0)),
            amount: money(row.get(1), row.get(2), order.0)?,
            provider_refund: row.get::<_, Option<String>>(3).map(ProviderRefundId),
            attempts: row.get::<_, i64>(4) as u32,
        }))
    }

    /// Takes the provider's word on a refund: refund, payment, journal and outbox move together or not at all.
    pub async fn settle_refund(
        &self,
        order: OrderId,
        refund: RefundId,
        report: &RefundReport,
        now: Timestamp,
    ) -> Result<RefundSettled, LedgerError> {
        run_tx!(self, "refunds.settle_refund", tx, {
            let found = lock_order(tx, order).await?;
            let payment = lock_payment(tx, order).await?;
            const REFUND: &str = "-- refunds.lock
                select state, amount_minor, currency, provider_refund_id from refunds
                where refund_id = $1 and order_id = $2 for update";
            let row = tx.query_one(REFUND, &[&refund.0, &order.0]).await?;
            let state = refund_state(row.get(0), order.0)?;
            let amount = money(row.get(1), row.get(2), order.0)?;
            let known = row.get::<_, Option<String>>(3).map(ProviderRefundId);
            let is_another = known.is_some() && report.provider_refund.is_some() && known != report.provider_refund;
            if amount != report.amount || is_another {
                let what = format!(
                    "the provider's refund {:?} of {} is not ours of {amount}",
                    report.provider_refund, report.amount
                );
                return Err(super::drops::inconsistent("refunds", "provider_refund_id", refund, &what));
            }
            let Some(to) = state.apply(&report.verdict) else {
                if state != RefundState::Pending {
                    return Ok(RefundSettled::NoChange);
                }
                store_provider_refund(tx, refund, state, report, None).await?;
                let again = now.checked_add(ASK_AGAIN).unwrap_or(Timestamp::MAX);
                move_payment(tx, order, &payment, payment.state, None, None, Some(again), now).await?;
                return Ok(RefundSettled::Waiting);
            };
            if to == RefundState::Succeeded {
                let before = settled_minor(tx, order).await?;
                journal::book_refund(tx, &found, refund, &lines_of(tx, order, refund).await?, now).await?;
                let is_full = before + amount.amount_minor == payment.amount.amount_minor;
                outbox::enqueue(tx, order, &Notice::RefundIssued { refund, amount, is_full }, now).await?;
            } else {
                let was_issued = state == RefundState::Succeeded;
                if was_issued {
                    journal::reverse_refund(tx, refund, now).await?;
                }
                let about = report.provider_refund.clone().or(known).map_or_else(|| refund.to_string(), |id| id.0);
                let finding = NewFinding {
                    kind: FindingKind::RefundFailed,
                    intent: IntentId(about),
                    order: Some(order),
                    detail: why_failed(refund, amount, was_issued, &report.verdict),
                    is_settled: false,
                };
                reconcile::store(tx, &finding, now).await?;
                outbox::enqueue(tx, order, &Notice::RefundFailed { refund, amount, was_issued }, now).await?;
                const GIVE_BACK: &str = "-- refunds.give_back
                    update payments set refund_minor = refund_minor - $2 where order_id = $1";
                let changed = tx.execute(GIVE_BACK, &[&order.0, &amount.amount_minor]).await?;
                expect_rows("refunds.give_back", 1, changed)?;
            }
            store_provider_refund(tx, refund, to, report, Some(now)).await?;
            stand_after_refunds(tx, order, &payment, now).await?;
            Ok(if to == RefundState::Succeeded { RefundSettled::Succeeded } else { RefundSettled::Failed })
        })
    }

    /// Which refund, of which order, the provider means by its own id.
    pub async fn refund_by_provider_id(
        &self,
        id: &ProviderRefundId,
    ) -> Result<Option<(OrderId, RefundId)>, LedgerError> {
        const SQL: &str = "-- refunds.by_provider_id
            select order_id, refund_id from refunds where provider_refund_id = $1";
        let row = self.connection().await?.query_opt(SQL, &[&id.0]).await?;
        Ok(row.map(|row| (OrderId(row.get(0)), RefundId(row.get(1)))))
    }

    /// Refunds that have one of these ids, ours or the provider's.
    pub async fn known_refunds(&self, ids: &[Uuid], provider_ids: &[&str]) -> Result<Vec<KnownRefund>, LedgerError> {
        const SQL: &str = "-- refunds.known_refunds
            select order_id, refund_id, state, amount_minor, currency, provider_refund_id from refunds
            where refund_id = any($1) or provider_refund_id = any($2)";
        let rows = self.connection().await?.query(SQL, &[&ids, &provider_ids]).await?;
        rows.iter().map(known_refund).collect()
    }

    /// Refunds that have arrived, as far as we know, from `since` on and before `until`.
    pub async fn arrived_between(&self, since: Timestamp, until: Timestamp) -> Result<Vec<KnownRefund>, LedgerError> {
        const SQL: &str = "-- refunds.arrived_between
            select order_id, refund_id, state, amount_minor, currency, provider_refund_id from refunds
            where state = 'SUCCEEDED' and settled_at >= $1 and settled_at < $2 and provider_refund_id is not null";
        let rows = self.connection().await?.query(SQL, &[/* since */ &since, /* until */ &until]).await?;
        rows.iter().map(known_refund).collect()
    }
}

fn known_refund(row: &Row) -> Result<KnownRefund, LedgerError> {
    let order: Uuid = row.get(0);
    Ok(KnownRefund {
        order: OrderId(order),
        refund: RefundId(row.get(1)),
        state: refund_state(row.get(2), order)?,
        amount: money(row.get(3), row.get(4), order)?,
        provider_refund: row.get::<_, Option<String>>(5).map(ProviderRefundId),
    })
}

/// For the person who has to look for another way.
fn why_failed(refund: RefundId, amount: Money, was_issued: bool, verdict: &RefundVerdict) -> String {
    let how = if was_issued { "had arrived and came back" } else { "did not go through" };
    let reason = match verdict {
        RefundVerdict::Failed { reason } => reason.as_str(),
        RefundVerdict::Pending | RefundVerdict::Succeeded => "the provider gave no reason",
    };
    format!("the refund {refund} of {amount} {how}: {reason}; its amount can be asked for again")
}

/// What was paid and is not asked to go back.
fn left_of(payment: &LockedPayment) -> Money {
    Money::new(payment.amount.amount_minor - payment.refund.amount_minor, payment.amount.currency)
}

/// Asks for a refund under the locks of order and payment.
pub(super) async fn refund_in(
    tx: &Transaction<'_>,
    refund: RefundId,
    order: OrderId,
    payment: &LockedPayment,
    asked: &Credit,
    why: (&str, &str),
    now: Timestamp,
) -> Result<RefundAsked, LedgerError> {
    const KNOWN: &str = "-- refunds.known
        select order_id, amount_minor, reason from refunds where refund_id = $1";
    if let Some(row) = tx.query_opt(KNOWN, &[&refund.0]).await? {
        let is_amount = match asked {
            Credit::Amount { minor, .. } => *minor == row.get::<_, i64>(1),
            Credit::Rest | Credit::Goods { .. } => true,
        };
        let is_same = row.get::<_, Uuid>(0) == order.0 && row.get::<_, &str>(2) == why.1 && is_amount;
        return Ok(if is_same { RefundAsked::Before } else { RefundAsked::IdTaken });
    }
    if !payment.state.was_paid() {
        return Ok(RefundAsked::NotPaid);
    }
    let left = left_of(payment);
    let Some(lines) = note_for(tx, order, asked).await? else { return Ok(RefundAsked::TooMuch { left }) };
    if total_minor(&lines) > left.amount_minor {
        return Ok(RefundAsked::TooMuch { left });
    }
    insert_refund(tx, refund, order, payment, &lines, why, now).await?;
    Ok(RefundAsked::Now)
}

/// Money was taken for an order that had ended, or that was to end: all of it goes back.
pub(super) async fn refund_late_money(
    tx: &Transaction<'_>,
    order: &LockedOrder,
    payment: &LockedPayment,
    why: (&str, &str),
    now: Timestamp,
) -> Result<(), LedgerError> {
    journal::book_charges(tx, &[order], now).await?;
    refund_rest(tx, order.id, payment, why, now).await
}

/// The intent must be ended at the provider before this order can be.
async fn request_cancel(
    tx: &Transaction<'_>,
    order: OrderId,
    payment: &LockedPayment,
    now: Timestamp,
) -> Result<(), LedgerError> {
    // Not `move_payment`: the worker that is charging right now keeps its lease, and writes down what comes of it.
    const SQL: &str = "-- refunds.request_cancel
        update payments set state = $2, due_at = $3, updated_at = $3, turn = $5 where order_id = $1 and state = $4";
    let to = payment.state.apply(PaymentEvent::Cancel);
    let to = to.map_err(|error| super::drops::inconsistent("payments", "state", order, &error.to_string()))?;
    let arguments: &[&(dyn tokio_postgres::types::ToSql + Sync)] = &[
        &order.0,
        &to.as_str(),
        /* now */ &now,
        /* from */ &payment.state.as_str(),
        /* turn */ &Turn::of(Work::Begun).number(),
    ];
    expect_rows("refunds.request_cancel", 1, tx.execute(SQL, arguments).await?)
}

/// Whether a call that takes money may have reached the provider.
async fn confirm_was_dispatched(tx: &Transaction<'_>, order: OrderId) -> Result<bool, LedgerError> {
    const SQL: &str = "-- refunds.confirm_was_dispatched
        select exists (select 1 from payment_attempts
                       where order_id = $1 and operation = 'confirm' and state not in ('PREPARED', 'WITHDRAWN'))";
    Ok(tx.query_one(SQL, &[&order.0]).await?.get(0))
}

/// Ends what is open of an order for which no money was asked: the lease of whoever works on it, and its attempts. An intent
/// that was created is never confirmed, so it holds no money.
async fn withdraw(tx: &Transaction<'_>, order: OrderId, now: Timestamp) -> Result<(), LedgerError> {
    const LEASE: &str = "-- refunds.fence_lease
        update payments set lease_number = lease_number + 1 where order_id = $1";
    const ATTEMPTS: &str = "-- refunds.withdraw
        update payment_attempts
        set state = case when state = 'PREPARED' then 'WITHDRAWN' else 'REJECTED' end, detail = 'the order was cancelled',
            finished_at = $2
        where order_id = $1 and finished_at is null";
    expect_rows("refunds.fence_lease", 1, tx.execute(LEASE, &[&order.0]).await?)?;
    tx.execute(ATTEMPTS, &[&order.0, /* now */ &now]).await?;
    Ok(())
}

/// Refunds what has not been asked for yet.
async fn refund_rest(
    tx: &Transaction<'_>,
    order: OrderId,
    payment: &LockedPayment,
    why: (&str, &str),
    now: Timestamp,
) -> Result<(), LedgerError> {
    match note_for(tx, order, &Credit::Rest).await? {
        Some(lines) => insert_refund(tx, RefundId(Uuid::now_v7()), order, payment, &lines, why, now).await,
        None => Ok(()),
    }
}

/// The lines of this order's next credit note. `None`: more is asked for than is left.
async fn note_for(
    tx: &Transaction<'_>,
    order: OrderId,
    asked: &Credit,
) -> Result<Option<Vec<CreditLine>>, LedgerError> {
    const CURRENCY: &str = "-- refunds.currency\nselect currency from payments where order_id = $1";
    let currency = money(0, tx.query_one(CURRENCY, &[&order.0]).await?.get(0), order.0)?.currency;
    let charged = charged_lines(tx, order).await?;
    let before = fixed_notes(tx, order, &charged).await?;
    let before = before.into_iter().flat_map(|(_, lines)| lines).collect::<Vec<_>>();
    Ok(next_note(&charged, &before, asked, step(currency)))
}

/// What a refund of this order is for.
async fn lines_of(tx: &Transaction<'_>, order: OrderId, refund: RefundId) -> Result<Vec<CreditLine>, LedgerError> {
    let charged = charged_lines(tx, order).await?;
    let notes = fixed_notes(tx, order, &charged).await?;
    Ok(notes.into_iter().find(|(id, _)| *id == refund).map(|(_, lines)| lines).unwrap_or_default())
}

async fn insert_refund(
    tx: &Transaction<'_>,
    refund: RefundId,
    order: OrderId,
    payment: &LockedPayment,
    lines: &[CreditLine],
    (actor, reason): (&str, &str),
    now: Timestamp,
) -> Result<(), LedgerError> {
    const REFUND: &str = "-- refunds.insert
        insert into refunds (refund_id, order_id, amount_minor, currency, reason, asked_by, state, created_at)
        values ($1, $2, $3, $4, $5, $6, 'PENDING', $7)";
    const PAYMENT: &str = "-- refunds.take_from_payment
        update payments
        set refund_minor = refund_minor + $2, state = $3, due_at = $4, updated_at = $4, turn = $6,
            leased_until = case when state = 'REFUND_PENDING' then leased_until end
        where order_id = $1 and state = $5";
    let amount = Money::new(total_minor(lines), payment.amount.currency);
    let event = if payment.state.was_paid() { PaymentEvent::RefundAsked } else { PaymentEvent::LateMoney };
    let to = payment.state.apply(event);
    let to = to.map_err(|error| super::drops::inconsistent("payments", "state", order, &error.to_string()))?;
    let arguments: &[&(dyn tokio_postgres::types::ToSql + Sync)] = &[
        &refund.0,
        &order.0,
        &amount.amount_minor,
        &amount.currency.as_str(),
        &reason,
        /* asked_by */ &actor,
        /* now */ &now,
    ];
    expect_rows("refunds.insert", 1, tx.execute(&tx.prepare_cached(REFUND).await?, arguments).await?)?;
    insert_lines(tx, refund, lines).await?;
    let arguments: &[&(dyn tokio_postgres::types::ToSql + Sync)] = &[
        &order.0,
        &amount.amount_minor,
        &to.as_str(),
        /* now */ &now,
        /* from */ &payment.state.as_str(),
        /* turn */ &Turn::of(Work::Begun).number(),
    ];
    expect_rows("refunds.take_from_payment", 1, tx.execute(&tx.prepare_cached(PAYMENT).await?, arguments).await?)
}

async fn store_provider_refund(
    tx: &Transaction<'_>,
    refund: RefundId,
    state: RefundState,
    report: &RefundReport,
    settled_at: Option<Timestamp>,
) -> Result<(), LedgerError> {
    const SQL: &str = "-- refunds.store
        update refunds set state = $2, failure = $3, provider_refund_id = coalesce($4, provider_refund_id), settled_at = $5
        where refund_id = $1";
    let failure = match &report.verdict {
        RefundVerdict::Failed { reason } => Some(reason),
        _ => None,
    };
    let arguments: &[&(dyn tokio_postgres::types::ToSql + Sync)] =
        &[&refund.0, &state.as_str(), &failure, &report.provider_refund.as_ref().map(|id| &id.0), &settled_at];
    expect_rows("refunds.store", 1, tx.execute(&tx.prepare_cached(SQL).await?, arguments).await?)
}

/// Gone back to the buyer so far.
async fn settled_minor(tx: &Transaction<'_>, order: OrderId) -> Result<i64, LedgerError> {
    const SQL: &str = "-- refunds.settled
        select coalesce(sum(amount_minor), 0)::bigint from refunds where order_id = $1 and state = 'SUCCEEDED'";
    Ok(tx.query_one(SQL, &[&order.0]).await?.get(0))
}

/// The payment's state by what has gone back; due at once if another refund waits.
async fn stand_after_refunds(
    tx: &Transaction<'_>,
    order: OrderId,
    payment: &LockedPayment,
    now: Timestamp,
) -> Result<(), LedgerError> {
    const PENDING: &str = "-- refunds.any_pending
        select exists (select 1 from refunds where order_id = $1 and state = 'PENDING')";
    let is_pending: bool = tx.query_one(PENDING, &[&order.0]).await?.get(0);
    let refunded = Money::new(settled_minor(tx, order).await?, payment.amount.currency);
    let to = PaymentState::after_refunds(refunded, is_pending, payment.amount);
    move_payment(tx, order, payment, to, None, None, is_pending.then_some(now), now).await
}
