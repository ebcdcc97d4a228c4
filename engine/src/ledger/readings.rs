//! What Postgres has to say for a reading: see [`crate::domain::rest`].

use jiff::Timestamp;

use super::error::LedgerError;
use super::pool::Ledger;
use crate::domain::ids::{DropId, Epoch, GrantNumber, VariantNumber};

/// One statement's answer about one drop.
#[derive(Debug, Clone, Default)]
pub struct Standing {
    /// In the order of the warehouses' numbers.
    pub epochs: Vec<Epoch>,
    /// Of which variants units are in grants that a warehouse had not applied; awards are left out.
    pub granted: Vec<VariantNumber>,
    pub rests: Vec<Rests>,
    /// What the clock of Postgres said.
    pub clock: Timestamp,
}

/// When units of a variant that rest were laid to rest, by the clock of Postgres.
#[derive(Debug, Clone, Copy)]
pub struct Rests {
    pub variant: VariantNumber,
    pub first: Timestamp,
    pub last: Timestamp,
}

/// Epochs, what is granted behind the looks, and what rests; see [`super::rest::RESTING_SQL`] for its last condition.
pub const STANDING_SQL: &str = "-- readings.standing
    select w.number::int, w.epoch, array(
               select distinct t.variant_number from grants g
                    join tokens t on t.drop_id = $1 and t.serial = any(g.serials)
               where g.warehouse_id = w.warehouse_id and g.number > known.granted and g.kind <> 'award'),
           null::smallint, null::timestamptz, null::timestamptz, clock_timestamp()
    from warehouses w join unnest($2::bigint[]) with ordinality as known (granted, place)
         on known.place = w.number + 1
    where w.drop_id = $1
    union all
    select null, null, null, variant_number, min(rested_at), max(rested_at), clock_timestamp()
    from tokens where drop_id = $1 and rested_at between '-infinity' and 'infinity' group by variant_number
    order by 1 nulls last";

impl Ledger {
    /// `granted` has, in the order of the warehouses' numbers, the last grant that each had applied when it was looked at. Costs
    /// as much as there are grants behind these and units that rest, and not as much as there ever were; `applied_at` is only a
    /// hint and is not asked.
    ///
    /// One statement, so that a unit whose rest ends meanwhile is either seen at rest or seen granted.
    pub async fn standing(&self, drop: DropId, granted: &[GrantNumber]) -> Result<Standing, LedgerError> {
        let granted = granted.iter().map(|number| number.0).collect::<Vec<_>>();
        let connection = self.connection().await?;
        let statement = connection.prepare_cached(STANDING_SQL).await?;
        let rows = connection.query(&statement, &[&drop.0, &granted]).await?;
        let mut standing = Standing::default();
        let variant = |number: i16| VariantNumber(number as u8);
        for row in &rows {
            if let Some(epoch) = row.get::<_, Option<i64>>(1) {
                standing.epochs.push(Epoch(epoch));
                standing.granted.extend(row.get::<_, Vec<i16>>(2).into_iter().map(variant));
            } else {
                standing.rests.push(Rests { variant: variant(row.get(3)), first: row.get(4), last: row.get(5) });
            }
            standing.clock = row.get(6);
        }
        Ok(standing)
    }

    /// Leaves the mark that somebody may be refused from now on: a warehouse that is loaded waits from then on before it
    /// opens. Must be committed before the first reading.
    pub async fn mark_proof(&self, drop: DropId, now: Timestamp) -> Result<(), LedgerError> {
        const SQL: &str = "-- readings.mark_proof
            update drops set proof_marked_at = $2 where drop_id = $1 and proof_marked_at is null";
        let connection = self.connection().await?;
        let statement = connection.prepare_cached(SQL).await?;
        connection.execute(&statement, &[&drop.0, /* now */ &now]).await?;
        Ok(())
    }

    /// Whether somebody may have been refused in this drop.
    pub async fn is_proof_marked(&self, drop: DropId) -> Result<bool, LedgerError> {
        const SQL: &str =
            "-- readings.is_proof_marked\nselect proof_marked_at is not null from drops where drop_id = $1";
        Ok(self.connection().await?.query_one(SQL, &[&drop.0]).await?.get(0))
    }
}
