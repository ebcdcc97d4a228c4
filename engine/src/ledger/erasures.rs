//! A buyer who wants to be forgotten, and a buyer who wants to see what is known of him.
//!
//! Orders are books and stay: without e-mail and address, and with a pseudonym in his place. While an order is open somebody has
//! to know where it goes, so nothing is erased before all of them are over. Rows of a drop that is not archived keep the buyer:
//! they are his limit, which would begin anew otherwise. Archiving the drop finishes what waits for it, in its own transaction.

use deadpool_postgres::Transaction;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use tokio_postgres::Row;

use super::error::LedgerError;
use super::order_details::HistoryEntry;
use super::order_pages::OrderPosition;
use super::orders::OrderView;
use super::pool::Ledger;
use super::profiles::LOCK_BUYER;
use super::returns::ReturnView;
use super::tx::run_tx;
use crate::domain::ids::{BuyerId, ClaimId, DropId, OrderId};
use crate::domain::orders::OrderState;
use crate::domain::payments::PaymentState;

/// So many open orders are named; who has more is told of these.
const OPEN_ORDERS_NAMED: i64 = 20;

/// A checkout's claim that no settlement has seen by then was forgotten by Redis, and holds up no erasure. No claims are taken once
/// settlement is a quarter of an hour behind.
const SETTLED_WITHIN: SignedDuration = SignedDuration::from_hours(1);
/// What was paid at this very moment has its invoice before its buyer is forgotten.
const A_MOMENT: SignedDuration = SignedDuration::from_secs(1);

/// How an erasure ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Erasure {
    Done(Erased),
    /// These are not over, and nothing was erased.
    Open(Vec<OrderId>),
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Erased {
    /// There was nothing of him any more.
    pub is_repeat: bool,
    /// Orders that are not his any more.
    pub orders: u64,
    /// Drops that keep him, as their limit, until they are archived.
    pub kept_by_drops: Vec<String>,
}

/// An order with all that belongs to it.
#[derive(Debug, Clone, PartialEq)]
pub struct ExportedOrder {
    pub order: OrderView,
    pub history: Vec<HistoryEntry>,
    pub returns: Vec<ReturnView>,
}

impl Ledger {
    /// A buyer's orders behind a position, each with all that belongs to it.
    pub async fn exported_orders(
        &self,
        buyer: &BuyerId,
        after: Option<OrderPosition>,
        limit: i64,
    ) -> Result<Vec<ExportedOrder>, LedgerError> {
        let orders = self.orders_of(buyer, &[], after, limit).await?;
        let ids = orders.iter().map(|order| order.id.0).collect::<Vec<_>>();
        let (mut histories, mut returns) = (self.histories(&ids).await?, self.returns_of(&ids).await?);
        let export = |order: OrderView| ExportedOrder {
            history: histories.remove(&order.id.0).unwrap_or_default(),
            returns: returns.remove(&order.id.0).unwrap_or_default(),
            order,
        };
        Ok(orders.into_iter().map(export).collect())
    }

    /// Whether an order of this buyer is paid and has no invoice yet.
    async fn has_undocumented(&self, buyer: &BuyerId) -> Result<bool, LedgerError> {
        const SQL: &str = "-- erasures.has_undocumented
            select exists (select 1 from orders_of($1) o join payments p using (order_id)
                           where p.amount_minor > 0
                                 and p.state in ('SUCCEEDED', 'REFUND_PENDING', 'PARTIALLY_REFUNDED', 'REFUNDED')
                                 and not exists (select 1 from invoices i where i.order_id = o.order_id))";
        Ok(self.connection().await?.query_one(SQL, &[&buyer.as_str()]).await?.get(0))
    }

    /// The lines in which a buyer stands.
    async fn lines_of(&self, buyer: &BuyerId) -> Result<Vec<DropId>, LedgerError> {
        const SQL: &str = "-- erasures.lines_of
            select distinct drop_id from line_entries where buyer = $1 and state is null";
        let rows = self.connection().await?.query(SQL, &[&buyer.as_str()]).await?;
        Ok(rows.iter().map(|row| DropId(row.get(0))).collect())
    }

