//! Grants: the numbered log that puts tokens into warehouses, and the only way they get there.
//!
//! A grant is inserted, and its tokens are moved, under the row lock of the warehouse that gets them, in the transaction
//! that decides it. Applying it to Redis is a separate step that anyone may take, any number of times.

use deadpool_postgres::Transaction;
use jiff::Timestamp;
use sha2::{Digest, Sha256};
use tokio_postgres::Row;
use uuid::Uuid;

use super::drops::{inconsistent, serial_values, serials};
use super::error::{LedgerError, expect_rows};
use super::pool::Ledger;
use super::tx::run_tx;
use crate::domain::claims::{Claim, Quantity};
use crate::domain::drops::{SaleDrop, Warehouse};
use crate::domain::ids::{BuyerId, ClaimId, DropId, GrantNumber, Serial, TransferId, VariantNumber, WarehouseId};

/// Grants looked at in one go. More are waiting only after a long absence of Redis, and the next round takes those.
const PENDING_GRANTS: i64 = 1000;

/// A grant that Redis may not have yet.
#[derive(Debug, Clone)]
pub struct PendingGrant {
    pub warehouse: WarehouseId,
    pub number: GrantNumber,
    pub tokens: Vec<(VariantNumber, Vec<Serial>)>,
    pub released: Option<Released>,
    /// It gives its units to a standby buyer: the claim that it makes.
    pub award: Option<Claim>,
    /// It makes units free that no warehouse had: a release or a restock, not a move from one warehouse to another.
    pub frees_units: bool,
}

#[derive(Debug, Clone)]
pub struct Released {
    pub claim: ClaimId,
    pub buyer: BuyerId,
    pub variant: VariantNumber,
    pub units: u32,
}

/// How the transaction of a pull ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransferDecided {
    /// The tokens belong to the destination now.
    Granted,
    /// Somebody finished this transfer before.
    Before,
    /// The name of the transfer was used for other tokens before: these are granted back to the source.
    Returned,
    /// The source has begun another epoch since: what it had set aside is void, and its rebuild frees the tokens.
    Void,
}

impl Ledger {
    /// Grants what `source` has set aside to `destination`. The source's epoch must be the one in which it was set aside.
    pub async fn grant_transfer(
        &self,
        drop: &SaleDrop,
        source: &Warehouse,
        destination: WarehouseId,
        variant: VariantNumber,
        transfer: TransferId,
        moved: &[Serial],
    ) -> Result<TransferDecided, LedgerError> {
        let units = moved.len() as i32;
        let kind = if destination == source.id { "return" } else { "transfer" };
        run_tx!(self, "grants.grant_transfer", tx, {
            const LOCK: &str = "-- grants.lock_warehouses
                select warehouse_id, epoch from warehouses where warehouse_id = any($1) order by warehouse_id for update";
            let rows = tx.query(LOCK, &[/* warehouses */ &vec![source.id.0, destination.0]]).await?;
            let epoch = rows.iter().find(|row| row.get::<_, i32>(0) == source.id.0).map(|row| row.get::<_, i64>(1));
            if epoch != Some(source.epoch.0) {
                return Ok(TransferDecided::Void);
            }
            let known = "-- grants.known_transfer\nselect serials from grants where transfer_id = $1";
            if let Some(row) = tx.query_opt(known, &[&transfer.0]).await? {
                let granted = serials(row.get(0));
                if granted.iter().all(|serial| moved.contains(serial)) && granted.len() == moved.len() {
                    return Ok(TransferDecided::Before);
                }
                // The same call was executed twice, the second time after its transfer was over, and set other tokens
                // aside: these go back where they came from, once.
                let again = transfer_again(transfer, moved);
                if tx.query_opt(known, &[&again.0]).await?.is_none() {
                    insert(tx, source.id, "return", moved, None, Some(again)).await?;
                }
                return Ok(TransferDecided::Returned);
            }
            insert(tx, destination, kind, moved, None, Some(transfer)).await?;
            if destination != source.id {
                const MOVE: &str = "-- grants.move_tokens
                    update tokens set warehouse_id = $4
                    where drop_id = $1 and serial = any($2) and warehouse_id = $3 and order_id is null
                          and poisoned_claim is null and awarded_claim is null";
                let serials = serial_values(moved);
                let changed = tx.execute(MOVE, &[&drop.id.0, &serials, &source.id.0, &destination.0]).await?;
                expect_rows("grants.move_tokens", moved.len() as u64, changed)?;
                let variant_id = drop.variant(variant).map(|variant| variant.variant_id);
                let variant_id = variant_id
                    .ok_or_else(|| inconsistent("tokens", "variant_number", &drop.name, &variant.0.to_string()))?;
                const INVENTORY: &str = "-- grants.move_inventory
                    update inventory i
                    set quantity_available = quantity_available + delta.units, version = version + 1
                    from (select warehouse_id, units from unnest($3::int[], $4::int[]) as d (warehouse_id, units)) delta
                    where i.product_id = $1 and i.variant_id = $2 and i.warehouse_id = delta.warehouse_id";
                lock_inventory(tx, drop.product_id, &[variant_id], &[source.id.0, destination.0]).await?;
                let changed = tx
                    .execute(
                        INVENTORY,
                        &[&drop.product_id, &variant_id, &vec![source.id.0, destination.0], &vec![-units, units]],
                    )
                    .await?;
                expect_rows("grants.move_inventory", 2, changed)?;
            }
            Ok(TransferDecided::Granted)
        })
    }

