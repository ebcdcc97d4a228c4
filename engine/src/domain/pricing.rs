//! What an order costs: subtotal, tax, shipping and their sum, each rounded once.

use serde::Serialize;

use super::money::{Money, MoneyError};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Totals {
    pub subtotal: Money,
    pub tax: Money,
    pub shipping: Money,
    pub total: Money,
}

impl Totals {
    /// Tax is computed once, on the sum of the lines, so that it does not depend on how units are split into lines.
    pub fn of_units(
        unit_price: Money,
        quantity: u32,
        tax_basis_points: u32,
        shipping: Money,
    ) -> Result<Self, MoneyError> {
        let subtotal = unit_price.times(quantity)?;
        let tax = subtotal.basis_points(tax_basis_points)?;
        let total = subtotal.plus(tax)?.plus(shipping)?;
        Ok(Self { subtotal, tax, shipping, total })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_add_up() {
        let currency = "EUR".parse().unwrap();
        let totals = Totals::of_units(Money::new(9_999, currency), 3, 1_900, Money::new(490, currency)).unwrap();
        assert_eq!(totals.subtotal.amount_minor, 29_997);
        assert_eq!(totals.tax.amount_minor, 5_699);
        assert_eq!(totals.total.amount_minor, 29_997 + 5_699 + 490);
    }
}
