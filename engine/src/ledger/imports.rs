//! Files of products and of stock: each is one transaction, and nothing of a file with a fault in it stays.

use std::collections::{BTreeMap, HashMap};

use deadpool_postgres::Transaction;
use jiff::Timestamp;
use tokio_postgres::types::ToSql;

use super::error::{LedgerError, expect_rows};
use super::pool::Ledger;
use super::requests::{self, Earlier};
use super::stock::{Shelf, lock_shelf, put, warehouse_of};
use super::tx::run_tx;
use crate::domain::catalog::VARIANTS_MAX;
use crate::domain::ids::VariantId;
use crate::domain::imports::{
    FAULTS_TOLD, ImportEnd, Imported, LineFault, ProductRow, SameFile, StockImport, StockRow,
};
use crate::domain::progress::Progress;
use crate::domain::requests::{Done, OperatorRequest};
use crate::domain::stock::{StockWay, changed};

impl Ledger {
    /// Makes and changes variants, found by their SKUs, and their products, found by their names. `is_trial`: all is checked
    /// and nothing stays.
    pub async fn import_products(
        &self,
        request: &OperatorRequest,
        rows: &[ProductRow],
        is_trial: bool,
        now: Timestamp,
    ) -> Result<ImportEnd, LedgerError> {
        const WHAT: &str = "imports.products";
        run_tx!(self, "imports.import_products", tx, keep if ImportEnd::Done(Done::Now(_)), {
            if !is_trial {
                match requests::before(tx, request, WHAT, &rows).await? {
                    Earlier::Nothing => {}
                    Earlier::Done(imported) => return Ok(ImportEnd::Done(Done::Before(imported))),
                    Earlier::Differs => return Ok(ImportEnd::IdReused),
                }
            }
            let (imported, faults) = write_products(tx, rows, now, &self.progress).await?;
            if !faults.is_empty() {
                return Ok(ImportEnd::Refused(faults));
            }
            if is_trial {
                return Ok(ImportEnd::Tried(imported));
            }
            requests::done(tx, request, WHAT, &rows, &imported, now).await?;
            Ok(ImportEnd::Done(Done::Now(imported)))
        })
    }

    /// Changes what is available of variants in places of ordinary stock, each change with its row of history.
    pub async fn import_stock(
        &self,
        request: &OperatorRequest,
        rows: &[StockRow],
        mode: StockImport,
        same_file: SameFile,
        is_trial: bool,
        now: Timestamp,
    ) -> Result<ImportEnd, LedgerError> {
        const WHAT: &str = "imports.stock";
        run_tx!(self, "imports.import_stock", tx, keep if ImportEnd::Done(Done::Now(_)), {
            if !is_trial {
                match requests::before(tx, request, WHAT, &(mode, rows)).await? {
                    Earlier::Nothing => {}
                    Earlier::Done(imported) => return Ok(ImportEnd::Done(Done::Before(imported))),
                    Earlier::Differs => return Ok(ImportEnd::IdReused),
                }
            }
            if (mode, same_file) == (StockImport::Add, SameFile::Refused)
                && let Some((actor, at)) = requests::same_content(tx, request, WHAT, &(mode, rows)).await?
            {
                let what = format!(
                    "{actor} has added this very file at {at}: if its units came once more, say so with --again, or over \
                     the API with again=true"
                );
                return Ok(ImportEnd::Refused(vec![LineFault::new(1, "header", what)]));
            }
            let (imported, faults) = write_stock(tx, request, rows, mode, now, &self.progress).await?;
            if !faults.is_empty() {
                return Ok(ImportEnd::Refused(faults));
            }
            if is_trial {
                return Ok(ImportEnd::Tried(imported));
            }
            requests::done(tx, request, WHAT, &(mode, rows), &imported, now).await?;
            Ok(ImportEnd::Done(Done::Now(imported)))
        })
    }
}

/// What progress counts of a file.
const LINES: &str = "lines of the file";

/// A variant that is there.
struct Known {
    product: i32,
    name: String,
    title: String,
    price_minor: i64,
    currency: String,
    is_active: bool,
}

/// A product that is there, or that this file makes.
struct KnownProduct {
    id: i32,
    reservation: String,
    variants: i64,
    /// Made by this file: it is at its first version, with all that the file says.
    is_new: bool,
    is_touched: bool,
}

