//! What a shop window says of variants: name, price of today, and whether they are for sale at all.

use tokio_postgres::Row;

use super::catalog::OF_DRAFTS_ALONE;
use super::drops::inconsistent;
use super::error::LedgerError;
use super::pool::Ledger;
use crate::domain::ids::VariantId;
use crate::domain::money::Money;

/// A variant as it is shown now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownVariant {
    pub id: VariantId,
    pub sku: String,
    pub title: String,
    pub product: String,
    /// The drop's, for units that only a drop sells.
    pub price: Money,
    pub is_for_sale: bool,
}

impl Ledger {
    /// These variants as they are shown now; one that nobody knows, or that only drafts would sell, is left out. Of units of a drop the newest of its drops that
    /// is open tells the price, or else the newest one.
    pub async fn shown_variants(&self, variants: &[VariantId]) -> Result<Vec<ShownVariant>, LedgerError> {
        let sql = format!(
            "-- showcase.shown_variants
            select v.variant_id, v.sku, v.title, p.name, coalesce(d.price_minor, v.price_minor),
                   coalesce(d.currency, v.currency),
                   v.active and p.active and (p.reservation <> 'tokens' or d.price_minor is not null)
            from variants v join products p using (product_id)
                 left join lateral (
                     select dv.price_minor, d.currency
                     from drop_variants dv join drops d using (drop_id)
                     where dv.variant_id = v.variant_id and d.state not in ('draft', 'archived')
                     order by d.state = 'open' desc, d.drop_id desc limit 1
                 ) d on p.reservation = 'tokens'
            where v.variant_id = any($1) and not {OF_DRAFTS_ALONE}"
        );
        let ids = variants.iter().map(|variant| variant.0).collect::<Vec<_>>();
        let connection = self.connection().await?;
        let statement = connection.prepare_cached(&sql).await?;
        connection.query(&statement, &[&ids]).await?.iter().map(shown).collect()
    }

    /// The variant of this SKU.
    pub async fn variant_of_sku(&self, sku: &str) -> Result<Option<VariantId>, LedgerError> {
        const SQL: &str = "-- showcase.variant_of_sku\nselect variant_id from variants where sku = $1";
        let connection = self.connection().await?;
        let statement = connection.prepare_cached(SQL).await?;
        Ok(connection.query_opt(&statement, &[&sku]).await?.map(|row| VariantId(row.get(0))))
    }
}

fn shown(row: &Row) -> Result<ShownVariant, LedgerError> {
    let id: i32 = row.get(0);
    let code: &str = row.get(5);
    let currency = code.parse().map_err(|_| inconsistent("variants", "currency", id, code))?;
    Ok(ShownVariant {
        id: VariantId(id),
        sku: row.get(1),
        title: row.get(2),
        product: row.get(3),
        price: Money::new(row.get(4), currency),
        is_for_sale: row.get(6),
    })
}
