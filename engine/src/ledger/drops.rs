//! Drops, their warehouses and their units.

use std::collections::{HashMap, HashSet};

use deadpool_postgres::GenericClient;
use jiff::{SignedDuration, Timestamp};
use tokio_postgres::Row;
use uuid::Uuid;

use super::erasures;
use super::error::LedgerError;
use super::line::insert_line;
use super::pool::Ledger;
use super::rates::{copy_to_drop, tables_of_drops};
use super::tx::run_tx;
use crate::domain::drops::{Admission, DropState, DropVariant, InvalidDrop, NewDrop, PayTerms, SaleDrop, Warehouse};
use crate::domain::ids::{
    BuyerId, ClaimId, DropId, DropName, Epoch, GrantNumber, Serial, VariantNumber, WarehouseId, WarehouseNumber,
};
use crate::domain::money::Money;
use crate::domain::orders::OrderState;
use crate::domain::pricing::{Rate, RateTable, Terms};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DropCreated {
    Created(DropId),
    NameTaken,
    /// The SKU belongs to another product, or is sold in another currency.
    SkuTaken(String),
}

/// How a draft became a drop that opens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OpeningBegun {
    Begun,
    /// It is neither a draft nor opening.
    OtherState,
    /// At the shop's rates somebody could not pay for it; it is still a draft.
    Invalid(InvalidDrop),
}

/// What Postgres knows of one warehouse: all that a load puts into Redis.
#[derive(Debug, Clone)]
pub struct WarehouseContents {
    pub last_grant: GrantNumber,
    /// Units are awarded to buyers of this warehouse, and the grants up to the last one would bring them: loaded now, they
    /// would be lost. They must be settled first.
    pub has_awards: bool,
    pub free: Vec<(VariantNumber, Serial)>,
    pub claims: Vec<SettledClaim>,
}

#[derive(Debug, Clone)]
pub struct SettledClaim {
    pub id: ClaimId,
    pub buyer: BuyerId,
    pub variant: VariantNumber,
    pub quantity: u32,
    pub serials: Vec<Serial>,
    pub live: bool,
}

/// A drop whose time has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Due {
    Open(DropName),
    /// Somebody has begun to, and may be at it.
    GoOnOpening(DropName),
    Close(DropName),
}

/// One unbroken run of serials that lies in one warehouse.
pub(super) struct Run {
    pub(super) variant: i16,
    pub(super) warehouse: usize,
    pub(super) first: i32,
    pub(super) length: i32,
}

/// Splits every variant's stock over the warehouses, unit by unit even; the odd units of one variant begin where those
/// of the variant before it ended, so that no warehouse gets all of them.
pub(super) fn split(stocks: &[u32], warehouses: usize) -> Vec<Run> {
    let mut runs = Vec::new();
    let (mut first, mut turn) = (1, 0);
    for (variant, stock) in stocks.iter().enumerate() {
        let (even, odd) = (*stock as usize / warehouses, *stock as usize % warehouses);
        for step in 0..warehouses {
            let length = (even + usize::from(step < odd)) as i32;
            let warehouse = (turn + step) % warehouses;
            runs.push(Run { variant: variant as i16, warehouse, first, length });
            first += length;
        }
        turn = (turn + odd) % warehouses;
    }
    runs
}

/// Rows of tokens that one statement writes, however large a drop is: a statement has a time limit.
const TOKENS_PER_STATEMENT: usize = 100_000;

/// The serials from `first` to `last`, in pieces that one statement each may write.
pub(super) fn pieces(first: i32, last: i32) -> impl Iterator<Item = (i32, i32)> {
    let step = TOKENS_PER_STATEMENT as i32;
    (first..=last).step_by(TOKENS_PER_STATEMENT).map(move |from| (from, last.min(from + step - 1)))
}

/// A day at most, or a week: see [`NewDrop::check`].
pub(super) fn seconds(duration: SignedDuration) -> i32 {
    duration.as_secs() as i32
}