    /// Erases a buyer from everything that is over. Nothing at all, while anything is open.
    pub async fn erase_buyer(&self, buyer: &BuyerId, now: Timestamp) -> Result<Erasure, LedgerError> {
        // An invoice keeps the country, which stands nowhere else afterwards.
        if self.has_undocumented(buyer).await? {
            self.number_documents(now.checked_add(A_MOMENT).unwrap_or(now), now).await?;
        }
        // Each in a transaction of its own: a round takes entries before profiles, and this one profiles first.
        for drop in self.lines_of(buyer).await? {
            self.leave_line(drop, buyer, None, now).await?;
        }
        run_tx!(self, "erasures.erase_buyer", tx, keep if Erasure::Done(_), {
            // Of two erasures at once the second finds what the first has left. Of a checkout beside it one is first: then its
            // order is open, or it finds no profile.
            tx.query(LOCK_BUYER, &[&buyer.as_str()]).await?;
            // A drop that is just being archived is waited for, and seen below; one that is archived later finds this erasure.
            const DROPS: &str = "-- erasures.lock_drops
                select 1 from drops where state <> 'archived' order by drop_id for share";
            tx.query(DROPS, &[]).await?;
            // A settlement that has read the profile is waited for, and its order is open; a later one finds no profile.
            const PROFILE: &str = "-- erasures.lock_profile
                select 1 from checkout_profiles where buyer = $1 for update";
            tx.query(PROFILE, &[&buyer.as_str()]).await?;
            const ORDERS: &str = "-- erasures.lock_orders
                select 1 from orders where order_id in (select order_id from orders_of($1)) order by order_id for update";
            tx.query(ORDERS, &[&buyer.as_str()]).await?;
            // Before looking at what is open: an award that is just being decided is waited for here, and seen below.
            const LEAVE: &str = "-- erasures.leave_standby
                update standby_places set state = 'LEFT', ended_at = $2 where buyer = $1 and state = 'WAITING'";
            let mut touched = tx.execute(LEAVE, &[&buyer.as_str(), /* now */ &now]).await?;
            let open = open_orders(tx, buyer, now).await?;
            if !open.is_empty() {
                return Ok(Erasure::Open(open));
            }
            const FORGET: &str = "-- erasures.profile\ndelete from checkout_profiles where buyer = $1";
            const CHECKOUTS: &str = "-- erasures.checkouts\ndelete from checkouts where buyer = $1";
            const ADDRESSES: &str = "-- erasures.addresses
                update orders set email = null, ship_to = null
                where order_id in (select order_id from orders_of($1)) and (email is not null or ship_to is not null)";
            const PAYMENTS: &str = "-- erasures.payments
                update payments p set payment_method = null, next_action = null from orders_of($1) o
                where p.order_id = o.order_id
                      and (p.payment_method is not null or p.next_action is not null)";
            // A mail server's words may name the address. What it says about a mail that is being sent now no longer counts.
            const ERRORS: &str = "-- erasures.errors
                update outbox x set last_error = null, lease_number = lease_number + 1, leased_until = null from orders_of($1) o
                where x.order_id = o.order_id and x.destination like 'mail%'
                      and (x.last_error is not null or (x.state = 'queued' and x.leased_until is not null))";
            // The provider's customer stays until a worker has deleted it; one that was never asked for is not there.
            const CARDS: &str = "-- erasures.cards\ndelete from cards where buyer = $1";
            const SETUPS: &str = "-- erasures.setups\ndelete from card_setups where buyer = $1";
            const UNASKED: &str = "-- erasures.unasked_customer
                delete from customers where buyer = $1 and asked_at is null";
            const CUSTOMER: &str = "-- erasures.customer
                update customers set buyer = null, ends_at = $2 where buyer = $1";
            touched += tx.execute(UNASKED, &[&buyer.as_str()]).await?;
            touched += tx.execute(CUSTOMER, &[&buyer.as_str(), /* now */ &now]).await?;
            // The mails about their places have ids that only we can make.
            const PLACES: &str = "-- erasures.places\nselect drop_id, number from line_entries where buyer = $1";
            const PLACE_ERRORS: &str = "-- erasures.place_errors
                update outbox set last_error = null, lease_number = lease_number + 1, leased_until = null
                where order_id = any($1) and destination like 'mail%'
                      and (last_error is not null or (state = 'queued' and leased_until is not null))";
            let rows = tx.query(PLACES, &[&buyer.as_str()]).await?;
            let claim = |row: &Row| {
                ClaimId::of_entry(DropId(row.get(0)), buyer, row.get::<_, i32>(1).cast_unsigned()).0
            };
            let claims = rows.iter().map(claim).collect::<Vec<_>>();
            touched += tx.execute(PLACE_ERRORS, &[&claims]).await?;
            for statement in [CARDS, SETUPS, FORGET, CHECKOUTS, ADDRESSES, PAYMENTS, ERRORS] {
                touched += tx.execute(statement, &[&buyer.as_str()]).await?;
            }
            if !is_named(tx, buyer).await? {
                return Ok(Erasure::Done(Erased { is_repeat: touched == 0, ..Erased::default() }));
            }
            const ASK: &str = "-- erasures.ask
                insert into erasures (pseudonym, buyer, asked_at)
                values ('erased-' || replace(gen_random_uuid()::text, '-', ''), $1, $2)
                on conflict (buyer) do update set asked_at = excluded.asked_at";
            tx.execute(ASK, &[&buyer.as_str(), /* now */ &now]).await?;
            let orders = rename(tx, now).await?;
            let kept_by_drops = keeping_drops(tx, buyer).await?;
            Ok(Erasure::Done(Erased { is_repeat: touched == 0 && orders == 0, orders, kept_by_drops }))
        })
    }
}

