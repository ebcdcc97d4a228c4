//! Drafts: drops that may still be changed and deleted.

use jiff::Timestamp;

use super::drops::{inconsistent, pieces, read_drops, seconds};
use super::error::{LedgerError, expect_rows};
use super::pool::Ledger;
use super::tx::run_tx;
use crate::domain::drafts::{DraftKept, check_deletable};
use crate::domain::drops::{DropState, SaleDrop};
use crate::domain::ids::DropName;

/// How a deletion ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DraftDeleted {
    Deleted,
    Kept(DraftKept),
    NoSuchDrop,
}

impl Ledger {
    /// Writes a draft that was changed. `false`: it is not any more what it was when the change was decided; nothing
    /// was written then. Whoever opens it holds the same lock for the moment in which it stops being a draft.
    pub async fn write_draft(&self, before: &SaleDrop, after: &SaleDrop) -> Result<bool, LedgerError> {
        run_tx!(self, "drafts.write_draft", tx, {
            const LOCK: &str = "-- drafts.lock\nselect 1 from drops where drop_id = $1 for no key update";
            const DROP: &str = "-- drafts.write_drop
                update drops set buyer_limit = $2, tax_basis_points = $3, shipping_minor = $4, opens_at = $5,
                                 closes_at = $6, pay_by = $7, acknowledgement = $8, replicas = $9,
                                 rates_of_shop = $10, price_includes_tax = $11,
                                 pay_within_seconds = $12, decline_grace_seconds = $13
                where drop_id = $1";
            const PRICES: &str = "-- drafts.write_prices
                update drop_variants v set price_minor = given.price
                from unnest($2::smallint[], $3::bigint[]) given (number, price)
                where v.drop_id = $1 and v.number = given.number";
            tx.query_opt(LOCK, &[&before.id.0]).await?;
            if read_drops(tx, "d.drop_id = $1", &[&before.id.0]).await?.first() != Some(before) {
                return Ok(false);
            }
            let changed = tx
                .execute(
                    DROP,
                    &[
                        /* drop_id */ &after.id.0,
                        /* buyer_limit */ &(after.buyer_limit as i16),
                        /* tax_basis_points */ &(after.tax_basis_points as i32),
                        /* shipping_minor */ &after.shipping.amount_minor,
                        /* opens_at */ &after.opens_at,
                        /* closes_at */ &after.closes_at,
                        /* pay_by */ &after.pay_by,
                        /* acknowledgement */ &after.acknowledgement.as_str(),
                        /* replicas */ &i16::from(after.replicas),
                        &after.rates_of_shop,
                        &after.terms.price_includes_tax,
                        /* pay_within_seconds */ &after.pay_terms.within.map(seconds),
                        /* decline_grace_seconds */ &seconds(after.pay_terms.decline_grace),
                    ],
                )
                .await?;
            expect_rows("drafts.write_drop", 1, changed)?;
            let numbers = after.variants.iter().map(|variant| i16::from(variant.number.0)).collect::<Vec<_>>();
            let prices = after.variants.iter().map(|variant| variant.price.amount_minor).collect::<Vec<_>>();
            let changed = tx.execute(PRICES, &[&after.id.0, &numbers, &prices]).await?;
            expect_rows("drafts.write_prices", numbers.len() as u64, changed)?;
            Ok(true)
        })
    }

