//! The outbox: what is to be told to somebody outside, written in the transaction in which it happened. What everybody in a
//! line is told is written by pages behind it (`ledger/line/mails.rs`).
//!
//! A notice is an event, for the shop's systems, and for most kinds a mail to the buyer. Both are rows of the transaction
//! that changes the order, so there is no notice of what did not happen and nothing happens without its notice.
//! [`Ledger::fan_out`] makes a delivery of each event for each endpoint. A delivery is leased, sent with no transaction open, and
//! its outcome recorded only if the lease number is still ours; a worker that dies in between leaves a delivery that is made
//! again. At least once, then: the same notice bears the same id each time.

use std::collections::HashMap;

use deadpool_postgres::Transaction;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use serde_json::Value;
use tokio_postgres::Row;
use uuid::Uuid;

use super::drops::inconsistent;
use super::error::LedgerError;
use super::locked_order::money;
use super::pool::Ledger;
use super::tx::run_tx;
use crate::domain::ids::{DropId, OrderId};
use crate::domain::money::Money;
use crate::domain::notices::{EventId, ItemFacts, MailLane, NotANotice, Notice, OrderFacts, Subject};
use crate::domain::pricing::{Rate, Totals};

/// Endpoints that no worker was configured with for so long get no new events. Generous: a shop may be closed over night.
const ENDPOINT_FORGOTTEN: SignedDuration = SignedDuration::from_hours(24);

/// Who is told.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Destination {
    Mail(MailLane),
    /// An endpoint by its configured name. Its destination is `webhook:` and the name.
    Webhook(String),
}

/// A delivery that this worker, and no other, may make until the lease ends.
#[derive(Debug, Clone, PartialEq)]
pub struct LeasedDelivery {
    pub id: i64,
    pub subject: Subject,
    /// One that this program does not know may be a newer program's: it must not hold up the others.
    pub notice: Result<Notice, NotANotice>,
    /// When it happened.
    pub created_at: Timestamp,
    /// Since when it has been tried.
    pub queued_at: Timestamp,
    /// This one included.
    pub attempts: i32,
    pub lease: i64,
    pub leased_until: Timestamp,
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeliveryState {
    Sent,
    /// Will never be taken: the other side said so, or it cannot be written.
    Refused(String),
    /// There is nobody to send it to.
    Skipped(String),
    /// Tried for too long.
    Dead(String),
    Again {
        at: Timestamp,
        error: String,
    },
}

/// How many deliveries to one destination are in one state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeliveryCount {
    pub destination: String,
    pub state: String,
    pub count: i64,
    /// When the oldest of them happened.
    pub oldest: Timestamp,
}

/// A delivery that was not made, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unsent {
    pub event: String,
    pub destination: String,
    pub state: String,
    pub attempts: i32,
    pub last_error: Option<String>,
    pub next_at: Option<Timestamp>,
}

/// What is delivered again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Replay {
    Event(EventId),
    Since(Timestamp),
}

impl Destination {
    fn stored(&self) -> String {
        match self {
            Self::Mail(lane) => lane.as_str().to_owned(),
            Self::Webhook(name) => format!("webhook:{name}"),
        }
    }
}

/// Writes a notice in the transaction in which it becomes true: the event, and the mail if the buyer is told. What was written
/// before stays as it is; `false` says so.
pub(super) async fn enqueue(
    tx: &Transaction<'_>,
    order: OrderId,
    notice: &Notice,
    now: Timestamp,
) -> Result<bool, LedgerError> {
    Ok(enqueue_for(tx, &[order.0], notice, now).await? == 1)
}

