//! What an order costs: subtotal, tax, shipping and their sum. Tax is rounded once for the goods and once for shipping, each to what
//! can be charged.
//!
//! A price is before tax, or includes the tax on the goods: then tax is taken out of the sum of the lines, and what is
//! shown of the goods is what they cost in every country. Shipping is before tax in either case: one table serves both.

use serde::Serialize;

use super::charges::{included, share};
use super::countries::Country;
use super::credits::shipping_rate;
use super::money::{Money, MoneyError};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Totals {
    pub subtotal: Money,
    pub tax: Money,
    pub shipping: Money,
    pub total: Money,
}

/// What an order costs beside its goods: a drop's own terms, or those of the country it goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// 1/100 of a percent, of the goods.
    pub tax_basis_points: u32,
    /// Of shipping. `None`: the highest rate among the goods, which is that of all of them.
    pub shipping_tax_basis_points: Option<u32>,
    pub shipping: Money,
    /// From this subtotal on shipping costs nothing.
    pub free_shipping_from: Option<Money>,
}

impl Rate {
    /// What shipping is taxed with.
    pub fn shipping_tax(&self) -> u32 {
        shipping_rate(self.shipping_tax_basis_points, [self.tax_basis_points])
    }

    /// What shipping costs with goods of this price.
    fn shipping_for(&self, goods: Money) -> Money {
        let is_free = self.free_shipping_from.is_some_and(|from| goods.amount_minor >= from.amount_minor);
        if is_free { Money::zero(self.shipping.currency) } else { self.shipping }
    }
}

/// Rates by country.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateTable {
    /// Sorted by country.
    by_country: Vec<(Country, Rate)>,
    /// Of every other country. `None`: nothing is sent there.
    elsewhere: Option<Rate>,
}

impl RateTable {
    pub fn new(mut by_country: Vec<(Country, Rate)>, elsewhere: Option<Rate>) -> Self {
        by_country.sort_unstable_by_key(|(country, _)| *country);
        Self { by_country, elsewhere }
    }

    /// The same in every country.
    pub fn everywhere(rate: Rate) -> Self {
        Self { by_country: Vec::new(), elsewhere: Some(rate) }
    }

    /// `None`: nothing is sent there.
    pub fn of(&self, country: Country) -> Option<&Rate> {
        let found = self.by_country.binary_search_by_key(&country, |(country, _)| *country);
        found.map_or(self.elsewhere.as_ref(), |place| Some(&self.by_country[place].1))
    }

    /// Of an address. Some that are older than the list of countries name none of it: they are of everywhere else.
    pub fn at(&self, address: &str) -> Option<&Rate> {
        address.parse().map_or(self.elsewhere.as_ref(), |country| self.of(country))
    }

    /// Of an order of which nobody knows yet where it goes: what most countries have, or the first.
    pub fn of_nowhere(&self) -> Option<&Rate> {
        self.elsewhere.as_ref().or_else(|| self.by_country.first().map(|(_, rate)| rate))
    }

    /// The countries with rates of their own.
    pub fn countries(&self) -> impl Iterator<Item = Country> {
        self.by_country.iter().map(|(country, _)| *country)
    }

    pub fn elsewhere(&self) -> Option<&Rate> {
        self.elsewhere.as_ref()
    }

    /// Every rate of the table, that of all other countries last, as `None`.
    pub fn rows(&self) -> impl Iterator<Item = (Option<Country>, &Rate)> {
        let own = self.by_country.iter().map(|(country, rate)| (Some(*country), rate));
        own.chain(self.elsewhere.iter().map(|rate| (None, rate)))
    }
}

/// What the prices of goods become: by country, and with tax or before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    pub rates: RateTable,
    pub price_includes_tax: bool,
}

impl Terms {
    /// Prices before tax, and the same rate in every country.
    pub fn flat(rate: Rate) -> Self {
        Self { rates: RateTable::everywhere(rate), price_includes_tax: false }
    }

    /// `None`: nothing is sent there.
    pub fn totals(&self, unit_price: Money, quantity: u32, to: Country) -> Option<Result<Totals, MoneyError>> {
        Some(self.totals_at(self.rates.of(to)?, unit_price, quantity))
    }

    pub fn totals_at(&self, rate: &Rate, unit_price: Money, quantity: u32) -> Result<Totals, MoneyError> {
        Totals::of_prices(unit_price.times(quantity)?, rate, self.price_includes_tax)
    }
}

impl Totals {
    /// Of goods whose prices add up to this, before tax or with it. Shipping is free from that sum on, for it is what
    /// the buyer sees.
    pub fn of_prices(sum: Money, rate: &Rate, include_tax: bool) -> Result<Self, MoneyError> {
        if !include_tax {
            return Self::of(sum, rate);
        }
        let of_goods = included(sum, rate.tax_basis_points)?;
        let shipping = rate.shipping_for(sum);
        let tax = of_goods.plus(share(shipping, rate.shipping_tax())?)?;
        let subtotal = Money::new(sum.amount_minor - of_goods.amount_minor, sum.currency);
        let total = subtotal.plus(tax)?.plus(shipping)?;
        Ok(Self { subtotal, tax, shipping, total })
    }

