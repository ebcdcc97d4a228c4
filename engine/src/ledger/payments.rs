//! Payments: leases, attempts, and the one function that moves an order's money state.
//!
//! A worker leases a payment, commits what it is about to send, sends it with no transaction open, and writes the answer only
//! if the lease number is still its own. [`Ledger::settle_payment`] needs no lease: it compares what the provider says
//! with what we hold, and a second telling of the same thing changes nothing.

use deadpool_postgres::Transaction;
use jiff::{SignedDuration, Timestamp};
use tokio_postgres::Row;
use uuid::Uuid;

use super::drops::{inconsistent, order_state, serial_values, serials};
use super::error::{LedgerError, expect_rows};
use super::grants;
use super::outbox;
use super::pool::Ledger;
use super::tx::run_tx;
use crate::domain::ids::{
    BuyerId, ClaimId, DropId, IdempotencyKey, IntentId, OrderId, PaymentMethodId, Serial, VariantNumber, WarehouseId,
};
use crate::domain::money::{Currency, Money};
use crate::domain::notices::Notice;
use crate::domain::orders::{OrderEvent, OrderState};
use crate::domain::payments::{AttemptState, PaymentEvent, PaymentState, ProviderReport, Verdict};

/// How long a payment that waits for the buyer or for the provider is left before the provider is asked again.
const ASK_AGAIN: SignedDuration = SignedDuration::from_secs(60);

/// A payment that this worker, and no other, may work on until the lease ends.
#[derive(Debug, Clone)]
pub struct LeasedPayment {
    pub order: OrderId,
    pub state: PaymentState,
    pub amount: Money,
    pub payment_method: Option<PaymentMethodId>,
    pub intent: Option<IntentId>,
    pub lease: i64,
    pub tries: i32,
    /// The one attempt that has not come to an end.
    pub open_attempt: Option<Attempt>,
    /// Attempts so far, by operation; they number the keys of the next ones.
    pub creates: u32,
    pub confirms: u32,
    pub cancels: u32,
}

/// One call to the provider with its exact bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    pub number: i32,
    pub operation: String,
    pub idempotency_key: String,
    pub path: String,
    pub body: String,
    pub state: AttemptState,
}

/// What settling a report did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PaymentSettled {
    Confirmed,
    /// The order failed and its units are granted back.
    Released,
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
    /// The buyer has not saved a checkout profile.
    NoProfile,
    /// Not there, or not his.
    NoSuchOrder,
}

impl Ledger {
    /// Leases up to `limit` payments that are due.
    pub async fn lease_payments(
        &self,
        now: Timestamp,
        lease: SignedDuration,
        limit: i64,
    ) -> Result<Vec<LeasedPayment>, LedgerError> {
        const SQL: &str = "-- payments.lease
            with due as (
                select order_id from payments
                where due_at <= $1 and state in ('IN_FLIGHT', 'UNKNOWN', 'CANCEL_REQUESTED', 'PROCESSING', 'ACTION_REQUIRED')
                      and (leased_until is null or leased_until <= $1)
                order by due_at limit $3 for update skip locked
            ), leased as (
                update payments p set lease_number = lease_number + 1, leased_until = $2, tries = tries + 1
                from due where p.order_id = due.order_id
                returning p.order_id, p.state, p.amount_minor, p.currency, p.payment_method, p.intent_id, p.lease_number, p.tries
            )
            select l.*, a.number, a.operation, a.idempotency_key, a.path, a.body, a.state, c.creates, c.confirms, c.cancels
            from leased l left join payment_attempts a
                 on a.order_id = l.order_id and a.state in ('PREPARED', 'DISPATCHED', 'NOT_SENT', 'UNKNOWN'),
                 lateral (select count(*) filter (where operation = 'create') as creates,
                                 count(*) filter (where operation = 'confirm') as confirms,
                                 count(*) filter (where operation = 'cancel') as cancels
                          from payment_attempts c where c.order_id = l.order_id) c";
        let until = now.checked_add(lease).unwrap_or(Timestamp::MAX);
        let connection = self.connection().await?;
        let statement = connection.prepare_cached(SQL).await?;
        let rows = connection.query(&statement, &[/* now */ &now, /* until */ &until, /* limit */ &limit]).await?;
        rows.iter().map(leased_from_row).collect()
    }