fn from_seconds(seconds: i32) -> SignedDuration {
    SignedDuration::from_secs(seconds.into())
}

impl Ledger {
    pub async fn create_drop(&self, new: &NewDrop, home_key: u64) -> Result<DropCreated, LedgerError> {
        let created = run_tx!(self, "drops.create_drop", tx, {
            let taken = "-- drops.name_taken\nselect 1 from drops where name = $1";
            if tx.query_opt(taken, &[&new.name.as_str()]).await?.is_some() {
                return Ok(DropCreated::NameTaken);
            }
            let currency = new.currency.as_str();
            let known = "-- drops.product\nselect product_id from products where name = $1 order by 1 limit 1";
            let product: i32 = match tx.query_opt(known, &[&new.product_name]).await? {
                Some(row) => row.get(0),
                None => {
                    let insert = "-- drops.new_product\ninsert into products (name, reservation) values ($1, 'tokens')
                                  returning product_id";
                    tx.query_one(insert, &[&new.product_name]).await?.get(0)
                }
            };
            let mut variant_ids = Vec::new();
            for variant in &new.variants {
                const UPSERT: &str = "-- drops.variant
                        insert into variants (product_id, sku, title, price_minor, currency) values ($1, $2, $3, $4, $5)
                        on conflict (sku) do update set sku = excluded.sku
                        returning variant_id, product_id, currency";
                let row = tx
                    .query_one(UPSERT, &[&product, &variant.sku, &variant.title, &variant.price_minor, &currency])
                    .await?;
                if row.get::<_, i32>(1) != product || row.get::<_, String>(2) != currency {
                    return Ok(DropCreated::SkuTaken(variant.sku.clone()));
                }
                variant_ids.push(row.get::<_, i32>(0));
            }

            const DROP: &str = "-- drops.new_drop
                    insert into drops (name, product_id, state, currency, buyer_limit, warehouse_count, home_key,
                                       tax_basis_points, shipping_tax_basis_points, shipping_minor, opens_at, closes_at,
                                       pay_by, acknowledgement, replicas, rates_of_shop, price_includes_tax,
                                       pay_within_seconds, decline_grace_seconds, admission)
                    values ($1, $2, 'draft', $3, $4, $5, $6, $7, null, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17,
                            $18)
                    returning drop_id";
            let drop_id: i32 = tx
                .query_one(
                    DROP,
                    &[
                        /* name */ &new.name.as_str(),
                        /* product_id */ &product,
                        /* currency */ &currency,
                        /* buyer_limit */ &(new.buyer_limit as i16),
                        /* warehouse_count */ &(new.warehouses as i16),
                        /* home_key */ &home_key.cast_signed(),
                        /* tax_basis_points */ &(new.tax_basis_points as i32),
                        /* shipping_minor */ &new.shipping_minor,
                        /* opens_at */ &new.opens_at,
                        /* closes_at */ &new.closes_at,
                        /* pay_by */ &new.pay_by,
                        /* acknowledgement */ &new.acknowledgement.as_str(),
                        /* replicas */ &i16::from(new.replicas),
                        &new.rates_of_shop,
                        &new.price_includes_tax,
                        /* pay_within_seconds */ &new.pay_terms.within.map(seconds),
                        /* decline_grace_seconds */ &seconds(new.pay_terms.decline_grace),
                        /* admission */ &new.admission().as_str(),
                    ],
                )
                .await?
                .get(0);
            const VARIANTS: &str = "-- drops.drop_variants
                    insert into drop_variants (drop_id, number, variant_id, price_minor, stock)
                    select $1, (n - 1)::smallint, variant_id, price_minor, stock
                    from unnest($2::int[], $3::bigint[], $4::int[]) with ordinality as v (variant_id, price_minor, stock, n)";
            let prices = new.variants.iter().map(|variant| variant.price_minor).collect::<Vec<_>>();
            let stocks = new.variants.iter().map(|variant| variant.stock_units as i32).collect::<Vec<_>>();
            tx.execute(VARIANTS, &[&drop_id, &variant_ids, &prices, &stocks]).await?;
            const WAREHOUSES: &str = "-- drops.new_warehouses
                    insert into warehouses (drop_id, number, state, last_grant)
                    select $1, n::smallint, 'unloaded', 1 from generate_series(0, $2::int - 1) n
                    returning warehouse_id, number";
            let mut rows = tx.query(WAREHOUSES, &[&drop_id, &(new.warehouses as i32)]).await?;
            rows.sort_by_key(|row| row.get::<_, i16>(1));
            let warehouses = rows.iter().map(|row| row.get::<_, i32>(0)).collect::<Vec<_>>();

            let stock_units = new.variants.iter().map(|variant| variant.stock_units).collect::<Vec<_>>();
            let runs = split(&stock_units, warehouses.len());
            const TOKENS: &str = "-- drops.new_tokens
                    insert into tokens (drop_id, serial, variant_number, warehouse_id)
                    select $1, serial, run.variant, run.warehouse_id
                    from unnest($2::smallint[], $3::int[], $4::int[], $5::int[]) as run (variant, warehouse_id, first, length),
                         generate_series(greatest(first, $6::int), least(first + length - 1, $7::int)) as serial
                    order by serial";
            const INVENTORY: &str = "-- drops.new_inventory
                    insert into inventory (product_id, variant_id, warehouse_id, quantity_available)
                    select $1, variant_id, warehouse_id, length
                    from unnest($2::int[], $3::int[], $4::int[]) as run (variant_id, warehouse_id, length)";
            const GRANTS: &str = "-- drops.first_grants
                    insert into grants (warehouse_id, number, kind, serials, applied_at)
                    select warehouse_id, 1, 'first_load',
                           coalesce(array_agg(serial order by serial) filter (where serial is not null), '{}'), now()
                    from warehouses left join tokens using (warehouse_id) where warehouses.drop_id = $1
                    group by warehouse_id";
            let variant_numbers = runs.iter().map(|run| run.variant).collect::<Vec<_>>();
            let run_variants = runs.iter().map(|run| variant_ids[run.variant as usize]).collect::<Vec<_>>();
            let run_warehouses = runs.iter().map(|run| warehouses[run.warehouse]).collect::<Vec<_>>();
            let firsts = runs.iter().map(|run| run.first).collect::<Vec<_>>();
            let lengths = runs.iter().map(|run| run.length).collect::<Vec<_>>();
            let all = stock_units.iter().sum::<u32>();
            self.progress.tell("units made", 0, Some(all.into()));
            for (from, to) in pieces(1, all as i32) {
                tx.execute(TOKENS, &[&drop_id, &variant_numbers, &run_warehouses, &firsts, &lengths, &from, &to])
                    .await?;
                self.progress.tell("units made", u64::from(to.unsigned_abs()), Some(all.into()));
            }
            tx.execute(INVENTORY, &[&product, &run_variants, &run_warehouses, &lengths]).await?;
            tx.execute(GRANTS, &[&drop_id]).await?;
            if let Some(line) = &new.line {
                insert_line(tx, drop_id, line).await?;
            }
            Ok(DropCreated::Created(DropId(drop_id)))
        });
        match created {
            // Two creations of one name at once: the unique index decided.
            Err(error) if error.is_unique_violation() => Ok(DropCreated::NameTaken),
            other => other,
        }
    }

