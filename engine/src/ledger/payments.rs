//! Payments: the one function that moves an order's money state, whoever brings the provider's word.
//!
//! [`Ledger::settle_payment`] needs no lease: it compares what the provider says with what we hold, and a second telling of
//! the same thing changes nothing.

use std::collections::{HashMap, HashSet};

use deadpool_postgres::Transaction;
use jiff::{SignedDuration, Timestamp};

use super::error::{LedgerError, expect_rows};
use super::locked_order::{
    LockedOrder, LockedPayment, UnitsWere, cancel, confirm, lock_order, lock_orders, lock_payment, lock_payments,
    lock_warehouses_of, lock_warehouses_of_all, move_payment, release,
};
use super::outbox;
use super::pool::Ledger;
use super::refunds::refund_late_money;
use super::tx::{planned, run_tx};
use crate::domain::ids::{BuyerId, DropId, IdempotencyKey, OrderId};
use crate::domain::notices::Notice;
use crate::domain::orders::OrderEvent;
use crate::domain::payments::{PaymentEvent, PaymentState, ProviderReport, Verdict, ask_again};
use crate::domain::turns::{Turn, Work};

/// How soon, at the earliest, the provider is asked again about a payment that waits for the buyer or for it.
const ASK_AGAIN: SignedDuration = SignedDuration::from_secs(60);
/// How late, at the latest, about one that waits for the buyer: he may have acted, and its event may have been lost.
const ASK_AGAIN_FOR_BUYER: SignedDuration = SignedDuration::from_mins(5);

/// What settling a report did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PaymentSettled {
    Confirmed,
    /// The order failed or was cancelled, and its units are granted back.
    Released,
    /// Money was taken for an order that has ended: it goes back.
    Refunding,
    /// The intent must now be canceled at the provider.
    CancelNext,
    /// The buyer or the provider has to move.
    Waiting,
    /// It was so already.
    NoChange,
    /// What the provider says cannot be true of this order. A person must look.
    Review(String),
}

/// What giving a payment method to an order did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MethodGiven {
    Now,
    /// With the same key, earlier.
    Before,
    /// The payment waits for none.
    NotRequired,
    /// The buyer has not saved a checkout profile, or none with a card.
    NoProfile,
    /// Not there, or not his.
    NoSuchOrder,
}

/// Why an order failed that nobody gave a payment method for.
const NO_METHOD: &str = "no_payment_method";

/// A capture that the provider told of.
#[derive(Clone)]
pub(super) struct CaptureCall {
    order: OrderId,
    report: ProviderReport,
    at: Timestamp,
}

