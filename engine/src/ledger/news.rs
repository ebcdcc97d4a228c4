//! What the provider tells by itself, kept once each until it has been dealt with, and what a buyer has to do next.

use std::fmt;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use tokio_postgres::types::Json;

use super::error::{LedgerError, expect_rows};
use super::pool::Ledger;
use crate::domain::ids::{EventId, IntentId, OrderId};

/// An event of the provider's, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEvent {
    pub id: EventId,
    pub kind: String,
    pub object: String,
    pub object_id: String,
    pub intent: Option<IntentId>,
    pub livemode: bool,
    pub happened_at: Timestamp,
}

/// An event that this worker, and no other, may deal with until its lease ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeasedEvent {
    pub id: EventId,
    pub kind: String,
    pub object: String,
    pub object_id: String,
    pub intent: Option<IntentId>,
    pub livemode: bool,
    pub received_at: Timestamp,
    pub tries: i32,
}

/// Whether an event was new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventStored {
    Now,
    Before,
}

/// What became of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventEnd {
    Done,
    /// Nothing that concerns an order of ours.
    Ignored,
}

/// How a buyer goes on with a payment that waits for him. For him only: it cannot be printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuyerAction {
    pub kind: String,
    pub url: Option<String>,
    pub client_secret: Option<String>,
}

impl fmt::Debug for BuyerAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BuyerAction({}, redacted)", self.kind)
    }
}

impl Ledger {
    /// Keeps an event; committed when this returns. However often it comes, it is kept once.
    pub async fn store_event(&self, event: &NewEvent, now: Timestamp) -> Result<EventStored, LedgerError> {
        const SQL: &str = "-- news.store_event
            insert into webhook_events (event_id, kind, object, object_id, intent_id, livemode, happened_at, received_at,
                                        state, due_at)
            values ($1, $2, $3, $4, $5, $6, $7, $8, 'WAITING', $8) on conflict (event_id) do nothing";
        let connection = self.connection().await?;
        let statement = connection.prepare_cached(SQL).await?;
        let intent = event.intent.as_ref().map(|intent| intent.0.as_str());
        let arguments: &[&(dyn tokio_postgres::types::ToSql + Sync)] = &[
            &event.id.0,
            &event.kind,
            &event.object,
            &event.object_id,
            &intent,
            &event.livemode,
            /* happened_at */ &event.happened_at,
            /* now */ &now,
        ];
        let is_new = connection.execute(&statement, arguments).await? == 1;
        Ok(if is_new { EventStored::Now } else { EventStored::Before })
    }

    /// Takes up to `limit` events that are due; a worker that dies leaves them for after the lease.
    pub async fn lease_events(
        &self,
        now: Timestamp,
        lease: SignedDuration,
        limit: i64,
    ) -> Result<Vec<LeasedEvent>, LedgerError> {
        const SQL: &str = "-- news.lease_events
            with due as (
                select event_id from webhook_events where due_at <= $1 order by due_at limit $3 for update skip locked
            )
            update webhook_events e set due_at = $2, tries = tries + 1 from due where e.event_id = due.event_id
            returning e.event_id, e.kind, e.object, e.intent_id, e.livemode, e.received_at, e.tries,
                      e.object_id";
        let until = now.checked_add(lease).unwrap_or(Timestamp::MAX);
        let connection = self.connection().await?;
        let statement = connection.prepare_cached(SQL).await?;
        let rows = connection.query(&statement, &[/* now */ &now, /* until */ &until, &limit]).await?;
        let event = |row: &tokio_postgres::Row| LeasedEvent {
            id: EventId(row.get(0)),
            kind: row.get(1),
            object: row.get(2),
            intent: row.get::<_, Option<String>>(3).map(IntentId),
            livemode: row.get(4),
            received_at: row.get(5),
            tries: row.get(6),
            object_id: row.get(7),
        };
        Ok(rows.iter().map(event).collect())
    }