    /// Commits an attempt with its exact bytes; nothing has been sent yet.
    pub async fn prepare_attempt(
        &self,
        payment: &LeasedPayment,
        attempt: (&str, &str, &str, &str),
        now: Timestamp,
    ) -> Result<Attempt, LedgerError> {
        const SQL: &str = "-- payments.prepare_attempt
            insert into payment_attempts (order_id, number, operation, idempotency_key, path, body, state, prepared_at)
            select order_id, 1 + (select count(*) from payment_attempts a where a.order_id = p.order_id)::int,
                   $3, $4, $5, $6, 'PREPARED', $7
            from payments p where order_id = $1 and lease_number = $2 for update
            returning number";
        let (operation, key, path, body) = attempt;
        let connection = self.connection().await?;
        let statement = connection.prepare_cached(SQL).await?;
        let arguments: &[&(dyn tokio_postgres::types::ToSql + Sync)] =
            &[&payment.order.0, /* lease */ &payment.lease, &operation, &key, &path, &body, /* now */ &now];
        let rows = connection.query(&statement, arguments).await?;
        expect_rows("payments.prepare_attempt", 1, rows.len() as u64)?;
        Ok(Attempt {
            number: rows[0].get(0),
            operation: operation.to_owned(),
            idempotency_key: key.to_owned(),
            path: path.to_owned(),
            body: body.to_owned(),
            state: AttemptState::Prepared,
        })
    }

    /// Commits that the attempt is about to be sent. From here on the provider may have executed it.
    pub async fn dispatch_attempt(
        &self,
        payment: &LeasedPayment,
        attempt: &Attempt,
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        const SQL: &str = "-- payments.dispatch_attempt
            with mine as (select order_id from payments where order_id = $1 and lease_number = $2 for update)
            update payment_attempts a set state = 'DISPATCHED', dispatched_at = coalesce(dispatched_at, $4)
            from mine where a.order_id = mine.order_id and a.number = $3
                 and a.state in ('PREPARED', 'NOT_SENT', 'UNKNOWN', 'DISPATCHED')";
        let connection = self.connection().await?;
        let statement = connection.prepare_cached(SQL).await?;
        let arguments: &[&(dyn tokio_postgres::types::ToSql + Sync)] =
            &[&payment.order.0, /* lease */ &payment.lease, &attempt.number, /* now */ &now];
        expect_rows("payments.dispatch_attempt", 1, connection.execute(&statement, arguments).await?)
    }

    /// Writes how an attempt ended, if the lease is still ours. `intent` is stored if none was: by compare and set, so that
    /// only one intent is ever confirmed for an order.
    pub async fn finish_attempt(
        &self,
        payment: &LeasedPayment,
        attempt: &Attempt,
        state: AttemptState,
        detail: &str,
        intent: Option<&IntentId>,
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        const ATTEMPT: &str = "-- payments.finish_attempt
            with mine as (select order_id from payments where order_id = $1 and lease_number = $2 for update)
            update payment_attempts a set state = $4, detail = $5, finished_at = case when $6 then null else $7::timestamptz end
            from mine where a.order_id = mine.order_id and a.number = $3 and a.state in ('DISPATCHED', 'UNKNOWN')";
        const INTENT: &str = "-- payments.store_intent
            update payments set intent_id = $2, updated_at = $3
            where order_id = $1 and (intent_id is null or intent_id = $2)";
        run_tx!(self, "payments.finish_attempt", tx, {
            let statement = tx.prepare_cached(ATTEMPT).await?;
            let arguments: &[&(dyn tokio_postgres::types::ToSql + Sync)] = &[
                &payment.order.0,
                /* lease */ &payment.lease,
                &attempt.number,
                &state.as_str(),
                &detail,
                /* open */ &state.is_open(),
                /* now */ &now,
            ];
            expect_rows("payments.finish_attempt", 1, tx.execute(&statement, arguments).await?)?;
            if let Some(intent) = intent {
                let statement = tx.prepare_cached(INTENT).await?;
                let changed = tx.execute(&statement, &[&payment.order.0, &intent.0, /* now */ &now]).await?;
                expect_rows("payments.store_intent", 1, changed)?;
            }
            Ok(())
        })
    }