impl Ledger {
    /// Takes the provider's word on an order: order, payment, stock, journal, outbox and history move together or not at all.
    pub async fn settle_payment(
        &self,
        order: OrderId,
        report: &ProviderReport,
        now: Timestamp,
    ) -> Result<PaymentSettled, LedgerError> {
        if let Verdict::Captured { .. } = &report.verdict {
            let call = CaptureCall { order, report: report.clone(), at: now };
            if let Some(settled) = self.captures.make(call, |calls| self.capture_all(calls)).await? {
                return Ok(settled);
            }
        }
        run_tx!(self, "payments.settle_payment", tx, {
            if report.verdict == Verdict::Canceled {
                lock_warehouses_of(tx, order).await?;
            }
            let found = lock_order(tx, order).await?;
            let payment = lock_payment(tx, order).await?;
            if let Some(reason) = contradiction(report, order, &payment) {
                return review(tx, order, &payment, reason, now).await;
            }
            match &report.verdict {
                Verdict::Captured { .. } if payment.state.was_paid() => Ok(PaymentSettled::NoChange),
                Verdict::Captured { charge } if payment.state.apply(PaymentEvent::LateMoney).is_ok() => {
                    store_charge(tx, order, charge.as_deref()).await?;
                    let why = ("payments", "money was taken after the order had ended");
                    refund_late_money(tx, &found, &payment, why, now).await?;
                    Ok(PaymentSettled::Refunding)
                }
                Verdict::Captured { charge } => {
                    let Ok(to) = payment.state.apply(PaymentEvent::Succeeded) else {
                        let reason = format!("captured while the payment is {}", payment.state.as_str());
                        return review(tx, order, &payment, reason, now).await;
                    };
                    move_payment(tx, order, &payment, to, None, charge.as_deref(), None, now).await?;
                    let Some((actor, reason)) = &found.cancel_asked else {
                        confirm(tx, &[&found], now).await?;
                        return Ok(PaymentSettled::Confirmed);
                    };
                    // The charge was faster than the buyer's wish. Out of the order of locks, which is rare enough for the
                    // retry of a deadlock.
                    lock_warehouses_of(tx, order).await?;
                    cancel(tx, &found, UnitsWere::Reserved, true, (actor, reason), now).await?;
                    let payment = LockedPayment { state: to, ..payment };
                    refund_late_money(tx, &found, &payment, (actor, reason), now).await?;
                    Ok(PaymentSettled::Refunding)
                }
                Verdict::Declined { code } => match payment.state.apply(PaymentEvent::Declined) {
                    Ok(to) => {
                        move_payment(tx, order, &payment, to, Some(code), None, Some(now), now).await?;
                        Ok(PaymentSettled::CancelNext)
                    }
                    Err(_) if payment.state == PaymentState::CancelRequested => {
                        cancel_next(tx, order, &payment, now, now).await
                    }
                    // A late decline never undoes what came after it.
                    Err(_) => Ok(PaymentSettled::NoChange),
                },
                // The buyer need not act any more.
                Verdict::ActionRequired if payment.state == PaymentState::CancelRequested => {
                    cancel_next(tx, order, &payment, now, now).await
                }
                // The provider lets nobody cancel what it works on.
                Verdict::Processing if payment.state == PaymentState::CancelRequested => {
                    let again = now.checked_add(ASK_AGAIN).unwrap_or(Timestamp::MAX);
                    cancel_next(tx, order, &payment, again, now).await
                }
                Verdict::ActionRequired | Verdict::Processing => {
                    let event = match report.verdict {
                        Verdict::Processing => PaymentEvent::Processing,
                        _ => PaymentEvent::ActionRequired,
                    };
                    let to = payment.state.apply(event).unwrap_or(payment.state);
                    if to == payment.state {
                        wait_on(tx, order, &payment, now).await?;
                    } else {
                        let again = now.checked_add(ASK_AGAIN).unwrap_or(Timestamp::MAX);
                        move_payment(tx, order, &payment, to, None, None, Some(again), now).await?;
                    }
                    if to == PaymentState::ActionRequired && payment.state != to {
                        keep_for_bank(tx, order, self.bank_within, now).await?;
                        outbox::enqueue(tx, order, &Notice::PaymentActionRequired, now).await?;
                    }
                    Ok(PaymentSettled::Waiting)
                }
                Verdict::Canceled => {
                    let event = match &found.cancel_asked {
                        Some(_) => PaymentEvent::CancelConfirmed,
                        None => PaymentEvent::IntentCanceled,
                    };
                    let Ok(to) = payment.state.apply(event) else { return Ok(PaymentSettled::NoChange) };
                    move_payment(tx, order, &payment, to, None, None, None, now).await?;
                    match &found.cancel_asked {
                        Some((actor, reason)) => {
                            cancel(tx, &found, UnitsWere::Reserved, false, (actor, reason), now).await?;
                        }
                        None => {
                            let reason = payment.failure.as_deref().unwrap_or("the payment was canceled");
                            release(tx, &[&found], reason, reason, now).await?;
                        }
                    }
                    Ok(PaymentSettled::Released)
                }
            }
        })
    }