    pub async fn drop_by_name(&self, name: &DropName) -> Result<Option<SaleDrop>, LedgerError> {
        let found = self.find_drops("d.name = $1", &[&name.as_str()]).await?;
        Ok(found.into_iter().next())
    }

    pub async fn drop_by_id(&self, id: DropId) -> Result<Option<SaleDrop>, LedgerError> {
        let found = self.find_drops("d.drop_id = $1", &[&id.0]).await?;
        Ok(found.into_iter().next())
    }

    /// Every drop that Redis may know something of.
    pub async fn loaded_drops(&self) -> Result<Vec<SaleDrop>, LedgerError> {
        self.find_drops("d.state not in ('draft', 'archived')", &[]).await
    }

    /// Loaded drops whose buyers are answered once their claims are settled.
    pub async fn drops_settled_at_once(&self) -> Result<Vec<DropName>, LedgerError> {
        const SQL: &str = "-- drops.settled_at_once
            select name from drops
            where acknowledgement = 'settled' and state not in ('draft', 'lining', 'archived') order by drop_id";
        let rows = self.connection().await?.query(SQL, &[]).await?;
        rows.iter().map(|row| name_of(row, 0)).collect()
    }

    async fn find_drops(
        &self,
        condition: &'static str,
        arguments: &[&(dyn tokio_postgres::types::ToSql + Sync)],
    ) -> Result<Vec<SaleDrop>, LedgerError> {
        read_drops(&self.connection().await?, condition, arguments).await
    }

