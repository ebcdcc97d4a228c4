//! Tax and shipping by country: a table that is replaced as a whole.

use std::collections::{BTreeSet, HashMap};

use deadpool_postgres::GenericClient;
use serde::{Deserialize, Serialize};
use tokio_postgres::Row;

use super::drops::inconsistent;
use super::error::LedgerError;
use super::pool::Ledger;
use super::tx::run_tx;
use crate::domain::charges::check_price;
use crate::domain::countries::{Country, check_country};
use crate::domain::ids::DropId;
use crate::domain::money::{Currency, Money};
use crate::domain::pricing::{Rate, RateTable};

/// The country of every place that has no row of its own.
pub const ELSEWHERE: &str = "*";

/// One row of the table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateRow {
    /// ISO 3166-1 alpha-2, or `*` for everywhere else.
    pub country: String,
    pub currency: Currency,
    pub tax_basis_points: u32,
    /// VAT on shipping; without it the highest rate among the goods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shipping_tax_basis_points: Option<u32>,
    pub shipping_minor: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub free_shipping_from_minor: Option<i64>,
}

impl RateRow {
    fn rate(&self) -> Rate {
        Rate {
            tax_basis_points: self.tax_basis_points,
            shipping_tax_basis_points: self.shipping_tax_basis_points,
            shipping: Money::new(self.shipping_minor, self.currency),
            free_shipping_from: self.free_shipping_from_minor.map(|minor| Money::new(minor, self.currency)),
        }
    }
}

/// What is wrong with a table, by row, from 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("row {row}: {what}")]
pub struct InvalidRate {
    pub row: usize,
    pub what: String,
}

/// Checks a table before it is stored.
pub fn check(rows: &[RateRow]) -> Result<(), InvalidRate> {
    let mut seen = BTreeSet::new();
    for (position, row) in rows.iter().enumerate() {
        let wrong = |what: &str| Err(InvalidRate { row: position + 1, what: what.to_owned() });
        // The list that addresses are held against: a row for another code would never be used.
        if row.country != ELSEWHERE
            && let Err(what) = check_country(&row.country)
        {
            return wrong(&format!("country {what}, or * for everywhere else"));
        }
        if row.tax_basis_points > 10_000 || row.shipping_tax_basis_points.is_some_and(|rate| rate > 10_000) {
            return wrong("tax_basis_points and shipping_tax_basis_points must be 0 to 10000: 1900 is 19 %");
        }
        let amounts =
            [("shipping_minor", Some(row.shipping_minor)), ("free_shipping_from_minor", row.free_shipping_from_minor)];
        for (column, minor) in amounts {
            let checked = minor.map_or(Ok(()), |minor| check_price(Money::new(minor, row.currency)));
            if let Err(why) = checked {
                return wrong(&format!("{column}: {why}"));
            }
        }
        if !seen.insert((&*row.country, row.currency)) {
            return wrong("this country and currency are there twice");
        }
    }
    Ok(())
}

impl Ledger {
    /// What an order to this country costs in this currency, beside its goods. `None`: it is not served.
    pub async fn rate_for(&self, country: &str, currency: Currency) -> Result<Option<Rate>, LedgerError> {
        const SQL: &str = "-- rates.rate_for
            select country, currency, tax_basis_points, shipping_minor, free_shipping_from_minor,
                   shipping_tax_basis_points
            from rates where country in ($1, '*') and currency = $2 order by country = '*' limit 1";
        let connection = self.connection().await?;
        let statement = connection.prepare_cached(SQL).await?;
        let row = connection.query_opt(&statement, &[&country, &currency.as_str()]).await?;
        Ok(row.as_ref().map(rate_row).transpose()?.map(|row| row.rate()))
    }

    /// The table of one currency. `None`: nothing is sent anywhere in it.
    pub async fn rate_table(&self, currency: Currency) -> Result<Option<RateTable>, LedgerError> {
        let rows = self.rates().await?;
        let rows = rows.into_iter().filter(|row| row.currency == currency).collect::<Vec<_>>();
        if rows.is_empty() { Ok(None) } else { table_of(&rows).map(Some) }
    }

    /// The whole table, by country and currency.
    pub async fn rates(&self) -> Result<Vec<RateRow>, LedgerError> {
        const SQL: &str = "-- rates.all
            select country, currency, tax_basis_points, shipping_minor, free_shipping_from_minor,
                   shipping_tax_basis_points
            from rates order by country, currency";
        self.connection().await?.query(SQL, &[]).await?.iter().map(rate_row).collect()
    }