    /// Confirms orders whose money is there and of which nothing else is to be said, in one transaction: most of a drop's.
    /// `None` for every other one, which [`Self::settle_payment`] then takes by itself.
    async fn capture_all(
        &self,
        calls: Vec<CaptureCall>,
    ) -> Result<Vec<Result<Option<PaymentSettled>, LedgerError>>, LedgerError> {
        const CAPTURED: &str = "-- payments.captured
            update payments p
            set state = c.to_state, provider_charge_id = coalesce(c.charge, provider_charge_id), failure = null,
                due_at = null, leased_until = null, tries = 0, updated_at = $5
            from unnest($1::uuid[], $2::text[], $3::text[], $4::text[]) as c (order_id, from_state, to_state, charge)
            where p.order_id = c.order_id and p.state = c.from_state
            returning p.order_id";
        let ids = calls.iter().map(|call| call.order.0).collect::<Vec<_>>();
        let now = calls.iter().map(|call| call.at).max().unwrap_or(Timestamp::MIN);
        let confirmed = run_tx!(self, "payments.capture", tx, {
            let orders = lock_orders(tx, &ids).await?;
            let payments = lock_payments(tx, &ids).await?;
            // Of an order told of twice, the first is taken here.
            let mut reports = HashMap::new();
            for call in &calls {
                reports.entry(call.order).or_insert(&call.report);
            }
            let plain = orders.iter().zip(&payments).filter_map(|(order, payment)| {
                let report = *reports.get(&order.id)?;
                let to = plain_capture(order, payment, report)?;
                Some((order, payment.state.as_str(), to.as_str(), charge_of(report)))
            });
            let plain = plain.collect::<Vec<_>>();
            if !plain.is_empty() {
                let of = plain.iter().map(|(order, ..)| order.id.0).collect::<Vec<_>>();
                let from = plain.iter().map(|(_, from, ..)| *from).collect::<Vec<_>>();
                let to = plain.iter().map(|(_, _, to, _)| *to).collect::<Vec<_>>();
                let charges = plain.iter().map(|(.., charge)| *charge).collect::<Vec<_>>();
                let moved = planned(tx, CAPTURED, &[&of, &from, &to, &charges, /* now */ &now]).await?;
                expect_rows("payments.captured", of.len() as u64, moved.len() as u64)?;
                let orders = plain.iter().map(|(order, ..)| *order).collect::<Vec<_>>();
                confirm(tx, &orders, now).await?;
            }
            Ok(plain.iter().map(|(order, ..)| order.id).collect::<HashSet<_>>())
        })?;
        let mut confirmed = confirmed;
        // The second is told by itself that it was so already.
        Ok(calls.iter().map(|call| Ok(confirmed.remove(&call.order).then_some(PaymentSettled::Confirmed))).collect())
    }

    /// Orders whose buyer has not given a payment method, or not acted, and which are kept for them no longer, with their
    /// drops: a drop's order by its drop, a cart's by itself, and what waits for a bank by itself too.
    pub async fn unpaid_past_due(
        &self,
        now: Timestamp,
        limit: i64,
    ) -> Result<Vec<(Option<DropId>, OrderId)>, LedgerError> {
        const SQL: &str = "-- payments.unpaid_past_due
            (select o.drop_id, p.order_id from payments p join orders o using (order_id) join drops d using (drop_id)
             where p.state in ('REQUIRED', 'ACTION_REQUIRED') and d.pay_by <= $1 limit $2)
            union
            (select o.drop_id, p.order_id from orders o join payments p using (order_id)
             where o.status = 'PENDING_PAYMENT' and o.pay_by <= $1 and p.state in ('REQUIRED', 'ACTION_REQUIRED') limit $2)
            limit $2";
        let connection = self.connection().await?;
        let rows = connection.query(SQL, &[/* now */ &now, &limit]).await?;
        Ok(rows.iter().map(|row| (row.get::<_, Option<i32>>(0).map(DropId), OrderId(row.get(1)))).collect())
    }