    /// Moves a drop to a state; `false` if it was in none of `from`, nor there already.
    pub async fn move_drop(&self, id: DropId, from: &[DropState], to: DropState) -> Result<bool, LedgerError> {
        const SQL: &str = "-- drops.move_drop
            update drops set state = $3 where drop_id = $1 and (state = any($2) or state = $3)";
        let from = from.iter().map(|state| state.as_str()).collect::<Vec<_>>();
        let connection = self.connection().await?;
        let changed = connection.execute(SQL, &[&id.0, /* from */ &from, /* to */ &to.as_str()]).await?;
        Ok(changed == 1)
    }

    /// Makes a draft a drop that opens, at the shop's rates of this moment if it takes them; one that opens already is
    /// as it was. In the same step, so that whoever sees a warehouse of the drop loaded sees the rates at which it
    /// sells.
    pub async fn begin_opening(&self, id: DropId) -> Result<OpeningBegun, LedgerError> {
        run_tx!(self, "drops.begin_opening", tx, keep if OpeningBegun::Begun, {
            const LOCK: &str = "-- drops.lock_to_open\nselect state, admission from drops where drop_id = $1 for no key update";
            const MOVE: &str = "-- drops.begin_opening\nupdate drops set state = 'opening' where drop_id = $1";
            let Some(row) = tx.query_opt(LOCK, &[&id.0]).await? else { return Ok(OpeningBegun::OtherState) };
            match row.get::<_, &str>(0) {
                // Its line opens first.
                "draft" if row.get::<_, &str>(1) != Admission::Open.as_str() => return Ok(OpeningBegun::OtherState),
                "draft" => {}
                "opening" => return Ok(OpeningBegun::Begun),
                _ => return Ok(OpeningBegun::OtherState),
            }
            tx.execute(MOVE, &[&id.0]).await?;
            copy_to_drop(tx, id).await?;
            let drop = read_drops(tx, "d.drop_id = $1", &[&id.0]).await?.pop();
            match drop.map_or(Ok(()), |drop| drop.check_totals()) {
                Ok(()) => Ok(OpeningBegun::Begun),
                Err(invalid) => Ok(OpeningBegun::Invalid(invalid)),
            }
        })
    }

    /// Drops that the clock opens or closes, and openings that somebody began and did not finish.
    pub async fn due_drops(&self, now: Timestamp) -> Result<Vec<Due>, LedgerError> {
        const SQL: &str = "-- drops.due
            select name, state from drops
            where (state = 'draft' and opens_at <= $1 and admission = 'open') or state = 'opening'
                  or (state in ('open', 'paused') and closes_at <= $1)";
        let connection = self.connection().await?;
        let rows = connection.query(SQL, &[/* now */ &now]).await?;
        rows.iter()
            .map(|row| {
                let name = name_of(row, 0)?;
                Ok(match row.get(1) {
                    "open" | "paused" => Due::Close(name),
                    "opening" => Due::GoOnOpening(name),
                    _ => Due::Open(name),
                })
            })
            .collect()
    }

