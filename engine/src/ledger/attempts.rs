//! Attempts: a worker leases a payment, commits what it is about to send, sends it with no transaction open, and writes the
//! answer only if the lease number is still its own. What many charges write at once is one transaction (group.rs).

use std::collections::{HashMap, HashSet};

use deadpool_postgres::Transaction;
use futures_util::join;
use jiff::{SignedDuration, Timestamp};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::customers::facts_of;
use super::drops::inconsistent;
use super::error::{LedgerError, expect_rows};
use super::locked_order::{lock_payment, money, payment_state};
use super::pool::Ledger;
use super::tx::{by_index, planned, run_tx};
use crate::domain::cards::CardFacts;
use crate::domain::ids::{CustomerId, DropId, IntentId, OrderId, PaymentMethodId};
use crate::domain::money::Money;
use crate::domain::payments::{AttemptState, PaymentEvent, PaymentState};
use crate::domain::turns::{Lane, Turn, Work};

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
    /// Attempts so far.
    pub attempts: i32,
    /// By operation; they number the keys of the next ones.
    pub creates: u32,
    pub confirms: u32,
    pub cancels: u32,
    /// How the last confirm stands.
    pub last_confirm: Option<AttemptState>,
    /// The format of its first call, by number; `None`: nothing was ever prepared.
    pub format: Option<i16>,
    /// The name under which this shop's intents are known at the provider.
    pub shop: String,
    /// What is known of the card that it names.
    pub card: CardFacts,
    /// The last confirm was declined because the buyer's bank wants to ask them: they have not been asked yet.
    pub is_bank_to_ask: bool,
    /// The customer of its intent, if this worker has just been told.
    pub intent_customer: Option<CustomerId>,
}

/// The right to work on a payment, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PaymentLease {
    pub order: OrderId,
    pub number: i64,
}

/// A lease got no answer, or was refused.
#[derive(Debug)]
pub struct NotLeased {
    pub error: LedgerError,
    /// What is leased all the same if it was the COMMIT whose answer was lost. Nobody works on these.
    pub perhaps: Vec<PaymentLease>,
}

/// One call to the provider with its exact bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    pub number: i32,
    pub operation: String,
    pub idempotency_key: String,
    pub path: String,
    pub body: String,
    /// By number, as its payment has it.
    pub format: i16,
    pub state: AttemptState,
}

/// How a call ended, told by the worker that made it. It is written only if the lease is still its own.
#[derive(Debug, Clone)]
pub struct AttemptEnd {
    pub(super) lease: i64,
    pub(super) number: i32,
    pub(super) state: AttemptState,
    pub(super) detail: String,
    /// The intent that the call made.
    pub(super) intent: Option<IntentId>,
}

#[derive(Clone)]
pub(super) struct BeginCall {
    order: Uuid,
    lease: i64,
    before: Option<AttemptEnd>,
    attempt: Attempt,
    at: Timestamp,
}

impl LeasedPayment {
    /// An attached card is confirmed on an intent of its customer; whether this one's is, is not known.
    pub fn is_customer_to_be_named(&self) -> bool {
        let CardFacts::Saved { customer, .. } = &self.card else { return false };
        self.intent.is_some() && self.intent_customer.as_ref() != Some(customer)
    }

    pub fn ended(&self, attempt: &Attempt, state: AttemptState, detail: impl Into<String>) -> AttemptEnd {
        AttemptEnd { lease: self.lease, number: attempt.number, state, detail: detail.into(), intent: None }
    }
}

impl AttemptEnd {
    /// It is stored if none was: by compare and set, so that only one intent is ever confirmed for an order.
    pub fn with_intent(self, intent: IntentId) -> Self {
        Self { intent: Some(intent), ..self }
    }
}

impl Ledger {
    /// Leases up to `limit` payments that are due: cancels first, then what the provider was asked about before.
    pub async fn lease_payments(
        &self,
        now: Timestamp,
        lease: SignedDuration,
        limit: i64,
    ) -> Result<Vec<LeasedPayment>, LedgerError> {
        self.lease_payments_of(now, lease, &Lane::ALL, limit).await.map_err(|not_leased| not_leased.error)
    }