    /// Ends orders of one drop, or of none, whose buyers were too late: all in one transaction. Without a payment method
    /// nothing was ever sent, so nothing can be captured and the units go back; where a buyer was asked to act, the intent is
    /// canceled first. Answers how many end now, or are being canceled: an order that somebody has paid for meanwhile does not.
    pub async fn expire_unpaid(&self, orders: &[OrderId], now: Timestamp) -> Result<usize, LedgerError> {
        const MOVE: &str = "-- payments.expire
            update payments p
            set state = m.to_state, failure = m.failure, due_at = m.due_at, leased_until = null, tries = 0, updated_at = $6,
                turn = $7
            from unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::timestamptz[])
                 as m (order_id, from_state, to_state, failure, due_at)
            where p.order_id = m.order_id and p.state = m.from_state
            returning 1";
        let ids = orders.iter().map(|order| order.0).collect::<Vec<_>>();
        run_tx!(self, "payments.expire_unpaid", tx, {
            lock_warehouses_of_all(tx, &ids).await?;
            let found = lock_orders(tx, &ids).await?;
            let payments = lock_payments(tx, &ids).await?;
            let states = payments.iter().map(|payment| (payment.order, payment.state)).collect::<HashMap<_, _>>();
            let (mut moved, mut from, mut to, mut why, mut due) = (Vec::new(), vec![], vec![], vec![], Vec::new());
            let mut over = Vec::new();
            for order in &found {
                let Some(state) = states.get(&order.id) else { continue };
                let Ok(next) = state.apply(PaymentEvent::Expired) else { continue };
                let is_over = next != PaymentState::CancelRequested;
                moved.push(order.id.0);
                from.push(state.as_str());
                to.push(next.as_str());
                why.push(if is_over { NO_METHOD } else { "action_not_taken" });
                due.push(if is_over { None } else { Some(now) });
                over.extend(is_over.then_some(order));
            }
            let turn = Turn::of(Work::Begun).number();
            let changed = planned(tx, MOVE, &[&moved, &from, &to, &why, &due, /* now */ &now, &turn]).await?;
            expect_rows("payments.expire", moved.len() as u64, changed.len() as u64)?;
            release(tx, &over, "no payment method was given in time", NO_METHOD, now).await?;
            Ok(moved.len())
        })
    }

    /// Gives a payment that waits for a method the one of the buyer's profile, and remembers under which key.
    pub async fn use_profile(
        &self,
        order: OrderId,
        buyer: &BuyerId,
        key: &IdempotencyKey,
        now: Timestamp,
    ) -> Result<MethodGiven, LedgerError> {
        run_tx!(self, "payments.use_profile", tx, {
            const OWNED: &str = "-- payments.lock_owned_order
                select 1 from orders where order_id = $1 and buyer = $2 for update";
            if tx.query_opt(OWNED, &[&order.0, &buyer.as_str()]).await?.is_none() {
                return Ok(MethodGiven::NoSuchOrder);
            }
            let payment = lock_payment(tx, order).await?;
            const KNOWN: &str = "-- payments.known_method_key
                select 1 from payments where order_id = $1 and method_key = $2";
            if tx.query_opt(KNOWN, &[&order.0, &key.as_str()]).await?.is_some() {
                return Ok(MethodGiven::Before);
            }
            let Ok(to) = payment.state.apply(PaymentEvent::MethodGiven) else {
                return Ok(MethodGiven::NotRequired);
            };
            const METHOD: &str = "-- payments.use_profile
                update payments p
                set state = $2, payment_method = c.payment_method, due_at = $3, updated_at = $3, method_key = $6
                from checkout_profiles c
                where p.order_id = $1 and c.buyer = $4 and p.state = $5 and c.payment_method <> 'no_payment_method'";
            let from = payment.state.as_str();
            let arguments: &[&(dyn tokio_postgres::types::ToSql + Sync)] =
                &[&order.0, &to.as_str(), /* now */ &now, &buyer.as_str(), /* from */ &from, &key.as_str()];
            if tx.execute(METHOD, arguments).await? == 0 {
                return Ok(MethodGiven::NoProfile);
            }
            // An address that was priced stays.
            const ADDRESS: &str = "-- payments.use_profile_address
                update orders o
                set email = coalesce(o.email, c.email), ship_to = coalesce(o.ship_to, c.ship_to), updated_at = $3
                from checkout_profiles c where o.order_id = $1 and c.buyer = $2";
            let changed = tx.execute(ADDRESS, &[&order.0, &buyer.as_str(), /* now */ &now]).await?;
            expect_rows("payments.use_profile_address", 1, changed)?;
            Ok(MethodGiven::Now)
        })
    }
}