    /// Begins a load: a new epoch, under which only that load may open the warehouse. `None`: somebody began one since `seen`
    /// was read, or the drop is to have nothing in Redis.
    pub async fn begin_load(&self, warehouse: WarehouseId, seen: Epoch) -> Result<Option<Epoch>, LedgerError> {
        const SQL: &str = "-- drops.begin_load
            update warehouses w set epoch = epoch + 1, state = 'rebuilding' from drops d
            where w.warehouse_id = $1 and w.epoch = $2 and d.drop_id = w.drop_id and d.state not in ('draft', 'lining', 'archived')
                  and (d.state <> 'closed' or w.state <> 'unloaded')
            returning w.epoch";
        let connection = self.connection().await?;
        let row = connection.query_opt(SQL, &[&warehouse.0, /* seen */ &seen.0]).await?;
        Ok(row.map(|row| Epoch(row.get(0))))
    }

    /// Warehouses of a drop that somebody has begun to load and not finished.
    pub async fn loading_warehouses(&self, drop: DropId) -> Result<HashSet<WarehouseId>, LedgerError> {
        const SQL: &str = "-- drops.loading
            select warehouse_id from warehouses where drop_id = $1 and state = 'rebuilding'";
        let rows = self.connection().await?.query(SQL, &[&drop.0]).await?;
        Ok(rows.iter().map(|row| WarehouseId(row.get(0))).collect())
    }

    /// Moves a closed drop to the archive, and its warehouses to an epoch that no load knows: one that is under way cannot
    /// open them any more. `false`: it is not closed.
    pub async fn archive_drop(&self, id: DropId, now: Timestamp) -> Result<bool, LedgerError> {
        run_tx!(self, "drops.archive", tx, {
            const DROP: &str = "-- drops.archive
                update drops set state = 'archived' where drop_id = $1 and state in ('closed', 'archived')";
            const WAREHOUSES: &str = "-- drops.unload
                update warehouses set epoch = epoch + 1, state = 'unloaded' where drop_id = $1";
            // Redis will not hear of them any more.
            const GRANTS: &str = "-- drops.grants_are_over
                update grants g set applied_at = $2 from warehouses w
                where w.drop_id = $1 and g.warehouse_id = w.warehouse_id and g.applied_at is null";
            if tx.execute(DROP, &[&id.0]).await? == 0 {
                return Ok(false);
            }
            tx.execute(WAREHOUSES, &[&id.0]).await?;
            tx.execute(GRANTS, &[&id.0, /* now */ &now]).await?;
            // Who wanted to be forgotten, and was kept as its limit, is forgotten now.
            erasures::rename(tx, now).await?;
            Ok(true)
        })
    }

    /// Ends a load; `false` if a newer one has begun.
    pub async fn finish_load(&self, warehouse: WarehouseId, epoch: Epoch) -> Result<bool, LedgerError> {
        const SQL: &str = "-- drops.finish_load
            update warehouses set state = 'ready' where warehouse_id = $1 and epoch = $2";
        let connection = self.connection().await?;
        Ok(connection.execute(SQL, &[&warehouse.0, &epoch.0]).await? == 1)
    }