    /// Deletes a draft with everything that was made for it: units, warehouses, their first grants, and what it
    /// brought into the catalog, unless somebody has changed or used that since.
    pub async fn delete_draft(&self, name: &DropName) -> Result<DraftDeleted, LedgerError> {
        run_tx!(self, "drafts.delete_draft", tx, {
            // Also against whoever is about to write a row that names the drop.
            const LOCK: &str = "-- drafts.lock_whole
                select drop_id, state, product_id, created_at from drops where name = $1 for update";
            const LOCK_WAREHOUSES: &str = "-- drafts.lock_warehouses
                select warehouse_id from warehouses where drop_id = $1 order by warehouse_id for update";
            const IN_USE: &str = "-- drafts.in_use
                select exists (select 1 from orders where drop_id = $1)
                       or exists (select 1 from checkouts where drop_id = $1)
                       or exists (select 1 from standby_places where drop_id = $1)
                       or exists (select 1 from restocks where drop_id = $1)
                       or exists (select 1 from rejected_claims where drop_id = $1)
                       or exists (select 1 from poisoned_claims where drop_id = $1)";
            let Some(row) = tx.query_opt(LOCK, &[&name.as_str()]).await? else {
                return Ok(DraftDeleted::NoSuchDrop);
            };
            let (drop, product, made_at): (i32, i32, Timestamp) = (row.get(0), row.get(2), row.get(3));
            let state = DropState::ALL.into_iter().find(|state| state.as_str() == row.get::<_, &str>(1));
            let state = state.ok_or_else(|| inconsistent("drops", "state", name, row.get(1)))?;
            let warehouses = tx.query(LOCK_WAREHOUSES, &[&drop]).await?;
            let warehouses = warehouses.iter().map(|row| row.get(0)).collect::<Vec<i32>>();
            let is_in_use = tx.query_one(IN_USE, &[&drop]).await?.get(0);
            if let Err(kept) = check_deletable(state, is_in_use) {
                return Ok(DraftDeleted::Kept(kept));
            }

            const LAST: &str = "-- drafts.last_serial\nselect coalesce(max(serial), 0) from tokens where drop_id = $1";
            const TOKENS: &str = "-- drafts.delete_tokens
                delete from tokens where drop_id = $1 and serial between $2 and $3";
            const INVENTORY: &str = "-- drafts.delete_inventory
                delete from inventory where product_id = $1 and warehouse_id = any($2)";
            const GRANTS: &str = "-- drafts.delete_grants\ndelete from grants where warehouse_id = any($1)";
            const WAREHOUSE: &str = "-- drafts.delete_warehouse\ndelete from warehouses where warehouse_id = $1";
            const VARIANTS: &str = "-- drafts.delete_variants
                delete from drop_variants where drop_id = $1 returning variant_id";
            const DROP: &str = "-- drafts.delete_drop\ndelete from drops where drop_id = $1";
            let last: i32 = tx.query_one(LAST, &[&drop]).await?.get(0);
            for (from, to) in pieces(1, last) {
                tx.execute(TOKENS, &[&drop, &from, &to]).await?;
            }
            tx.execute(INVENTORY, &[&product, &warehouses]).await?;
            tx.execute(GRANTS, &[&warehouses]).await?;
            // One by one, within the time of a statement: for each, Postgres looks through all units of all drops for
            // one that lies there, since only the free ones are indexed by warehouse.
            for warehouse in &warehouses {
                tx.execute(WAREHOUSE, &[warehouse]).await?;
            }
            let variants = tx.query(VARIANTS, &[&drop]).await?;
            let variants = variants.iter().map(|row| row.get(0)).collect::<Vec<i32>>();
            expect_rows("drafts.delete_drop", 1, tx.execute(DROP, &[&drop]).await?)?;

            // A drop and what it brings into the catalog are made in one transaction, so they are of one instant;
            // whoever edits or imports a row moves its `updated_at`.
            const SKUS: &str = "-- drafts.delete_skus
                delete from variants v
                where v.variant_id = any($1) and v.updated_at = $2
                      and not exists (select 1 from drop_variants d where d.variant_id = v.variant_id)
                      and not exists (select 1 from inventory i where i.variant_id = v.variant_id)
                      and not exists (select 1 from stock_adjustments a where a.variant_id = v.variant_id)
                      and not exists (select 1 from order_items i where i.variant_id = v.variant_id)";
            const PRODUCT: &str = "-- drafts.delete_product
                delete from products p
                where p.product_id = $1 and p.created_at = $2 and p.updated_at = $2
                      and not exists (select 1 from variants v where v.product_id = p.product_id)
                      and not exists (select 1 from drops d where d.product_id = p.product_id)
                      and not exists (select 1 from inventory i where i.product_id = p.product_id)
                      and not exists (select 1 from stock_adjustments a where a.product_id = p.product_id)";
            tx.execute(SKUS, &[&variants, &made_at]).await?;
            tx.execute(PRODUCT, &[&product, &made_at]).await?;
            Ok(DraftDeleted::Deleted)
        })
    }
}
