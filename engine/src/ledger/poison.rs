//! What settlement could neither settle nor reject: set aside with its units held, shown, and tried again when told.
//!
//! Setting aside takes the warehouse exclusively, as a rejection does, so no settlement of the same claim is under way
//! meanwhile: a claim becomes an order, or rejected, or poisoned, never two of these. It must never free a unit.

use std::collections::HashSet;

use deadpool_postgres::Transaction;
use jiff::Timestamp;
use tokio_postgres::Row;
use uuid::Uuid;

use super::drops::{inconsistent, serial, serial_values, serials};
use super::error::{LedgerError, expect_rows};
use super::pool::Ledger;
use super::settlement_rows::write_rejections;
use super::settlements::{
    ClaimToSettle, Rejection, Settlement, Settling, WarehouseLock, lock_for_rejections, lock_warehouses, seen,
    settle_locked,
};
use super::tx::run_tx;
use crate::domain::claims::{Claim, Quantity, ToldTotal};
use crate::domain::drops::{SaleDrop, Warehouse};
use crate::domain::ids::{ClaimId, DropName, Epoch, PoisonId, Serial, StreamId, VariantNumber, WarehouseId};
use crate::domain::settlement::{SetAside, own_units};

/// What is to be set aside.
#[derive(Debug, Clone)]
pub struct Poison {
    pub what: Poisoned,
    pub warehouse: Warehouse,
    pub epoch: Epoch,
    pub entry: StreamId,
    pub taken_at: Timestamp,
    /// Why it could not be settled, for the operator.
    pub error: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Poisoned {
    /// A claim, known to the last unit. `raw`: its entry, if that could not be read.
    Claim { claim: Claim, serials: Vec<Serial>, raw: Option<Vec<u8>> },
    /// The bytes of an entry of which nobody knows what they hold.
    Entry { raw: Vec<u8> },
}

/// What waits set aside.
#[derive(Debug, Clone)]
pub struct PoisonRow {
    pub id: PoisonId,
    pub drop: DropName,
    pub what: Poisoned,
    pub warehouse: WarehouseId,
    pub epoch: Epoch,
    pub entry: StreamId,
    pub taken_at: Timestamp,
    pub error: String,
    /// Times that it could not be settled.
    pub tries: u32,
    pub poisoned_at: Timestamp,
}

impl Ledger {
    /// Sets claims and entries of one drop aside, each once, and answers the warehouses that have begun another epoch, whose
    /// share was left alone. What has been settled or rejected meanwhile is not poisoned.
    pub async fn set_aside(
        &self,
        drop: &SaleDrop,
        poisons: &[Poison],
        settling: Settling,
        now: Timestamp,
    ) -> Result<HashSet<WarehouseId>, LedgerError> {
        run_tx!(self, "poison.set_aside", tx, {
            let of = poisons.iter().map(|poison| (&poison.warehouse, poison.epoch));
            let stale = lock_warehouses(tx, of, settling, WarehouseLock::Exclusive).await?;
            let ids = poisons.iter().filter_map(|poison| poison.what.claim_id()).map(|id| id.0).collect::<Vec<_>>();
            let seen = seen(tx, &ids).await?;
            for poison in poisons.iter().filter(|poison| !stale.contains(&poison.warehouse.id)) {
                if poison.what.claim_id().is_some_and(|id| seen.contains(&id.0)) {
                    continue;
                }
                const INSERT: &str = "-- poison.insert
                    insert into poisoned_claims (drop_id, warehouse_id, epoch, log_entry, taken_at, claim_id, buyer,
                                                 variant_number, serials, raw, error, poisoned_at, accepted_country,
                                                 accepted_total_minor)
                    values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14) on conflict do nothing";
                const HOLD: &str = "-- poison.hold
                    update tokens set poisoned_claim = $4, awarded_claim = null, rested_at = null
                    where drop_id = $1 and serial = any($2) and warehouse_id = $3 and order_id is null
                          and poisoned_claim is null and (awarded_claim is null or awarded_claim = $4)";
                let (claim, held, raw) = match &poison.what {
                    Poisoned::Claim { claim, serials, raw } => (Some(claim), serial_values(serials), raw.as_ref()),
                    Poisoned::Entry { raw } => (None, Vec::new(), Some(raw)),
                };
                let id = claim.map(|claim| claim.id.0);
                let variant = claim.map(|claim| i16::from(claim.variant.0));
                let told = claim.and_then(|claim| claim.told);
                let changed = tx
                    .execute(
                        INSERT,
                        &[
                            /* drop_id */ &drop.id.0,
                            /* warehouse_id */ &poison.warehouse.id.0,
                            /* epoch */ &poison.epoch.0,
                            /* log_entry */ &poison.entry.to_string(),
                            /* taken_at */ &poison.taken_at,
                            /* claim_id */ &id,
                            /* buyer */ &claim.map(|claim| claim.buyer.as_str()),
                            /* variant_number */ &variant,
                            /* serials */ &held,
                            /* raw */ &raw,
                            /* error */ &poison.error,
                            /* poisoned_at */ &now,
                            /* country */ &told.as_ref().map(|told| told.country.as_str()),
                            /* total */ &told.map(|told| told.total_minor),
                        ],
                    )
                    .await?;
                if changed == 1 && id.is_some() {
                    // Fewer than it names, should it name units that are not this warehouse's: those have their holders.
                    tx.execute(HOLD, &[&drop.id.0, &held, &poison.warehouse.id.0, &id]).await?;
                }
            }
            Ok(stale)
        })
    }