    /// Reads a warehouse under its row lock, so that no grant and no settlement can come between the parts.
    /// `None` if a newer load has begun.
    pub async fn warehouse_contents(
        &self,
        drop: &SaleDrop,
        warehouse: WarehouseId,
        epoch: Epoch,
    ) -> Result<Option<WarehouseContents>, LedgerError> {
        run_tx!(self, "drops.warehouse_contents", tx, {
            const LOCK: &str = "-- drops.lock_warehouse
                select last_grant from warehouses where warehouse_id = $1 and epoch = $2 for update";
            let Some(row) = tx.query_opt(LOCK, &[&warehouse.0, &epoch.0]).await? else {
                return Ok(None);
            };
            const FREE: &str = "-- drops.free_tokens
                select variant_number, serial from tokens
                where drop_id = $1 and warehouse_id = $2 and order_id is null and poisoned_claim is null
                      and awarded_claim is null and rested_at is null
                order by serial";
            const AWARDS: &str = "-- drops.has_awards
                select exists (select 1 from tokens
                               where warehouse_id = $2 and drop_id = $1 and awarded_claim is not null)";
            // By the warehouse alone, which is its drop's: with the drop as well, a table that is not analyzed yet would be
            // gone through for each of its orders.
            const CLAIMS: &str = "-- drops.settled_claims
                select o.order_id, o.buyer, dv.number, i.quantity, i.serials, o.status
                from order_items i join orders o using (order_id)
                     join drop_variants dv on dv.drop_id = $1 and dv.variant_id = i.variant_id
                where i.warehouse_id = $2";
            // A claim that could not become an order is over, and stays so for whoever repeats it.
            const REJECTED: &str = "-- drops.rejected_claims
                select r.claim_id, r.buyer, g.claim_variant, g.claim_units::int from rejected_claims r
                join grants g on g.claim_id = r.claim_id and g.warehouse_id = $2 and g.kind = 'release'
                where r.drop_id = $1";
            // A claim that waits set aside is held all the same: by its buyer, with its units.
            const POISONED: &str = "-- drops.poisoned_claims
                select claim_id, buyer, variant_number, cardinality(serials), serials from poisoned_claims
                where drop_id = $1 and warehouse_id = $2 and claim_id is not null and resolved_at is null";
            let poisoned = tx.query(POISONED, &[&drop.id.0, &warehouse.0]).await?;
            let rejected = tx.query(REJECTED, &[&drop.id.0, &warehouse.0]).await?;
            let free = tx.query(FREE, &[&drop.id.0, &warehouse.0]).await?;
            let has_awards = tx.query_one(AWARDS, &[&drop.id.0, &warehouse.0]).await?.get(0);
            let claims = tx.query(CLAIMS, &[&drop.id.0, &warehouse.0]).await?;
            Ok(Some(WarehouseContents {
                last_grant: GrantNumber(row.get(0)),
                has_awards,
                free: free.iter().map(|row| (VariantNumber(row.get::<_, i16>(0) as u8), serial(row.get(1)))).collect(),
                claims: claims
                    .iter()
                    .map(settled_claim)
                    .chain(rejected.iter().map(rejected_claim))
                    .chain(poisoned.iter().map(poisoned_claim))
                    .collect::<Result<_, _>>()?,
            }))
        })
    }
}

const SELECT: &str = "-- drops.find
    select d.drop_id, d.name, d.product_id, p.name, d.state, d.currency, d.buyer_limit, d.home_key,
           d.tax_basis_points, d.shipping_minor, d.opens_at, d.closes_at, d.pay_by, d.acknowledgement,
           d.replicas, d.shipping_tax_basis_points, d.rates_of_shop, d.price_includes_tax,
           (select array_agg(w.warehouse_id order by w.number) from warehouses w where w.drop_id = d.drop_id),
           (select array_agg(w.number order by w.number) from warehouses w where w.drop_id = d.drop_id),
           (select array_agg(w.epoch order by w.number) from warehouses w where w.drop_id = d.drop_id),
           d.pay_within_seconds, d.decline_grace_seconds, d.admission
    from drops d join products p using (product_id)";

