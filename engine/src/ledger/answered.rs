//! Notes of claims that were answered and are in Redis alone: what the other processes know of them when one dies.
//!
//! One row for what a process has answered in a second for one warehouse, so that a note costs next to nothing beside the
//! orders that become of it. Notes prove nothing: a claim in one may have been settled, released or told as lost.
//! `flows/lost.rs` looks it up.

use std::iter::zip;

use jiff::Timestamp;
use tokio_postgres::Row;
use uuid::Uuid;

use super::drops::inconsistent;
use super::error::LedgerError;
use super::lost::{WarehouseEpoch, epoch};
use super::pool::Ledger;
use crate::domain::claims::{Claim, Quantity};
use crate::domain::ids::{ClaimId, Epoch, VariantNumber, WarehouseId};

/// Of a note.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct NoteId(i64);

/// What a process has answered.
#[derive(Debug, Clone)]
pub struct Note {
    pub id: NoteId,
    /// Under which its claims were answered.
    pub epoch: Epoch,
    pub claims: Vec<Claim>,
}

impl Ledger {
    /// Notes claims that `process` has answered for one warehouse under one epoch.
    pub async fn note_answers(
        &self,
        process: Uuid,
        (warehouse, epoch): (WarehouseId, Epoch),
        claims: &[&Claim],
        now: Timestamp,
    ) -> Result<NoteId, LedgerError> {
        const SQL: &str = "-- answered.note
            insert into answered_claims (process, warehouse_id, epoch, written_at, claim_ids, buyers, variants, units)
            values ($1, $2, $3, $4, $5, $6, $7, $8) returning note_id";
        let ids = claims.iter().map(|claim| claim.id.0).collect::<Vec<_>>();
        let buyers = claims.iter().map(|claim| claim.buyer.as_str()).collect::<Vec<_>>();
        let variants = claims.iter().map(|claim| i16::from(claim.variant.0)).collect::<Vec<_>>();
        let units = claims.iter().map(|claim| i16::from(claim.quantity.as_byte())).collect::<Vec<_>>();
        let connection = self.connection().await?;
        let statement = connection.prepare_cached(SQL).await?;
        let row = connection
            .query_one(
                &statement,
                &[&process, &warehouse.0, &epoch.0, /* written */ &now, &ids, &buyers, &variants, &units],
            )
            .await?;
        Ok(NoteId(row.get(0)))
    }

    pub async fn forget_notes(&self, notes: &[NoteId]) -> Result<(), LedgerError> {
        const SQL: &str = "-- answered.forget
            delete from answered_claims where note_id = any($1)";
        let ids = notes.iter().map(|note| note.0).collect::<Vec<_>>();
        let connection = self.connection().await?;
        connection.execute(&connection.prepare_cached(SQL).await?, &[&ids]).await?;
        Ok(())
    }

    /// Notes that nobody has deleted in all that time.
    pub async fn forget_notes_before(&self, written: Timestamp) -> Result<(), LedgerError> {
        const SQL: &str = "-- answered.forget_before
            delete from answered_claims where written_at < $1";
        let connection = self.connection().await?;
        connection.execute(&connection.prepare_cached(SQL).await?, &[/* written */ &written]).await?;
        Ok(())
    }

    /// The warehouses for which processes other than this one have answered something under an epoch that is past, and whose
    /// rebuild has ended.
    pub async fn noted_warehouses(&self, process: Uuid) -> Result<Vec<WarehouseEpoch>, LedgerError> {
        const SQL: &str = "-- answered.warehouses
            select w.warehouse_id, w.epoch, w.state from warehouses w
            where w.state <> 'rebuilding' and w.warehouse_id in (select warehouse_id from answered_claims)
                  and exists (select 1 from answered_claims n
                              where n.warehouse_id = w.warehouse_id and n.epoch < w.epoch and n.process <> $1)";
        let connection = self.connection().await?;
        let rows = connection.query(&connection.prepare_cached(SQL).await?, &[&process]).await?;
        Ok(rows.iter().map(epoch).collect())
    }

    /// Up to so many notes of other processes about what one warehouse answered before its present epoch.
    pub async fn notes_before(
        &self,
        process: Uuid,
        present: &WarehouseEpoch,
        most: i64,
    ) -> Result<Vec<Note>, LedgerError> {
        const SQL: &str = "-- answered.notes_before
            select note_id, epoch, claim_ids, buyers, variants, units from answered_claims
            where warehouse_id = $1 and epoch < $2 and process <> $3 order by note_id limit $4";
        let connection = self.connection().await?;
        let statement = connection.prepare_cached(SQL).await?;
        let rows = connection
            .query(&statement, &[&present.id.0, /* present */ &present.epoch.0, &process, /* most */ &most])
            .await?;
        rows.iter().map(note).collect()
    }
}

fn note(row: &Row) -> Result<Note, LedgerError> {
    let id: i64 = row.get(0);
    let (ids, buyers): (Vec<Uuid>, Vec<&str>) = (row.get(2), row.get(3));
    let (variants, units): (Vec<i16>, Vec<i16>) = (row.get(4), row.get(5));
    let claims = zip(zip(ids, buyers), zip(variants, units)).map(|((claim, buyer), (variant, units))| {
        let wrong = |column| inconsistent("answered_claims", column, id, &claim.to_string());
        Ok(Claim {
            id: ClaimId(claim),
            buyer: buyer.parse().map_err(|_| wrong("buyers"))?,
            variant: VariantNumber(u8::try_from(variant).map_err(|_| wrong("variants"))?),
            quantity: Quantity::new(i64::from(units)).map_err(|_| wrong("units"))?,
            // Nobody settles a claim from its note.
            told: None,
        })
    });
    Ok(Note { id: NoteId(id), epoch: Epoch(row.get(1)), claims: claims.collect::<Result<_, LedgerError>>()? })
}