    /// Grants that nobody has marked as applied yet, oldest first in each warehouse.
    pub async fn pending_grants(&self) -> Result<Vec<PendingGrant>, LedgerError> {
        self.find_pending("g.applied_at is null", &[&PENDING_GRANTS]).await
    }

    pub async fn pending_grants_of(&self, warehouse: WarehouseId) -> Result<Vec<PendingGrant>, LedgerError> {
        self.find_pending("g.applied_at is null and g.warehouse_id = $2", &[&PENDING_GRANTS, &warehouse.0]).await
    }

    /// How many grants of a drop nobody has marked as applied yet: all of them, unlike [`Self::pending_grants`].
    pub async fn count_pending_grants(&self, drop: DropId) -> Result<u64, LedgerError> {
        const SQL: &str = "-- grants.count_pending
            select count(*) from grants join warehouses using (warehouse_id) where drop_id = $1 and applied_at is null";
        let row = self.connection().await?.query_one(SQL, &[&drop.0]).await?;
        Ok(row.get::<_, i64>(0).cast_unsigned())
    }

    async fn find_pending(
        &self,
        condition: &'static str,
        arguments: &[&(dyn tokio_postgres::types::ToSql + Sync)],
    ) -> Result<Vec<PendingGrant>, LedgerError> {
        let sql = format!(
            "-- grants.pending
            select g.warehouse_id, g.number, g.kind, g.claim_id, g.buyer, u.serials, u.variants, g.claim_variant, g.claim_units
            from (select * from grants g where {condition} order by warehouse_id, number limit $1) g
                 join warehouses w using (warehouse_id),
                 lateral (select array_agg(t.serial) as serials, array_agg(t.variant_number) as variants
                          from tokens t where t.drop_id = w.drop_id and t.serial = any(g.serials)) u
            order by g.warehouse_id, g.number"
        );
        let connection = self.connection().await?;
        let statement = connection.prepare_cached(&sql).await?;
        let rows = connection.query(&statement, arguments).await?;
        rows.iter()
            .map(|row| {
                let found = serials(row.get(5));
                let variants: Vec<i16> = row.get::<_, Option<_>>(6).unwrap_or_default();
                let mut tokens: Vec<(VariantNumber, Vec<Serial>)> = Vec::new();
                for (serial, variant) in found.into_iter().zip(variants) {
                    let variant = VariantNumber(variant as u8);
                    match tokens.iter_mut().find(|(known, _)| *known == variant) {
                        Some((_, serials)) => serials.push(serial),
                        None => tokens.push((variant, vec![serial])),
                    }
                }
                let kind: &str = row.get(2);
                let claim = row.get::<_, Option<Uuid>>(3).map(|claim| claim_of(row, claim)).transpose()?;
                let is_award = kind == "award";
                Ok(PendingGrant {
                    warehouse: WarehouseId(row.get(0)),
                    number: GrantNumber(row.get(1)),
                    // Where all that a release gave back was awarded, it only ends its claim.
                    frees_units: matches!(kind, "release" | "restock") && !tokens.is_empty(),
                    tokens,
                    award: claim.clone().filter(|_| is_award),
                    released: claim.filter(|_| !is_award).map(|claim| Released {
                        claim: claim.id,
                        buyer: claim.buyer,
                        variant: claim.variant,
                        units: claim.quantity.units(),
                    }),
                })
            })
            .collect()
    }

