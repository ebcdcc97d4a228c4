//! A cart becomes an order: what its lines cost today, and what is in the way.

use std::collections::HashMap;

use super::carts::CartLine;
use super::charges::check_total;
use super::claims::Quantity;
use super::countries::Country;
use super::ids::{DropId, DropName, VariantId, VariantNumber};
use super::money::{Money, MoneyError};
use super::pricing::{Rate, Terms, Totals};
use super::stock::StockWay;

/// A variant as it can be bought now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForSale {
    pub product: i32,
    pub variant_id: VariantId,
    pub sku: String,
    pub title: String,
    pub price: Money,
    pub from: Source,
}

/// What a variant's units are taken from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    Shelves(StockWay),
    Drop(DropOffer),
    /// Not sold, or only by a drop that is not there now.
    Nothing,
}

/// The terms of the drop that sells a variant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DropOffer {
    pub drop: DropId,
    pub name: DropName,
    pub number: VariantNumber,
    pub terms: Terms,
}

/// What is ordered of one variant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    pub sale: ForSale,
    pub quantity: u32,
    pub price_at_add: Money,
}

/// What a cart costs today.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quote {
    /// Everything that lies on shelves, in the order of the variants: one order.
    pub goods: Option<Goods>,
    /// Units of a drop: an order of their own, at the drop's terms.
    pub drop_line: Option<DropLine>,
    /// Of both.
    pub total: Money,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Goods {
    pub lines: Vec<Line>,
    pub totals: Totals,
    /// What they are taxed with, and shipping.
    pub tax_basis_points: u32,
    pub shipping_tax_basis_points: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DropLine {
    pub line: Line,
    pub offer: DropOffer,
    pub units: Quantity,
    /// Where it goes.
    pub to: Country,
    pub totals: Totals,
}

/// Why one line cannot be ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineFault {
    NotForSale,
    /// One order is in one currency: that of the first line.
    OtherCurrency,
    /// A second line of a drop: one checkout makes one claim, since nobody could take two together or not at all.
    SecondOfDrop,
    /// More units than a claim can have.
    OverClaim,
}

/// Why a cart cannot be priced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoQuote {
    /// Variants with what is wrong with each, in the order of the cart.
    Lines(Vec<(VariantId, LineFault)>),
    /// Nobody ships there in this currency.
    NotServed,
    /// Less or more than the payment provider takes in one charge: a sentence that says which.
    NotChargeable(String),
}

/// A line whose price today is another one than its buyer was shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PriceChange {
    pub variant_id: VariantId,
    pub sku: String,
    pub quantity: u32,
    pub old: Money,
    pub new: Money,
}

impl Quote {
    /// Prices a cart that has lines. `to`: where it goes, `None` if nobody knows such a country; `rate`: the shop's
    /// there, in the currency of its first line.
    pub fn of(
        cart: &[CartLine],
        mut sales: HashMap<VariantId, ForSale>,
        to: Option<Country>,
        rate: Option<&Rate>,
    ) -> Result<Self, NoQuote> {
        let (mut goods, mut drop_line, mut faults) = (Vec::new(), None, Vec::new());
        let mut currency = None;
        for line in cart {
            let mut fault = |fault| faults.push((line.variant_id, fault));
            let Some(sale) = sales.remove(&line.variant_id) else {
                fault(LineFault::NotForSale);
                continue;
            };
            if *currency.get_or_insert(sale.price.currency) != sale.price.currency {
                fault(LineFault::OtherCurrency);
                continue;
            }
            let from = sale.from.clone();
            let line = Line { sale, quantity: line.quantity, price_at_add: line.price_at_add };
            match from {
                Source::Shelves(_) => goods.push(line),
                Source::Drop(_) if drop_line.is_some() => fault(LineFault::SecondOfDrop),
                Source::Drop(offer) => match Quantity::new(line.quantity.into()) {
                    Ok(units) => drop_line = Some((line, offer, units)),
                    Err(_) => fault(LineFault::OverClaim),
                },
                Source::Nothing => fault(LineFault::NotForSale),
            }
        }
        if !faults.is_empty() {
            return Err(NoQuote::Lines(faults));
        }
        goods.sort_unstable_by_key(|line| line.sale.variant_id);
        let not_chargeable = |error: MoneyError| NoQuote::NotChargeable(error.to_string());
        let goods = match &*goods {
            [] => None,
            [first, ..] => {
                let rate = rate.ok_or(NoQuote::NotServed)?;
                let nothing = Money::zero(first.sale.price.currency);
                let subtotal = goods
                    .iter()
                    .try_fold(nothing, |sum, line| sum.plus(line.sale.price.times(line.quantity)?))
                    .map_err(not_chargeable)?;
                let totals = Totals::of(subtotal, rate).map_err(not_chargeable)?;
                let (tax_basis_points, shipping_tax_basis_points) = (rate.tax_basis_points, rate.shipping_tax());
                Some(Goods { lines: goods, totals, tax_basis_points, shipping_tax_basis_points })
            }
        };
        let drop_line = match drop_line {
            None => None,
            Some((line, offer, units)) => {
                let to = to.ok_or(NoQuote::NotServed)?;
                let totals = offer.terms.totals(line.sale.price, line.quantity, to).ok_or(NoQuote::NotServed)?;
                Some(DropLine { totals: totals.map_err(not_chargeable)?, line, offer, units, to })
            }
        };
        let nothing = || NoQuote::NotChargeable("there is nothing to pay for".to_owned());
        let mut quote = Self { goods, drop_line, total: Money::zero(currency.ok_or_else(nothing)?) };
        for charge in quote.charges().collect::<Vec<_>>() {
            check_total(charge).map_err(|why| NoQuote::NotChargeable(why.to_string()))?;
            quote.total = quote.total.plus(charge).map_err(not_chargeable)?;
        }
        Ok(quote)
    }

