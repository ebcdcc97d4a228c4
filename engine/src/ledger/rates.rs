//! Tax and shipping by country: a table that is replaced as a whole.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use tokio_postgres::Row;

use super::drops::inconsistent;
use super::error::LedgerError;
use super::pool::Ledger;
use super::tx::run_tx;
use crate::domain::charges::check_price;
use crate::domain::countries::check_country;
use crate::domain::money::{Currency, Money};
use crate::domain::pricing::Rate;

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
        let Some(row) = row.as_ref().map(rate_row).transpose()? else { return Ok(None) };
        Ok(Some(Rate {
            tax_basis_points: row.tax_basis_points,
            shipping_tax_basis_points: row.shipping_tax_basis_points,
            shipping: Money::new(row.shipping_minor, currency),
            free_shipping_from: row.free_shipping_from_minor.map(|minor| Money::new(minor, currency)),
        }))
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
