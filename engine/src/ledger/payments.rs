//! Payments: the one function that moves an order's money state, whoever brings the provider's word.
//!
//! [`Ledger::settle_payment`] needs no lease: it compares what the provider says with what we hold, and a second telling of
//! the same thing changes nothing.

use std::collections::{HashMap, HashSet};

use deadpool_postgres::Transaction;
use jiff::{SignedDuration, Timestamp};

use super::attempts::{AttemptEnd, end_attempts};
use super::drops::{inconsistent, read_drops};
use super::error::{LedgerError, expect_rows};
use super::locked_order::{
    LockedOrder, LockedPayment, UnitsWere, cancel, confirm, confirm_free, lock_order, lock_orders, lock_payment,
    lock_payments, lock_warehouses_of, lock_warehouses_of_all, money, move_payment, release,
};
use super::outbox;
use super::pool::Ledger;
use super::refunds::refund_late_money;
use super::tx::{by_index, planned, run_tx};
use crate::domain::ids::{BuyerId, DropId, IdempotencyKey, OrderId};
use crate::domain::money::Money;
use crate::domain::notices::Notice;
use crate::domain::orders::OrderEvent;
use crate::domain::payments::{
    AfterDecline, PaymentEvent, PaymentState, ProviderReport, Verdict, after_decline, ask_again,
};
use crate::domain::pricing::Totals;
use crate::domain::turns::{Turn, Work};
use crate::domain::whole_price::{Next, price, waits};

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
    /// The card was declined, and the buyer may give another one.
    MethodNeeded,
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
    /// The buyer has not saved a checkout profile.
    NoProfile,
    /// Their profile has no card.
    NoCard,
    /// Not there, or not his.
    NoSuchOrder,
    /// Nothing of its drop is sent to the address of the profile.
    NotServed,
    /// The order costs more than its buyer has agreed to, and waits for that.
    TotalNotAccepted {
        total: Money,
    },
}

/// What a buyer's agreement to an order's total did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TotalAccepted {
    Now,
    /// With the same key, earlier.
    Before,
    /// The key stood for another total.
    KeyReused,
    /// The order waits for no agreement.
    NotRequired,
    /// It costs another total.
    Changed {
        total: Money,
    },
    NoProfile,
    /// The buyer's profile has no card.
    NoCard,
    /// Not there, or not his.
    NoSuchOrder,
}

/// What an order costs, and what its buyer has agreed to.
struct Agreement {
    drop: Option<DropId>,
    has_address: bool,
    total: Money,
    agreed: Option<Money>,
    key: Option<String>,
}

impl Agreement {
    fn waits(&self) -> bool {
        self.has_address && self.agreed.is_some_and(|agreed| waits(self.total, agreed))
    }
}

/// Why an order failed that nobody gave a payment method for.
const NO_METHOD: &str = "no_payment_method";
/// Why one did whose buyer has not agreed to its total.
const NOT_ACCEPTED: &str = "total_not_accepted";

/// A capture that the provider told of.
#[derive(Clone)]
pub(super) struct CaptureCall {
    order: OrderId,
    report: ProviderReport,
    end: Option<AttemptEnd>,
    at: Timestamp,
}

