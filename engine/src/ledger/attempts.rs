//! Attempts: a worker leases a payment, commits what it is about to send, sends it with no transaction open, and writes the
//! answer only if the lease number is still its own.

use jiff::{SignedDuration, Timestamp};
use tokio_postgres::Row;
use uuid::Uuid;

use super::drops::inconsistent;
use super::error::{LedgerError, expect_rows};
use super::locked_order::{lock_payment, money, payment_state};
use super::pool::Ledger;
use super::tx::run_tx;
use crate::domain::ids::{IntentId, OrderId, PaymentMethodId};
use crate::domain::money::Money;
use crate::domain::payments::{AttemptState, PaymentEvent, PaymentState};

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

impl Ledger {
    /// Leases up to `limit` payments that are due.
    pub async fn lease_payments(
        &self,
        now: Timestamp,
        lease: SignedDuration,
        limit: i64,
    ) -> Result<Vec<LeasedPayment>, LedgerError> {
        const SQL: &str = "-- attempts.lease
            with due as (
                select order_id from payments
                where due_at <= $1 and state in ('IN_FLIGHT', 'UNKNOWN', 'CANCEL_REQUESTED', 'PROCESSING', 'ACTION_REQUIRED',
                                                   'REFUND_PENDING')
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
        const SQL: &str = "-- attempts.prepare
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
        expect_rows("attempts.prepare", 1, rows.len() as u64)?;
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
        const SQL: &str = "-- attempts.dispatch
            with mine as (select order_id, state from payments where order_id = $1 and lease_number = $2 for update)
            update payment_attempts a set state = 'DISPATCHED', dispatched_at = coalesce(dispatched_at, $4)
            from mine where a.order_id = mine.order_id and a.number = $3
                 and (mine.state <> 'CANCEL_REQUESTED' or a.operation = 'cancel')
                 and a.state in ('PREPARED', 'NOT_SENT', 'UNKNOWN', 'DISPATCHED')";
        let connection = self.connection().await?;
        let statement = connection.prepare_cached(SQL).await?;
        let arguments: &[&(dyn tokio_postgres::types::ToSql + Sync)] =
            &[&payment.order.0, /* lease */ &payment.lease, &attempt.number, /* now */ &now];
        expect_rows("attempts.dispatch", 1, connection.execute(&statement, arguments).await?)
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
        const ATTEMPT: &str = "-- attempts.finish
            with mine as (select order_id from payments where order_id = $1 and lease_number = $2 for update)
            update payment_attempts a set state = $4, detail = $5, finished_at = case when $6 then null else $7::timestamptz end
            from mine where a.order_id = mine.order_id and a.number = $3
                 and a.state in ('PREPARED', 'DISPATCHED', 'NOT_SENT', 'UNKNOWN')";
        const INTENT: &str = "-- attempts.store_intent
            update payments set intent_id = $2, updated_at = $3
            where order_id = $1 and (intent_id is null or intent_id = $2)";
        run_tx!(self, "attempts.finish", tx, {
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
            expect_rows("attempts.finish", 1, tx.execute(&statement, arguments).await?)?;
            if let Some(intent) = intent {
                let statement = tx.prepare_cached(INTENT).await?;
                let changed = tx.execute(&statement, &[&payment.order.0, &intent.0, /* now */ &now]).await?;
                expect_rows("attempts.store_intent", 1, changed)?;
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
        const SQL: &str = "-- attempts.yield
            update payments set state = $3, failure = coalesce($4, failure), due_at = $5, leased_until = null, updated_at = $6
            where order_id = $1 and lease_number = $2 and state = $7";
        run_tx!(self, "attempts.yield", tx, {
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
            expect_rows("attempts.yield", 1, tx.execute(&statement, arguments).await?)
        })
    }

    /// Gives a leased payment back as it was: nothing was tried, and it is due as before.
    pub async fn give_back_payment(&self, payment: &LeasedPayment, now: Timestamp) -> Result<(), LedgerError> {
        const SQL: &str = "-- attempts.give_back
            update payments set leased_until = null, tries = greatest(tries - 1, 0), updated_at = $3
            where order_id = $1 and lease_number = $2";
        let connection = self.connection().await?;
        let statement = connection.prepare_cached(SQL).await?;
        // Another one has it already if the lease has run out; then there is nothing to give.
        connection.execute(&statement, &[&payment.order.0, /* lease */ &payment.lease, /* now */ &now]).await?;
        Ok(())
    }
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