/// Drops as they are, read with a connection or within a transaction.
pub(super) async fn read_drops(
    client: &impl GenericClient,
    condition: &'static str,
    arguments: &[&(dyn tokio_postgres::types::ToSql + Sync)],
) -> Result<Vec<SaleDrop>, LedgerError> {
    let sql = format!("{SELECT} where {condition} order by d.drop_id");
    let statement = client.prepare_cached(&sql).await?;
    let mut drops = Vec::new();
    for row in client.query(&statement, arguments).await? {
        // The row has the epochs of its warehouses as of one instant. What comes behind it is no older: so whoever
        // knows the epoch under which a warehouse opened knows the prices and rates with which the drop did, for these
        // are fixed before ([`Ledger::begin_opening`]).
        let drop_id: i32 = row.get(0);
        const VARIANTS: &str = "-- drops.variants
            select dv.number, dv.variant_id, v.sku, v.title, dv.price_minor, dv.stock
            from drop_variants dv join variants v using (variant_id) where dv.drop_id = $1 order by dv.number";
        let variants = client.prepare_cached(VARIANTS).await?;
        let variants = client.query(&variants, &[&drop_id]).await?;
        let rates = if row.get(16) { tables_of_drops(client, &[DropId(drop_id)]).await? } else { HashMap::new() };
        drops.push(drop_from_rows(&row, &variants, rates.into_values().next())?);
    }
    Ok(drops)
}

fn settled_claim(row: &Row) -> Result<SettledClaim, LedgerError> {
    let buyer: String = row.get(1);
    let status: String = row.get(5);
    Ok(SettledClaim {
        id: ClaimId(row.get::<_, Uuid>(0)),
        buyer: buyer.parse().map_err(|_| inconsistent("orders", "buyer", row.get::<_, Uuid>(0), &buyer))?,
        variant: VariantNumber(row.get::<_, i16>(2) as u8),
        quantity: row.get::<_, i32>(3) as u32,
        serials: serials(row.get(4)),
        live: order_state(&status, row.get::<_, Uuid>(0))?.is_live(),
    })
}

fn rejected_claim(row: &Row) -> Result<SettledClaim, LedgerError> {
    let (id, buyer): (Uuid, &str) = (row.get(0), row.get(1));
    Ok(SettledClaim {
        id: ClaimId(id),
        buyer: buyer.parse().map_err(|_| inconsistent("rejected_claims", "buyer", id, buyer))?,
        variant: VariantNumber(row.get::<_, i16>(2) as u8),
        quantity: row.get::<_, i32>(3) as u32,
        serials: Vec::new(),
        live: false,
    })
}

fn poisoned_claim(row: &Row) -> Result<SettledClaim, LedgerError> {
    let (id, buyer): (Uuid, &str) = (row.get(0), row.get(1));
    Ok(SettledClaim {
        id: ClaimId(id),
        buyer: buyer.parse().map_err(|_| inconsistent("poisoned_claims", "buyer", id, buyer))?,
        variant: VariantNumber(row.get::<_, i16>(2) as u8),
        quantity: row.get::<_, i32>(3) as u32,
        serials: serials(row.get(4)),
        live: true,
    })
}

pub(super) fn inconsistent(
    table: &'static str,
    column: &'static str,
    row: impl std::fmt::Display,
    value: &str,
) -> LedgerError {
    LedgerError::Inconsistent { table, column, row: row.to_string(), value: value.to_owned() }
}

pub(super) fn order_state(text: &str, order: Uuid) -> Result<OrderState, LedgerError> {
    let found = OrderState::ALL.into_iter().find(|state| state.as_str() == text);
    found.ok_or_else(|| inconsistent("orders", "status", order, text))
}

pub(super) fn serial(value: i32) -> Serial {
    Serial(value.cast_unsigned())
}

pub(super) fn serials(values: Option<Vec<i32>>) -> Vec<Serial> {
    values.unwrap_or_default().into_iter().map(serial).collect()
}

pub(super) fn serial_values(serials: &[Serial]) -> Vec<i32> {
    serials.iter().map(|serial| serial.0.cast_signed()).collect()
}

pub(super) fn name_of(row: &Row, column: usize) -> Result<DropName, LedgerError> {
    let name: &str = row.get(column);
    name.parse().map_err(|_| inconsistent("drops", "name", name, name))
}

/// What a drop's row says of its prices: by its own terms, which are the same in every country, unless it has others.
pub(super) fn terms_of(own: Rate, rates: Option<RateTable>, price_includes_tax: bool) -> Terms {
    Terms { rates: rates.unwrap_or_else(|| RateTable::everywhere(own)), price_includes_tax }
}