/// Puts pseudonyms where nothing keeps the buyer any more, for every erasure that waits; answers how many orders got one. The
/// buyer's later orders stay his.
pub(super) async fn rename(tx: &Transaction<'_>, now: Timestamp) -> Result<u64, LedgerError> {
    const ORDERS: &str = "-- erasures.rename_orders
        update orders o set buyer = e.pseudonym from erasures e, orders_of(e.buyer) named
        where e.buyer is not null and o.order_id = named.order_id and o.buyer = e.buyer and o.created_at <= e.asked_at
              and not exists (select 1 from order_items i join warehouses w using (warehouse_id) join drops d using (drop_id)
                              where i.order_id = o.order_id and d.state <> 'archived')";
    const HOLDINGS: &str = "-- erasures.rename_holdings
        update holdings h set buyer = e.pseudonym from erasures e, drops d
        where h.drop_id = d.drop_id and h.buyer = e.buyer and d.state = 'archived'";
    const GRANTS: &str = "-- erasures.rename_grants
        update grants g set buyer = e.pseudonym from erasures e, warehouses w, drops d
        where g.buyer = e.buyer and w.warehouse_id = g.warehouse_id and d.drop_id = w.drop_id and d.state = 'archived'";
    const REJECTED: &str = "-- erasures.rename_rejected
        update rejected_claims r set buyer = e.pseudonym from erasures e, drops d
        where r.buyer = e.buyer and d.drop_id = r.drop_id and d.state = 'archived'";
    const LOST: &str = "-- erasures.rename_lost
        update lost_claims l set buyer = e.pseudonym from erasures e, drops d
        where l.buyer = e.buyer and d.drop_id = l.drop_id and d.state = 'archived'";
    const POISONED: &str = "-- erasures.rename_poisoned
        update poisoned_claims p set buyer = e.pseudonym from erasures e, drops d
        where p.buyer = e.buyer and d.drop_id = p.drop_id and d.state = 'archived'";
    const PLACES: &str = "-- erasures.rename_places
        update standby_places s set buyer = e.pseudonym from erasures e, drops d
        where s.buyer = e.buyer and d.drop_id = s.drop_id and d.state = 'archived'";
    const ENTRIES: &str = "-- erasures.rename_entries
        update line_entries l set buyer = e.pseudonym from erasures e, drops d
        where l.buyer = e.buyer and d.drop_id = l.drop_id and d.state = 'archived'";
    // Nothing has his name any more: now this row forgets it too.
    const END: &str = "-- erasures.end
        update erasures e set buyer = null, ended_at = $1
        where buyer is not null
              and not exists (select 1 from orders_of(e.buyer) o where o.created_at <= e.asked_at)
              and not exists (select 1 from grants g where g.buyer = e.buyer)
              and not exists (select 1 from rejected_claims r where r.buyer = e.buyer)
              and not exists (select 1 from lost_claims l where l.buyer = e.buyer)
              and not exists (select 1 from poisoned_claims p where p.buyer = e.buyer)
              and not exists (select 1 from standby_places s where s.buyer = e.buyer)
              and not exists (select 1 from line_entries l where l.buyer = e.buyer)";
    let orders = tx.execute(ORDERS, &[]).await?;
    for statement in [HOLDINGS, GRANTS, REJECTED, LOST, POISONED, PLACES, ENTRIES] {
        tx.execute(statement, &[]).await?;
    }
    tx.execute(END, &[/* now */ &now]).await?;
    Ok(orders)
}

