//! Products and their variants: made, changed, listed. What a drop sells is a variant like any other, at a price of its own.

use std::collections::HashMap;

use deadpool_postgres::Transaction;
use jiff::Timestamp;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::drops::inconsistent;
use super::error::{LedgerError, expect_rows};
use super::pool::Ledger;
use super::requests::{self, Earlier};
use super::tx::run_tx;
use crate::domain::catalog::{CatalogRefused, NewProduct, NewVariant, Product, ProductEdit, VARIANTS_MAX, Variant};
use crate::domain::ids::{DropName, ProductId, VariantNumber};
use crate::domain::money::Money;
use crate::domain::requests::{Done, OperatorRequest};
use crate::domain::stock::StockWay;
use crate::domain::versions::{Expected, Version};

type Refusable<T> = Result<Result<T, CatalogRefused>, LedgerError>;

impl Ledger {
    /// Makes a product with its variants, once for each request.
    pub async fn make_product(
        &self,
        request: &OperatorRequest,
        new: &NewProduct,
        now: Timestamp,
    ) -> Refusable<Done<Product>> {
        const WHAT: &str = "catalog.make_product";
        if let Err(refused) = new.check() {
            return Ok(Err(refused));
        }
        let made = run_tx!(self, "catalog.make_product", tx, {
            match requests::before(tx, request, WHAT, new).await? {
                Earlier::Nothing => {}
                Earlier::Done(product) => return Ok(Ok(Done::Before(product))),
                Earlier::Differs => return Ok(Err(CatalogRefused::IdReused)),
            }
            if let Some(taken) = taken_sku(tx, &new.variants).await? {
                return Ok(Err(CatalogRefused::SkuTaken(taken)));
            }
            const PRODUCT: &str = "-- catalog.insert_product
                insert into products (name, created_at, updated_at) values ($1, $2, $2) returning product_id";
            let id = ProductId(tx.query_one(PRODUCT, &[&new.name, /* now */ &now]).await?.get(0));
            insert_variants(tx, id, &new.variants, now).await?;
            let product = product_in(tx, id, false).await?;
            let product = product.ok_or_else(|| inconsistent("products", "product_id", id.0, "not there"))?;
            requests::done(tx, request, WHAT, new, &product, now).await?;
            Ok(Ok(Done::Now(product)))
        });
        self.taken_meanwhile(made, &new.variants).await
    }

    /// Gives a product one more variant, once for each request.
    pub async fn add_variant(
        &self,
        request: &OperatorRequest,
        id: ProductId,
        new: &NewVariant,
        now: Timestamp,
    ) -> Refusable<Done<Product>> {
        const WHAT: &str = "catalog.add_variant";
        let alone = NewProduct { name: "checked with its variant".to_owned(), variants: vec![new.clone()] };
        if let Err(refused) = alone.check() {
            return Ok(Err(refused));
        }
        let made = run_tx!(self, "catalog.add_variant", tx, {
            match requests::before(tx, request, WHAT, &(id, new)).await? {
                Earlier::Nothing => {}
                Earlier::Done(product) => return Ok(Ok(Done::Before(product))),
                Earlier::Differs => return Ok(Err(CatalogRefused::IdReused)),
            }
            let Some(product) = product_in(tx, id, true).await? else { return Ok(Err(CatalogRefused::Unknown)) };
            if product.variants.len() >= VARIANTS_MAX {
                let detail = format!("a product has at most {VARIANTS_MAX}");
                return Ok(Err(CatalogRefused::Field("variants", detail)));
            }
            if let Some(taken) = taken_sku(tx, std::slice::from_ref(new)).await? {
                return Ok(Err(CatalogRefused::SkuTaken(taken)));
            }
            insert_variants(tx, id, std::slice::from_ref(new), now).await?;
            touch(tx, id, now).await?;
            let product = product_in(tx, id, false).await?.ok_or_else(|| gone(id))?;
            requests::done(tx, request, WHAT, &(id, new), &product, now).await?;
            Ok(Ok(Done::Now(product)))
        });
        self.taken_meanwhile(made, std::slice::from_ref(new)).await
    }

