//! THE WHOLE PRICE: what an order of a drop costs once its address is known, and whether it may be charged.
//!
//! A buyer who names a country with their claim is told a total, and has agreed to it. Their order is charged what its
//! address makes of it, and never more than they agreed to:
//!
//! | address | total there | next |
//! |---|---|---|
//! | none | | it waits for a checkout profile |
//! | nothing is sent there | | it waits for a profile with another address |
//! | served | 0 | it is confirmed, and nothing is charged |
//! | served | more than was agreed to | it waits for a new agreement |
//! | served | as agreed, less, or nobody agreed to any | it is charged |
//!
//! An order that waits keeps its units until `pay_by`, as every order that is not paid.

use super::claims::ToldTotal;
use super::money::{Money, MoneyError};
use super::pricing::{Rate, Terms, Totals};

/// What happens next to an order that was priced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Nobody knows where it goes, or nothing is sent there.
    WaitsForAddress,
    /// It costs more than its buyer agreed to.
    WaitsForAgreement,
    NothingToPay,
    Charge,
}

/// An order's price.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Priced {
    /// Of an order without an address: where its buyer said that it goes, or of most countries. It is priced again.
    pub rate: Rate,
    pub totals: Totals,
    pub next: Next,
}

/// Prices an order. `address`: the country of its address, as it was written there. `None`: the drop sends nothing
/// anywhere.
pub fn price(
    terms: &Terms,
    unit_price: Money,
    quantity: u32,
    address: Option<&str>,
    told: Option<ToldTotal>,
) -> Option<Result<Priced, MoneyError>> {
    let there = address.and_then(|country| terms.rates.at(country));
    let named = told.and_then(|told| terms.rates.of(told.country));
    let rate = *there.or(named).or_else(|| terms.rates.of_nowhere())?;
    let agreed = told.map(|told| Money::new(told.total_minor, unit_price.currency));
    let priced = terms.totals_at(&rate, unit_price, quantity).map(|totals| Priced {
        rate,
        totals,
        next: if there.is_some() { next(totals.total, agreed) } else { Next::WaitsForAddress },
    });
    Some(priced)
}

/// Of an order whose address is known.
pub fn next(total: Money, agreed: Option<Money>) -> Next {
    match agreed {
        Some(agreed) if waits(total, agreed) => Next::WaitsForAgreement,
        _ if total.amount_minor == 0 => Next::NothingToPay,
        _ => Next::Charge,
    }
}

/// Whether an order of this total waits for its buyer, who has agreed to that one.
pub fn waits(total: Money, agreed: Money) -> bool {
    total.currency != agreed.currency || total.amount_minor > agreed.amount_minor
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::pricing::RateTable;

    fn euros(minor: i64) -> Money {
        Money::new(minor, "EUR".parse().unwrap())
    }

    fn rate(tax_basis_points: u32, shipping: i64) -> Rate {
        Rate { tax_basis_points, shipping_tax_basis_points: None, shipping: euros(shipping), free_shipping_from: None }
    }

    fn terms(price_includes_tax: bool, elsewhere: Option<Rate>) -> Terms {
        let own = [("DE", rate(1_900, 500)), ("FR", rate(2_000, 1_000)), ("US", rate(0, 0))];
        let own = own.map(|(country, rate)| (country.parse().unwrap(), rate)).to_vec();
        Terms { rates: RateTable::new(own, elsewhere), price_includes_tax }
    }

    fn told(country: &str, total_minor: i64) -> Option<ToldTotal> {
        Some(ToldTotal { country: country.parse().unwrap(), total_minor })
    }

    #[test]
    fn an_order_is_charged_what_its_address_costs_and_never_more_than_was_agreed_to() {
        use Next::{Charge, NothingToPay, WaitsForAddress, WaitsForAgreement};
        let terms = terms(false, None);
        // 100.00 and shipping: 124.95 in Germany with 19 % of both, 132.00 in France, 100.00 in the United States.
        for (what, price_minor, address, agreed, total, expected) in [
            ("nobody was told anything", 10_000, Some("FR"), None, 13_200, Charge),
            ("as it was told", 10_000, Some("DE"), told("DE", 12_495), 12_495, Charge),
            ("cheaper there", 10_000, Some("US"), told("DE", 12_495), 10_000, Charge),
            ("dearer there", 10_000, Some("FR"), told("DE", 12_495), 13_200, WaitsForAgreement),
            ("by one cent", 10_000, Some("DE"), told("DE", 12_494), 12_495, WaitsForAgreement),
            ("no profile", 10_000, None, told("FR", 13_200), 13_200, WaitsForAddress),
            ("no profile, nothing told", 10_000, None, None, 12_495, WaitsForAddress),
            ("nothing is sent there", 10_000, Some("CH"), told("FR", 13_200), 13_200, WaitsForAddress),
            ("an address that names no country", 10_000, Some("Germany"), None, 12_495, WaitsForAddress),
            ("free of charge", 0, Some("US"), told("US", 0), 0, NothingToPay),
            ("free goods that are shipped", 0, Some("DE"), told("DE", 595), 595, Charge),
            ("told that it is free", 0, Some("DE"), told("US", 0), 595, WaitsForAgreement),
        ] {
            let priced = price(&terms, euros(price_minor), 1, address, agreed).unwrap().unwrap();
            assert_eq!((priced.totals.total, priced.next), (euros(total), expected), "{what}");
        }
    }

    #[test]
    fn an_old_address_of_no_known_country_is_priced_as_everywhere_else() {
        let terms = terms(true, Some(rate(0, 0)));
        let priced = price(&terms, euros(10_000), 2, Some("Atlantis"), None).unwrap().unwrap();
        assert_eq!((priced.totals.total, priced.next), (euros(20_000), Next::Charge));
        let nowhere = Terms { rates: RateTable::new(Vec::new(), None), price_includes_tax: true };
        assert_eq!(price(&nowhere, euros(1), 1, Some("DE"), None), None);
    }
}