/// The same notice for many orders. Answers for how many it is new.
pub(super) async fn enqueue_for(
    tx: &Transaction<'_>,
    orders: &[Uuid],
    notice: &Notice,
    now: Timestamp,
) -> Result<u64, LedgerError> {
    const EVENTS: &str = "-- outbox.enqueue_events
        insert into order_events (order_id, kind, about, detail, created_at)
        select order_id, $2, $3, $4, $5 from unnest($1::uuid[]) as o (order_id)
        on conflict do nothing";
    const MAILS: &str = "-- outbox.enqueue_mails
        insert into outbox (order_id, kind, about, detail, destination, created_at, queued_at, next_at)
        select order_id, $2, $3, $4, $6, $5, $5, $5 from unnest($1::uuid[]) as o (order_id)
        on conflict do nothing";
    let (kind, about, detail) = (notice.kind(), notice.about(), notice.detail());
    let lane = notice.mail_lane().map(MailLane::as_str);
    let arguments: [&(dyn tokio_postgres::types::ToSql + Sync); 6] =
        [&orders, &kind, &about, &detail, /* now */ &now, &lane];
    let new = tx.execute(&tx.prepare_cached(EVENTS).await?, &arguments[..5]).await?;
    if lane.is_some() {
        tx.execute(&tx.prepare_cached(MAILS).await?, &arguments).await?;
    }
    Ok(new)
}

/// A notice about a whole drop, for the shop's systems.
pub(super) async fn enqueue_of_drop(
    tx: &Transaction<'_>,
    drop: DropId,
    notice: &Notice,
    now: Timestamp,
) -> Result<(), LedgerError> {
    const SQL: &str = "-- outbox.enqueue_of_drop
        insert into order_events (order_id, kind, about, detail, created_at, drop_id) values ($1, $2, $3, $4, $5, $6)
        on conflict do nothing";
    let (kind, about, detail) = (notice.kind(), notice.about(), notice.detail());
    let arguments: [&(dyn tokio_postgres::types::ToSql + Sync); 6] =
        [&drop.event_subject().0, &kind, &about, &detail, /* now */ &now, &drop.0];
    tx.execute(&tx.prepare_cached(SQL).await?, &arguments).await?;
    Ok(())
}

/// The same kind of notice about many places of a line, for their buyers. Those who have one keep it.
pub(super) async fn enqueue_of_places(
    tx: &Transaction<'_>,
    drop: DropId,
    notices: &[(OrderId, Notice)],
    now: Timestamp,
) -> Result<(), LedgerError> {
    const SQL: &str = "-- outbox.enqueue_of_places
        insert into outbox (order_id, kind, detail, destination, created_at, queued_at, next_at, drop_id)
        select order_id, kind, detail, $4, $5, $5, $5, $6
        from unnest($1::uuid[], $2::text[], $3::jsonb[]) as n (order_id, kind, detail)
        on conflict do nothing";
    let claims = notices.iter().map(|(claim, _)| claim.0).collect::<Vec<_>>();
    let kinds = notices.iter().map(|(_, notice)| notice.kind()).collect::<Vec<_>>();
    let details = notices.iter().map(|(_, notice)| notice.detail()).collect::<Vec<_>>();
    let arguments: [&(dyn tokio_postgres::types::ToSql + Sync); 6] =
        [&claims, &kinds, &details, &MailLane::Lines.as_str(), /* now */ &now, &drop.0];
    tx.execute(&tx.prepare_cached(SQL).await?, &arguments).await?;
    Ok(())
}

impl Ledger {
    /// Writes a notice by itself, for what is decided outside of this module. `false`: it was there already.
    pub async fn enqueue_notice(&self, order: OrderId, notice: &Notice, now: Timestamp) -> Result<bool, LedgerError> {
        run_tx!(self, "outbox.enqueue_notice", tx, { enqueue(tx, order, notice, now).await })
    }