    /// What each of its orders costs: one charge each.
    pub fn charges(&self) -> impl Iterator<Item = Money> {
        let goods = self.goods.as_ref().map(|goods| goods.totals.total);
        goods.into_iter().chain(self.drop_line.as_ref().map(|drop_line| drop_line.totals.total))
    }

    pub fn lines(&self) -> impl Iterator<Item = &Line> {
        let goods = self.goods.iter().flat_map(|goods| &goods.lines);
        goods.chain(self.drop_line.iter().map(|drop_line| &drop_line.line))
    }

    /// What the buyer has to be told before he pays.
    pub fn price_changes(&self) -> Vec<PriceChange> {
        let changed = self.lines().filter(|line| line.sale.price != line.price_at_add);
        let change = |line: &Line| PriceChange {
            variant_id: line.sale.variant_id,
            sku: line.sale.sku.clone(),
            quantity: line.quantity,
            old: line.price_at_add,
            new: line.sale.price,
        };
        changed.map(change).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::pricing::RateTable;

    fn euros(minor: i64) -> Money {
        Money::new(minor, "EUR".parse().unwrap())
    }

    fn germany() -> Option<Country> {
        "DE".parse().ok()
    }

    fn rate() -> Rate {
        Rate {
            tax_basis_points: 1_900,
            shipping_tax_basis_points: None,
            shipping: euros(490),
            free_shipping_from: None,
        }
    }

    fn shelf(id: i32, price: Money) -> ForSale {
        ForSale {
            product: 1,
            variant_id: VariantId(id),
            sku: format!("sku-{id}"),
            title: "T".to_owned(),
            price,
            from: Source::Shelves(StockWay::RowLock),
        }
    }

    fn of_drop(id: i32, price: Money) -> ForSale {
        let terms = Terms::flat(Rate {
            tax_basis_points: 700,
            shipping_tax_basis_points: Some(0),
            shipping: euros(100),
            free_shipping_from: None,
        });
        let offer = DropOffer { drop: DropId(1), name: "d".parse().unwrap(), number: VariantNumber(0), terms };
        ForSale { from: Source::Drop(offer), ..shelf(id, price) }
    }

    fn quote(cart: &[(i32, u32)], sales: Vec<ForSale>) -> Result<Quote, NoQuote> {
        let lines = cart.iter().map(|(id, quantity)| CartLine {
            variant_id: VariantId(*id),
            quantity: *quantity,
            price_at_add: euros(100),
        });
        let sales = sales.into_iter().map(|sale| (sale.variant_id, sale)).collect();
        Quote::of(&lines.collect::<Vec<_>>(), sales, germany(), Some(&rate()))
    }

    #[test]
    fn goods_are_taxed_and_shipped_together_and_a_drops_units_at_its_own_terms() {
        let quote =
            quote(&[(3, 1), (2, 4), (1, 2)], vec![shelf(1, euros(100)), shelf(2, euros(33)), of_drop(3, euros(500))]);
        let quote = quote.unwrap();
        let goods = quote.goods.as_ref().unwrap();
        assert_eq!(goods.lines.iter().map(|line| line.sale.variant_id.0).collect::<Vec<_>>(), [1, 2]);
        // 19 % of 332 is 63.08, and of shipping 93.1; 7 % of 500 is 35.
        assert_eq!((goods.totals.subtotal, goods.totals.total), (euros(332), euros(332 + 63 + 490 + 93)));
        assert_eq!(quote.drop_line.as_ref().unwrap().totals.total, euros(500 + 35 + 100));
        assert_eq!(quote.total, euros(978 + 635));
        let changes = quote.price_changes();
        let seen = changes.iter().map(|change| (change.variant_id.0, change.old, change.new)).collect::<Vec<_>>();
        assert_eq!(seen, [(2, euros(100), euros(33)), (3, euros(100), euros(500))]);
    }

    #[test]
    fn every_line_that_is_in_the_way_is_named() {
        let dollars = Money::new(100, "USD".parse().unwrap());
        let gone = ForSale { from: Source::Nothing, ..shelf(6, euros(100)) };
        let sales = vec![shelf(1, euros(100)), shelf(2, dollars), of_drop(3, euros(1)), of_drop(4, euros(1)), gone];
        let refused = quote(&[(1, 1), (2, 1), (3, 1), (4, 1), (5, 1), (6, 1)], sales).unwrap_err();
        let expected = [
            (2, LineFault::OtherCurrency),
            (4, LineFault::SecondOfDrop),
            (5, LineFault::NotForSale),
            (6, LineFault::NotForSale),
        ];
        assert_eq!(refused, NoQuote::Lines(expected.map(|(id, fault)| (VariantId(id), fault)).to_vec()));
        let refused = quote(&[(3, 101)], vec![of_drop(3, euros(1))]).unwrap_err();
        assert_eq!(refused, NoQuote::Lines(vec![(VariantId(3), LineFault::OverClaim)]));
    }

    #[test]
    fn what_cannot_be_charged_is_no_quote() {
        let cart = [CartLine { variant_id: VariantId(1), quantity: 999, price_at_add: euros(1) }];
        let sales = |price| HashMap::from([(VariantId(1), shelf(1, price))]);
        let free =
            Rate { tax_basis_points: 0, shipping_tax_basis_points: None, shipping: euros(0), free_shipping_from: None };
        for (price, why) in [(-1, "-9.99 EUR is not"), (100_101, "more than 999999.99 EUR"), (i64::MAX / 2, "64 bits")]
        {
            let refused = Quote::of(&cart, sales(euros(price)), germany(), Some(&free));
            assert!(matches!(&refused, Err(NoQuote::NotChargeable(said)) if said.contains(why)), "{refused:?}");
        }
        let few = [CartLine { quantity: 1, ..cart[0] }];
        assert!(matches!(Quote::of(&few, sales(euros(49)), germany(), Some(&free)), Err(NoQuote::NotChargeable(_))));
        assert_eq!(Quote::of(&cart, sales(euros(1)), germany(), None), Err(NoQuote::NotServed));
        for price in [0, 100_100] {
            assert!(Quote::of(&cart, sales(euros(price)), germany(), Some(&free)).is_ok(), "{price}");
        }
    }

    #[test]
    fn a_drop_goes_where_its_own_rates_say_it_goes() {
        let of_shop = |country: &str, from: ForSale| {
            let cart = [CartLine { variant_id: VariantId(3), quantity: 1, price_at_add: euros(500) }];
            let sales = HashMap::from([(VariantId(3), from)]);
            Quote::of(&cart, sales, country.parse().ok(), None).map(|quote| quote.total)
        };
        let Source::Drop(offer) = of_drop(3, euros(500)).from else { panic!("units of a drop") };
        let served = offer.terms.rates.of(germany().unwrap()).copied().unwrap();
        let rates = RateTable::new(vec![(germany().unwrap(), served)], None);
        let offer = DropOffer { terms: Terms { rates, price_includes_tax: true }, ..offer };
        let sale = ForSale { from: Source::Drop(offer), ..shelf(3, euros(500)) };
        assert_eq!(of_shop("DE", sale.clone()), Ok(euros(600)), "though the shop has no rates there");
        assert_eq!(of_shop("FR", sale.clone()), Err(NoQuote::NotServed));
        assert_eq!(of_shop("nowhere", sale), Err(NoQuote::NotServed));
    }
}