async fn write_products(
    tx: &Transaction<'_>,
    rows: &[ProductRow],
    now: Timestamp,
    progress: &Progress,
) -> Result<(Imported, Vec<LineFault>), LedgerError> {
    // Two files at once might make one product twice: no constraint knows products by their names.
    const ALONE: &str = "-- imports.alone\nselect pg_advisory_xact_lock(hashtextextended('doorbuster import', 0))";
    tx.query_one(ALONE, &[]).await?;
    let mut known = known_variants(tx, rows).await?;
    let mut products = known_products(tx, rows, &known).await?;
    let (mut imported, mut faults) = (Imported::default(), Vec::new());
    for (number, row) in rows.iter().enumerate() {
        if faults.len() >= FAULTS_TOLD {
            break;
        }
        progress.tell(LINES, number as u64, Some(rows.len() as u64));
        let mut fault = |column, what: String| faults.push(LineFault::new(row.line, column, what));
        if let Some(variant) = known.get(&row.sku) {
            if variant.name != row.product {
                fault("product", format!("the SKU {} is one of {}", row.sku, variant.name));
                continue;
            }
            if variant.currency != row.currency.as_str() {
                fault("currency", format!("the SKU {} is sold in {}", row.sku, variant.currency));
                continue;
            }
        }
        let way = row.reservation.map(StockWay::as_str);
        if !products.contains_key(&row.product) {
            let made = make_product(tx, &row.product, way, now).await?;
            products.insert(row.product.clone(), made);
        }
        let product = products.get_mut(&row.product).expect("it was just put there");
        let mut is_changed = false;
        if let Some(way) = way.filter(|way| product.reservation != *way) {
            const WAY: &str = "-- imports.set_reservation\nupdate products set reservation = $2 where product_id = $1";
            expect_rows("imports.set_reservation", 1, tx.execute(WAY, &[&product.id, &way]).await?)?;
            way.clone_into(&mut product.reservation);
            is_changed = true;
        }
        match known.get_mut(&row.sku) {
            None if product.variants >= VARIANTS_MAX as i64 => {
                fault("sku", format!("a product has at most {VARIANTS_MAX} variants"));
                continue;
            }
            None => {
                insert_variant(tx, product.id, row, now).await?;
                product.variants += 1;
                imported.created += 1;
                product.is_touched = true;
            }
            Some(variant) => {
                let is_active = row.is_active.unwrap_or(variant.is_active);
                let is_same = (&variant.title, variant.price_minor, variant.is_active)
                    == (&row.title, row.price_minor, is_active);
                if !is_same {
                    update_variant(tx, row, is_active, now).await?;
                    is_changed = true;
                }
                product.is_touched |= is_changed;
                *(if is_changed { &mut imported.changed } else { &mut imported.unchanged }) += 1;
            }
        }
    }
    const TOUCH: &str = "-- imports.touch
        update products set version = version + 1, updated_at = $2 where product_id = any($1)";
    let touched = products
        .values()
        .filter(|product| product.is_touched && !product.is_new)
        .map(|product| product.id)
        .collect::<Vec<_>>();
    tx.execute(TOUCH, &[&touched, /* now */ &now]).await?;
    Ok((imported, faults))
}

async fn known_variants(tx: &Transaction<'_>, rows: &[ProductRow]) -> Result<HashMap<String, Known>, LedgerError> {
    const SQL: &str = "-- imports.known_variants
        select v.sku, p.product_id, p.name, v.title, v.price_minor, v.currency, v.active
        from variants v join products p using (product_id) where v.sku = any($1)";
    let skus = rows.iter().map(|row| &*row.sku).collect::<Vec<_>>();
    let known = |row: &tokio_postgres::Row| {
        let variant = Known {
            product: row.get(1),
            name: row.get(2),
            title: row.get(3),
            price_minor: row.get(4),
            currency: row.get(5),
            is_active: row.get(6),
        };
        (row.get(0), variant)
    };
    Ok(tx.query(SQL, &[&skus]).await?.iter().map(known).collect())
}

/// Products by their names, locked in the order of their ids: those of known SKUs, else the first of a name.
async fn known_products(
    tx: &Transaction<'_>,
    rows: &[ProductRow],
    known: &HashMap<String, Known>,
) -> Result<HashMap<String, KnownProduct>, LedgerError> {
    const SQL: &str = "-- imports.known_products
        select p.name, p.product_id, p.reservation, (select count(*) from variants v where v.product_id = p.product_id)
        from products p where p.name = any($1) order by p.product_id for update";
    let names = rows.iter().map(|row| &*row.product).collect::<Vec<_>>();
    let mut products: HashMap<String, KnownProduct> = HashMap::new();
    for row in tx.query(SQL, &[&names]).await? {
        let (name, id): (String, i32) = (row.get(0), row.get(1));
        let is_of_known = known.values().any(|variant| variant.product == id);
        if is_of_known || !products.contains_key(&name) {
            let product =
                KnownProduct { id, reservation: row.get(2), variants: row.get(3), is_new: false, is_touched: false };
            products.insert(name, product);
        }
    }
    Ok(products)
}

