//! What stands against giving somebody in line the units that they want, from what was read under their lock.

use super::rounds::{Bar, Facts, Rank};
use super::state::EntryState;
use crate::domain::claims::{Quantity, ToldTotal};
use crate::domain::money::Money;
use crate::domain::pricing::Terms;
use crate::domain::whole_price;

/// An entry as it is when its rank is decided.
#[derive(Debug, Clone, Copy)]
pub struct Decided<'a> {
    pub rank: Rank,
    pub state: EntryState,
    pub quantity: Quantity,
    /// Of each choice, the price of a unit, and the total that was accepted, if any was shown.
    pub choices: &'a [(Money, Option<ToldTotal>)],
    /// The country of the buyer's address, if they have given one.
    pub address: Option<&'a str>,
    /// Units of the drop that count against the buyer's limit.
    pub held: u32,
    pub limit: u32,
}

pub fn facts(decided: &Decided<'_>, terms: &Terms) -> Facts {
    let bar = match decided.state {
        EntryState::Left | EntryState::Withdrawn => Some(Bar::Left),
        EntryState::Merged => Some(Bar::Merged),
        EntryState::Awarded => Some(Bar::Awarded),
        EntryState::Waiting if decided.held + decided.quantity.units() > decided.limit => Some(Bar::OverLimit),
        EntryState::Waiting => None,
    };
    let is_dearer = |(price, told): &(Money, Option<ToldTotal>)| {
        let Some(told) = told else { return false };
        let priced = whole_price::price(terms, *price, decided.quantity.units(), decided.address, Some(*told));
        // What cannot be priced is not sold.
        let agreed = Money::new(told.total_minor, price.currency);
        priced.and_then(Result::ok).is_none_or(|priced| whole_price::waits(priced.totals.total, agreed))
    };
    let bits = decided.choices.iter().enumerate().filter(|(_, choice)| is_dearer(choice));
    Facts { rank: decided.rank, bar, dearer: bits.fold(0, |bits, (position, _)| bits | 1 << position) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::pricing::{Rate, RateTable};

    #[test]
    fn nobody_is_given_what_they_left_have_hold_or_did_not_accept() {
        use EntryState::{Awarded, Left, Merged, Waiting, Withdrawn};
        let euros = |minor| Money::new(minor, "EUR".parse().unwrap());
        let rate = |shipping| Rate {
            tax_basis_points: 0,
            shipping_tax_basis_points: None,
            shipping: euros(shipping),
            free_shipping_from: None,
        };
        let rows = [("DE", rate(500)), ("CH", rate(2_000))].map(|(country, rate)| (country.parse().unwrap(), rate));
        let terms = Terms { rates: RateTable::new(rows.to_vec(), None), price_includes_tax: false };
        let told = |total_minor| Some(ToldTotal { country: "DE".parse().unwrap(), total_minor });
        // One unit is 105.00 in Germany and 120.00 in Switzerland; the second choice is 50.00 dearer.
        let choices = [(euros(10_000), told(10_500)), (euros(15_000), told(15_499)), (euros(15_000), None)];
        let usual = (None, 0b010);
        for (what, state, address, held, expected) in [
            ("waits", Waiting, Some("DE"), 0, usual),
            ("without an address", Waiting, None, 0, usual),
            ("an address where it is dearer", Waiting, Some("CH"), 0, (None, 0b011)),
            ("an address where nothing is sent: it can be mended", Waiting, Some("US"), 0, usual),
            ("holds what a buyer may", Waiting, Some("DE"), 1, (Some(Bar::OverLimit), 0b010)),
            ("left", Left, Some("DE"), 0, (Some(Bar::Left), 0b010)),
            ("left later", Withdrawn, Some("DE"), 0, (Some(Bar::Left), 0b010)),
            ("merged", Merged, Some("DE"), 0, (Some(Bar::Merged), 0b010)),
            ("awarded", Awarded, Some("DE"), 1, (Some(Bar::Awarded), 0b010)),
        ] {
            let quantity = Quantity::new(1).unwrap();
            let decided = Decided { rank: 7, state, quantity, choices: &choices, address, held, limit: 1 };
            let facts = facts(&decided, &terms);
            assert_eq!((facts.rank, (facts.bar, facts.dearer)), (7, expected), "{what}");
        }
    }
}