    /// Tax is computed once, on the sum of the lines, so that it does not depend on how units are split into lines.
    pub fn of(subtotal: Money, rate: &Rate) -> Result<Self, MoneyError> {
        let shipping = rate.shipping_for(subtotal);
        let tax = share(subtotal, rate.tax_basis_points)?.plus(share(shipping, rate.shipping_tax())?)?;
        let total = subtotal.plus(tax)?.plus(shipping)?;
        Ok(Self { subtotal, tax, shipping, total })
    }

    pub fn of_units(unit_price: Money, quantity: u32, rate: &Rate) -> Result<Self, MoneyError> {
        Self::of(unit_price.times(quantity)?, rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_add_up() {
        let currency = "EUR".parse().unwrap();
        let shipping = Money::new(490, currency);
        let rate = |shipping_tax| Rate {
            tax_basis_points: 1_900,
            shipping_tax_basis_points: shipping_tax,
            shipping,
            free_shipping_from: None,
        };
        // Of 4.90 € shipping 19 % are 93.1 cents.
        for (shipping_tax, of_shipping) in [(None, 93), (Some(1_900), 93), (Some(700), 34), (Some(0), 0)] {
            let totals = Totals::of_units(Money::new(9_999, currency), 3, &rate(shipping_tax)).unwrap();
            assert_eq!(totals.subtotal.amount_minor, 29_997);
            assert_eq!(totals.tax.amount_minor, 5_699 + of_shipping, "{shipping_tax:?}");
            assert_eq!(totals.total.amount_minor, 29_997 + 5_699 + of_shipping + 490);
        }
    }

    #[test]
    fn shipping_is_free_from_the_very_amount_on() {
        let money = |minor| Money::new(minor, "JPY".parse().unwrap());
        let rate = Rate {
            tax_basis_points: 1_000,
            shipping_tax_basis_points: Some(0),
            shipping: money(600),
            free_shipping_from: Some(money(10_000)),
        };
        // Yen have no decimals: a tenth of 9,995 is 999.5, and rounds to 1,000.
        assert_eq!(Totals::of(money(9_995), &rate).unwrap().total, money(9_995 + 1_000 + 600));
        assert_eq!(Totals::of(money(9_999), &rate).unwrap().shipping, money(600));
        assert_eq!(Totals::of(money(10_000), &rate).unwrap().total, money(11_000));
        assert!(Totals::of(money(i64::MAX), &rate).is_err());
    }

    #[test]
    fn a_price_that_includes_tax_costs_the_same_everywhere() {
        let euros = |minor| Money::new(minor, "EUR".parse().unwrap());
        let rate = |tax| Rate {
            tax_basis_points: tax,
            shipping_tax_basis_points: None,
            shipping: euros(490),
            free_shipping_from: Some(euros(20_001)),
        };
        for (tax, quantity, of_goods, of_shipping, shipping) in [
            (1_900, 1, 1_900, 93, 490),
            (0, 1, 0, 0, 490),
            // Before tax it would be 200.00, and not enough for free shipping.
            (1_900, 2, 3_800, 0, 0),
            (700, 1, 779, 34, 490),
        ] {
            let terms = Terms { rates: RateTable::everywhere(rate(tax)), price_includes_tax: true };
            let totals = terms.totals(euros(11_900), quantity, "DE".parse().unwrap()).unwrap().unwrap();
            let goods = 11_900 * i64::from(quantity);
            assert_eq!(totals.subtotal, euros(goods - of_goods), "{tax}");
            assert_eq!((totals.tax, totals.shipping), (euros(of_goods + of_shipping), euros(shipping)), "{tax}");
            assert_eq!(totals.total, euros(goods + shipping + of_shipping), "{tax}");
        }
    }

    #[test]
    fn a_country_without_a_row_has_that_of_everywhere_else_or_is_not_served() {
        let rate = |tax| Rate {
            tax_basis_points: tax,
            shipping_tax_basis_points: None,
            shipping: Money::new(0, "EUR".parse().unwrap()),
            free_shipping_from: None,
        };
        let country = |code: &str| code.parse::<Country>().unwrap();
        let rows = vec![(country("FR"), rate(2_000)), (country("DE"), rate(1_900))];
        let tax = |table: &RateTable, code| table.of(country(code)).map(|rate| rate.tax_basis_points);
        let closed = RateTable::new(rows.clone(), None);
        assert_eq!(["DE", "FR", "CH"].map(|code| tax(&closed, code)), [Some(1_900), Some(2_000), None]);
        assert_eq!(closed.of_nowhere().map(|rate| rate.tax_basis_points), Some(1_900));
        let open = RateTable::new(rows, Some(rate(0)));
        assert_eq!(["DE", "FR", "CH"].map(|code| tax(&open, code)), [Some(1_900), Some(2_000), Some(0)]);
        assert_eq!(open.of_nowhere().map(|rate| rate.tax_basis_points), Some(0));
        assert_eq!(open.rows().map(|(country, _)| country).collect::<Vec<_>>().last(), Some(&None));
    }
}
