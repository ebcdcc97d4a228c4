//! Claims that were answered and that Redis forgot, as the processes that answered them remember or have noted: once each, first in
//! line, told.
//!
//! [`Ledger::lose_claims`] writes them under the lock of their warehouse, which settlement takes too: of a claim that comes back
//! and the loss of it, one is first. Found lost first, its place in line is there when settlement looks ([`LOCK_PLACES`]), which
//! then ends it or rejects the claim; settled first, it is found seen. What is decided is in `domain/lost.rs`.

use deadpool_postgres::Transaction;
use jiff::Timestamp;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::drops::inconsistent;
use super::error::LedgerError;
use super::pool::Ledger;
use super::settlements::{LostRow, seen};
use super::standby::{place_state, stand_in_for};
use super::tx::run_tx;
use crate::domain::claims::Claim;
use crate::domain::drops::SaleDrop;
use crate::domain::ids::{ClaimId, Epoch, WarehouseId};
use crate::domain::lost::{AnsweredFacts, Fate, LostPlace, fate};

/// Locks the places in line of a drop for lost claims that these claims, or awards, are about.
pub(super) const LOCK_PLACES: &str = "-- lost.lock_places
    select place_id from standby_places
    where drop_id = $1 and lost_claim is not null and (lost_claim = any($2) or claim_id = any($2))
    order by place_id for update";

/// How far the present epoch of a warehouse has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WarehouseEpoch {
    pub id: WarehouseId,
    pub epoch: Epoch,
    pub is_rebuilding: bool,
}

impl Ledger {
    /// Of those warehouses that there are.
    pub async fn warehouse_epochs(&self, warehouses: &[WarehouseId]) -> Result<Vec<WarehouseEpoch>, LedgerError> {
        const SQL: &str = "-- lost.warehouse_epochs
            select warehouse_id, epoch, state from warehouses where warehouse_id = any($1)";
        let ids = warehouses.iter().map(|warehouse| warehouse.0).collect::<Vec<_>>();
        let connection = self.connection().await?;
        let rows = connection.query(&connection.prepare_cached(SQL).await?, &[&ids]).await?;
        Ok(rows.iter().map(epoch).collect())
    }

    /// Writes down claims of one warehouse and one epoch that were answered and are in no record of Redis any more: their buyers go
    /// first in line and are told, once for each claim, however many processes say so. Answers those that are new; what settlement
    /// has seen, or may still see, is left alone.
    pub async fn lose_claims(
        &self,
        drop: &SaleDrop,
        warehouse: WarehouseId,
        answered_under: Epoch,
        claims: &[&Claim],
        now: Timestamp,
    ) -> Result<Vec<ClaimId>, LedgerError> {
        run_tx!(self, "lost.lose_claims", tx, {
            // Settlement takes the row for share.
            const LOCK: &str = "-- lost.lock_warehouse
                select warehouse_id, epoch, state from warehouses where warehouse_id = $1 for no key update";
            const INSERT: &str = "-- lost.insert
                insert into lost_claims (claim_id, drop_id, warehouse_id, buyer, variant_number, units, epoch, found_at)
                values ($1, $2, $3, $4, $5, $6, $7, $8) on conflict do nothing";
            let Some(row) = tx.query_opt(LOCK, &[&warehouse.0]).await? else { return Ok(Vec::new()) };
            let present = epoch(&row);
            let seen = seen(tx, &claims.iter().map(|claim| claim.id.0).collect::<Vec<_>>()).await?;
            let insert = tx.prepare_cached(INSERT).await?;
            let mut lost = Vec::new();
            for claim in claims {
                let fate = fate(AnsweredFacts {
                    epoch: answered_under,
                    present: present.epoch,
                    is_rebuilding: present.is_rebuilding,
                    is_seen: seen.contains(&claim.id.0),
                    is_in_record: false,
                });
                if fate != Fate::Lost {
                    continue;
                }
                let (number, units) = (i16::from(claim.variant.0), claim.quantity.units() as i16);
                let (id, buyer) = (claim.id.0, claim.buyer.as_str());
                let arguments: &[&(dyn ToSql + Sync)] =
                    &[&id, &drop.id.0, &warehouse.0, &buyer, &number, &units, &answered_under.0, /* found */ &now];
                if tx.execute(&insert, arguments).await? == 1 {
                    stand_in_for(tx, drop, claim, now).await?;
                    lost.push(claim.id);
                }
            }
            Ok(lost)
        })
    }
}

pub(super) fn epoch(row: &Row) -> WarehouseEpoch {
    let state: &str = row.get(2);
    WarehouseEpoch { id: WarehouseId(row.get(0)), epoch: Epoch(row.get(1)), is_rebuilding: state == "rebuilding" }
}

/// What stands in the places that were locked; read after the lock, so that whoever was waited for is seen.
pub(super) async fn places(tx: &Transaction<'_>, locked: &[Row]) -> Result<Vec<LostRow>, LedgerError> {
    if locked.is_empty() {
        return Ok(Vec::new());
    }
    const SQL: &str = "-- lost.places
        select p.place_id, p.lost_claim, p.claim_id, p.state,
               exists (select 1 from orders o where o.order_id = p.lost_claim)
        from standby_places p where p.place_id = any($1)";
    let ids = locked.iter().map(|row| row.get::<_, i64>(0)).collect::<Vec<_>>();
    let rows = tx.query(&tx.prepare_cached(SQL).await?, &[&ids]).await?;
    rows.iter()
        .map(|row| {
            let place: i64 = row.get(0);
            let unknown = || inconsistent("standby_places", "state", place, row.get::<_, &str>(3));
            let facts = LostPlace { state: place_state(row, 3).ok_or_else(unknown)?, has_come_back: row.get(4) };
            Ok(LostRow { place, claim: row.get::<_, Uuid>(1), award: row.get(2), facts })
        })
        .collect()
}

/// Nobody waits any more in the places of claims that came back. Who had joined the line before their claim was lost waits on in
/// the place they had, for what they joined for, as everybody does.
pub(super) async fn end_places(tx: &Transaction<'_>, places: &[i64], now: Timestamp) -> Result<(), LedgerError> {
    if places.is_empty() {
        return Ok(());
    }
    const SQL: &str = "-- lost.end_places
        update standby_places set
            state = case when request_key is null then 'LEFT' else state end,
            ended_at = case when request_key is null then $2::timestamptz end,
            precedence = case when request_key is null then precedence else 1 end
        where place_id = any($1) and state = 'WAITING'";
    tx.execute(&tx.prepare_cached(SQL).await?, &[&places, /* now */ &now]).await?;
    Ok(())
}