    /// Leases up to `limit` deliveries to one destination that are due, oldest first. A disabled endpoint has none.
    pub async fn lease_deliveries(
        &self,
        destination: &Destination,
        now: Timestamp,
        lease: SignedDuration,
        limit: i64,
    ) -> Result<Vec<LeasedDelivery>, LedgerError> {
        const SQL: &str = "-- outbox.lease
            with due as (
                select outbox_id from outbox
                where destination = $1 and next_at <= $2 and (leased_until is null or leased_until <= $2)
                      and not exists (select 1 from webhook_endpoints
                                      where 'webhook:' || name = $1 and disabled_at is not null)
                order by next_at limit $4 for update skip locked
            ), leased as (
                update outbox o set lease_number = lease_number + 1, leased_until = $3, attempts = attempts + 1
                from due where o.outbox_id = due.outbox_id
                returning o.*
            )
            select l.outbox_id, l.kind, l.detail, l.created_at, l.queued_at, l.attempts, l.lease_number, l.order_id, d.name,
                   coalesce(o.ship_to, c.ship_to) ->> 'name', coalesce(o.email, c.email),
                   coalesce(o.currency, d.currency), o.subtotal_minor, o.tax_minor, o.shipping_minor, o.total_minor,
                   coalesce(o.pay_by, d.pay_by), coalesce(o.buyer, r.buyer, x.buyer, e.buyer),
                   coalesce(t.tax_basis_points, d.tax_basis_points), coalesce(t.shipping_minor, d.shipping_minor),
                   case when t.country is null then d.shipping_tax_basis_points else t.shipping_tax_basis_points end,
                   t.free_shipping_from_minor, d.price_includes_tax, l.drop_id
            from leased l left join orders o using (order_id)
                 left join rejected_claims r on r.claim_id = l.order_id
                 left join lost_claims x on x.claim_id = l.order_id
                 left join line_entries e on e.drop_id = l.drop_id and e.number = (l.detail ->> 'number')::int
                 left join drops d on d.drop_id = coalesce(o.drop_id, r.drop_id, x.drop_id, l.drop_id)
                 left join checkout_profiles c on c.buyer = coalesce(o.buyer, r.buyer, x.buyer, e.buyer)
                 left join lateral (
                     select * from drop_rates t
                     where t.drop_id = d.drop_id and t.country in (c.ship_to ->> 'country', '*')
                     order by t.country = '*' limit 1) t on o.order_id is null
            where o.order_id is not null or r.claim_id is not null or x.claim_id is not null or d.drop_id is not null
            order by l.outbox_id";
        const ITEMS: &str = "-- outbox.items
            select i.order_id, v.sku, p.name, v.title, i.quantity, i.unit_price_minor
            from order_items i join variants v using (variant_id) join products p on p.product_id = i.product_id
            where i.order_id = any($1) order by i.order_id, i.line";
        // What a claim that became no order was about. One may be in both tables: lost, come back, and rejected.
        const CLAIMED: &str = "-- outbox.claimed
            select r.claim_id, v.sku, p.name, v.title, r.units::int, dv.price_minor
            from (select claim_id, drop_id, variant_number, units from rejected_claims where claim_id = any($1)
                  union select claim_id, drop_id, variant_number, units from lost_claims where claim_id = any($1)) r
                 join drop_variants dv on dv.drop_id = r.drop_id and dv.number = r.variant_number
                 join variants v using (variant_id) join products p on p.product_id = v.product_id";
        // What is wished for in a line, in order of preference.
        const WISHED: &str = "-- outbox.wished
            select l.claim_id, v.sku, p.name, v.title, e.quantity::int, dv.price_minor
            from unnest($1::uuid[], $2::int[], $3::int[]) as l (claim_id, drop_id, number)
                 join line_entries e using (drop_id, number)
                 cross join lateral (values (1, e.choice1), (2, e.choice2), (3, e.choice3)) as c (nth, variant)
                 join drop_variants dv on dv.drop_id = e.drop_id and dv.number = c.variant
                 join variants v using (variant_id) join products p on p.product_id = v.product_id
            order by l.claim_id, c.nth";
        let until = now.checked_add(lease).unwrap_or(Timestamp::MAX);
        let connection = self.connection().await?;
        let statement = connection.prepare_cached(SQL).await?;
        let arguments: &[&(dyn tokio_postgres::types::ToSql + Sync)] =
            &[&destination.stored(), /* now */ &now, /* until */ &until, /* limit */ &limit];
        let rows = connection.query(&statement, arguments).await?;
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let mut leased = rows.iter().map(|row| leased_from_row(row, until)).collect::<Result<Vec<_>, _>>()?;
        let orders = leased.iter().map(|delivery| delivery.subject.id().0).collect::<Vec<_>>();
        let mut items = connection.query(&connection.prepare_cached(ITEMS).await?, &[&orders]).await?;
        let is_claim = |row: &Row| row.get::<_, Option<i64>>(15).is_none() && row.get::<_, Option<i32>>(23).is_none();
        if rows.iter().any(is_claim) {
            items.extend(connection.query(&connection.prepare_cached(CLAIMED).await?, &[&orders]).await?);
        }
        let places = leased.iter().zip(&rows).filter_map(|(delivery, row)| {
            let (drop, place) = (row.get::<_, Option<i32>>(23)?, delivery.notice.as_ref().ok()?.place()?);
            Some((delivery.subject.id().0, drop, place.number.cast_signed()))
        });
        let (claims, (drops, numbers)) =
            places.map(|(claim, drop, number)| (claim, (drop, number))).unzip::<_, _, Vec<_>, (Vec<_>, Vec<_>)>();
        if !claims.is_empty() {
            let statement = connection.prepare_cached(WISHED).await?;
            items.extend(connection.query(&statement, &[&claims, &drops, &numbers]).await?);
        }
        for (delivery, row) in leased.iter_mut().zip(&rows) {
            let Subject::Order(order) = &mut delivery.subject else { continue };
            let currency = order.totals.total.currency.to_string();
            let mine = items.iter().filter(|row| row.get::<_, Uuid>(0) == order.id.0);
            order.items = mine.map(|row| item_from_row(row, &currency)).collect::<Result<_, _>>()?;
            if is_claim(row) {
                order.totals = totals_of_claim(order, row)?;
            }
        }
        Ok(leased)
    }