impl Ledger {
    /// Takes the provider's word on an order: order, payment, stock, journal, outbox and history move together or not at all.
    /// `end`: how the call ended that brought it, if one did.
    pub async fn settle_payment(
        &self,
        order: OrderId,
        report: &ProviderReport,
        end: Option<&AttemptEnd>,
        now: Timestamp,
    ) -> Result<PaymentSettled, LedgerError> {
        if let Verdict::Captured { .. } = &report.verdict {
            let call = CaptureCall { order, report: report.clone(), end: end.cloned(), at: now };
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
            // Somebody else has the lease: then the end of this call is theirs to find out. The provider's word counts.
            if let Some(end) = end.filter(|end| end.lease == payment.lease) {
                end_attempts(tx, &[(order.0, end, now)]).await?;
            }
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
                Verdict::Declined { .. } if payment.state == PaymentState::CancelRequested => {
                    cancel_next(tx, order, &payment, now, now).await
                }
                Verdict::Declined { code } => {
                    let terms = decline_terms(tx, order).await?;
                    let grace = terms.grace.unwrap_or(self.decline_grace);
                    let is_cancel_asked = found.cancel_asked.is_some();
                    let after = after_decline(grace, terms.pay_by, terms.tried, is_cancel_asked, now);
                    let event = match after {
                        AfterDecline::WaitUntil(_) => PaymentEvent::MethodNeeded,
                        AfterDecline::End => PaymentEvent::Declined,
                    };
                    // A late decline never undoes what came after it.
                    let Ok(to) = payment.state.apply(event) else { return Ok(PaymentSettled::NoChange) };
                    let AfterDecline::WaitUntil(until) = after else {
                        move_payment(tx, order, &payment, to, Some(code), None, Some(now), now).await?;
                        return Ok(PaymentSettled::CancelNext);
                    };
                    move_payment(tx, order, &payment, to, Some(code), None, None, now).await?;
                    keep_until(tx, order, until, now).await?;
                    let notice = Notice::PaymentMethodRequired { reason: code.clone(), attempt: terms.confirms };
                    outbox::enqueue(tx, order, &notice, now).await?;
                    Ok(PaymentSettled::MethodNeeded)
                }
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
                        let until = now.checked_add(self.bank_within).unwrap_or(Timestamp::MAX);
                        keep_until(tx, order, until, now).await?;
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
            where p.order_id = any($1) and p.order_id = c.order_id and p.state = c.from_state
            returning p.order_id";
        let ids = calls.iter().map(|call| call.order.0).collect::<Vec<_>>();
        let now = calls.iter().map(|call| call.at).max().unwrap_or(Timestamp::MIN);
        let confirmed = run_tx!(self, "payments.capture", tx, {
            by_index(tx, async {
                let orders = lock_orders(tx, &ids).await?;
                let payments = lock_payments(tx, &ids).await?;
                // Of an order told of twice, the first is taken here.
                let mut first = HashMap::new();
                for call in &calls {
                    first.entry(call.order).or_insert(call);
                }
                let mut ends = Vec::new();
                let plain = orders.iter().zip(&payments).filter_map(|(order, payment)| {
                    let call = *first.get(&order.id)?;
                    let to = plain_capture(order, payment, &call.report)?;
                    // As in `settle_payment`.
                    let end = call.end.as_ref().filter(|end| end.lease == payment.lease);
                    ends.extend(end.map(|end| (order.id.0, end, now)));
                    Some((order, payment.state.as_str(), to.as_str(), charge_of(&call.report)))
                });
                let plain = plain.collect::<Vec<_>>();
                if !plain.is_empty() {
                    end_attempts(tx, &ends).await?;
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
            })
            .await
        })?;
        let mut confirmed = confirmed;
        // The second is told by itself that it was so already.
        Ok(calls.iter().map(|call| Ok(confirmed.remove(&call.order).then_some(PaymentSettled::Confirmed))).collect())
    }

    /// Orders whose buyer has not given a payment method, or not acted, and which are kept for them no longer, with their
    /// drops. Each has a time of its own, or its drop's.
    pub async fn unpaid_past_due(
        &self,
        now: Timestamp,
        limit: i64,
    ) -> Result<Vec<(Option<DropId>, OrderId)>, LedgerError> {
        const SQL: &str = "-- payments.unpaid_past_due
            (select o.drop_id, p.order_id from payments p join orders o using (order_id) join drops d using (drop_id)
             where p.state in ('REQUIRED', 'METHOD_REQUIRED', 'ACTION_REQUIRED') and o.pay_by is null and d.pay_by <= $1
             limit $2)
            union
            (select o.drop_id, p.order_id from orders o join payments p using (order_id)
             where o.status = 'PENDING_PAYMENT' and o.pay_by <= $1
                   and p.state in ('REQUIRED', 'METHOD_REQUIRED', 'ACTION_REQUIRED') limit $2)
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
            set state = m.to_state, failure = coalesce(m.failure, p.failure), due_at = m.due_at, leased_until = null, tries = 0, updated_at = $6,
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
            const WAITING: &str = "-- payments.waiting_for_agreement
                select order_id from orders where order_id = any($1) and ship_to is not null
                                                  and accepted_total_minor < total_minor";
            let waiting = planned(tx, WAITING, &[&ids]).await?;
            let waiting = waiting.iter().map(|row| OrderId(row.get(0))).collect::<HashSet<_>>();
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
                why.push(match state {
                    PaymentState::Required if waiting.contains(&order.id) => Some(NOT_ACCEPTED),
                    PaymentState::Required => Some(NO_METHOD),
                    // Why its card was declined is known.
                    PaymentState::MethodRequired => None,
                    _ => Some("action_not_taken"),
                });
                due.push(if is_over { None } else { Some(now) });
                over.extend(is_over.then_some(order));
            }
            let turn = Turn::of(Work::Begun).number();
            let changed = planned(tx, MOVE, &[&moved, &from, &to, &why, &due, /* now */ &now, &turn]).await?;
            expect_rows("payments.expire", moved.len() as u64, changed.len() as u64)?;
            let (waited, unpaid): (Vec<_>, Vec<_>) = over.into_iter().partition(|order| waiting.contains(&order.id));
            for (orders, reason, code) in [
                (unpaid, "no payment method was given in time", NO_METHOD),
                (waited, "its total was not agreed to in time", NOT_ACCEPTED),
            ] {
                if !orders.is_empty() {
                    release(tx, &orders, reason, code, now).await?;
                }
            }
            Ok(moved.len())
        })
    }

    /// Gives a payment that waits for a method the one of the buyer's profile, and remembers under which key. An order
    /// of a drop that had no address is priced for the profile's.
    pub async fn use_profile(
        &self,
        order: OrderId,
        buyer: &BuyerId,
        key: &IdempotencyKey,
        now: Timestamp,
    ) -> Result<MethodGiven, LedgerError> {
        run_tx!(self, "payments.use_profile", tx, {
            let Some(mut agreement) = lock_owned(tx, order, buyer).await? else {
                return Ok(MethodGiven::NoSuchOrder);
            };
            let payment = lock_payment(tx, order).await?;
            const KNOWN: &str = "-- payments.known_method_key
                select 1 from payments where order_id = $1 and method_key = $2";
            if tx.query_opt(KNOWN, &[&order.0, &key.as_str()]).await?.is_some() {
                return Ok(MethodGiven::Before);
            }
            if payment.state.apply(PaymentEvent::MethodGiven).is_err() {
                return Ok(MethodGiven::NotRequired);
            }
            if let Some(drop) = agreement.drop.filter(|_| !agreement.has_address) {
                match price_for_profile(tx, order, drop, buyer, &agreement, now).await? {
                    PricedForProfile::Total(total) => {
                        (agreement.total, agreement.has_address) = (total, true);
                    }
                    PricedForProfile::NoProfile => return Ok(MethodGiven::NoProfile),
                    PricedForProfile::NotServed => return Ok(MethodGiven::NotServed),
                }
            }
            let total = agreement.total;
            if agreement.waits() {
                return Ok(MethodGiven::TotalNotAccepted { total });
            }
            Ok(match begin(tx, order, &payment, total, buyer, Some(key), now).await? {
                Begun::Now => MethodGiven::Now,
                Begun::NoProfile => MethodGiven::NoProfile,
                Begun::NoCard => MethodGiven::NoCard,
            })
        })
    }

    /// Takes a buyer's agreement to an order that costs more than they had agreed to, and remembers under which key.
    /// From then on it is charged.
    pub async fn accept_total(
        &self,
        order: OrderId,
        buyer: &BuyerId,
        key: &IdempotencyKey,
        accepted: Money,
        now: Timestamp,
    ) -> Result<TotalAccepted, LedgerError> {
        run_tx!(self, "payments.accept_total", tx, keep if TotalAccepted::Now, {
            let Some(agreement) = lock_owned(tx, order, buyer).await? else {
                return Ok(TotalAccepted::NoSuchOrder);
            };
            let payment = lock_payment(tx, order).await?;
            if agreement.key.as_deref() == Some(key.as_str()) {
                let is_same = agreement.agreed == Some(accepted);
                return Ok(if is_same { TotalAccepted::Before } else { TotalAccepted::KeyReused });
            }
            if payment.state.apply(PaymentEvent::MethodGiven).is_err() || !agreement.waits() {
                return Ok(TotalAccepted::NotRequired);
            }
            let total = agreement.total;
            if accepted != total {
                return Ok(TotalAccepted::Changed { total });
            }
            const ACCEPT: &str = "-- payments.accept_total
                update orders set accepted_total_minor = total_minor, accept_key = $2, updated_at = $3
                where order_id = $1";
            tx.execute(ACCEPT, &[&order.0, &key.as_str(), /* now */ &now]).await?;
            Ok(match begin(tx, order, &payment, total, buyer, None, now).await? {
                Begun::Now => TotalAccepted::Now,
                Begun::NoProfile => TotalAccepted::NoProfile,
                Begun::NoCard => TotalAccepted::NoCard,
            })
        })
    }
}