    /// The event has been dealt with, unless its lease ran out and another worker has it.
    pub async fn end_event(
        &self,
        event: &LeasedEvent,
        end: EventEnd,
        detail: &str,
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        const SQL: &str = "-- news.end_event
            update webhook_events set state = $3, detail = $4, due_at = null, ended_at = $5
            where event_id = $1 and tries = $2 and state = 'WAITING'";
        let state = match end {
            EventEnd::Done => "DONE",
            EventEnd::Ignored => "IGNORED",
        };
        let connection = self.connection().await?;
        let statement = connection.prepare_cached(SQL).await?;
        let arguments: &[&(dyn tokio_postgres::types::ToSql + Sync)] =
            &[&event.id.0, &event.tries, &state, &detail, /* now */ &now];
        connection.execute(&statement, arguments).await?;
        Ok(())
    }

    /// The event cannot be dealt with yet.
    pub async fn keep_event(&self, event: &LeasedEvent, detail: &str, due_at: Timestamp) -> Result<(), LedgerError> {
        const SQL: &str = "-- news.keep_event
            update webhook_events set due_at = $3, detail = $4 where event_id = $1 and tries = $2 and state = 'WAITING'";
        let connection = self.connection().await?;
        let statement = connection.prepare_cached(SQL).await?;
        connection.execute(&statement, &[&event.id.0, &event.tries, /* due_at */ &due_at, &detail]).await?;
        Ok(())
    }

    /// Forgets events that ended before `before`, up to `limit`; answers how many.
    pub async fn forget_events(&self, before: Timestamp, limit: i64) -> Result<u64, LedgerError> {
        const SQL: &str = "-- news.forget_events
            delete from webhook_events where event_id in
                (select event_id from webhook_events where ended_at < $1 order by ended_at limit $2 for update skip locked)";
        Ok(self.connection().await?.execute(SQL, &[/* before */ &before, &limit]).await?)
    }

    /// Events that wait to be dealt with.
    pub async fn events_waiting(&self) -> Result<i64, LedgerError> {
        const SQL: &str = "-- news.events_waiting\nselect count(*) from webhook_events where due_at is not null";
        Ok(self.connection().await?.query_one(SQL, &[]).await?.get(0))
    }

    /// The order whose payment has this intent. `None`: there is none, or its row is not committed yet.
    pub async fn order_of_intent(&self, intent: &IntentId) -> Result<Option<OrderId>, LedgerError> {
        const SQL: &str = "-- news.order_of_intent\nselect order_id from payments where intent_id = $1";
        let connection = self.connection().await?;
        let statement = connection.prepare_cached(SQL).await?;
        Ok(connection.query_opt(&statement, &[&intent.0]).await?.map(|row| OrderId(row.get(0))))
    }

    /// Has the charge worker look at a payment now instead of when it falls due, if it is to be looked at at all. One that is
    /// leased just now is being looked at.
    pub async fn bring_forward(&self, order: OrderId, now: Timestamp) -> Result<(), LedgerError> {
        const SQL: &str = "-- news.bring_forward
            update payments set due_at = $2
            where order_id = $1 and due_at > $2 and (leased_until is null or leased_until <= $2)";
        let connection = self.connection().await?;
        let statement = connection.prepare_cached(SQL).await?;
        connection.execute(&statement, &[&order.0, /* now */ &now]).await?;
        Ok(())
    }

    /// Keeps what the buyer has to do, while his payment waits for it.
    pub async fn store_next_action(
        &self,
        order: OrderId,
        intent: &IntentId,
        action: &BuyerAction,
    ) -> Result<(), LedgerError> {
        const SQL: &str = "-- news.store_next_action
            update payments set next_action = $3
            where order_id = $1 and intent_id = $2 and state = 'ACTION_REQUIRED' and next_action is distinct from $3";
        let connection = self.connection().await?;
        let statement = connection.prepare_cached(SQL).await?;
        let changed = connection.execute(&statement, &[&order.0, &intent.0, &Json(action)]).await?;
        // None: it was known, or the payment has gone on.
        if changed > 1 { expect_rows("news.store_next_action", 1, changed) } else { Ok(()) }
    }
}