    /// Leases up to `limit` payments that are due, in turn: of the first lane as many as it has, then of the next one.
    pub async fn lease_payments_of(
        &self,
        now: Timestamp,
        lease: SignedDuration,
        lanes: &[Lane],
        limit: i64,
    ) -> Result<Vec<LeasedPayment>, NotLeased> {
        let until = now.checked_add(lease).unwrap_or(Timestamp::MAX);
        let sql = lease_sql(lanes);
        let mut perhaps = Vec::new();
        let rows = run_tx!(self, "attempts.lease", tx, {
            perhaps.clear();
            // Until the end of this transaction, which does nothing else.
            let statement = tx.prepare_cached(&sql).await?;
            let arguments: [&(dyn ToSql + Sync); 3] =
                [/* now */ &now, /* until */ &until, /* limit */ &limit];
            let (plan, rows) = join!(tx.batch_execute(LEASE_PLAN), tx.query(&statement, &arguments));
            plan?;
            let rows = rows?;
            perhaps.extend(rows.iter().map(|row| PaymentLease { order: OrderId(row.get(0)), number: row.get(6) }));
            Ok(rows)
        });
        let rows = rows.map_err(|error| NotLeased { error, perhaps })?;
        let leased = rows.iter().map(leased_from_row).collect::<Result<_, _>>();
        // A row that cannot be read keeps its lease: it would be the first again at once.
        leased.map_err(|error| NotLeased { error, perhaps: Vec::new() })
    }

    /// Commits that a call is about to be made, with its exact bytes. From here on the provider may have executed it.
    /// `before`: how this worker's last call for the payment ended; it is written together with the next one. `None`: the
    /// payment has moved on, and only the end of the last call was written.
    pub async fn begin_attempt(
        &self,
        payment: &mut LeasedPayment,
        before: Option<AttemptEnd>,
        (operation, key, path, body): (&str, &str, &str, &str),
        now: Timestamp,
    ) -> Result<Option<Attempt>, LedgerError> {
        let attempt = Attempt {
            number: payment.attempts + 1,
            operation: operation.to_owned(),
            idempotency_key: key.to_owned(),
            path: path.to_owned(),
            body: body.to_owned(),
            format: payment.format.unwrap_or(1),
            state: AttemptState::Dispatched,
        };
        let call =
            BeginCall { order: payment.order.0, lease: payment.lease, before, attempt: attempt.clone(), at: now };
        let has_begun = self.begins.make(call, |calls| self.begin_all(calls)).await?;
        if has_begun {
            payment.attempts += 1;
        }
        Ok(has_begun.then_some(attempt))
    }

    async fn begin_all(&self, calls: Vec<BeginCall>) -> Result<Vec<Result<bool, LedgerError>>, LedgerError> {
        const LEASED: &str = "-- attempts.lock_leased
            select p.order_id, p.state from unnest($1::uuid[], $2::bigint[]) as c (order_id, lease)
            join payments p on p.order_id = c.order_id and p.lease_number = c.lease
            where p.order_id = any($1) order by p.order_id for update of p";
        const BEGIN: &str = "-- attempts.begin
            insert into payment_attempts (order_id, number, operation, idempotency_key, path, body, state, prepared_at,
                                          dispatched_at, format)
            select order_id, number, operation, key, path, body, 'DISPATCHED', at, at, format
            from unnest($1::uuid[], $2::int[], $3::text[], $4::text[], $5::text[], $6::text[], $7::timestamptz[],
                        $8::smallint[])
                 as c (order_id, number, operation, key, path, body, at, format)";
        let orders = calls.iter().map(|call| call.order).collect::<Vec<_>>();
        let leases = calls.iter().map(|call| call.lease).collect::<Vec<_>>();
        let may_send = run_tx!(self, "attempts.begin", tx, {
            by_index(tx, async {
                let rows = planned(tx, LEASED, &[&orders, &leases]).await?;
                let states = rows.iter().map(|row| {
                    let order: Uuid = row.get(0);
                    Ok::<_, LedgerError>((order, payment_state(row.get(1), order)?))
                });
                let states = states.collect::<Result<HashMap<_, _>, _>>()?;
                let ends = calls.iter().filter(|call| states.contains_key(&call.order));
                let ends =
                    ends.filter_map(|call| Some((call.order, call.before.as_ref()?, call.at))).collect::<Vec<_>>();
                let ended = end_attempts(tx, &ends).await?;
                expect_rows("attempts.end", ends.len() as u64, ended.len() as u64)?;
                let may_send = calls.iter().filter_map(|call| {
                    let state = states.get(&call.order)?;
                    Some((call.order, state.may_send(&call.attempt.operation)))
                });
                let may_send = may_send.collect::<HashMap<_, _>>();
                let ours = calls.iter().filter(|call| may_send.get(&call.order) == Some(&true)).collect::<Vec<_>>();
                let column =
                    |value: fn(&Attempt) -> &str| ours.iter().map(|call| value(&call.attempt)).collect::<Vec<_>>();
                let of = ours.iter().map(|call| call.order).collect::<Vec<_>>();
                let numbers = ours.iter().map(|call| call.attempt.number).collect::<Vec<_>>();
                let (operations, keys) = (column(|a| &a.operation), column(|a| &a.idempotency_key));
                let (paths, bodies) = (column(|a| &a.path), column(|a| &a.body));
                let times = ours.iter().map(|call| call.at).collect::<Vec<_>>();
                let formats = ours.iter().map(|call| call.attempt.format).collect::<Vec<_>>();
                let arguments: [&(dyn ToSql + Sync); 8] =
                    [&of, &numbers, &operations, &keys, &paths, &bodies, &times, &formats];
                tx.execute(&tx.prepare_cached(BEGIN).await?, &arguments).await?;
                Ok(may_send)
            })
            .await
        })?;
        Ok(orders.iter().map(|order| may_send.get(order).copied().ok_or(lost("attempts.begin"))).collect())
    }