/// Locks an order of this buyer. `None`: it is not there, or not theirs.
async fn lock_owned(tx: &Transaction<'_>, order: OrderId, buyer: &BuyerId) -> Result<Option<Agreement>, LedgerError> {
    const SQL: &str = "-- payments.lock_owned_order
        select drop_id, ship_to is not null, currency, total_minor, accepted_total_minor, accept_key
        from orders where order_id = $1 and buyer = $2 for update";
    let Some(row) = tx.query_opt(SQL, &[&order.0, &buyer.as_str()]).await? else { return Ok(None) };
    let amount = |minor| money(minor, row.get(2), order.0);
    Ok(Some(Agreement {
        drop: row.get::<_, Option<i32>>(0).map(DropId),
        has_address: row.get(1),
        total: amount(row.get(3))?,
        agreed: row.get::<_, Option<i64>>(4).map(amount).transpose()?,
        key: row.get(5),
    }))
}

/// What the address of a profile made of an order.
enum PricedForProfile {
    Total(Money),
    NoProfile,
    NotServed,
}

/// Prices an order of a drop for the address of its buyer's profile, which becomes its own.
async fn price_for_profile(
    tx: &Transaction<'_>,
    order: OrderId,
    drop: DropId,
    buyer: &BuyerId,
    agreement: &Agreement,
    now: Timestamp,
) -> Result<PricedForProfile, LedgerError> {
    const PROFILE: &str = "-- payments.address_of
        select email, ship_to, coalesce(ship_to ->> 'country', '') from checkout_profiles where buyer = $1";
    const ITEM: &str = "-- payments.item_of
        select unit_price_minor, quantity from order_items where order_id = $1 and line = 1";
    const ORDER: &str = "-- payments.price_order
        update orders set subtotal_minor = $2, tax_minor = $3, shipping_minor = $4, total_minor = $5,
                          tax_basis_points = $6, shipping_tax_basis_points = $7, email = $8, ship_to = $9, updated_at = $10
        where order_id = $1";
    const PAYMENT: &str = "-- payments.price_payment
        update payments set amount_minor = $2, updated_at = $3 where order_id = $1";
    let Some(profile) = tx.query_opt(PROFILE, &[&buyer.as_str()]).await? else {
        return Ok(PricedForProfile::NoProfile);
    };
    let (email, ship_to): (&str, serde_json::Value) = (profile.get(0), profile.get(1));
    let terms = read_drops(tx, "d.drop_id = $1", &[&drop.0]).await?.pop().map(|drop| drop.terms);
    let terms = terms.ok_or_else(|| inconsistent("orders", "drop_id", order, "no drop"))?;
    let item = tx.query_one(ITEM, &[&order.0]).await?;
    let unit_price = Money::new(item.get(0), agreement.total.currency);
    let priced = price(&terms, unit_price, item.get::<_, i32>(1).cast_unsigned(), Some(profile.get(2)), None);
    let Some(priced) = priced else { return Ok(PricedForProfile::NotServed) };
    let priced = priced.map_err(|error| inconsistent("orders", "total_minor", order, &error.to_string()))?;
    if priced.next == Next::WaitsForAddress {
        return Ok(PricedForProfile::NotServed);
    }
    let Totals { subtotal, tax, shipping, total } = priced.totals;
    let arguments: &[&(dyn tokio_postgres::types::ToSql + Sync)] = &[
        &order.0,
        &subtotal.amount_minor,
        &tax.amount_minor,
        &shipping.amount_minor,
        &total.amount_minor,
        &priced.rate.tax_basis_points.cast_signed(),
        &priced.rate.shipping_tax().cast_signed(),
        &email,
        &ship_to,
        /* now */ &now,
    ];
    expect_rows("payments.price_order", 1, tx.execute(ORDER, arguments).await?)?;
    let changed = tx.execute(PAYMENT, &[&order.0, &total.amount_minor, /* now */ &now]).await?;
    expect_rows("payments.price_payment", 1, changed)?;
    Ok(PricedForProfile::Total(total))
}