    /// What waits set aside, oldest first; of one drop or of all.
    pub async fn poisoned(&self, drop: Option<&DropName>) -> Result<Vec<PoisonRow>, LedgerError> {
        const SQL: &str = "-- poison.open
            select p.poison_id, d.name, p.warehouse_id, p.epoch, p.log_entry, p.taken_at, p.claim_id, p.buyer,
                   p.variant_number, p.serials, p.raw, p.error, p.tries, p.poisoned_at, p.accepted_country,
                   p.accepted_total_minor
            from poisoned_claims p join drops d using (drop_id)
            where p.resolved_at is null and ($1::text is null or d.name = $1) order by p.poison_id";
        let connection = self.connection().await?;
        let rows = connection.query(SQL, &[&drop.map(DropName::as_str)]).await?;
        rows.iter().map(poison_row).collect()
    }

    /// How much waits set aside of each drop that is loaded, those with nothing too.
    pub async fn poisoned_counts(&self) -> Result<Vec<(DropName, u64)>, LedgerError> {
        const SQL: &str = "-- poison.counts
            select d.name, (select count(*) from poisoned_claims p
                            where p.drop_id = d.drop_id and p.resolved_at is null)
            from drops d where d.state not in ('draft', 'archived') order by d.drop_id";
        let connection = self.connection().await?;
        let statement = connection.prepare_cached(SQL).await?;
        let rows = connection.query(&statement, &[]).await?;
        rows.iter()
            .map(|row| {
                let name: &str = row.get(0);
                let name = name.parse().map_err(|_| inconsistent("drops", "name", name, name))?;
                Ok((name, row.get::<_, i64>(1) as u64))
            })
            .collect()
    }

    /// Settles what was set aside, all of it or nothing. `None`: somebody else has resolved it.
    pub async fn settle_poisoned(
        &self,
        drop: &SaleDrop,
        poison: &PoisonRow,
        claims: &[ClaimToSettle],
        now: Timestamp,
    ) -> Result<Option<Settlement>, LedgerError> {
        run_tx!(self, "poison.settle", tx, {
            lock_for_rejections(tx, drop, claims).await?;
            const RESOLVE: &str = "-- poison.resolve
                update poisoned_claims set resolved_at = $2 where poison_id = $1 and resolved_at is null";
            if tx.execute(RESOLVE, &[&poison.id.0, /* now */ &now]).await? == 0 {
                return Ok(None);
            }
            let set_aside = let_go(tx, drop, poison, claims).await?;
            let own = claims.iter().map(|claim| own_units(&claim.serials, &set_aside)).collect::<Vec<_>>();
            if claims.iter().zip(&own).all(|(claim, own)| claim.serials == *own) {
                return settle_locked(tx, drop, claims, Settling::Retry, WarehouseLock::Exclusive, now).await;
            }
            // Others have, or may have, units that it names: it cannot be an order any more, and gives back only its own.
            let ids = claims.iter().map(|claim| claim.claim.id.0).collect::<Vec<_>>();
            let known = seen(tx, &ids).await?;
            let own = claims.iter().zip(own).map(|(claim, serials)| ClaimToSettle { serials, ..claim.clone() });
            let rejected = own.filter(|claim| !known.contains(&claim.claim.id.0)).collect::<Vec<_>>();
            let rejections = rejected.iter().map(|claim| (claim, Rejection::TokenHeld)).collect::<Vec<_>>();
            write_rejections(tx, drop, &rejections, now).await?;
            Ok(Some(Settlement {
                duplicates: claims.len() - rejected.len(),
                rejected: rejections.iter().map(|(claim, why)| (claim.claim.id, *why)).collect(),
                ..Settlement::default()
            }))
        })
    }