/// The state of a payment whose capture confirms its order and does nothing else.
fn plain_capture(order: &LockedOrder, payment: &LockedPayment, report: &ProviderReport) -> Option<PaymentState> {
    let is_plain = order.id == payment.order
        && order.cancel_asked.is_none()
        && !payment.state.was_paid()
        && payment.state.apply(PaymentEvent::LateMoney).is_err()
        && contradiction(report, order.id, payment).is_none()
        && order.status.apply(OrderEvent::Paid).is_ok();
    if is_plain { payment.state.apply(PaymentEvent::Succeeded).ok() } else { None }
}

fn charge_of(report: &ProviderReport) -> Option<&str> {
    match &report.verdict {
        Verdict::Captured { charge } => charge.as_deref(),
        _ => None,
    }
}

/// Why this report cannot be about this payment.
fn contradiction(report: &ProviderReport, order: OrderId, payment: &LockedPayment) -> Option<String> {
    if payment.intent.as_ref() != Some(&report.intent) {
        return Some(format!("intent {} is not the one of this order", report.intent.0));
    }
    if report.order != Some(order) {
        return Some(format!("intent {} names another order", report.intent.0));
    }
    if report.amount != payment.amount {
        return Some(format!("intent {} is about {} and not {}", report.intent.0, report.amount, payment.amount));
    }
    None
}

/// It waits as before; the provider is asked ever more rarely.
async fn wait_on(
    tx: &Transaction<'_>,
    order: OrderId,
    payment: &LockedPayment,
    now: Timestamp,
) -> Result<(), LedgerError> {
    const SQL: &str = "-- payments.wait_on
        update payments set due_at = $2, leased_until = null where order_id = $1 and state = $3";
    let wait = match payment.state {
        PaymentState::Processing => ask_again(payment.tries).max(ASK_AGAIN),
        PaymentState::ActionRequired => ask_again(payment.tries).clamp(ASK_AGAIN, ASK_AGAIN_FOR_BUYER),
        // Whatever it is, it does not wait for this.
        _ => return Ok(()),
    };
    let due_at = now.checked_add(wait).unwrap_or(Timestamp::MAX);
    let changed = tx.execute(SQL, &[&order.0, /* due_at */ &due_at, &payment.state.as_str()]).await?;
    expect_rows("payments.wait_on", 1, changed)
}

/// The units wait for the buyer's bank so long at most, whatever else the order had time for.
async fn keep_for_bank(
    tx: &Transaction<'_>,
    order: OrderId,
    within: SignedDuration,
    now: Timestamp,
) -> Result<(), LedgerError> {
    const SQL: &str = "-- payments.keep_for_bank
        update orders set pay_by = least(pay_by, $2), updated_at = $3 where order_id = $1";
    let until = now.checked_add(within).unwrap_or(Timestamp::MAX);
    let changed = tx.execute(SQL, &[&order.0, /* until */ &until, /* now */ &now]).await?;
    expect_rows("payments.keep_for_bank", 1, changed)
}

/// The provider is to end the intent.
async fn cancel_next(
    tx: &Transaction<'_>,
    order: OrderId,
    payment: &LockedPayment,
    due_at: Timestamp,
    now: Timestamp,
) -> Result<PaymentSettled, LedgerError> {
    move_payment(tx, order, payment, PaymentState::CancelRequested, None, None, Some(due_at), now).await?;
    Ok(PaymentSettled::CancelNext)
}

async fn store_charge(tx: &Transaction<'_>, order: OrderId, charge: Option<&str>) -> Result<(), LedgerError> {
    const SQL: &str = "-- payments.store_charge
        update payments set provider_charge_id = coalesce($2, provider_charge_id) where order_id = $1";
    expect_rows("payments.store_charge", 1, tx.execute(SQL, &[&order.0, &charge]).await?)
}

async fn review(
    tx: &Transaction<'_>,
    order: OrderId,
    payment: &LockedPayment,
    reason: String,
    now: Timestamp,
) -> Result<PaymentSettled, LedgerError> {
    if let Ok(to) = payment.state.apply(PaymentEvent::Contradiction) {
        move_payment(tx, order, payment, to, Some(&reason), None, None, now).await?;
    }
    Ok(PaymentSettled::Review(reason))
}