fn drop_from_rows(row: &Row, variants: &[Row], rates: Option<RateTable>) -> Result<SaleDrop, LedgerError> {
    let name = name_of(row, 1)?;
    let (state, currency): (&str, &str) = (row.get(4), row.get(5));
    let state = DropState::ALL.into_iter().find(|known| known.as_str() == state);
    let currency = currency.parse().map_err(|_| inconsistent("drops", "currency", &name, currency))?;
    let numbers = row.get::<_, Option<Vec<i16>>>(19).unwrap_or_default();
    let (ids, epochs): (Option<Vec<i32>>, Option<Vec<i64>>) = (row.get(18), row.get(20));
    let warehouses = ids.unwrap_or_default().into_iter().zip(numbers).zip(epochs.unwrap_or_default());
    let warehouses = warehouses.map(|((id, number), epoch)| Warehouse {
        id: WarehouseId(id),
        number: WarehouseNumber(number as u16),
        epoch: Epoch(epoch),
    });
    let own = Rate {
        tax_basis_points: row.get::<_, i32>(8) as u32,
        shipping_tax_basis_points: row.get::<_, Option<i32>>(15).map(i32::cast_unsigned),
        shipping: Money::new(row.get(9), currency),
        free_shipping_from: None,
    };
    Ok(SaleDrop {
        id: DropId(row.get(0)),
        product_id: row.get(2),
        product_name: row.get(3),
        state: state.ok_or_else(|| inconsistent("drops", "state", &name, row.get(4)))?,
        admission: Admission::ALL
            .into_iter()
            .find(|known| known.as_str() == row.get::<_, &str>(23))
            .ok_or_else(|| inconsistent("drops", "admission", &name, row.get(23)))?,
        currency,
        buyer_limit: row.get::<_, i16>(6) as u32,
        home_key: row.get::<_, i64>(7).cast_unsigned(),
        tax_basis_points: own.tax_basis_points,
        shipping_tax_basis_points: own.shipping_tax_basis_points,
        shipping: own.shipping,
        rates_of_shop: row.get(16),
        terms: terms_of(own, rates, row.get(17)),
        opens_at: row.get(10),
        closes_at: row.get(11),
        pay_by: row.get(12),
        pay_terms: PayTerms {
            within: row.get::<_, Option<i32>>(21).map(from_seconds),
            decline_grace: from_seconds(row.get(22)),
        },
        acknowledgement: row
            .get::<_, &str>(13)
            .parse()
            .map_err(|_| inconsistent("drops", "acknowledgement", &name, row.get(13)))?,
        replicas: row.get::<_, i16>(14) as u8,
        variants: variants
            .iter()
            .map(|row| DropVariant {
                number: VariantNumber(row.get::<_, i16>(0) as u8),
                variant_id: row.get(1),
                sku: row.get(2),
                title: row.get(3),
                price: Money::new(row.get(4), currency),
                stock_units: row.get::<_, i32>(5) as u32,
            })
            .collect(),
        warehouses: warehouses.collect(),
        name,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stock_is_split_evenly_without_gaps_and_odd_units_go_round() {
        for (stocks, warehouses) in [(vec![777], 7), (vec![3, 4, 0, 1], 10), (vec![0], 3), (vec![1_000, 1], 10)] {
            let runs = split(&stocks, warehouses);
            let mut next = 1;
            for run in &runs {
                assert_eq!(run.first, next);
                next += run.length;
            }
            assert_eq!(next as u32 - 1, stocks.iter().sum::<u32>());
            let held =
                |warehouse| runs.iter().filter(|run| run.warehouse == warehouse).map(|run| run.length).sum::<i32>();
            let held = (0..warehouses).map(held).collect::<Vec<_>>();
            assert!(held.iter().max().unwrap() - held.iter().min().unwrap() <= 1, "{held:?}");
        }
    }
}