    /// Changes a product and its variants, if it is still at a version that its author has seen.
    pub async fn edit_product(
        &self,
        id: ProductId,
        expected: &Expected,
        edit: &ProductEdit,
        now: Timestamp,
    ) -> Refusable<Product> {
        if let Err(refused) = edit.check() {
            return Ok(Err(refused));
        }
        run_tx!(self, "catalog.edit_product", tx, {
            let Some(product) = product_in(tx, id, true).await? else { return Ok(Err(CatalogRefused::Unknown)) };
            if !expected.admits(product.version) {
                return Ok(Err(CatalogRefused::Changed(product.version)));
            }
            let currency_of = |sku: &str| {
                product.variants.iter().find(|variant| variant.sku == sku).map(|variant| variant.price.currency)
            };
            if let Err(refused) = edit.check_prices(currency_of) {
                return Ok(Err(refused));
            }
            const PRODUCT: &str = "-- catalog.edit
                update products set name = coalesce($2, name), active = coalesce($3, active), reservation = coalesce($4, reservation)
                where product_id = $1";
            let reservation = edit.reservation.map(StockWay::as_str);
            tx.execute(PRODUCT, &[&id.0, &edit.name, &edit.is_active, &reservation]).await?;
            const VARIANT: &str = "-- catalog.edit_variant
                update variants
                set title = coalesce($3, title), price_minor = coalesce($4, price_minor), active = coalesce($5, active),
                    version = version + 1, updated_at = $6
                where product_id = $1 and sku = $2";
            for variant in &edit.variants {
                let arguments: &[&(dyn ToSql + Sync)] = &[
                    &id.0,
                    &variant.sku,
                    &variant.title,
                    &variant.price_minor,
                    &variant.is_active,
                    /* now */ &now,
                ];
                expect_rows("catalog.edit_variant", 1, tx.execute(VARIANT, arguments).await?)?;
            }
            touch(tx, id, now).await?;
            Ok(Ok(product_in(tx, id, false).await?.ok_or_else(|| gone(id))?))
        })
    }

    pub async fn product(&self, id: ProductId) -> Result<Option<Product>, LedgerError> {
        Ok(self.products_where("p.product_id = $1", &[&id.0]).await?.pop())
    }

    /// Products behind this one, in the order in which they were made; those that are sold, or all.
    pub async fn products(
        &self,
        after: Option<ProductId>,
        limit: i64,
        only_active: bool,
    ) -> Result<Vec<Product>, LedgerError> {
        let after = after.map_or(0, |after| after.0);
        let condition = format!(
            "p.product_id in (
                 select product_id from products p
                 where product_id > $1 and (not $3 or (active and exists (
                     select 1 from variants v where v.product_id = p.product_id and not {OF_DRAFTS_ALONE})))
                 order by product_id limit $2)
             and (not $3 or not {OF_DRAFTS_ALONE})"
        );
        self.products_where(&condition, &[&after, /* limit */ &limit, &only_active]).await
    }

    /// A product as buyers may see it. `None`: there is none, it is not sold, or only drafts would sell it.
    pub async fn product_on_sale(&self, id: ProductId) -> Result<Option<Product>, LedgerError> {
        let condition = format!("p.product_id = $1 and p.active and not {OF_DRAFTS_ALONE}");
        Ok(self.products_where(&condition, &[&id.0]).await?.pop())
    }

    /// The variants of these products that an open drop sells, by SKU, with the drop and its number there.
    pub async fn sold_by_open_drops(
        &self,
        products: &[ProductId],
    ) -> Result<HashMap<String, (DropName, VariantNumber)>, LedgerError> {
        const SQL: &str = "-- catalog.sold_by_open_drops
            select v.sku, d.name, dv.number
            from products p join variants v using (product_id) join drop_variants dv using (variant_id)
                 join drops d on d.drop_id = dv.drop_id
            where p.product_id = any($1) and p.reservation = 'tokens' and d.state = 'open'";
        let products = products.iter().map(|product| product.0).collect::<Vec<_>>();
        let connection = self.connection().await?;
        let rows = connection.query(&connection.prepare_cached(SQL).await?, &[&products]).await?;
        rows.iter()
            .map(|row| {
                let (sku, name): (String, &str) = (row.get(0), row.get(1));
                let name = name.parse().map_err(|_| inconsistent("drops", "name", &sku, name))?;
                Ok((sku, (name, VariantNumber(row.get::<_, i16>(2) as u8))))
            })
            .collect()
    }

    /// Units of each SKU that nobody holds, in the places of ordinary stock together. Those without any are left out.
    pub async fn free_ordinary_units(&self, products: &[ProductId]) -> Result<HashMap<String, i64>, LedgerError> {
        const SQL: &str = "-- catalog.free_units
            select v.sku, sum(i.quantity_available - i.quantity_reserved)::bigint
            from inventory i join variants v using (variant_id) join warehouses w using (warehouse_id)
            where i.product_id = any($1) and w.code is not null group by v.sku";
        let products = products.iter().map(|product| product.0).collect::<Vec<_>>();
        let connection = self.connection().await?;
        let rows = connection.query(&connection.prepare_cached(SQL).await?, &[&products]).await?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    /// Somebody else took a SKU in the same moment, and the constraint found it out.
    async fn taken_meanwhile(
        &self,
        made: Refusable<Done<Product>>,
        variants: &[NewVariant],
    ) -> Refusable<Done<Product>> {
        match made {
            Err(error) if error.is_unique_violation() => {
                let skus = variants.iter().map(|variant| &*variant.sku).collect::<Vec<_>>();
                let row = self.connection().await?.query_opt(TAKEN_SKU, &[&skus]).await?;
                row.map_or(Err(error), |row| Ok(Err(CatalogRefused::SkuTaken(row.get(0)))))
            }
            other => other,
        }
    }

    async fn products_where(
        &self,
        condition: &str,
        arguments: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Product>, LedgerError> {
        let sql = format!("-- catalog.products\n{SELECT} where {condition} {ORDER}");
        let connection = self.connection().await?;
        let statement = connection.prepare_cached(&sql).await?;
        products(&connection.query(&statement, arguments).await?)
    }
}

/// A row for each variant.
/// Of `products p` and `variants v`: only drafts sell it, so nobody but their operators knows of it.
pub(super) const OF_DRAFTS_ALONE: &str = "(p.reservation = 'tokens' and coalesce((
    select bool_and(d.state = 'draft') from drop_variants dv join drops d using (drop_id)
    where dv.variant_id = v.variant_id), false))";