    /// Gives a leased payment back, to be looked at again at `due_at`, with the event that its state saw.
    pub async fn yield_payment(
        &self,
        payment: &LeasedPayment,
        event: Option<PaymentEvent>,
        failure: Option<&str>,
        due_at: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        const SQL: &str = "-- payments.yield
            update payments set state = $3, failure = coalesce($4, failure), due_at = $5, leased_until = null, updated_at = $6
            where order_id = $1 and lease_number = $2 and state = $7";
        run_tx!(self, "payments.yield", tx, {
            let locked = lock_payment(tx, payment.order).await?;
            let state = match event {
                // Another bearer of news may have been faster; then its word stands.
                Some(event) => locked.state.apply(event).unwrap_or(locked.state),
                None => locked.state,
            };
            let statement = tx.prepare_cached(SQL).await?;
            let arguments: &[&(dyn tokio_postgres::types::ToSql + Sync)] = &[
                &payment.order.0,
                /* lease */ &payment.lease,
                &state.as_str(),
                &failure,
                &due_at,
                /* now */ &now,
                /* from */ &locked.state.as_str(),
            ];
            expect_rows("payments.yield", 1, tx.execute(&statement, arguments).await?)
        })
    }

    /// Takes the provider's word on an order: order, payment, stock, journal, outbox and history move together or not at all.
    pub async fn settle_payment(
        &self,
        order: OrderId,
        report: &ProviderReport,
        now: Timestamp,
    ) -> Result<PaymentSettled, LedgerError> {
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
                Verdict::Captured { .. } if payment.state == PaymentState::Succeeded => Ok(PaymentSettled::NoChange),
                Verdict::Captured { charge } => {
                    let Ok(to) = payment.state.apply(PaymentEvent::Succeeded) else {
                        let reason = format!("captured while the payment is {}", payment.state.as_str());
                        return review(tx, order, &payment, reason, now).await;
                    };
                    move_payment(tx, order, &payment, to, None, charge.as_deref(), None, now).await?;
                    confirm(tx, &found, now).await?;
                    Ok(PaymentSettled::Confirmed)
                }
                Verdict::Declined { code } => match payment.state.apply(PaymentEvent::Declined) {
                    Ok(to) => {
                        move_payment(tx, order, &payment, to, Some(code), None, Some(now), now).await?;
                        Ok(PaymentSettled::CancelNext)
                    }
                    // A late decline never undoes what came after it.
                    Err(_) => Ok(PaymentSettled::NoChange),
                },
                Verdict::ActionRequired | Verdict::Processing => {
                    let event = match report.verdict {
                        Verdict::Processing => PaymentEvent::Processing,
                        _ => PaymentEvent::ActionRequired,
                    };
                    let to = payment.state.apply(event).unwrap_or(payment.state);
                    let again = now.checked_add(ASK_AGAIN).unwrap_or(Timestamp::MAX);
                    let again = matches!(to, PaymentState::Processing | PaymentState::ActionRequired).then_some(again);
                    if again.is_some() {
                        move_payment(tx, order, &payment, to, None, None, again, now).await?;
                    }
                    if to == PaymentState::ActionRequired && payment.state != to {
                        outbox::enqueue(tx, order, &Notice::PaymentActionRequired, now).await?;
                    }
                    Ok(PaymentSettled::Waiting)
                }
                Verdict::Canceled if payment.state == PaymentState::Failed => Ok(PaymentSettled::NoChange),
                Verdict::Canceled => match payment.state.apply(PaymentEvent::IntentCanceled) {
                    Ok(to) => {
                        move_payment(tx, order, &payment, to, None, None, None, now).await?;
                        let reason = payment.failure.as_deref().unwrap_or("the payment was canceled");
                        release(tx, &found, reason, reason, now).await?;
                        Ok(PaymentSettled::Released)
                    }
                    Err(_) => Ok(PaymentSettled::NoChange),
                },
            }
        })
    }

    /// Orders whose buyer has not given a payment method, or not acted, and whose drop waits no longer.
    pub async fn unpaid_past_due(&self, now: Timestamp, limit: i64) -> Result<Vec<OrderId>, LedgerError> {
        const SQL: &str = "-- payments.unpaid_past_due
            select p.order_id from payments p join orders o using (order_id) join drops d using (drop_id)
            where p.state in ('REQUIRED', 'ACTION_REQUIRED') and d.pay_by <= $1 limit $2";
        let connection = self.connection().await?;
        let rows = connection.query(SQL, &[/* now */ &now, &limit]).await?;
        Ok(rows.iter().map(|row| OrderId(row.get(0))).collect())
    }

    /// Ends an order whose buyer was too late. Without a payment method nothing was ever sent, so nothing can be captured and
    /// its units go back; where he was asked to act, the intent is canceled first.
    pub async fn expire_unpaid(&self, order: OrderId, now: Timestamp) -> Result<PaymentSettled, LedgerError> {
        run_tx!(self, "payments.expire_unpaid", tx, {
            lock_warehouses_of(tx, order).await?;
            let found = lock_order(tx, order).await?;
            let payment = lock_payment(tx, order).await?;
            let Ok(to) = payment.state.apply(PaymentEvent::Expired) else {
                return Ok(PaymentSettled::NoChange);
            };
            if to == PaymentState::CancelRequested {
                move_payment(tx, order, &payment, to, Some("action_not_taken"), None, Some(now), now).await?;
                return Ok(PaymentSettled::CancelNext);
            }
            move_payment(tx, order, &payment, to, Some("no_payment_method"), None, None, now).await?;
            release(tx, &found, "no payment method was given in time", "no_payment_method", now).await?;
            Ok(PaymentSettled::Released)
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
                from checkout_profiles c where p.order_id = $1 and c.buyer = $4 and p.state = $5";
            let from = payment.state.as_str();
            let arguments: &[&(dyn tokio_postgres::types::ToSql + Sync)] =
                &[&order.0, &to.as_str(), /* now */ &now, &buyer.as_str(), /* from */ &from, &key.as_str()];
            if tx.execute(METHOD, arguments).await? == 0 {
                return Ok(MethodGiven::NoProfile);
            }
            const ADDRESS: &str = "-- payments.use_profile_address
                update orders o set email = c.email, ship_to = c.ship_to, updated_at = $3
                from checkout_profiles c where o.order_id = $1 and c.buyer = $2";
            let changed = tx.execute(ADDRESS, &[&order.0, &buyer.as_str(), /* now */ &now]).await?;
            expect_rows("payments.use_profile_address", 1, changed)?;
            Ok(MethodGiven::Now)
        })
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

struct LockedPayment {
    state: PaymentState,
    amount: Money,
    intent: Option<IntentId>,
    failure: Option<String>,
}

struct LockedOrder {
    id: OrderId,
    buyer: BuyerId,
    drop: Option<DropId>,
    status: OrderState,
    currency: Currency,
    subtotal_minor: i64,
    tax_minor: i64,
    shipping_minor: i64,
}

struct Item {
    product: i32,
    variant_id: i32,
    variant: Option<VariantNumber>,
    warehouse: WarehouseId,
    quantity: i32,
    serials: Vec<Serial>,
}

/// Warehouses come before orders in the order of locks, and a held unit never changes its warehouse.
async fn lock_warehouses_of(tx: &Transaction<'_>, order: OrderId) -> Result<(), LedgerError> {
    const SQL: &str = "-- payments.lock_warehouses
        select 1 from warehouses where warehouse_id in (select warehouse_id from order_items where order_id = $1)
        order by warehouse_id for update";
    tx.query(&tx.prepare_cached(SQL).await?, &[&order.0]).await?;
    Ok(())
}

async fn lock_order(tx: &Transaction<'_>, order: OrderId) -> Result<LockedOrder, LedgerError> {
    const SQL: &str = "-- payments.lock_order
        select buyer, drop_id, status, currency, subtotal_minor, tax_minor, shipping_minor from orders
        where order_id = $1 for update";
    let row = tx.query_one(&tx.prepare_cached(SQL).await?, &[&order.0]).await?;
    let (buyer, status, currency): (&str, &str, &str) = (row.get(0), row.get(2), row.get(3));
    Ok(LockedOrder {
        id: order,
        buyer: buyer.parse().map_err(|_| inconsistent("orders", "buyer", order, buyer))?,
        drop: row.get::<_, Option<i32>>(1).map(DropId),
        status: order_state(status, order.0)?,
        currency: currency.parse().map_err(|_| inconsistent("orders", "currency", order, currency))?,
        subtotal_minor: row.get(4),
        tax_minor: row.get(5),
        shipping_minor: row.get(6),
    })
}

async fn lock_payment(tx: &Transaction<'_>, order: OrderId) -> Result<LockedPayment, LedgerError> {
    const SQL: &str = "-- payments.lock_payment
        select state, amount_minor, currency, intent_id, failure from payments where order_id = $1 for update";
    let row = tx.query_one(&tx.prepare_cached(SQL).await?, &[&order.0]).await?;
    Ok(LockedPayment {
        state: payment_state(row.get(0), order.0)?,
        amount: money(row.get(1), row.get(2), order.0)?,
        intent: row.get::<_, Option<String>>(3).map(IntentId),
        failure: row.get(4),
    })
}

#[expect(clippy::too_many_arguments, reason = "the columns that may change with a payment's state")]
async fn move_payment(
    tx: &Transaction<'_>,
    order: OrderId,
    payment: &LockedPayment,
    to: PaymentState,
    failure: Option<&str>,
    charge: Option<&str>,
    due_at: Option<Timestamp>,
    now: Timestamp,
) -> Result<(), LedgerError> {
    const SQL: &str = "-- payments.move
        update payments
        set state = $2, failure = coalesce($3, failure), provider_charge_id = coalesce($4, provider_charge_id), due_at = $5,
            leased_until = null, tries = 0, updated_at = $6
        where order_id = $1 and state = $7";
    let arguments: &[&(dyn tokio_postgres::types::ToSql + Sync)] = &[
        &order.0,
        &to.as_str(),
        &failure,
        &charge,
        &due_at,
        /* now */ &now,
        /* from */ &payment.state.as_str(),
    ];
    expect_rows("payments.move", 1, tx.execute(&tx.prepare_cached(SQL).await?, arguments).await?)
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

async fn move_order(
    tx: &Transaction<'_>,
    order: &LockedOrder,
    event: OrderEvent,
    reason: &str,
    now: Timestamp,
) -> Result<(), LedgerError> {
    const ORDER: &str = "-- payments.move_order
        update orders set status = $2, updated_at = $3 where order_id = $1 and status = $4";
    const HISTORY: &str = "-- payments.history
        insert into order_history (order_id, at, from_state, to_state, actor, reason) values ($1, $2, $3, $4, 'payments', $5)";
    let to =
        order.status.apply(event).map_err(|error| inconsistent("orders", "status", order.id, &error.to_string()))?;
    let statement = tx.prepare_cached(ORDER).await?;
    let changed = tx.execute(&statement, &[&order.id.0, &to.as_str(), /* now */ &now, &order.status.as_str()]).await?;
    expect_rows("payments.move_order", 1, changed)?;
    let statement = tx.prepare_cached(HISTORY).await?;
    tx.execute(&statement, &[&order.id.0, /* now */ &now, &order.status.as_str(), &to.as_str(), &reason]).await?;
    Ok(())
}

async fn items(tx: &Transaction<'_>, order: &LockedOrder) -> Result<Vec<Item>, LedgerError> {
    const SQL: &str = "-- payments.items
        select i.product_id, i.variant_id, i.warehouse_id, i.quantity, i.serials, dv.number
        from order_items i left join drop_variants dv on dv.drop_id = $2 and dv.variant_id = i.variant_id
        where i.order_id = $1 order by i.variant_id, i.warehouse_id";
    let drop = order.drop.map(|drop| drop.0);
    let rows = tx.query(&tx.prepare_cached(SQL).await?, &[&order.id.0, &drop]).await?;
    let item = |row: &Row| Item {
        product: row.get(0),
        variant_id: row.get(1),
        warehouse: WarehouseId(row.get(2)),
        quantity: row.get(3),
        serials: serials(row.get(4)),
        variant: row.get::<_, Option<i16>>(5).map(|number| VariantNumber(number as u8)),
    };
    Ok(rows.iter().map(item).collect())
}

async fn confirm(tx: &Transaction<'_>, order: &LockedOrder, now: Timestamp) -> Result<(), LedgerError> {
    const SOLD: &str = "-- payments.sell
        update inventory
        set quantity_available = quantity_available - $4, quantity_reserved = quantity_reserved - $4, version = version + 1
        where product_id = $1 and variant_id = $2 and warehouse_id = $3";
    const JOURNAL: &str = "-- payments.journal
        insert into journal (source, order_id, debit_account, credit_account, amount_minor, currency, booked_at)
        values ($1, $2, 'provider', $3, $4, $5, $6)";
    move_order(tx, order, OrderEvent::Paid, "the charge succeeded", now).await?;
    let statement = tx.prepare_cached(SOLD).await?;
    for item in items(tx, order).await? {
        let changed =
            tx.execute(&statement, &[&item.product, &item.variant_id, &item.warehouse.0, &item.quantity]).await?;
        expect_rows("payments.sell", 1, changed)?;
    }
    let statement = tx.prepare_cached(JOURNAL).await?;
    let parts = [("sales", order.subtotal_minor), ("tax", order.tax_minor), ("shipping", order.shipping_minor)];
    for (account, amount_minor) in parts.into_iter().filter(|(_, amount_minor)| *amount_minor > 0) {
        let source = format!("order-{}:charge:{account}", order.id);
        let currency = order.currency.as_str();
        tx.execute(&statement, &[&source, &order.id.0, &account, &amount_minor, &currency, /* now */ &now]).await?;
    }
    outbox::enqueue(tx, order.id, &Notice::OrderConfirmed, now).await?;
    Ok(())
}

/// Ends an unpaid order: its units lose their holder, the buyer's limit comes back, and a grant tells Redis of both.
async fn release(
    tx: &Transaction<'_>,
    order: &LockedOrder,
    reason: &str,
    code: &str,
    now: Timestamp,
) -> Result<(), LedgerError> {
    const TOKENS: &str = "-- payments.free_tokens
        update tokens set order_id = null where drop_id = $1 and serial = any($2) and order_id = $3";
    const HOLDINGS: &str =
        "-- payments.free_holdings\ndelete from holdings where drop_id = $1 and buyer = $2 and order_id = $3";
    const UNRESERVE: &str = "-- payments.unreserve
        update inventory set quantity_reserved = quantity_reserved - $4, version = version + 1
        where product_id = $1 and variant_id = $2 and warehouse_id = $3";
    move_order(tx, order, OrderEvent::PaymentFailed, reason, now).await?;
    for item in items(tx, order).await? {
        if let (Some(drop), Some(variant)) = (order.drop, item.variant) {
            let numbers = serial_values(&item.serials);
            let changed = tx.execute(&tx.prepare_cached(TOKENS).await?, &[&drop.0, &numbers, &order.id.0]).await?;
            expect_rows("payments.free_tokens", item.serials.len() as u64, changed)?;
            let statement = tx.prepare_cached(HOLDINGS).await?;
            let changed = tx.execute(&statement, &[&drop.0, &order.buyer.as_str(), &order.id.0]).await?;
            expect_rows("payments.free_holdings", item.serials.len() as u64, changed)?;
            let released = grants::Released {
                claim: ClaimId(order.id.0),
                buyer: order.buyer.clone(),
                variant,
                units: item.quantity as u32,
            };
            grants::insert(tx, item.warehouse, "release", &item.serials, Some(&released), None).await?;
        }
        let statement = tx.prepare_cached(UNRESERVE).await?;
        let changed =
            tx.execute(&statement, &[&item.product, &item.variant_id, &item.warehouse.0, &item.quantity]).await?;
        expect_rows("payments.unreserve", 1, changed)?;
    }
    outbox::enqueue(tx, order.id, &Notice::PaymentFailed { reason: code.to_owned() }, now).await?;
    Ok(())
}

pub(super) fn payment_state(text: &str, order: Uuid) -> Result<PaymentState, LedgerError> {
    let found = PaymentState::ALL.into_iter().find(|state| state.as_str() == text);
    found.ok_or_else(|| inconsistent("payments", "state", order, text))
}

pub(super) fn money(amount_minor: i64, currency: &str, order: Uuid) -> Result<Money, LedgerError> {
    let currency = currency.parse().map_err(|_| inconsistent("payments", "currency", order, currency))?;
    Ok(Money::new(amount_minor, currency))
}

fn leased_from_row(row: &Row) -> Result<LeasedPayment, LedgerError> {
    let order: Uuid = row.get(0);
    let method = row.get::<_, Option<String>>(4).map(|method| {
        method.parse::<PaymentMethodId>().map_err(|_| inconsistent("payments", "payment_method", order, &method))
    });
    let open_attempt = match row.get::<_, Option<i32>>(8) {
        Some(number) => {
            let state: &str = row.get(13);
            let known = AttemptState::ALL.into_iter().find(|known| known.as_str() == state);
            Some(Attempt {
                number,
                operation: row.get(9),
                idempotency_key: row.get(10),
                path: row.get(11),
                body: row.get(12),
                state: known.ok_or_else(|| inconsistent("payment_attempts", "state", order, state))?,
            })
        }
        None => None,
    };
    Ok(LeasedPayment {
        order: OrderId(order),
        state: payment_state(row.get(1), order)?,
        amount: money(row.get(2), row.get(3), order)?,
        payment_method: method.transpose()?,
        intent: row.get::<_, Option<String>>(5).map(IntentId),
        lease: row.get(6),
        tries: row.get(7),
        open_attempt,
        creates: row.get::<_, i64>(14) as u32,
        confirms: row.get::<_, i64>(15) as u32,
        cancels: row.get::<_, i64>(16) as u32,
    })
}