/// Whether a payment begins.
enum Begun {
    Now,
    NoProfile,
    NoCard,
}

/// Has an order charged with its buyer's saved method, or confirmed, if it costs nothing.
async fn begin(
    tx: &Transaction<'_>,
    order: OrderId,
    payment: &LockedPayment,
    total: Money,
    buyer: &BuyerId,
    key: Option<&IdempotencyKey>,
    now: Timestamp,
) -> Result<Begun, LedgerError> {
    const METHOD: &str = "-- payments.use_profile
        update payments p
        set state = $2, payment_method = case when $7 then c.payment_method end,
            due_at = case when $7 then $3::timestamptz end, updated_at = $3, method_key = coalesce($6, method_key)
        from checkout_profiles c
        where p.order_id = $1 and c.buyer = $4 and p.state = $5 and (not $7 or c.payment_method <> 'no_payment_method')";
    // An address that was priced stays.
    const ADDRESS: &str = "-- payments.use_profile_address
        update orders o
        set email = coalesce(o.email, c.email), ship_to = coalesce(o.ship_to, c.ship_to), updated_at = $3
        from checkout_profiles c where o.order_id = $1 and c.buyer = $2";
    let is_charged = total.amount_minor > 0;
    let event = if is_charged { PaymentEvent::MethodGiven } else { PaymentEvent::NothingToPay };
    let to = payment.state.apply(event);
    let to = to.map_err(|error| inconsistent("payments", "state", order, &error.to_string()))?;
    let arguments: &[&(dyn tokio_postgres::types::ToSql + Sync)] = &[
        &order.0,
        &to.as_str(),
        /* now */ &now,
        &buyer.as_str(),
        /* from */ &payment.state.as_str(),
        &key.map(IdempotencyKey::as_str),
        &is_charged,
    ];
    if tx.execute(METHOD, arguments).await? == 0 {
        const SAVED: &str = "-- payments.has_profile
            select 1 from checkout_profiles where buyer = $1";
        let is_saved = tx.query_opt(SAVED, &[&buyer.as_str()]).await?.is_some();
        return Ok(if is_saved { Begun::NoCard } else { Begun::NoProfile });
    }
    let changed = tx.execute(ADDRESS, &[&order.0, &buyer.as_str(), /* now */ &now]).await?;
    expect_rows("payments.use_profile_address", 1, changed)?;
    if !is_charged {
        confirm_free(tx, &[order.0], now).await?;
    }
    Ok(Begun::Now)
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

/// The units wait so long at most, for the buyer or for their bank, whatever else the order had time for.
async fn keep_until(tx: &Transaction<'_>, order: OrderId, until: Timestamp, now: Timestamp) -> Result<(), LedgerError> {
    const SQL: &str = "-- payments.keep_until
        update orders o set pay_by = least(coalesce(o.pay_by, (select d.pay_by from drops d where d.drop_id = o.drop_id)), $2),
                            updated_at = $3
        where order_id = $1";
    let changed = tx.execute(SQL, &[&order.0, /* until */ &until, /* now */ &now]).await?;
    expect_rows("payments.keep_until", 1, changed)
}

/// What decides how a decline ends.
struct DeclineTerms {
    /// The drop's. `None`: an order of goods.
    grace: Option<SignedDuration>,
    pay_by: Option<Timestamp>,
    /// Cards that a bank has seen.
    tried: u32,
    /// Confirms, also those that never reached a bank.
    confirms: u32,
}

async fn decline_terms(tx: &Transaction<'_>, order: OrderId) -> Result<DeclineTerms, LedgerError> {
    const SQL: &str = "-- payments.decline_terms
        select d.decline_grace_seconds, coalesce(o.pay_by, d.pay_by),
               a.tried, a.confirms
        from orders o left join drops d using (drop_id),
             lateral (select count(*) filter (where a.state <> 'REJECTED') as tried, count(*) as confirms
                      from payment_attempts a where a.order_id = o.order_id and a.operation = 'confirm') a
        where o.order_id = $1";
    let row = tx.query_one(&tx.prepare_cached(SQL).await?, &[&order.0]).await?;
    Ok(DeclineTerms {
        grace: row.get::<_, Option<i32>>(0).map(|seconds| SignedDuration::from_secs(seconds.into())),
        pay_by: row.get(1),
        tried: row.get::<_, i64>(2) as u32,
        confirms: row.get::<_, i64>(3) as u32,
    })
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