const SELECT: &str = "-- catalog.select
    select p.product_id, p.name, p.active, p.version, v.sku, v.title, v.price_minor, v.currency, v.active,
           p.reservation
    from products p left join variants v using (product_id)";
const ORDER: &str = "order by p.product_id, v.sku";

async fn product_in(tx: &Transaction<'_>, id: ProductId, for_change: bool) -> Result<Option<Product>, LedgerError> {
    if for_change {
        const LOCK: &str = "-- catalog.lock\nselect 1 from products where product_id = $1 for update";
        tx.query_opt(LOCK, &[&id.0]).await?;
    }
    let sql = format!("-- catalog.product_in\n{SELECT} where p.product_id = $1 {ORDER}");
    Ok(products(&tx.query(&tx.prepare_cached(&sql).await?, &[&id.0]).await?)?.pop())
}

const TAKEN_SKU: &str = "-- catalog.taken_sku\nselect sku from variants where sku = any($1) order by sku limit 1";

/// The first of these SKUs that names a variant already.
async fn taken_sku(tx: &Transaction<'_>, variants: &[NewVariant]) -> Result<Option<String>, LedgerError> {
    let skus = variants.iter().map(|variant| &*variant.sku).collect::<Vec<_>>();
    Ok(tx.query_opt(TAKEN_SKU, &[&skus]).await?.map(|row| row.get(0)))
}

async fn insert_variants(
    tx: &Transaction<'_>,
    product: ProductId,
    variants: &[NewVariant],
    now: Timestamp,
) -> Result<(), LedgerError> {
    const SQL: &str = "-- catalog.insert_variants
        insert into variants (product_id, sku, title, price_minor, currency, updated_at)
        select $1, sku, title, price_minor, currency, $6
        from unnest($2::text[], $3::text[], $4::bigint[], $5::text[]) as v (sku, title, price_minor, currency)";
    let skus = variants.iter().map(|variant| &*variant.sku).collect::<Vec<_>>();
    let titles = variants.iter().map(|variant| &*variant.title).collect::<Vec<_>>();
    let prices = variants.iter().map(|variant| variant.price_minor).collect::<Vec<_>>();
    let currencies = variants.iter().map(|variant| variant.currency.as_str()).collect::<Vec<_>>();
    let arguments: &[&(dyn ToSql + Sync)] = &[&product.0, &skus, &titles, &prices, &currencies, /* now */ &now];
    expect_rows("catalog.insert_variants", variants.len() as u64, tx.execute(SQL, arguments).await?)
}

/// Its next version.
async fn touch(tx: &Transaction<'_>, id: ProductId, now: Timestamp) -> Result<(), LedgerError> {
    const SQL: &str = "-- catalog.touch
        update products set version = version + 1, updated_at = $2 where product_id = $1";
    expect_rows("catalog.touch", 1, tx.execute(SQL, &[&id.0, /* now */ &now]).await?)
}

fn gone(id: ProductId) -> LedgerError {
    inconsistent("products", "product_id", id.0, "gone under its own lock")
}

fn products(rows: &[Row]) -> Result<Vec<Product>, LedgerError> {
    let mut found: Vec<Product> = Vec::new();
    for row in rows {
        let id = ProductId(row.get(0));
        if found.last().is_none_or(|last| last.id != id) {
            let version = Version(row.get(3));
            let way: &str = row.get(9);
            let reservation = way.parse().map_err(|_| inconsistent("products", "reservation", id.0, way))?;
            let (name, is_active) = (row.get(1), row.get(2));
            found.push(Product { id, name, is_active, reservation, version, variants: Vec::new() });
        }
        let (Some(sku), Some(product)) = (row.get::<_, Option<String>>(4), found.last_mut()) else { continue };
        let currency: &str = row.get(7);
        let currency = currency.parse().map_err(|_| inconsistent("variants", "currency", &sku, currency))?;
        let price = Money::new(row.get(6), currency);
        product.variants.push(Variant { sku, title: row.get(5), price, is_active: row.get(8) });
    }
    Ok(found)
}