    /// Records how an attempt ended. `false`: the lease had run out and somebody else has taken the delivery, or it was put
    /// back for a replay; then his word counts.
    pub async fn record_delivery(
        &self,
        delivery: &LeasedDelivery,
        state: &DeliveryState,
        now: Timestamp,
    ) -> Result<bool, LedgerError> {
        const SQL: &str = "-- outbox.record
            update outbox set state = $3, next_at = $4, last_error = $5, sent_at = $6, leased_until = null
            where outbox_id = $1 and lease_number = $2 and state = 'queued'";
        let (name, next_at, error, sent_at) = match state {
            DeliveryState::Sent => ("sent", None, None, Some(now)),
            DeliveryState::Refused(why) => ("refused", None, Some(why), None),
            DeliveryState::Skipped(why) => ("skipped", None, Some(why), None),
            DeliveryState::Dead(why) => ("dead", None, Some(why), None),
            DeliveryState::Again { at, error } => ("queued", Some(*at), Some(error), None),
        };
        let connection = self.connection().await?;
        let statement = connection.prepare_cached(SQL).await?;
        let arguments: &[&(dyn tokio_postgres::types::ToSql + Sync)] =
            &[&delivery.id, /* lease */ &delivery.lease, &name, &next_at, &error, &sent_at];
        Ok(connection.execute(&statement, arguments).await? == 1)
    }

    /// Gives deliveries back that were leased and not tried.
    pub async fn release_deliveries(&self, untried: &[LeasedDelivery]) -> Result<(), LedgerError> {
        const SQL: &str = "-- outbox.release
            update outbox o set leased_until = null, attempts = attempts - 1
            from unnest($1::bigint[], $2::bigint[]) as l (id, lease)
            where o.outbox_id = l.id and o.lease_number = l.lease and o.state = 'queued'";
        let ids = untried.iter().map(|delivery| delivery.id).collect::<Vec<_>>();
        let leases = untried.iter().map(|delivery| delivery.lease).collect::<Vec<_>>();
        self.connection().await?.execute(SQL, &[&ids, &leases]).await?;
        Ok(())
    }

    /// Takes one of the `bound` mails that an address may get within the clock hour from `hour` on. `false`: there are none left.
    pub async fn take_mail_turn(&self, recipient: &[u8], hour: Timestamp, bound: u32) -> Result<bool, LedgerError> {
        const SQL: &str = "-- outbox.take_mail_turn
            insert into mail_turns (recipient, hour, mails) values ($1, $2, 1)
            on conflict (recipient, hour) do update set mails = mail_turns.mails + 1 where mail_turns.mails < $3";
        let connection = self.connection().await?;
        let statement = connection.prepare_cached(SQL).await?;
        let bound = i32::try_from(bound).unwrap_or(i32::MAX);
        Ok(connection.execute(&statement, &[&recipient, &hour, &bound]).await? == 1)
    }

