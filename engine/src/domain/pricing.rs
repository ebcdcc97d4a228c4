//! What an order costs: subtotal, tax, shipping and their sum. Tax is rounded once for the goods and once for shipping, each to what
//! can be charged.

use serde::Serialize;

use super::charges::share;
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
}

impl Totals {
    /// Tax is computed once, on the sum of the lines, so that it does not depend on how units are split into lines.
    pub fn of(subtotal: Money, rate: &Rate) -> Result<Self, MoneyError> {
        let is_free = rate.free_shipping_from.is_some_and(|from| subtotal.amount_minor >= from.amount_minor);
        let shipping = if is_free { Money::zero(rate.shipping.currency) } else { rate.shipping };
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
}
