//! What variants cost just now and what their units are taken from: what a checkout goes by.

use std::collections::HashMap;

use tokio_postgres::Row;

use super::drops::{inconsistent, terms_of};
use super::error::LedgerError;
use super::pool::Ledger;
use super::rates::tables_of_drops;
use crate::domain::checkout::{DropOffer, ForSale, Source};
use crate::domain::ids::{DropId, VariantId, VariantNumber};
use crate::domain::money::Money;
use crate::domain::pricing::{Rate, RateTable};
use crate::domain::stock::StockWay;

impl Ledger {
    /// These variants as they can be bought now; one that nobody knows is left out. What a drop sells is offered by the newest
    /// of its drops that is open, or paused: the claim tells which.
    pub async fn for_sale(&self, variants: &[VariantId]) -> Result<HashMap<VariantId, ForSale>, LedgerError> {
        const SQL: &str = "-- for_sale.for_sale
            select v.variant_id, v.product_id, v.sku, v.title, v.price_minor, v.currency, v.active and p.active, p.reservation,
                   d.drop_id, d.name, d.number, d.price_minor, d.tax_basis_points, d.shipping_minor,
                   d.shipping_tax_basis_points, d.price_includes_tax, d.rates_of_shop
            from variants v join products p using (product_id)
                 left join lateral (
                     select d.drop_id, d.name, dv.number, dv.price_minor, d.tax_basis_points, d.shipping_minor,
                            d.shipping_tax_basis_points, d.price_includes_tax, d.rates_of_shop
                     from drop_variants dv join drops d using (drop_id)
                     where dv.variant_id = v.variant_id and d.state in ('open', 'paused')
                     order by d.state = 'open' desc, d.drop_id desc limit 1
                 ) d on p.reservation = 'tokens'
            where v.variant_id = any($1)";
        let ids = variants.iter().map(|variant| variant.0).collect::<Vec<_>>();
        let connection = self.connection().await?;
        let statement = connection.prepare_cached(SQL).await?;
        let rows = connection.query(&statement, &[&ids]).await?;
        let at_shop_rates = rows.iter().filter(|row| row.get::<_, Option<bool>>(16) == Some(true));
        let at_shop_rates = at_shop_rates.map(|row| DropId(row.get(8))).collect::<Vec<_>>();
        let mut rates = HashMap::new();
        if !at_shop_rates.is_empty() {
            rates = tables_of_drops(&connection, &at_shop_rates).await?;
        }
        let sales = rows.iter().map(|row| for_sale(row, &rates));
        sales.map(|sale| sale.map(|sale| (sale.variant_id, sale))).collect()
    }
}

fn for_sale(row: &Row, rates: &HashMap<DropId, RateTable>) -> Result<ForSale, LedgerError> {
    let (id, currency, way): (i32, &str, &str) = (row.get(0), row.get(5), row.get(7));
    let currency = currency.parse().map_err(|_| inconsistent("variants", "currency", id, currency))?;
    let way = way.parse().map_err(|_| inconsistent("products", "reservation", id, way))?;
    let (mut price, is_active, drop): (_, bool, _) =
        (Money::new(row.get(4), currency), row.get(6), row.get::<_, Option<i32>>(8));
    let from = match (way, drop) {
        _ if !is_active => Source::Nothing,
        (StockWay::Tokens, None) => Source::Nothing,
        (StockWay::Tokens, Some(drop)) => {
            price = Money::new(row.get(11), currency);
            let name: &str = row.get(9);
            let own = Rate {
                tax_basis_points: row.get::<_, i32>(12).cast_unsigned(),
                shipping_tax_basis_points: row.get::<_, Option<i32>>(14).map(i32::cast_unsigned),
                shipping: Money::new(row.get(13), currency),
                free_shipping_from: None,
            };
            Source::Drop(DropOffer {
                drop: DropId(drop),
                name: name.parse().map_err(|_| inconsistent("drops", "name", drop, name))?,
                number: VariantNumber(row.get::<_, i16>(10) as u8),
                terms: terms_of(own, rates.get(&DropId(drop)).cloned(), row.get(15)),
            })
        }
        (way, _) => Source::Shelves(way),
    };
    Ok(ForSale { product: row.get(1), variant_id: VariantId(id), sku: row.get(2), title: row.get(3), price, from })
}