    /// Commits that an attempt which is open is about to be sent again. `false`: the payment has moved on.
    pub async fn dispatch_again(
        &self,
        payment: &LeasedPayment,
        attempt: &Attempt,
        now: Timestamp,
    ) -> Result<bool, LedgerError> {
        const SQL: &str = "-- attempts.dispatch_again
            update payment_attempts set state = 'DISPATCHED', dispatched_at = coalesce(dispatched_at, $3)
            where order_id = $1 and number = $2 and finished_at is null";
        const TURN: &str = "-- attempts.turn
            update payments set turn = $2 where order_id = $1 and turn <> $2";
        run_tx!(self, "attempts.dispatch_again", tx, {
            let state = lock_leased(tx, payment).await?;
            if !state.may_send(&attempt.operation) {
                return Ok(false);
            }
            let turn = Turn::of(Work::Begun).number();
            tx.execute(&tx.prepare_cached(TURN).await?, &[&payment.order.0, &turn]).await?;
            let arguments: [&(dyn ToSql + Sync); 3] = [&payment.order.0, &attempt.number, /* now */ &now];
            let changed = tx.execute(&tx.prepare_cached(SQL).await?, &arguments).await?;
            expect_rows("attempts.dispatch_again", 1, changed)?;
            Ok(true)
        })
    }

    /// Writes how an attempt ended, if the lease is still ours.
    pub async fn finish_attempt(
        &self,
        payment: &LeasedPayment,
        end: AttemptEnd,
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        run_tx!(self, "attempts.finish", tx, {
            lock_leased(tx, payment).await?;
            let ended = end_attempts(tx, &[(payment.order.0, &end, now)]).await?;
            expect_rows("attempts.end", 1, ended.len() as u64)
        })
    }

    /// Ends the attempts that are still open although somebody else's word has ended their payment, which nobody will lease
    /// again. Whoever began a call before `before` is gone; later ones may still be under way. Answers how many there were.
    pub async fn end_settled_attempts(&self, before: Timestamp, now: Timestamp) -> Result<u64, LedgerError> {
        // From the open attempts, of which there are few, to the payment of each: not through all payments.
        const SQL: &str = "-- attempts.end_settled
            with open as materialized (
                select a.order_id, a.number, p.state
                from payment_attempts a cross join lateral (
                    select p.state from payments p
                    where p.order_id = a.order_id
                          and p.state in ('SUCCEEDED', 'FAILED', 'CANCELED', 'PARTIALLY_REFUNDED', 'REFUNDED')
                          and p.due_at is null and (p.leased_until is null or p.leased_until < $2) offset 0) p
                where a.finished_at is null
                      and (a.state in ('NOT_SENT', 'UNKNOWN') or coalesce(a.dispatched_at, a.prepared_at) < $1)
            )
            update payment_attempts a
            set state = case
                    when a.state = 'PREPARED' then 'WITHDRAWN'
                    when a.operation = 'confirm' and p.state in ('SUCCEEDED', 'PARTIALLY_REFUNDED', 'REFUNDED') then 'SUCCEEDED'
                    when a.operation = 'cancel' and p.state in ('CANCELED', 'FAILED') then 'SUCCEEDED'
                    else 'REJECTED'
                end,
                detail = $3, finished_at = $2
            from open p where a.order_id = p.order_id and a.number = p.number and a.finished_at is null";
        let connection = self.connection().await?;
        let statement = connection.prepare_cached(SQL).await?;
        Ok(connection.execute(&statement, &[/* before */ &before, /* now */ &now, &SETTLED_ELSEWHERE]).await?)
    }