async fn make_product(
    tx: &Transaction<'_>,
    name: &str,
    way: Option<&str>,
    now: Timestamp,
) -> Result<KnownProduct, LedgerError> {
    const SQL: &str = "-- imports.make_product
        insert into products (name, reservation, created_at, updated_at) values ($1, $2, $3, $3) returning product_id";
    let way = way.unwrap_or(StockWay::RowLock.as_str());
    let id = tx.query_one(SQL, &[&name, &way, /* now */ &now]).await?.get(0);
    Ok(KnownProduct { id, reservation: way.to_owned(), variants: 0, is_new: true, is_touched: false })
}

async fn insert_variant(
    tx: &Transaction<'_>,
    product: i32,
    row: &ProductRow,
    now: Timestamp,
) -> Result<(), LedgerError> {
    const SQL: &str = "-- imports.insert_variant
        insert into variants (product_id, sku, title, price_minor, currency, active, updated_at)
        values ($1, $2, $3, $4, $5, $6, $7)";
    let arguments: &[&(dyn ToSql + Sync)] = &[
        &product,
        &row.sku,
        &row.title,
        &row.price_minor,
        &row.currency.as_str(),
        &row.is_active.unwrap_or(true),
        /* now */ &now,
    ];
    expect_rows("imports.insert_variant", 1, tx.execute(&tx.prepare_cached(SQL).await?, arguments).await?)
}

async fn update_variant(
    tx: &Transaction<'_>,
    row: &ProductRow,
    is_active: bool,
    now: Timestamp,
) -> Result<(), LedgerError> {
    const SQL: &str = "-- imports.update_variant
        update variants set title = $2, price_minor = $3, active = $4, version = version + 1, updated_at = $5
        where sku = $1";
    let arguments: &[&(dyn ToSql + Sync)] = &[&row.sku, &row.title, &row.price_minor, &is_active, /* now */ &now];
    expect_rows("imports.update_variant", 1, tx.execute(&tx.prepare_cached(SQL).await?, arguments).await?)
}

async fn write_stock(
    tx: &Transaction<'_>,
    request: &OperatorRequest,
    rows: &[StockRow],
    mode: StockImport,
    now: Timestamp,
    progress: &Progress,
) -> Result<(Imported, Vec<LineFault>), LedgerError> {
    const VARIANTS: &str = "-- imports.stock_variants
        select sku, product_id, variant_id from variants where sku = any($1)";
    let skus = rows.iter().map(|row| &*row.sku).collect::<Vec<_>>();
    let variants = tx.query(VARIANTS, &[&skus]).await?;
    let variants = variants.iter().map(|row| (row.get::<_, String>(0), (row.get(1), VariantId(row.get(2)))));
    let variants = variants.collect::<HashMap<_, (i32, VariantId)>>();
    let (mut imported, mut faults, mut places) = (Imported::default(), Vec::new(), BTreeMap::new());
    // By variant and place, which is the order of their locks; rows of one place in the order of the file.
    let mut shelves: BTreeMap<(VariantId, i32), Vec<(Shelf, &StockRow)>> = BTreeMap::new();
    for row in rows {
        let mut fault = |column, what: String| faults.push(LineFault::new(row.line, column, what));
        let Some((product, variant)) = variants.get(&row.sku) else {
            fault("sku", format!("there is no SKU {}: make its product first", row.sku));
            continue;
        };
        if !places.contains_key(&row.warehouse) {
            places.insert(row.warehouse.clone(), warehouse_of(tx, &row.warehouse).await?);
        }
        let warehouse = match &places[&row.warehouse] {
            Ok(warehouse) => *warehouse,
            Err(refused) => {
                fault("warehouse", refused.to_string());
                continue;
            }
        };
        let shelf = Shelf { product: *product, variant: *variant, warehouse };
        shelves.entry((*variant, warehouse.0)).or_default().push((shelf, row));
    }
    for (number, (shelf, row)) in shelves.into_values().flatten().enumerate() {
        progress.tell(LINES, number as u64, Some(rows.len() as u64));
        if faults.len() >= FAULTS_TOLD {
            break;
        }
        let (available, reserved) = lock_shelf(tx, shelf).await?;
        let delta = match mode {
            StockImport::Add => row.quantity,
            StockImport::Count => row.quantity - available,
        };
        if delta == 0 {
            imported.unchanged += 1;
            continue;
        }
        match changed(available, reserved, delta) {
            Ok(after) => {
                put(tx, shelf, delta, (after, reserved), (&request.actor, &row.reason), now).await?;
                imported.changed += 1;
            }
            Err(refused) => faults.push(LineFault::new(row.line, "quantity", refused)),
        }
    }
    faults.sort_by_key(|fault| fault.line);
    faults.truncate(FAULTS_TOLD);
    Ok((imported, faults))
}