/// Orders that are not over, and claims that may become some.
async fn open_orders(tx: &Transaction<'_>, buyer: &BuyerId, now: Timestamp) -> Result<Vec<OrderId>, LedgerError> {
    const SQL: &str = "-- erasures.open_orders
        select order_id from orders_of($1) o join payments p using (order_id)
        where not (o.status = any($2) and p.state = any($3))
        union all
        select claim_id from poisoned_claims where buyer = $1 and claim_id is not null and resolved_at is null
        union all
        select claim_id from standby_places where buyer = $1 and state = 'AWARDED'
        union all
        select claim_id from checkouts c
        where buyer = $1 and claim_state is distinct from 'REFUSED' and (claim_state = 'PENDING' or (
            claim_state = 'TAKEN' and created_at > $5 and not exists (select 1 from orders o where o.order_id = c.claim_id)
            and not exists (select 1 from rejected_claims r where r.claim_id = c.claim_id)))
        limit $4";
    let over = OrderState::ALL.into_iter().filter(|state| state.is_over()).map(OrderState::as_str);
    let settled = PaymentState::ALL.into_iter().filter(|state| state.is_settled()).map(PaymentState::as_str);
    let (over, settled) = (over.collect::<Vec<_>>(), settled.collect::<Vec<_>>());
    let since = now.checked_sub(SETTLED_WITHIN).unwrap_or(Timestamp::MIN);
    let arguments: &[&(dyn tokio_postgres::types::ToSql + Sync)] =
        &[&buyer.as_str(), &over, &settled, /* limit */ &OPEN_ORDERS_NAMED, /* since */ &since];
    let rows = tx.query(SQL, arguments).await?;
    Ok(rows.iter().map(|row| OrderId(row.get(0))).collect())
}

/// Whether any row has his name.
async fn is_named(tx: &Transaction<'_>, buyer: &BuyerId) -> Result<bool, LedgerError> {
    const SQL: &str = "-- erasures.is_named
        select exists (select 1 from orders_of($1)) or exists (select 1 from grants where buyer = $1)
               or exists (select 1 from rejected_claims where buyer = $1)
               or exists (select 1 from lost_claims where buyer = $1)
               or exists (select 1 from poisoned_claims where buyer = $1)
               or exists (select 1 from standby_places where buyer = $1)
               or exists (select 1 from line_entries where buyer = $1)";
    Ok(tx.query_one(SQL, &[&buyer.as_str()]).await?.get(0))
}

/// The drops that keep him.
async fn keeping_drops(tx: &Transaction<'_>, buyer: &BuyerId) -> Result<Vec<String>, LedgerError> {
    const SQL: &str = "-- erasures.keeping_drops
        select d.name from drops d where d.state <> 'archived' and (
            exists (select 1 from orders_of($1) o join order_items i using (order_id) join warehouses w using (warehouse_id)
                    where w.drop_id = d.drop_id)
            or exists (select 1 from grants g join warehouses w using (warehouse_id)
                       where g.buyer = $1 and w.drop_id = d.drop_id)
            or exists (select 1 from rejected_claims r where r.buyer = $1 and r.drop_id = d.drop_id)
            or exists (select 1 from lost_claims l where l.buyer = $1 and l.drop_id = d.drop_id)
            or exists (select 1 from poisoned_claims p where p.buyer = $1 and p.drop_id = d.drop_id)
            or exists (select 1 from standby_places s where s.buyer = $1 and s.drop_id = d.drop_id)
            or exists (select 1 from line_entries l where l.buyer = $1 and l.drop_id = d.drop_id))
        order by d.name";
    Ok(tx.query(SQL, &[&buyer.as_str()]).await?.iter().map(|row: &Row| row.get(0)).collect())
}