    /// When the card of each of a drop's orders was declined, the first time.
    pub async fn declines(&self, drop: DropId) -> Result<Vec<(OrderId, Timestamp)>, LedgerError> {
        const SQL: &str = "-- attempts.declines
            select order_id, min(a.finished_at) from payment_attempts a join orders o using (order_id)
            where o.drop_id = $1 and a.state = 'DECLINED' and a.finished_at is not null group by order_id";
        let rows = self.connection().await?.query(SQL, &[&drop.0]).await?;
        Ok(rows.iter().map(|row| (OrderId(row.get(0)), row.get(1))).collect())
    }

    /// Gives a leased payment back, to be looked at again at `due_at`, with the event that its state saw and with how the
    /// last call for it ended.
    pub async fn yield_payment(
        &self,
        payment: &LeasedPayment,
        end: Option<&AttemptEnd>,
        event: Option<PaymentEvent>,
        failure: Option<&str>,
        due_at: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        const SQL: &str = "-- attempts.yield
            update payments
            set state = $3, failure = coalesce($4, failure), due_at = $5, leased_until = null, updated_at = $6,
                turn = $8
            where order_id = $1 and lease_number = $2 and state = $7";
        run_tx!(self, "attempts.yield", tx, {
            let locked = lock_payment(tx, payment.order).await?;
            if let Some(end) = end {
                let ended = end_attempts(tx, &[(payment.order.0, end, now)]).await?;
                expect_rows("attempts.end", 1, ended.len() as u64)?;
            }
            let state = match event {
                // Another bearer of news may have been faster; then its word stands.
                Some(event) => locked.state.apply(event).unwrap_or(locked.state),
                None => locked.state,
            };
            // It may have ended meanwhile; then nobody has to look at it again.
            let due_at = due_at.filter(|_| state.is_for_workers());
            let statement = tx.prepare_cached(SQL).await?;
            let arguments: &[&(dyn tokio_postgres::types::ToSql + Sync)] = &[
                &payment.order.0,
                /* lease */ &payment.lease,
                &state.as_str(),
                &failure,
                &due_at,
                /* now */ &now,
                /* from */ &locked.state.as_str(),
                /* turn */ &Turn::of(Work::Begun).number(),
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

    /// Gives leases back as they were whose worker lost its connection to us, and answers which. Our own rows say for
    /// which of them nothing was sent: a call is committed as DISPATCHED before it is made. What may have been sent
    /// keeps its lease, and is read back when that runs out.
    pub async fn give_back_unsent(
        &self,
        leases: &[PaymentLease],
        now: Timestamp,
    ) -> Result<HashSet<OrderId>, LedgerError> {
        const SQL: &str = "-- attempts.give_back_unsent
            update payments p set leased_until = null, tries = greatest(p.tries - 1, 0), updated_at = $3
            from unnest($1::uuid[], $2::bigint[]) as c (order_id, lease)
            where p.order_id = c.order_id and p.lease_number = c.lease and p.leased_until is not null
                  and not exists (select 1 from payment_attempts a
                                  where a.order_id = p.order_id and a.finished_at is null
                                        and a.state in ('DISPATCHED', 'UNKNOWN'))
            returning p.order_id";
        let orders = leases.iter().map(|lease| lease.order.0).collect::<Vec<_>>();
        let numbers = leases.iter().map(|lease| lease.number).collect::<Vec<_>>();
        run_tx!(self, "attempts.give_back_unsent", tx, {
            let rows = planned(tx, SQL, &[&orders, /* leases */ &numbers, /* now */ &now]).await?;
            Ok(rows.iter().map(|row| OrderId(row.get(0))).collect())
        })
    }
}

/// Locks the payment of a lease that is still ours, and answers its state.
async fn lock_leased(tx: &Transaction<'_>, payment: &LeasedPayment) -> Result<PaymentState, LedgerError> {
    const SQL: &str = "-- attempts.lock_one_leased
        select state from payments where order_id = $1 and lease_number = $2 for update";
    let statement = tx.prepare_cached(SQL).await?;
    let row = tx.query_opt(&statement, &[&payment.order.0, /* lease */ &payment.lease]).await?;
    payment_state(row.ok_or(lost("attempts.lock_one_leased"))?.get(0), payment.order.0)
}

/// Writes how attempts ended, and the intents that they made. Their payments are locked, and leased by whoever tells of the
/// end. Answers those that were open; an intent beside another one is an error.
pub(super) async fn end_attempts(
    tx: &Transaction<'_>,
    ends: &[(Uuid, &AttemptEnd, Timestamp)],
) -> Result<HashSet<Uuid>, LedgerError> {
    const SQL: &str = "-- attempts.end
        with e as (
            select * from unnest($1::uuid[], $2::int[], $3::text[], $4::text[], $5::timestamptz[], $6::text[], $7::timestamptz[])
                     as e (order_id, number, state, detail, ended_at, intent_id, at)
        ), ended as (
            update payment_attempts a set state = e.state, detail = e.detail, finished_at = e.ended_at
            from e where a.order_id = any($1) and a.order_id = e.order_id and a.number = e.number and a.finished_at is null
            returning a.order_id
        ), stored as (
            update payments p set intent_id = e.intent_id, turn = $8, updated_at = e.at
            from e join ended using (order_id)
            where p.order_id = any($1) and p.order_id = e.order_id and e.intent_id is not null
                  and (p.intent_id is null or p.intent_id = e.intent_id)
            returning p.order_id
        )
        select order_id, e.intent_id is null or stored.order_id is not null
        from ended join e using (order_id) left join stored using (order_id)";
    if ends.is_empty() {
        return Ok(HashSet::new());
    }
    let orders = ends.iter().map(|(order, ..)| *order).collect::<Vec<_>>();
    let numbers = ends.iter().map(|(_, end, _)| end.number).collect::<Vec<_>>();
    let states = ends.iter().map(|(_, end, _)| end.state.as_str()).collect::<Vec<_>>();
    let details = ends.iter().map(|(_, end, _)| &*end.detail).collect::<Vec<_>>();
    let ended_at = ends.iter().map(|(_, end, at)| (!end.state.is_open()).then_some(*at)).collect::<Vec<_>>();
    let intents = ends.iter().map(|(_, end, _)| end.intent.as_ref().map(|intent| &*intent.0)).collect::<Vec<_>>();
    let times = ends.iter().map(|(.., at)| *at).collect::<Vec<_>>();
    let turn = Turn::of(Work::Begun).number();
    let arguments: [&(dyn ToSql + Sync); 8] =
        [&orders, &numbers, &states, &details, &ended_at, &intents, &times, &turn];
    let rows = planned(tx, SQL, &arguments).await?;
    if rows.iter().any(|row| !row.get::<_, bool>(1)) {
        return Err(LedgerError::RowCount { statement: "attempts.store_intent", expected: 1, changed: 0 });
    }
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// How leases are planned: along the index of turns, from its beginning, as far as there is room. What Postgres
/// believes of a queue that has just filled would make it read and sort all of a turn (measured: 8,589 rows for 256 of
/// 100,000). So there is one plan for whatever is due, made once for a connection: planning costs more than leasing fifty
/// (measured: 0.8 ms).
#[doc(hidden)]
pub const LEASE_PLAN: &str = "-- attempts.lease_plan
    set local plan_cache_mode = force_generic_plan; set local enable_seqscan = off;
    set local enable_bitmapscan = off; set local enable_sort = off";

/// The statement that leases payments; whatever is due is for workers (`payments_due_check`). A lane is read only as
/// far as the ones before it leave room: Postgres runs a CTE row by row, as its reader asks for them, and stops at the
/// limit. So it reads as many rows as it leases, beside those that others have leased, however many are due;
/// `engine/tests/engine/turns.rs` counts them.
#[doc(hidden)]
pub fn lease_sql(lanes: &[Lane]) -> String {
    let [cancel, begun, of_drop] = [Work::Cancel, Work::Begun, Work::ChargeOfDrop].map(|work| Turn::of(work).number());
    // As the index `payments_lane` has it. The state says what is to be canceled: a program that knew no such turn has
    // written another one.
    let turn = format!("(case when state = 'CANCEL_REQUESTED' then {cancel} else turn end)");
    let lane = |(number, lane): (usize, &Lane)| {
        // By equality where there is one turn only, so that what is not due yet is not even looked at in the index.
        let turns = match lane {
            Lane::Cancels => format!("= {cancel}"),
            Lane::Begun => format!("= {begun}"),
            Lane::Drops => format!("= {of_drop}"),
            Lane::Goods => format!("> {of_drop}"),
        };
        format!(
            "lane_{number} as (
                select order_id from payments
                where {turn} {turns} and due_at <= $1 and (leased_until is null or leased_until <= $1)
                order by {turn}, due_at limit $3 for update skip locked
            )"
        )
    };
    let selected = lanes.iter().enumerate().map(lane).collect::<Vec<_>>().join(", ");
    let due = (0..lanes.len()).map(|number| format!("table lane_{number}")).collect::<Vec<_>>();
    let due = due.join(" union all ");
    format!(
        "-- attempts.lease
        with {selected}, leased as (
            update payments p
            set lease_number = lease_number + 1, formats_lease = lease_number + 1, leased_until = $2, tries = tries + 1
            where p.order_id = any(array(
                select order_id from ({due}) due limit $3
            ))
            returning p.order_id, p.state, p.amount_minor, p.currency, p.payment_method, p.intent_id, p.lease_number,
                      p.tries
        )
        select l.*, a.number, a.operation, a.idempotency_key, a.path, a.body, a.state, c.creates, c.confirms, c.cancels,
               a.format, c.format, c.is_bank_to_ask, (select shop_id from shop), k.state, k.customer_id, k.method_id,
               c.attempts, c.last_confirm
        from leased l left join lateral (
                 select * from payment_attempts a where a.order_id = l.order_id and a.finished_at is null limit 1
             ) a on true,
             lateral (select coalesce(max(number), 0) as attempts,
                             (array_agg(state order by number desc) filter (where operation = 'confirm'))[1]
                                 as last_confirm,
                             count(*) filter (where operation = 'create') as creates,
                             count(*) filter (where operation = 'confirm') as confirms,
                             count(*) filter (where operation = 'cancel') as cancels,
                             (array_agg(format order by number))[1] as format,
                             (array_agg(state = 'DECLINED' and detail = 'authentication_required'
                                        order by number desc) filter (where operation = 'confirm'))[1] as is_bank_to_ask
                      from payment_attempts c where c.order_id = l.order_id) c
             left join lateral (select k.state, u.customer_id, k.method_id
                                from orders o join cards k on k.buyer = o.buyer and k.given = l.payment_method
                                join customers u on u.buyer = k.buyer
                                where o.order_id = l.order_id limit 1) k on true"
    )
}

/// Why an attempt ended whose own answer nobody heard.
pub const SETTLED_ELSEWHERE: &str = "settled by another's word";

/// The lease has gone to another worker, or the row has moved on.
fn lost(statement: &'static str) -> LedgerError {
    LedgerError::RowCount { statement, expected: 1, changed: 0 }
}

fn attempt_state(state: &str, order: Uuid) -> Result<AttemptState, LedgerError> {
    let known = AttemptState::ALL.into_iter().find(|known| known.as_str() == state);
    known.ok_or_else(|| inconsistent("payment_attempts", "state", order, state))
}

fn leased_from_row(row: &Row) -> Result<LeasedPayment, LedgerError> {
    let order: Uuid = row.get(0);
    let method = row.get::<_, Option<String>>(4).map(|method| {
        method.parse::<PaymentMethodId>().map_err(|_| inconsistent("payments", "payment_method", order, &method))
    });
    let open_attempt = match row.get::<_, Option<i32>>(8) {
        Some(number) => Some(Attempt {
            number,
            operation: row.get(9),
            idempotency_key: row.get(10),
            path: row.get(11),
            body: row.get(12),
            format: row.get(17),
            state: attempt_state(row.get(13), order)?,
        }),
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
        attempts: row.get(24),
        last_confirm: row.get::<_, Option<&str>>(25).map(|state| attempt_state(state, order)).transpose()?,
        format: row.get(18),
        shop: row.get(20),
        card: match row.get::<_, Option<&str>>(21) {
            Some(state) => facts_of(state, row.get(22), row.get(23), order)?,
            None => CardFacts::OneOff,
        },
        is_bank_to_ask: row.get::<_, Option<bool>>(19).unwrap_or(false),
        intent_customer: None,
    })
}