    /// Notes that it could not be settled this time either.
    pub async fn still_poisoned(&self, poison: PoisonId, error: &str) -> Result<(), LedgerError> {
        const SQL: &str = "-- poison.still
            update poisoned_claims set tries = tries + 1, error = $2 where poison_id = $1 and resolved_at is null";
        self.connection().await?.execute(SQL, &[&poison.0, &error]).await?;
        Ok(())
    }

    /// Takes an entry off the list of which nobody knows what it holds. `false`: it is not there, or is a claim, which holds
    /// units and can only be settled.
    pub async fn dismiss_poisoned(&self, poison: PoisonId, now: Timestamp) -> Result<bool, LedgerError> {
        const SQL: &str = "-- poison.dismiss
            update poisoned_claims set resolved_at = $2
            where poison_id = $1 and claim_id is null and resolved_at is null";
        let changed = self.connection().await?.execute(SQL, &[&poison.0, /* now */ &now]).await?;
        if changed > 1 { expect_rows("poison.dismiss", 1, changed).map(|()| true) } else { Ok(changed == 1) }
    }
}

/// Ends the hold of what was set aside, and answers what it held. The caller has locked the warehouse.
async fn let_go(
    tx: &Transaction<'_>,
    drop: &SaleDrop,
    poison: &PoisonRow,
    claims: &[ClaimToSettle],
) -> Result<SetAside, LedgerError> {
    let Some(id) = poison.what.claim_id() else {
        const EPOCH: &str = "-- poison.epoch\nselect epoch from warehouses where warehouse_id = $1";
        let epoch = Epoch(tx.query_one(EPOCH, &[&poison.warehouse.0]).await?.get(0));
        return Ok(SetAside::Entry { is_of_this_epoch: epoch == poison.epoch });
    };
    const LET_GO: &str = "-- poison.let_go
        update tokens set poisoned_claim = null where drop_id = $1 and serial = any($2) and poisoned_claim = $3
        returning serial";
    let named = claims.iter().flat_map(|claim| serial_values(&claim.serials)).collect::<Vec<_>>();
    let rows = tx.query(LET_GO, &[&drop.id.0, &named, &id.0]).await?;
    Ok(SetAside::Claim { held: rows.iter().map(|row| serial(row.get(0))).collect() })
}

impl Poisoned {
    pub fn claim_id(&self) -> Option<ClaimId> {
        match self {
            Self::Claim { claim, .. } => Some(claim.id),
            Self::Entry { .. } => None,
        }
    }
}

/// What a buyer was told, as two columns have it. `None`: what they have is no country.
pub(super) fn told(country: Option<&str>, total_minor: Option<i64>) -> Option<Option<ToldTotal>> {
    let Some((country, total_minor)) = country.zip(total_minor) else { return Some(None) };
    Some(Some(ToldTotal { country: country.parse().ok()?, total_minor }))
}

fn poison_row(row: &Row) -> Result<PoisonRow, LedgerError> {
    let id: i64 = row.get(0);
    let wrong = |column: &'static str, value: &str| inconsistent("poisoned_claims", column, id, value);
    let (name, entry): (&str, &str) = (row.get(1), row.get(4));
    let raw: Option<Vec<u8>> = row.get(10);
    let what = match row.get::<_, Option<Uuid>>(6) {
        Some(claim) => {
            let buyer: &str = row.get(7);
            let held = serials(row.get(9));
            let quantity = Quantity::new(held.len() as i64).map_err(|_| wrong("serials", &held.len().to_string()))?;
            let claim = Claim {
                id: ClaimId(claim),
                buyer: buyer.parse().map_err(|_| wrong("buyer", buyer))?,
                variant: VariantNumber(row.get::<_, i16>(8) as u8),
                quantity,
                told: told(row.get(14), row.get(15)).ok_or_else(|| wrong("accepted_country", "no country"))?,
            };
            Poisoned::Claim { claim, serials: held, raw }
        }
        None => Poisoned::Entry { raw: raw.ok_or_else(|| wrong("raw", "null"))? },
    };
    Ok(PoisonRow {
        id: PoisonId(id),
        drop: name.parse().map_err(|_| inconsistent("drops", "name", name, name))?,
        what,
        warehouse: WarehouseId(row.get(2)),
        epoch: Epoch(row.get(3)),
        entry: StreamId::parse(entry).ok_or_else(|| wrong("log_entry", entry))?,
        taken_at: row.get(5),
        error: row.get(11),
        tries: row.get::<_, i32>(12) as u32,
        poisoned_at: row.get(13),
    })
}