    /// Gives the turn of a mail back that was not sent.
    pub async fn give_back_mail_turn(&self, recipient: &[u8], hour: Timestamp) -> Result<(), LedgerError> {
        const SQL: &str = "-- outbox.give_back_mail_turn
            update mail_turns set mails = mails - 1 where recipient = $1 and hour = $2 and mails > 0";
        let connection = self.connection().await?;
        connection.execute(&connection.prepare_cached(SQL).await?, &[&recipient, &hour]).await?;
        Ok(())
    }

    /// Forgets the hours that are over.
    pub async fn forget_mail_turns(&self, before: Timestamp) -> Result<(), LedgerError> {
        const SQL: &str = "-- outbox.forget_mail_turns\ndelete from mail_turns where hour < $1";
        let connection = self.connection().await?;
        connection.execute(&connection.prepare_cached(SQL).await?, &[/* before */ &before]).await?;
        Ok(())
    }

    /// Puts a delivery off that was leased and not tried. However often that happens, it is not given up for it.
    pub async fn put_off_delivery(
        &self,
        delivery: &LeasedDelivery,
        until: Timestamp,
        why: &str,
    ) -> Result<bool, LedgerError> {
        const SQL: &str = "-- outbox.put_off
            update outbox set next_at = $3, queued_at = $3, last_error = $4, attempts = attempts - 1, leased_until = null
            where outbox_id = $1 and lease_number = $2 and state = 'queued'";
        let connection = self.connection().await?;
        let arguments: &[&(dyn tokio_postgres::types::ToSql + Sync)] =
            &[&delivery.id, /* lease */ &delivery.lease, &until, &why];
        Ok(connection.execute(&connection.prepare_cached(SQL).await?, arguments).await? == 1)
    }

    /// Says that a worker is configured with these endpoints. One that is met for the first time gets what happens from now on.
    pub async fn register_endpoints(&self, names: &[String], now: Timestamp) -> Result<(), LedgerError> {
        const SQL: &str = "-- outbox.register_endpoints
            insert into webhook_endpoints (name, since, configured_at)
            select name, $2, $2 from unnest($1::text[]) as e (name) order by name
            on conflict (name) do update set configured_at = excluded.configured_at
            where webhook_endpoints.configured_at < excluded.configured_at - interval '1 minute'";
        self.connection().await?.execute(SQL, &[&names, /* now */ &now]).await?;
        Ok(())
    }

    /// Makes deliveries of events that have none yet. Answers how many events there were.
    pub async fn fan_out(&self, now: Timestamp, limit: i64) -> Result<u64, LedgerError> {
        const SQL: &str = "-- outbox.fan_out
            with fresh as (
                select order_id, kind, about, detail, created_at, drop_id from order_events where fanned_out_at is null
                order by created_at limit $2 for update skip locked
            ), marked as (
                update order_events e set fanned_out_at = $1 from fresh f
                where e.order_id = f.order_id and e.kind = f.kind and e.about = f.about
                returning 1
            ), delivered as (
                insert into outbox (order_id, kind, about, detail, destination, created_at, queued_at, next_at, drop_id)
                select f.order_id, f.kind, f.about, f.detail, 'webhook:' || w.name, f.created_at, $1, $1, f.drop_id
                from fresh f join webhook_endpoints w on f.created_at >= w.since and w.configured_at > $3
                on conflict do nothing
            )
            select count(*) from marked";
        let connection = self.connection().await?;
        let statement = connection.prepare_cached(SQL).await?;
        let forgotten = now.checked_sub(ENDPOINT_FORGOTTEN).unwrap_or(Timestamp::MIN);
        let arguments: &[&(dyn tokio_postgres::types::ToSql + Sync)] =
            &[/* now */ &now, /* limit */ &limit, /* forgotten */ &forgotten];
        Ok(connection.query_one(&statement, arguments).await?.get::<_, i64>(0).cast_unsigned())
    }

    /// An endpoint that said it is gone is left alone until somebody enables it; what happens meanwhile waits. `false`: it was
    /// disabled already, by one of the deliveries that were under way with this one.
    pub async fn disable_endpoint(&self, name: &str, now: Timestamp) -> Result<bool, LedgerError> {
        const SQL: &str = "-- outbox.disable_endpoint
            update webhook_endpoints set disabled_at = $2 where name = $1 and disabled_at is null";
        Ok(self.connection().await?.execute(SQL, &[&name, /* now */ &now]).await? == 1)
    }