    /// Puts this table, which has been checked, in the place of the old one.
    pub async fn replace_rates(&self, rows: &[RateRow]) -> Result<(), LedgerError> {
        run_tx!(self, "rates.replace", tx, {
            const INSERT: &str = "-- rates.insert
                insert into rates (country, currency, tax_basis_points, shipping_minor, free_shipping_from_minor,
                                   shipping_tax_basis_points)
                values ($1, $2, $3, $4, $5, $6)";
            tx.batch_execute("-- rates.replace\nlock table rates in exclusive mode; delete from rates").await?;
            for row in rows {
                let arguments: &[&(dyn tokio_postgres::types::ToSql + Sync)] = &[
                    &row.country,
                    &row.currency.as_str(),
                    &row.tax_basis_points.cast_signed(),
                    &row.shipping_minor,
                    &row.free_shipping_from_minor,
                    &row.shipping_tax_basis_points.map(u32::cast_signed),
                ];
                tx.execute(INSERT, arguments).await?;
            }
            Ok(())
        })
    }
}

/// The rates by which these drops sell that take the shop's: those that each of them found when it opened; of a draft,
/// those that there are now. A drop without any is left out.
pub(super) async fn tables_of_drops(
    client: &impl GenericClient,
    drops: &[DropId],
) -> Result<HashMap<DropId, RateTable>, LedgerError> {
    const SQL: &str = "-- rates.of_drops
        select r.country, d.currency, r.tax_basis_points, r.shipping_minor, r.free_shipping_from_minor,
               r.shipping_tax_basis_points, d.drop_id
        from drops d join drop_rates r using (drop_id) where d.drop_id = any($1)
        union all
        select r.country, d.currency, r.tax_basis_points, r.shipping_minor, r.free_shipping_from_minor,
               r.shipping_tax_basis_points, d.drop_id
        from drops d join rates r using (currency)
        where d.drop_id = any($1) and d.rates_of_shop and d.state = 'draft'";
    let ids = drops.iter().map(|drop| drop.0).collect::<Vec<_>>();
    let statement = client.prepare_cached(SQL).await?;
    let mut found: HashMap<DropId, Vec<RateRow>> = HashMap::new();
    for row in client.query(&statement, &[&ids]).await? {
        found.entry(DropId(row.get(6))).or_default().push(rate_row(&row)?);
    }
    found.into_iter().map(|(drop, rows)| Ok((drop, table_of(&rows)?))).collect()
}

/// Gives a drop that opens the shop's rates of this moment.
pub(super) async fn copy_to_drop(client: &impl GenericClient, drop: DropId) -> Result<(), LedgerError> {
    const SQL: &str = "-- rates.copy_to_drop
        insert into drop_rates (drop_id, country, tax_basis_points, shipping_tax_basis_points, shipping_minor,
                                free_shipping_from_minor)
        select d.drop_id, r.country, r.tax_basis_points, r.shipping_tax_basis_points, r.shipping_minor,
               r.free_shipping_from_minor
        from drops d join rates r using (currency) where d.drop_id = $1 and d.rates_of_shop";
    client.execute(&client.prepare_cached(SQL).await?, &[&drop.0]).await?;
    Ok(())
}

/// Rows of one currency.
fn table_of(rows: &[RateRow]) -> Result<RateTable, LedgerError> {
    let (mut by_country, mut elsewhere) = (Vec::new(), None);
    for row in rows {
        if row.country == ELSEWHERE {
            elsewhere = Some(row.rate());
        } else {
            let country = row.country.parse::<Country>();
            let country = country.map_err(|_| inconsistent("rates", "country", row.currency, &row.country))?;
            by_country.push((country, row.rate()));
        }
    }
    Ok(RateTable::new(by_country, elsewhere))
}

fn rate_row(row: &Row) -> Result<RateRow, LedgerError> {
    let (country, currency): (String, &str) = (row.get(0), row.get(1));
    Ok(RateRow {
        currency: currency.parse().map_err(|_| inconsistent("rates", "currency", &country, currency))?,
        country,
        tax_basis_points: row.get::<_, i32>(2).cast_unsigned(),
        shipping_minor: row.get(3),
        free_shipping_from_minor: row.get(4),
        shipping_tax_basis_points: row.get::<_, Option<i32>>(5).map(i32::cast_unsigned),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_that_cannot_be_is_refused_by_row() {
        let row = |country: &str, tax_basis_points, shipping_minor| RateRow {
            country: country.to_owned(),
            currency: "EUR".parse().unwrap(),
            tax_basis_points,
            shipping_tax_basis_points: None,
            shipping_minor,
            free_shipping_from_minor: None,
        };
        assert_eq!(check(&[row("DE", 1_900, 490), row("*", 0, 990)]), Ok(()));
        let bad = [
            row("de", 0, 0),
            row("DEU", 0, 0),
            row("XX", 0, 0),
            row("FR", 10_001, 0),
            row("FR", 0, -1),
            row("DE", 0, 0),
        ];
        for bad in bad {
            assert_eq!(check(&[row("DE", 1_900, 490), bad.clone()]).unwrap_err().row, 2, "{bad:?}");
        }
        let error = check(&[row("UK", 2_000, 490)]).unwrap_err().to_string();
        assert!(error.contains("for UK that is GB"), "{error}");
    }
}