    /// Notes that Redis has this grant. Only a hint for the next round: applying it again would do nothing.
    pub async fn mark_applied(
        &self,
        warehouse: WarehouseId,
        number: GrantNumber,
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        const SQL: &str = "-- grants.mark_applied
            update grants set applied_at = $3 where warehouse_id = $1 and number = $2 and applied_at is null";
        let connection = self.connection().await?;
        let statement = connection.prepare_cached(SQL).await?;
        connection.execute(&statement, &[&warehouse.0, &number.0, /* now */ &now]).await?;
        Ok(())
    }
}

/// The claim that a release ends, or an award makes.
fn claim_of(row: &Row, id: Uuid) -> Result<Claim, LedgerError> {
    let (buyer, units): (&str, i16) = (row.get(4), row.get(8));
    Ok(Claim {
        id: ClaimId(id),
        buyer: buyer.parse().map_err(|_| inconsistent("grants", "buyer", id, buyer))?,
        variant: VariantNumber(row.get::<_, i16>(7) as u8),
        quantity: Quantity::new(units.into())
            .map_err(|_| inconsistent("grants", "claim_units", id, &units.to_string()))?,
    })
}

/// The name under which tokens go back that a repeated call has set aside: made from what it names, so that whoever finds
/// them comes to the same.
fn transfer_again(transfer: TransferId, moved: &[Serial]) -> TransferId {
    let mut hash = Sha256::new();
    hash.update(transfer.0.as_bytes());
    serial_values(moved).iter().for_each(|serial| hash.update(serial.to_be_bytes()));
    let mut bytes = [0_u8; 16];
    bytes.copy_from_slice(&hash.finalize()[..16]);
    TransferId(uuid::Builder::from_custom_bytes(bytes).into_uuid())
}

/// Inserts the next grant of a warehouse. The caller holds, or hereby takes, the warehouse's row lock.
pub(super) async fn insert(
    tx: &Transaction<'_>,
    warehouse: WarehouseId,
    kind: &str,
    serials: &[Serial],
    released: Option<&Released>,
    transfer: Option<TransferId>,
) -> Result<(), LedgerError> {
    const SQL: &str = "-- grants.insert
        with numbered as (
            update warehouses set last_grant = last_grant + 1 where warehouse_id = $1 returning last_grant
        )
        insert into grants (warehouse_id, number, kind, serials, claim_id, buyer, claim_variant, claim_units, transfer_id)
        select $1, last_grant, $2, $3, $4, $5, $6, $7, $8 from numbered";
    let claim = released.map(|released| released.claim.0);
    let buyer = released.map(|released| released.buyer.as_str());
    let variant = released.map(|released| i16::from(released.variant.0));
    let units = released.map(|released| released.units as i16);
    let transfer = transfer.map(|transfer| transfer.0);
    let statement = tx.prepare_cached(SQL).await?;
    let serials = serial_values(serials);
    let changed =
        tx.execute(&statement, &[&warehouse.0, &kind, &serials, &claim, &buyer, &variant, &units, &transfer]).await?;
    expect_rows("grants.insert", 1, changed)
}

/// Takes the inventory rows' locks in the one order.
pub(super) async fn lock_inventory(
    tx: &Transaction<'_>,
    product: i32,
    variants: &[i32],
    warehouses: &[i32],
) -> Result<(), LedgerError> {
    const SQL: &str = "-- grants.lock_inventory
        select 1 from inventory where product_id = $3 and variant_id = any($1) and warehouse_id = any($2)
        order by variant_id, warehouse_id for update";
    let statement = tx.prepare_cached(SQL).await?;
    tx.query(&statement, &[&variants, &warehouses, &product]).await?;
    Ok(())
}