    /// Enables an endpoint again; what has waited is due at once, with all its time before it. `false`: there is none.
    pub async fn enable_endpoint(&self, name: &str, now: Timestamp) -> Result<bool, LedgerError> {
        const ENDPOINT: &str =
            "-- outbox.enable_endpoint\nupdate webhook_endpoints set disabled_at = null where name = $1";
        const WAITING: &str = "-- outbox.wake_endpoint
            update outbox set next_at = $2, queued_at = $2 where destination = 'webhook:' || $1::text and state = 'queued'";
        run_tx!(self, "outbox.enable_endpoint", tx, {
            let is_known = tx.execute(ENDPOINT, &[&name]).await? == 1;
            tx.execute(WAITING, &[&name, /* now */ &now]).await?;
            Ok(is_known)
        })
    }

    /// Delivers events again, or for the first time, to every endpoint that workers are configured with. Answers how many
    /// deliveries that makes. A worker that is at one of them right now loses its lease, and its word no longer counts.
    pub async fn replay_events(&self, replay: &Replay, now: Timestamp) -> Result<u64, LedgerError> {
        const SQL: &str = "-- outbox.replay
            insert into outbox (order_id, kind, about, detail, destination, created_at, queued_at, next_at, drop_id)
            select e.order_id, e.kind, e.about, e.detail, 'webhook:' || w.name, e.created_at, $1, $1, e.drop_id
            from order_events e, webhook_endpoints w
            where w.configured_at > $2 and (e.created_at >= $3 or (e.order_id = $4 and e.kind = $5 and e.about = $6))
            on conflict (order_id, kind, about, destination) do update
                set state = 'queued', queued_at = excluded.queued_at, next_at = excluded.next_at, attempts = 0,
                    last_error = null, sent_at = null, leased_until = null, lease_number = outbox.lease_number + 1";
        let forgotten = now.checked_sub(ENDPOINT_FORGOTTEN).unwrap_or(Timestamp::MIN);
        let (since, event) = match replay {
            Replay::Since(since) => (Some(*since), None),
            Replay::Event(event) => (None, Some(event)),
        };
        let order = event.map(|event| event.order.0);
        let (kind, about) = (event.map(|event| &event.kind), event.map(|event| &event.about));
        let arguments: &[&(dyn tokio_postgres::types::ToSql + Sync)] =
            &[/* now */ &now, /* forgotten */ &forgotten, &since, &order, &kind, &about];
        Ok(self.connection().await?.execute(SQL, arguments).await?)
    }

    /// Puts mails back that were refused, skipped or given up. None of them has been sent, as far as we know.
    pub async fn retry_mails(&self, now: Timestamp) -> Result<u64, LedgerError> {
        const SQL: &str = "-- outbox.retry_mails
            update outbox set state = 'queued', queued_at = $1, next_at = $1, attempts = 0, leased_until = null
            where destination like 'mail%' and state in ('refused', 'skipped', 'dead')";
        Ok(self.connection().await?.execute(SQL, &[/* now */ &now]).await?)
    }

    /// Deliveries by destination and state.
    pub async fn delivery_counts(&self) -> Result<Vec<DeliveryCount>, LedgerError> {
        const SQL: &str = "-- outbox.counts
            select destination, state, count(*), min(created_at) from outbox group by 1, 2 order by 1, 2";
        let rows = self.connection().await?.query(SQL, &[]).await?;
        let count = |row: &Row| DeliveryCount {
            destination: row.get(0),
            state: row.get(1),
            count: row.get(2),
            oldest: row.get(3),
        };
        Ok(rows.iter().map(count).collect())
    }

    /// Deliveries that ended without being made, then those that wait for another try, newest first.
    pub async fn unsent_deliveries(&self, limit: i64) -> Result<Vec<Unsent>, LedgerError> {
        const SQL: &str = "-- outbox.unsent
            select order_id, kind, about, destination, state, attempts, last_error, next_at from outbox
            where state in ('refused', 'skipped', 'dead') or (state = 'queued' and last_error is not null)
            order by state = 'queued', outbox_id desc limit $1";
        let rows = self.connection().await?.query(SQL, &[/* limit */ &limit]).await?;
        let unsent = |row: &Row| {
            let event = EventId { order: OrderId(row.get(0)), kind: row.get(1), about: row.get(2) };
            Unsent {
                event: event.to_string(),
                destination: row.get(3),
                state: row.get(4),
                attempts: row.get(5),
                last_error: row.get(6),
                next_at: row.get(7),
            }
        };
        Ok(rows.iter().map(unsent).collect())
    }

    /// Endpoints that said they are gone, and when.
    pub async fn disabled_endpoints(&self) -> Result<Vec<(String, Timestamp)>, LedgerError> {
        const SQL: &str = "-- outbox.disabled_endpoints
            select name, disabled_at from webhook_endpoints where disabled_at is not null order by name";
        let rows = self.connection().await?.query(SQL, &[]).await?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    /// Deliveries that wait for their first or next try.
    pub async fn waiting_deliveries(&self) -> Result<HashMap<String, i64>, LedgerError> {
        const SQL: &str = "-- outbox.waiting
            select destination, count(*) from outbox where next_at is not null group by destination";
        let connection = self.connection().await?;
        let rows = connection.query(&connection.prepare_cached(SQL).await?, &[]).await?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }
}

fn leased_from_row(row: &Row, leased_until: Timestamp) -> Result<LeasedDelivery, LedgerError> {
    let (id, kind): (i64, &str) = (row.get(0), row.get(1));
    let notice = Notice::from_stored(kind, row.get::<_, Option<Value>>(2));
    let order: Uuid = row.get(7);
    let currency: &str = row.get(11);
    // A claim that became no order has none of these.
    let amount = |column| money(row.get::<_, Option<i64>>(column).unwrap_or_default(), currency, order);
    let subject = match (row.get::<_, Option<&str>>(17), row.get::<_, Option<i32>>(23)) {
        (Some(buyer), _) => Subject::Order(OrderFacts {
            id: OrderId(order),
            buyer: buyer.parse().map_err(|_| inconsistent("orders", "buyer", order, buyer))?,
            drop_name: row.get(8),
            buyer_name: row.get(9),
            email: row.get(10),
            items: Vec::new(),
            totals: Totals { subtotal: amount(12)?, tax: amount(13)?, shipping: amount(14)?, total: amount(15)? },
            pay_by: row.get(16),
        }),
        (None, Some(drop)) => Subject::Drop { id: DropId(drop), name: row.get(8) },
        (None, None) => return Err(inconsistent("outbox", "order_id", order, "about nobody")),
    };
    Ok(LeasedDelivery {
        id,
        subject,
        notice,
        created_at: row.get(3),
        queued_at: row.get(4),
        attempts: row.get(5),
        lease: row.get(6),
        leased_until,
    })
}

/// What its buyer would have paid.
fn totals_of_claim(claim: &OrderFacts, row: &Row) -> Result<Totals, LedgerError> {
    let Some(item) = claim.items.first() else { return Ok(claim.totals) };
    let shipping = Money::new(row.get(19), item.unit_price.currency);
    let rate = Rate {
        tax_basis_points: row.get::<_, i32>(18) as u32,
        shipping_tax_basis_points: row.get::<_, Option<i32>>(20).map(i32::cast_unsigned),
        shipping,
        free_shipping_from: row.get::<_, Option<i64>>(21).map(|minor| Money::new(minor, shipping.currency)),
    };
    let sum = item.unit_price.times(item.quantity);
    let totals = sum.and_then(|sum| Totals::of_prices(sum, &rate, row.get(22)));
    totals.map_err(|error| inconsistent("rejected_claims", "units", claim.id, &error.to_string()))
}

fn item_from_row(row: &Row, currency: &str) -> Result<ItemFacts, LedgerError> {
    Ok(ItemFacts {
        sku: row.get(1),
        product: row.get(2),
        variant: row.get(3),
        quantity: row.get::<_, i32>(4) as u32,
        unit_price: money(row.get(5), currency, row.get(0))?,
    })
}
